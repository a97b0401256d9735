"""What builds the book: execution that keeps good results, the stamp, the scripts that are fetched, the last check."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from building import rendering, stamping, vendoring
from building.execution import Executor, Parameters, Task, choose, key_of
from building.problems import BookProblem

ROOT = Path(__file__).parent.parent
ADDRESS = "https://github.com/someone/shallow-paths"


def write_chapter(path: Path, *sources: str) -> Path:
    parameters = new_code_cell("profile = None\nseed = 0\ndevice = None", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# A question?"), parameters, *(new_code_cell(source) for source in sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def house(tmp_path):
    """A small repository with what execution depends on."""
    for folder in ("book", "src/shallowpaths"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "requirements.txt").write_text("one==1\n")
    (tmp_path / "src" / "shallowpaths" / "__init__.py").write_text("VALUE = 1\n")
    return tmp_path


@pytest.mark.slow
def test_only_what_changed_is_executed_again_and_stale_results_are_refused(house):
    executor = Executor(house)
    task = Task(
        write_chapter(house / "book" / "01_a.ipynb", "import shallowpaths\n\nprint(shallowpaths.VALUE, seed)"),
        Parameters(seed=7),
    )
    with pytest.raises(BookProblem, match="was not executed yet"):
        executor.current(task)
    [outcome] = executor.execute([task])
    assert outcome.problem is None
    executed = nbformat.read(executor.current(task), as_version=4)
    assert executed.cells[-1].outputs[0].text == "1 7\n"
    assert "papermill" not in executed.metadata
    assert [cell.id for cell in executed.cells if "remove-cell" in cell.metadata.get("tags", [])] == [
        "injected-parameters"
    ]

    written = outcome.notebook.stat().st_mtime_ns
    assert executor.execute([task])[0].notebook.stat().st_mtime_ns == written

    (house / "src" / "shallowpaths" / "__init__.py").write_text("VALUE = 2\n")
    with pytest.raises(BookProblem, match="changed since it was executed"):
        executor.current(task)
    executor.execute([task])
    assert nbformat.read(executor.current(task), as_version=4).cells[-1].outputs[0].text == "2 7\n"


def test_everything_that_a_result_depends_on_changes_its_key(house):
    executor = Executor(house)
    chapter = write_chapter(house / "book" / "01_a.ipynb", "1 + 1")
    keys = [executor.key(Task(chapter, Parameters()))]
    keys += [executor.key(Task(chapter, p)) for p in (Parameters(seed=1), Parameters("gpu"), Parameters(device="cpu"))]
    for path, text in (
        ("requirements.txt", "one==2\n"),
        ("src/shallowpaths/data.jsonl", "{}\n"),
        ("src/shallowpaths/__init__.py", ""),
    ):
        (house / path).write_text(text)
        keys.append(executor.key(Task(chapter, Parameters())))
    write_chapter(chapter, "1 + 2")
    keys.append(executor.key(Task(chapter, Parameters())))
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_a_chapter_that_fails_is_named_with_cell_and_error_and_the_others_results_stay(house):
    good = Task(write_chapter(house / "book" / "01_good.ipynb", "1 + 1"), Parameters())
    bad = Task(write_chapter(house / "book" / "02_bad.ipynb", "1 + 1", "# why\n1 / 0"), Parameters())
    loud = Task(
        write_chapter(house / "book" / "03_loud.ipynb", "import sys\n\nprint('oh', file=sys.stderr)"), Parameters()
    )
    executor = Executor(house)
    outcomes = executor.execute([good, bad, loud], keep_going=True)
    assert outcomes[0].problem is None
    assert outcomes[1].problem == "in cell 4 of 4, `1 / 0`:\n  ZeroDivisionError: division by zero"
    assert "in cell 3 of 3, `import sys`: it printed to stderr" in outcomes[2].problem
    assert executor.is_current(good)
    assert not executor.result(bad).exists()
    assert sorted(path.name for path in executor.result(good).parent.iterdir()) == ["01_good.ipynb"]


def test_a_damaged_result_is_not_taken_for_a_good_one(house):
    executor = Executor(house)
    task = Task(write_chapter(house / "book" / "01_a.ipynb", "1 + 1"), Parameters())
    executor.result(task).parent.mkdir(parents=True)
    shutil.copy(task.chapter, executor.result(task))
    assert key_of(executor.result(task)) is None
    assert not executor.is_current(task)


def test_chapters_are_chosen_by_number_name_or_path_and_an_unknown_one_is_refused():
    first = choose(ROOT, [])[1]
    for word in (first.stem, str(first), "1", "01"):
        assert choose(ROOT, [word]) == [first]
    with pytest.raises(BookProblem, match="there is no chapter '77'; the chapters are intro, 01_"):
        choose(ROOT, ["77"])


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository's front: the book, its settings, the package's."""
    shutil.copytree(ROOT / "book", tmp_path / "copy" / "book", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "_toc.yml", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path / "copy")
    return tmp_path / "copy"


def set_address(root: Path, address: str | None) -> None:
    lines = (root / "pyproject.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("Repository", "# Repository"))]
    kept.insert(kept.index("[project.urls]") + 1, f'Repository = "{address}"' if address else "")
    (root / "pyproject.toml").write_text("\n".join(kept) + "\n")


def build(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, root / "book" / "build.py", *arguments], capture_output=True, text=True)


def test_the_chapters_are_stamped_with_the_address_of_pyproject():
    address = stamping.address(ROOT)
    stale = [path.name for path in (ROOT / "book").glob("*.ipynb") if not stamping.is_stamped(path, address)]
    assert stale == [], "run `make stamp`"


