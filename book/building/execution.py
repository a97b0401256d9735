"""Chapters through papermill: two at a time, only those that changed, each result kept as soon as it is there.

An executed chapter lies in `_build/executed/PROFILE-SEED[-DEVICE]/` and carries the key that it was made from: a hash
of the chapter, the package's source, the pins and the parameters. A result with another key is stale and refused.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import nbformat
import yaml

from building.problems import BookProblem

CLAIM = "application/vnd.shallowpaths.claims+json"
NAMESPACE = "shallowpaths"  # where an executed notebook's own metadata keeps its key


@dataclass(frozen=True)
class Parameters:
    """What papermill passes to a chapter. Device None leaves the choice to the chapter."""

    profile: str = "quick"
    seed: int = 0
    device: str | None = None

    @property
    def folder(self) -> str:
        """Name of the folder that keeps results with these parameters."""
        return "-".join([self.profile, str(self.seed), *([self.device] if self.device else [])])

    @property
    def options(self) -> list[str]:
        """The same as options of the papermill command."""
        chosen = {"profile": self.profile, "seed": self.seed, "device": self.device}
        return [word for name, value in chosen.items() if value is not None for word in ("-p", name, str(value))]


@dataclass(frozen=True)
class Task:
    """One chapter with one set of parameters."""

    chapter: Path
    parameters: Parameters

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return f"{self.chapter.stem} ({self.parameters.folder})"


@dataclass
class Outcome:
    """What came of a task: the executed notebook, or the problem in a few lines, or neither if it was not started."""

    task: Task
    notebook: Path | None = None
    problem: str | None = None
    seconds: float = 0.0


@dataclass
class Executor:
    """Executes chapters of the repository at `root` and keeps the results under `root/_build/executed`."""

    root: Path
    jobs: int = 2
    _print: Lock = field(default_factory=Lock, repr=False)

    def key(self, task: Task, source: bytes | None = None) -> str:
        """Hash of all that an executed chapter depends on."""
        digest = hashlib.sha256(source if source is not None else task.chapter.read_bytes())
        package = sorted(path for path in (self.root / "src").rglob("*") if _is_source(path))
        for path in [*package, self.root / "requirements.txt", Path(__file__)]:
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
        digest.update(f"{task.parameters.options} {sys.version_info[:2]} {platform.machine()}".encode())
        return digest.hexdigest()

    def result(self, task: Task) -> Path:
        """Where the executed chapter lies, or would lie."""
        return self.root / "_build" / "executed" / task.parameters.folder / task.chapter.name

    def is_current(self, task: Task) -> bool:
        """True where the task's result is there and was made from what is in the repository now."""
        return key_of(self.result(task)) == self.key(task)

    def current(self, task: Task) -> Path:
        """The task's result; raises BookProblem where it is missing or stale."""
        if not self.result(task).is_file():
            raise BookProblem(f"{task.title} was not executed yet: run `build.py execute`")
        if not self.is_current(task):
            raise BookProblem(f"{task.title} changed since it was executed: run `build.py execute`")
        return self.result(task)

    def execute(self, tasks: Sequence[Task], keep_going: bool = False) -> list[Outcome]:
        """Run what is not current, `jobs` at a time; outcomes in the order of the tasks.

        After a failure what is running is finished and kept; nothing new is started unless `keep_going`.
        """
        outcomes = {task: Outcome(task) for task in tasks}
        due = [task for task in tasks if not self.is_current(task)]
        for task in set(tasks) - set(due):
            outcomes[task].notebook = self.result(task)
        if len(due) < len(tasks):
            print(f"chapters: {len(tasks) - len(due)} of {len(tasks)} unchanged, not executed again", flush=True)
        failed = Event()

        def work(task: Task) -> None:
            if failed.is_set() and not keep_going:
                return
            self._run(outcomes[task])
            if outcomes[task].problem is not None:
                failed.set()

        with ThreadPoolExecutor(self.jobs) as pool:
            # Later chapters train longer: started first, they do not run alone at the end.
            list(pool.map(work, reversed(due)))
        return list(outcomes.values())

    def _run(self, outcome: Outcome) -> None:
        """One chapter through the papermill command; fills in the outcome."""
        task, started = outcome.task, time.monotonic()
        target = self.result(task)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._say(f"chapter {task.title}: started")
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            source = task.chapter.read_bytes()
            key = self.key(task, source)  # of the very bytes that papermill reads
            given, made = Path(scratch) / "in.ipynb", Path(scratch) / "out.ipynb"
            given.write_bytes(source)
            command = [sys.executable, "-m", "papermill", given, made, "--cwd", self.root / "book"]
            command += ["--no-progress-bar", "--log-level", "ERROR", *task.parameters.options]
            done = subprocess.run(command, capture_output=True, text=True, env=self._environment())
            outcome.seconds = time.monotonic() - started
            outcome.problem = _problem(done, given, made)
            if outcome.problem is None:
                _finish(made, {"key": key, "parameters": task.parameters.folder, "seconds": round(outcome.seconds, 1)})
                made.replace(target)
                outcome.notebook = target
        state = "done" if outcome.problem is None else "FAILED"
        self._say(f"chapter {task.title}: {state} after {outcome.seconds:.0f} s")

    def _say(self, line: str) -> None:
        with self._print:
            print(line, flush=True)

    def _environment(self) -> dict[str, str]:
        """For papermill and the kernel it starts: this checkout's package and kernel, calm threads."""
        threads = {"OMP_NUM_THREADS": "1"} if self.jobs > 1 else {}
        return {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TQDM_DISABLE": "1",  # a reader sees the bars move, a page could only show where they stopped
            **threads,
        }


