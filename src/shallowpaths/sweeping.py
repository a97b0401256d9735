"""Many runs: each config once, finished ones skipped, shared with whoever works on the same store."""

import os
import time
from collections.abc import Callable, Iterable

from tqdm import tqdm

from shallowpaths.devices import resolve_device
from shallowpaths.plans.costs import work
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.stores import Store
from shallowpaths.training import train

POLL_SECONDS = 0.5  # how often to look whether another process has finished what we wait for


def sweep(
    configs: Iterable[RunConfig],
    store: str | os.PathLike | None = None,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    limit_seconds: float | None = None,
) -> list[RunRecord]:
    """Train every config and return the records in the same order.

    Args:
        store: where records are kept (see `Store`). A config whose record is there already is not run again, and each
            new record is on the disk before the next run starts. Runs that take minutes are saved in between, so that an
            interrupted sweep goes on in the middle of a run. Several processes may sweep into one store at the same
            time: they share the work, and each returns when all of it is done.
        data_folder, progress: as in `train`.
        limit_seconds: start no run later than this. What is not done then is left out of the list.

    Raises:
        ValueError: a config stands twice in the list, or the store cannot be written.
    """
    wanted = [c.replace(device=resolve_device(c.device).type) for c in configs]
    if len({c.key for c in wanted}) < len(wanted):
        raise ValueError("the sweep lists the same config twice: a run is a function of its config, change its seed")
    late = _deadline(limit_seconds)
    kept = Store(store) if store is not None else None
    done = {record.config.key: record for record in kept.load()} if kept else {}
    missing = [c for c in wanted if c.key not in done]
    with _Progress(wanted, missing, progress) as bar:
        if kept:
            _run_shared(missing, done, kept, bar, late, data_folder, progress)
        else:
            for config in missing:
                if not late():
                    done[config.key] = train(config, data_folder, progress)
                    bar.advance(config)
    return [done[c.key] for c in wanted if c.key in done]


def _run_shared(
    missing: list[RunConfig],
    done: dict[str, RunRecord],
    store: Store,
    bar: "_Progress",
    late: Callable[[], bool],
    data_folder: str | os.PathLike | None,
    progress: bool,
) -> None:
    """Do what no other process does; then wait for the rest, and take over what a process left when it died."""
    while missing and not late():
        busy = True
        for config in missing:
            if late():
                break
            with store.claim(config.key) as mine:
                if not mine:
                    continue
                busy = False
                stored = any(record.config.key == config.key for record in store.load())
                if not stored:  # by another process since we looked
                    folder = store.checkpoint_folder
                    stored = store.append(train(config, data_folder, progress, checkpoint_folder=folder))
                    bar.advance(config)
                if stored:
                    store.forget_claim(config.key)
        done |= {record.config.key: record for record in store.load()}
        missing = [c for c in missing if c.key not in done]
        bar.show(missing)
        if missing and busy:
            time.sleep(POLL_SECONDS)
    store.flush()


class _Progress:
    """A bar over a sweep's work, so that the time left is right although one run may cost a hundred times another."""

    def __init__(self, wanted: list[RunConfig], missing: list[RunConfig], shown: bool):
        self.runs, self.left = len(wanted), {c.key: work(c) for c in missing}
        self.all_work = sum(self.left.values())
        hidden = {} if shown and len(missing) > 1 else {"disable": True}  # else TQDM_DISABLE decides
        self.bar = tqdm(
            total=1.0,
            desc=self._count(),
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
            **hidden,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, config: RunConfig) -> None:
        """A run is finished."""
        self.bar.update(self.left.pop(config.key, 0.0) / max(self.all_work, 1.0))
        self.bar.set_description_str(self._count())

    def show(self, missing: list[RunConfig]) -> None:
        """Count what other processes have finished."""
        for key in set(self.left) - {c.key for c in missing}:
            self.bar.update(self.left.pop(key) / max(self.all_work, 1.0))
        self.bar.set_description_str(self._count())

    def _count(self) -> str:
        return f"sweep: {self.runs - len(self.left)} of {self.runs} runs"


def _deadline(seconds: float | None) -> Callable[[], bool]:
    """A function that says whether the time is over."""
    if seconds is None:
        return lambda: False
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