@pytest.mark.parametrize("address", [ADDRESS, None])
def test_the_stamp_writes_the_address_into_every_chapter_and_only_once(copy, address):
    set_address(copy, None if address else ADDRESS)
    assert build(copy, "stamp").returncode == 0
    set_address(copy, address)
    assert build(copy, "stamp", "--check").returncode == 1
    assert build(copy, "stamp").returncode == 0
    assert build(copy, "stamp", "--check").returncode == 0
    for path in (copy / "book").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert [cell.source for cell in cells if cell.id == stamping.INSTALL_CELL] == [stamping.install_source(address)]
        assert cells[0].cell_type == "markdown"
        original = nbformat.read(ROOT / "book" / path.name, as_version=4).cells
        assert [c for c in cells if c.id != stamping.INSTALL_CELL] == [
            c for c in original if c.id != stamping.INSTALL_CELL
        ]


@pytest.mark.parametrize("address", [ADDRESS, "https://example.org/a/b", None])
def test_launch_buttons_and_repository_appear_only_with_an_address(copy, address):
    set_address(copy, address)
    settings = rendering.Renderer(copy, copy / "html").settings()
    assert settings.get("repository") == ({"url": address, "path_to_book": "", "branch": "main"} if address else None)
    assert ("launch_buttons" in settings) == (address == ADDRESS)
    assert settings["html"]["home_page_in_navbar"] is True


def test_an_address_that_is_none_is_refused(copy):
    set_address(copy, "somewhere")
    done = build(copy, "stamp")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: [project.urls] Repository in pyproject.toml is 'somewhere'")


@pytest.mark.parametrize("address", [ADDRESS, None])
def test_the_install_cell_is_short_and_clean(tmp_path, address):
    notebook = write_chapter(tmp_path / "chapter.ipynb", "profile")
    assert stamping.stamp(notebook, address)
    assert not stamping.stamp(notebook, address)
    assert len(stamping.install_source(address).splitlines()) <= 15
    ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--config", ROOT / "pyproject.toml", notebook]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_without_the_package_and_without_an_address_the_install_cell_says_what_to_do():
    alone = [sys.executable, "-I", "-S", "-c", stamping.install_source(None)]  # a Python that sees no packages
    done = subprocess.run(alone, capture_output=True, text=True)
    assert "RuntimeError: The package shallowpaths is not installed. Run `pip install .`" in done.stderr
    there = subprocess.run([sys.executable, "-c", stamping.install_source(None)], capture_output=True, text=True)
    assert (there.returncode, there.stdout, there.stderr) == (0, "", "")


def put_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let this be the npm that is found."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_script_that_is_not_the_expected_one_is_thrown_away(tmp_path, monkeypatch):
    put_npm(tmp_path / "bin", monkeypatch, 'echo bad > "$5/mathjax-3.2.2.tgz"')
    with pytest.raises(BookProblem, match="is not the file that this book was made with") as problem:
        vendoring.fetch(tmp_path / "vendor")
    assert hashlib.sha256(b"bad\n").hexdigest() in problem.value.message
    assert list((tmp_path / "vendor").iterdir()) == []


def test_an_npm_that_fails_is_a_clear_problem(tmp_path, monkeypatch):
    put_npm(tmp_path / "bin", monkeypatch, "echo 'npm error network is unreachable' >&2; exit 1")
    with pytest.raises(
        BookProblem, match=r"npm could not fetch mathjax@3.2.2 \(is there a network\?\): npm error network"
    ):
        vendoring.fetch(tmp_path / "vendor")


FOREIGN = {
    "script": '<script src="https://elsewhere.example/a.js"></script>',
    "style sheet": '<link rel="stylesheet" href="//elsewhere.example/a.css">',
    "picture": '<img src="http://elsewhere.example/a.png">',
    "picture set": '<img srcset="here.png 1x, https://elsewhere.example/a.png 2x">',
    "frame": '<iframe src="https://elsewhere.example/"></iframe>',
    "font": "<style>@font-face { src: url('https://elsewhere.example/a.woff2') }</style>",
    "style": '<p style="background: url(https://elsewhere.example/a.png)">',
    "early connection": '<link rel="preconnect" href="https://elsewhere.example">',
}


@pytest.mark.parametrize("tag", FOREIGN.values(), ids=FOREIGN.keys())
def test_whatever_a_page_would_ask_another_host_for_is_found(tmp_path, tag):
    (tmp_path / "page.html").write_text(f"<html><body>{tag}</body></html>")
    assert len(rendering.foreign_requests(tmp_path)) == 1


def test_links_to_other_hosts_and_a_page_of_ones_own_are_no_requests(tmp_path):
    own = '<a href="https://elsewhere.example">x</a><img src="data:image/png;base64,AA"><script src="../a.js"></script>'
    (tmp_path / "page.html").write_text(own)
    (tmp_path / "page.css").write_text("/* url(https://elsewhere.example) */ p { background: url(a.png) }")
    assert rendering.foreign_requests(tmp_path) == []


def test_style_sheets_are_looked_through_too(tmp_path):
    (tmp_path / "page.css").write_text("@import 'https://elsewhere.example/a.css';")
    assert rendering.foreign_requests(tmp_path) == ["page.css asks for https://elsewhere.example/a.css"]


def test_error_outputs_are_found(tmp_path):
    (tmp_path / "page.html").write_text('<div class="output traceback highlight-ipythontb"></div>')
    assert rendering.error_outputs(tmp_path) == ["page.html shows an error output"]
