"""The command `shallowpaths`."""

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from shallowpaths import __version__, recipes
from shallowpaths.training.config import CHOICES, RunConfig

DEVICES = CHOICES["device"]
FOLDER = "Where CIFAR-10's files are, or shall be downloaded to; an imagefolder, with train and val."
WORKERS = "Processes that decode an imagefolder's images; 0 decodes in the one that trains."


class _Commands(click.Group):
    """A group whose commands turn what went wrong into one line.

    Exit code 2 for what the user got wrong, 1 for files and output that cannot be written, 130 after Ctrl-C.
    """

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        with _one_line_for_errors(lambda: None):
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, context: click.Context) -> Any:
        with _one_line_for_errors(lambda: context.invoked_subcommand), _quiet_second_interrupt():
            return super().invoke(context)


@contextlib.contextmanager
def _one_line_for_errors(command: Callable[[], str | None]) -> Iterator[None]:
    """Print an error as `shallowpaths COMMAND: message` and exit. command: its name, once it is known."""
    try:
        yield
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # newer than click 8.1
            raise
        message, code = error.format_message(), 2
    except ValueError as error:
        message, code = str(error), 2
    except OSError as error:
        message, code = ": ".join(str(part) for part in (error.strerror or error, error.filename) if part), 1
        _forget_output()
    except KeyboardInterrupt:
        message, code = "stopped", 130
    else:
        return
    name = " ".join(filter(None, ("shallowpaths", command())))
    with contextlib.suppress(OSError):  # stderr may be full too
        click.echo(f"{name}: {' '.join(message.split())}", err=True)
    sys.exit(code)


@contextlib.contextmanager
def _quiet_second_interrupt() -> Iterator[None]:
    """The first Ctrl-C is a KeyboardInterrupt, a second one ends the process at once: what is worth keeping is on the disk."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _forget_output() -> None:
    """Flush stdout, or let what it cannot take go nowhere: Python would complain about it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120},
)
@click.version_option(__version__)
def main() -> None:
    """Why very deep residual networks train: run the experiments of the book Shallow Paths."""


def _run_options(command: Callable) -> Callable:
    """One option for each setting of a RunConfig, with its default; the help is the setting's own documentation."""
    for setting in reversed(dataclasses.fields(RunConfig)):
        kind = next((k for k in typing.get_args(setting.type) if k is not type(None)), setting.type)
        flags, more = [f"--{setting.name.replace('_', '-')}"], {"type": kind}
        if setting.name in CHOICES:
            more = {"type": click.Choice(CHOICES[setting.name])}
        elif setting.type is bool:
            flags, more = [f"{flags[0]}/--no-{flags[0][2:]}"], {}
        default = None if setting.name == "learning_rate" else setting.default
        command = click.option(*flags, default=default, help=_setting_help(setting.name), **more)(command)
    return command


def _setting_help(name: str) -> str:
    lines = [line.strip() for line in (RunConfig.__doc__ or "").splitlines()]
    text = next(line.partition(": ")[2] for line in lines if line.startswith(f"{name}: "))
    return f"{text} [{RunConfig.learning_rate}]" if name == "learning_rate" else text


@main.command()
@_run_options
@click.option(
    "--effective-learning-rate", type=float, help="learning rate / (1 - momentum), instead of --learning-rate."
)
@click.option("--data-folder", type=click.Path(path_type=Path), help=FOLDER)
@click.option("--workers", type=click.IntRange(min=0), default=0, help=WORKERS)
@click.option("--store", type=click.Path(), help="Keep the record in this .jsonl file, or in this folder.")
def train(
    effective_learning_rate: float | None, data_folder: Path | None, workers: int, store: str | None, **settings: Any
) -> None:
    """Train one network and print its record."""
    learning_rate = settings.pop("learning_rate")
    if learning_rate is not None and effective_learning_rate is not None:
        raise ValueError("give either --learning-rate or --effective-learning-rate, not both")
    if effective_learning_rate is not None:
        config = RunConfig.at_effective_rate(effective_learning_rate, **settings)
    else:
        config = RunConfig(
            learning_rate=RunConfig.learning_rate if learning_rate is None else learning_rate, **settings
        )
    from shallowpaths.experiments import sweep, tables  # import torch, which --help and mistakes need not wait for

    (record,) = sweep.sweep([config], store, data_folder, workers=workers)
    click.echo(tables.describe_run(record))