def chapters(root: Path) -> list[Path]:
    """The notebooks of `_toc.yml` in order; raises BookProblem where a page is missing."""
    try:
        contents = yaml.safe_load((root / "_toc.yml").read_text())
        names = [contents["root"], *(entry["file"] for part in contents["parts"] for entry in part["chapters"])]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise BookProblem(f"_toc.yml cannot be read: {error!r}") from error
    missing = [n for n in names if not any((root / f"{n}{suffix}").is_file() for suffix in (".ipynb", ".md"))]
    if missing:
        raise BookProblem(f"_toc.yml names pages that are not there: {', '.join(missing)}")
    return [root / f"{name}.ipynb" for name in names if (root / f"{name}.ipynb").is_file()]


def choose(root: Path, wanted: Sequence[str]) -> list[Path]:
    """The chapters that the words name (a number, a name, or a path); all of them for no words."""
    found = chapters(root)
    if not wanted:
        return found
    names = {path.stem: path for path in found}
    numbers = {str(int(stem[:2])): path for stem, path in names.items() if stem[:2].isdigit()}
    chosen = [names.get(Path(word).stem) or numbers.get(word.lstrip("0")) for word in wanted]
    if None in chosen:
        unknown = wanted[chosen.index(None)]
        raise BookProblem(f"there is no chapter {unknown!r}; the chapters are {', '.join(names)}")
    return [path for path in chosen if path is not None]


def key_of(executed: Path) -> str | None:
    """The key that an executed notebook carries, None where there is none."""
    if not executed.is_file():
        return None
    try:
        return nbformat.read(executed, as_version=4).metadata.get(NAMESPACE, {}).get("key")
    except (ValueError, nbformat.ValidationError, AttributeError):  # a damaged file is as good as none
        return None


def claims_of(executed: Path) -> list[dict[str, Any]]:
    """Every claim that an executed chapter recorded, in order."""
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return [claim for output in outputs for claim in output.get("data", {}).get(CLAIM, [])]


def _is_source(path: Path) -> bool:
    inside = path.is_file() and "__pycache__" not in path.parts
    return inside and not any(part.endswith(".egg-info") for part in path.parts)


def _problem(done: subprocess.CompletedProcess[str], given: Path, made: Path) -> str | None:
    """What went wrong, with the cell's number in the chapter as its reader counts; None where nothing did."""
    source = nbformat.read(given, as_version=4).cells
    numbers = {cell.get("id"): number for number, cell in enumerate(source, 1)}
    noise = None
    for cell in nbformat.read(made, as_version=4).cells if made.is_file() else []:
        for output in cell.get("outputs", []):
            where = f"in cell {numbers.get(cell.id, '(parameters)')} of {len(source)}, `{_first_line(cell.source)}`"
            if output.output_type == "error":
                return f"{where}:\n  " + "\n  ".join(f"{output.ename}: {output.evalue}".splitlines()[:8])
            if output.output_type == "stream" and output.name == "stderr" and noise is None:
                noise = f"{where}: it printed to stderr, which no page may show:\n  " + _last_lines(output.text)
    return noise if done.returncode == 0 else "outside its cells:\n  " + _last_lines(done.stderr or done.stdout)


def _first_line(source: str) -> str:
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    return lines[0][:80] if lines else ""


def _last_lines(text: str) -> str:
    return "\n  ".join(text.strip().splitlines()[-5:]) or "(nothing was printed)"


def _finish(made: Path, about: dict[str, Any]) -> None:
    """Take times and paths of the run out of an executed notebook, hide papermill's own cell, add the key."""
    notebook = nbformat.read(made, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata[NAMESPACE] = about
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
            cell.metadata.tags.append("remove-cell")
    nbformat.write(notebook, made)
