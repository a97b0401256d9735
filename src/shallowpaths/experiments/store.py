"""The record store: one JSON line a run, owned by one process at a time, appended safely and read back whole."""

import contextlib
import logging
import os
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
    """A file of run records, one JSON line each: at a path that ends in .jsonl, or a folder's records.jsonl.

    One process owns a store at a time, by a lock beside it, from `with store:` to its end or for a call's length.
    Raises ValueError: it cannot be written, is no plain file, or, here and in every method, another process uses it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _plain_file(path)
        self.checkpoint_folder = self.path.with_name(f"{self.path.name}.checkpoints")  # of interrupted runs
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"), blocking=False)
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
            said = "is in use by another process, a sweep perhaps: wait for its end, or take another store"
            raise ValueError(f"the record store {self.path} {said}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def append(self, *records: RunRecord) -> None:
        """Add records, on the disk when this returns; or a ValueError has their lines, and the file is as it was."""
        text = b"".join(record.to_json().encode() + b"\n" for record in records)
        try:
            with self, self.path.open("rb+", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                cut = file.read(1) not in (b"", b"\n")  # a line that was cut short stays one damaged line
                rest = memoryview(b"\n" * cut + text)
                try:
                    while rest:  # a full disk may take a part only, and then raises
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except BaseException:  # Ctrl-C too: half a line is worse than none
                    with contextlib.suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            said = f"{len(records)} finished runs cannot be written to {self.path} ({error.strerror or error})"
            raise ValueError(f"{said}. Make room and add these lines to it:\n{text.decode()}") from error

    def load(self) -> list[RunRecord]:
        """`load_records` of the store's file."""
        with self:
            return load_records(self.path)


def load_records(path: str | os.PathLike) -> list[RunRecord]:
    """The records of a store's file or folder, one for each run, in order: of several with one config the first.

    Other lines are passed over with a warning. Raises OSError: the file cannot be read.
    """
    records, first_line = [], {}
    lines = enumerate(_plain_file(path).read_bytes().split(b"\n"), start=1)
    for number, line in ((number, line) for number, line in lines if line.strip()):
        try:
            record = RunRecord.from_json(line.decode())
        except ValueError as error:  # json's and unicode's errors are ValueErrors too
            log.warning("%s, line %d is passed over: it is damaged or no run record: %s", path, number, error)
            continue
        if (first := first_line.setdefault(record.config.key, number)) == number:
            records.append(record)
        else:
            log.warning("%s, line %d is passed over: its run stands in line %d already", path, number, first)
    return records


def shipped_records(plan: str) -> list[RunRecord]:
    """The records of that shipped plan that come with the package. Raises ValueError: it has none."""
    one_of("shipped records", plan, SHIPPED)
    return load_records(SHIPPED_FOLDER / f"{plan}.jsonl")


def _plain_file(path: str | os.PathLike) -> Path:
    """The store's file at this path, which may be a folder; nothing is made."""
    if not os.fspath(path):
        raise ValueError("the record store's path is empty: give a folder, or a file whose name ends in .jsonl")
    place = Path(path).expanduser()
    file = place if place.suffix == ".jsonl" or (place.exists() and not place.is_dir()) else place / FILE_NAME
    if file.exists() and not file.is_file():
        raise ValueError(f"the record store {file} cannot be written: it is no plain file")
    return file