@main.command("sweep")
@click.argument("plan", metavar="PLAN")
@click.option(
    "--store",
    type=click.Path(),
    help="Folder, or .jsonl file, that keeps the records. Needed unless --dry-run.",
)
@click.option("--dry-run", is_flag=True, help="Only say what the plan would run and what that is predicted to cost.")
@click.option("--limit-seconds", type=click.FloatRange(min=0), help="Start no run later than this.")
@click.option(
    "--processes", type=click.IntRange(min=1), help="Runs at a time.  [default: one per processor core, on a GPU 1]"
)
@click.option(
    "--lanes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs that differ in learning rate and seed only, trained as one. Pays where `shallowpaths bench` says so.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help=WORKERS)
@click.option("--device", type=click.Choice(DEVICES), help="Instead of the plan's.  [default: the plan's]")
@click.option("--data-folder", type=click.Path(path_type=Path), help=FOLDER)
def run_sweep(
    plan: str,
    store: str | None,
    dry_run: bool,
    limit_seconds: float | None,
    processes: int | None,
    lanes: int,
    workers: int,
    device: str | None,
    data_folder: Path | None,
) -> None:
    """Train all runs of PLAN, a shipped plan's name or a TOML file, that the store does not have yet.

    Interrupted, the same command goes on where it stopped. One sweep at a time may use a store.
    """
    from shallowpaths.experiments import (  # import torch, which --help and mistakes need not wait for
        costs,
        plans,
        sweep,
    )

    chosen = plans.read_plan(plan)
    configs = sweep.check(c.replace(device=device) if device else c for c in chosen.configs)
    if dry_run:
        click.echo(f"{chosen.description}\n\n{costs.describe_costs(configs)}")
        return
    if store is None:
        raise ValueError("give a folder for the records with --store, or ask what it would cost with --dry-run")
    if processes is None:
        processes = sweep.processes_for(configs)
    try:
        options = {"limit_seconds": limit_seconds, "processes": processes, "lanes": lanes, "workers": workers}
        records = sweep.sweep(configs, store, data_folder, **options)
    except KeyboardInterrupt:
        click.echo(f"stopped. What is finished is in {store}; the same command goes on from there.", err=True)
        sys.exit(130)
    diverged = sum(r.outcome == "diverged" for r in records)
    click.echo(f"{len(records)} of {len(configs)} runs are in {store}, {diverged} of them diverged.")
    click.echo(f"shallowpaths records {store} shows them.")


@main.command("records")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--best", type=click.IntRange(min=1), help="Mean and deviation over this many best runs (paper: 5 of 7).")
def list_records(store: Path, best: int | None) -> None:
    """Show what the runs in STORE say: a line for each setting and rate, and the best rate of each setting.

    STORE is a sweep's folder or file, or "shipped" for the records that come with the package. Rates are chosen by
    validation accuracy where the runs have a validation split, else by training loss. Runs of the paper's depth table are
    shown beside the paper's own numbers.
    """
    from shallowpaths.experiments import tables
    from shallowpaths.experiments.store import FILE_NAME, SHIPPED, load_records, shipped_records

    if str(store) == "shipped" and not store.exists():
        for name in SHIPPED:
            records = shipped_records(name)
            click.echo(f"{name}\n{'=' * len(name)}\n{tables.stands_on(records)}\n\n{tables.describe(records, best)}\n")
        return
    if not store.exists():
        raise ValueError(f"{store} is not there: give a sweep's folder or file, or \"shipped\" for the package's own records")
    path = store / FILE_NAME if store.is_dir() else store
    if not path.exists():
        raise ValueError(f"{store} has no {FILE_NAME}")
    if not path.is_file():
        raise ValueError(f"{path} is no plain file")
    click.echo(tables.describe(load_records(path), best))


@main.command("recipes")
def list_recipes() -> None:
    """List the recipes: what can stand on a residual branch."""
    rows = []
    for name in recipes.NAMES:
        recipe = recipes.get_recipe(name)
        default = {f.name: f.default for f in dataclasses.fields(recipe)}
        differs = {k: v for k, v in dataclasses.asdict(recipe).items() if k != "name" and v != default[k]}
        rows.append((name, ", ".join(f"{k} = {v}" for k, v in differs.items())))
    click.echo(tabulate(rows, headers=("recipe", "what it sets")))


@main.command("bench")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to measure.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("_build/bench.json"),
    help="Write the rows to this file, as a list in JSON.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Measure this row only; may be given several times.")
def run_bench(device: str, output: Path, only: tuple[str, ...]) -> None:
    """Measure what the package's own work costs, row by row, against its targets."""
    from shallowpaths.bench import rows as bench  # imports torch, which --help and mistakes need not wait for

    _check_writable(output)
    results = bench.run(only, device)
    says = {True: "yes", False: "no", None: ""}
    rows = [(r.name, r.device, f"{r.value:.3f}", r.target or "", says[r.holds], r.detail) for r in results]
    click.echo(tabulate(rows, headers=("row", "device", "value", "target", "holds", "detail"), disable_numparse=True))
    bench.write(results, output)


def _check_writable(file: Path) -> None:
    """Make the file's folder and write there once, so that no hour of measuring ends in an error."""
    if file.exists() and not file.is_file():
        raise ValueError(f"--output {file} is no plain file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(f"--output {file} cannot be written: {error.strerror or error}") from error
