"""Many runs: each config once, finished ones skipped."""

import os
from collections.abc import Iterable

from tqdm import tqdm

from shallowpaths.devices import resolve_device
from shallowpaths.records import Store
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.training import train


def sweep(
    configs: Iterable[RunConfig],
    store: str | os.PathLike | None = None,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[RunRecord]:
    """Train every config and return the records in the same order.

    Args:
        store: a file of records. A config whose record is there already is not run again, and each new record is on
            the disk before the next run starts, so that an interrupted sweep loses one run at most.
        data_folder, progress: as in `train`.

    Raises:
        ValueError: a config stands twice in the list, or the store cannot be written.
    """
    wanted = [c.replace(device=resolve_device(c.device).type) for c in configs]
    if len({c.key for c in wanted}) < len(wanted):
        raise ValueError("the sweep lists the same config twice: a run is a function of its config, change its seed")
    kept = Store(store) if store is not None else None
    done = {record.config.key: record for record in kept.load()} if kept else {}
    missing = [c for c in wanted if c.key not in done]
    hidden = {} if progress and len(missing) > 1 else {"disable": True}  # else TQDM_DISABLE decides
    for config in tqdm(missing, desc="sweep", unit="run", **hidden):
        record = train(config, data_folder, progress)
        if kept:
            kept.append(record)
        done[config.key] = record
    return [done[c.key] for c in wanted]
