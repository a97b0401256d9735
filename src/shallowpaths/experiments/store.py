"""The record store: one JSON line a run, owned by one process at a time, appended safely and read back whole."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from shallowpaths.theory.checks import one_of
from shallowpaths.training.record import RunRecord

log = logging.getLogger(__name__)

FILE_NAME = "records.jsonl"
SHIPPED_FOLDER = Path(__file__).parent / "shipped"
SHIPPED: tuple[str, ...] = tuple(sorted(path.stem for path in SHIPPED_FOLDER.glob("*.jsonl")))


class Store:
    """A file of run records, one JSON line each. `pandas.read_json(store.path, lines=True)` reads it too.

    One process owns a store at a time: it holds the store's lock from `with store:` to its end, or for the length of a
    call. Beside the file lie, under its name with an ending more: `.lock`; `.damaged`, the lines that were no records;
    `.checkpoints`, where interrupted runs stand.

    Args:
        path: a file whose name ends in .jsonl, or a folder, which then holds records.jsonl. Made when needed.

    Raises:
        ValueError: the file cannot be written, the path leads to something that is no plain file, like a device, or, here
            and in every method, another process uses the store.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _plain_file(path)
        self._lock = FileLock(self._beside(".lock"), blocking=False)
        self._pending: list[RunRecord] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self, self.path.open("a"):
                pass
        except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"the record store {self.path} cannot be written: {reason}") from error

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"the record store {self.path} is in use by another process, a sweep perhaps: wait for its end, or take "
                "another store"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints of this store's runs belong."""
        return self._beside(".checkpoints")

    @property
    def damaged_path(self) -> Path:
        """The file to which damaged lines are moved."""
        return self._beside(".damaged")

    def append(self, *records: RunRecord) -> bool:
        """Add records; when this returns True, they are on the disk.

        False says that they could not be written, because the disk is full. Then they are kept: written to a rescue file
        in the system's temporary folder or else printed to stderr, and tried again at the next append and by `flush`.
        """
        self._pending += records
        try:
            self._write_pending()
        except OSError as error:
            kept_in = _rescue(records)
            log.warning(
                "the record store %s cannot be written (%s). What was to be added is kept %s, and will be written as soon as there is room",
                self.path,
                error.strerror or error,
                kept_in,
            )
        return not self._pending

    def flush(self) -> None:
        """Write the records that could not be written before.

        Raises:
            ValueError: they still cannot.
        """
        try:
            self._write_pending()
        except OSError as error:
            raise ValueError(
                f"{len(self._pending)} finished runs could not be written to {self.path} ({error.strerror or error}): "
                "the warnings above say where their records are. Make room and append those lines to the store"
            ) from error

    def load(self) -> list[RunRecord]:
        """One record for each run, in order: of several with one config the first.

        Lines that are no records, and runs that stand twice, are reported in a warning and moved to `damaged_path`.

        Raises:
            ValueError: the store cannot be read.
        """
        try:
            with self:
                found = _read(self.path)
                for number, _, reason in found.bad:
                    log.warning("%s, line %d is set aside in %s: %s", self.path, number, self.damaged_path.name, reason)
                if found.bad:
                    self._set_aside(found)
        except OSError as error:
            raise ValueError(f"the record store {self.path} cannot be read: {error.strerror or error}") from error
        known = {record.config.key for record in found.records}
        return found.records + [r for r in self._pending if r.config.key not in known]

    def _write_pending(self) -> None:
        """Append all pending lines, or leave the file as it was."""
        if not self._pending:
            return
        text = b"".join(record.to_json().encode() + b"\n" for record in self._pending)
        with self, self.path.open("rb+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and not _ends_with_newline(file):
                text = b"\n" + text  # a line that was cut short stays one damaged line
            try:
                _write_all(file, text)
            except BaseException:  # Ctrl-C too: half a line is worse than none
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
        self._pending.clear()

    def _set_aside(self, found: "_Lines") -> None:
        """Move the bad lines to their own file; the store is replaced only after they are safe there."""
        try:
            with self.damaged_path.open("ab", buffering=0) as file:
                _write_all(file, b"".join(line + b"\n" for _, line, _ in found.bad))
            unfinished = self._beside(".unfinished")
            with unfinished.open("wb", buffering=0) as file:
                _write_all(file, b"".join(line + b"\n" for line in found.good))
            unfinished.replace(self.path)
        except OSError as error:
            log.warning("%s: the damaged lines stay where they are (%s)", self.path, error.strerror or error)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


def load_records(path: str | os.PathLike) -> list[RunRecord]:
    """The records of one file, as Store.load gives them, but nothing is moved: for files that are only read."""
    found = _read(Path(path))
    for number, _, reason in found.bad:
        log.warning("%s, line %d is passed over: %s", path, number, reason)
    return found.records


def shipped_records(plan: str) -> list[RunRecord]:
    """The records that come with the package, of runs of the shipped plan of that name.

    Raises:
        ValueError: no records are shipped under that name; it lists those that are.
    """
    one_of("shipped records", plan, SHIPPED)
    return load_records(SHIPPED_FOLDER / f"{plan}.jsonl")


def _plain_file(path: str | os.PathLike) -> Path:
    """The store's file at this path, which may be a folder; nothing is made.

    Raises:
        ValueError: the path is empty, its home folder is unknown, or what lies there is neither file nor folder.
    """
    if not os.fspath(path):
        raise ValueError("the record store's path is empty: give a folder, or a file whose name ends in .jsonl")
    try:
        place = Path(path).expanduser()
        file = place if place.suffix == ".jsonl" or (place.exists() and not place.is_dir()) else place / FILE_NAME
        special = file.exists() and not file.is_file()
    except (OSError, RuntimeError) as error:  # the latter for the home of a user who is not there
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the record store {path} cannot be written: {reason}") from error
    if special:
        raise ValueError(f"the record store {file} cannot be written: it is no plain file")
    return file


@dataclass
class _Lines:
    """A store's file, sorted into what it holds: records with their lines, and (number, line, reason) for the rest."""

    records: list[RunRecord] = field(default_factory=list)
    good: list[bytes] = field(default_factory=list)
    bad: list[tuple[int, bytes, str]] = field(default_factory=list)


def _read(path: Path) -> _Lines:
    found, seen = _Lines(), {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = RunRecord.from_json(line.decode())
        except ValueError as error:  # json's and unicode's errors are ValueErrors too
            found.bad.append((number, line, f"it is damaged or no run record: {error}"))
            continue
        first = seen.setdefault(record.config.key, number)
        if first != number:
            found.bad.append((number, line, f"its run stands in line {first} already"))
            continue
        found.records.append(record)
        found.good.append(line)
    return found


def _write_all(file, text: bytes) -> None:
    """Write to an unbuffered file, to the disk; a full disk may take a part only, and then raises."""
    view = memoryview(text)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def _rescue(records: Sequence[RunRecord]) -> str:
    """Put records where there is room; says where."""
    text = "".join(record.to_json() + "\n" for record in records)
    path = Path(tempfile.gettempdir()) / f"shallowpaths-rescued-{os.getpid()}.jsonl"
    try:
        with path.open("ab", buffering=0) as file:
            _write_all(file, text.encode())
    except OSError:
        print(text, end="", file=sys.stderr)  # noqa: T201 - to stdout where there is no stderr
        return "in the lines above"
    return f"in {path}"


def _ends_with_newline(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
