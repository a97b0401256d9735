"""The command `shallowpaths`."""

import contextlib
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
from tabulate import tabulate

from shallowpaths import __version__, recipes
from shallowpaths.training.config import CHOICES, RunConfig

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120}
DEVICE, COUNT, PATH = click.Choice(CHOICES["device"]), click.IntRange(min=1), click.Path(path_type=Path)
DATA_HELP = "Where CIFAR-10's files are, or shall be downloaded to; an imagefolder, with train and val."
LANES_HELP = "Runs that differ in rate and seed alone, trained as one. Pays where `shallowpaths bench` says so."
WORKERS_HELP = "Processes that decode an imagefolder's images; 0: the one that trains."
CLUSTER_HELP = (
    'A Ray cluster: HOST:PORT, "auto" for the one around this machine, "local" to start one. All its machines need '
    "shallowpaths[cluster], and the images in the same --data-folder, a full path."
)
_data_folder = click.option("--data-folder", type=PATH, help=DATA_HELP)
_workers = click.option("--workers", type=click.IntRange(min=0), default=0, help=WORKERS_HELP)


class _Commands(click.Group):
    """What went wrong is one line. Exit code 2: the user's mistakes, 1: what cannot be written, 130: Ctrl-C."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            sys.exit(super().main(*args, **options | {"standalone_mode": False}))
        except click.UsageError as error:
            if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # newer than click 8.1
                error.show()
                sys.exit(error.exit_code)
            message, code = error.format_message(), 2
        except ValueError as error:
            message, code = str(error), 2
        except OSError as error:
            message, code = ": ".join(str(part) for part in (error.strerror or error, error.filename) if part), 1
            sys.stdout = sys.stderr  # at its end Python would flush it, and complain once more
        except click.Abort:
            message, code = "stopped", 130
        with contextlib.suppress(OSError):  # stderr may be full too
            click.echo(f"shallowpaths: {' '.join(message.split())}", err=True)
        sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    """A first Ctrl-C is a KeyboardInterrupt, a second one ends the process: what is to be kept is on the disk."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings=CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Why very deep residual networks train: run the experiments of the book Shallow Paths."""


def _run_options(command: Callable) -> Callable:
    """One option for each setting of a RunConfig, with its default; the help is the setting's own documentation."""
    says = dict(line.strip().split(": ", 1) for line in (RunConfig.__doc__ or "").splitlines() if ": " in line)
    says["learning_rate"] += f" [{RunConfig.learning_rate}]"
    for setting in reversed(dataclasses.fields(RunConfig)):
        kind = next((k for k in get_args(setting.type) if k is not type(None)), setting.type)
        kind = click.Choice(CHOICES[setting.name]) if setting.name in CHOICES else kind
        flag = setting.name.replace("_", "-")
        flags, more = (f"--{flag}/--no-{flag}", {}) if kind is bool else (f"--{flag}", {"type": kind})
        default = None if setting.name == "learning_rate" else setting.default
        command = click.option(flags, default=default, help=says[setting.name], **more)(command)
    return command


@main.command()
@_run_options
@click.option("--effective-learning-rate", type=float, help="learning rate / (1 - momentum), or give --learning-rate.")
@_data_folder
@_workers
@click.option("--store", type=click.Path(), help="Keep the record in this .jsonl file, or in this folder.")
def train(store: str | None, data_folder: Path | None, workers: int, **settings: Any) -> None:
    """Train one network and print its record."""
    given = {name: value for name, value in settings.items() if value is not None}
    config = (RunConfig.at_effective_rate if "effective_learning_rate" in given else RunConfig)(**given)
    from shallowpaths.experiments import sweep, tables  # import torch, which --help and mistakes need not wait for
    from shallowpaths.training import distributed

    (record,) = sweep.sweep([config], store, data_folder, workers=workers)
    if distributed.is_first():
        click.echo(tables.describe_run(record))


@main.command("sweep")
@click.argument("plan", metavar="PLAN")
@click.option("--store", type=click.Path(), help="Folder, or .jsonl file, of the records. Needed unless --dry-run.")
@click.option("--dry-run", is_flag=True, help="Only say what the plan would run and what that is predicted to cost.")
@click.option("--processes", type=COUNT, help="Runs at a time.  [default: one per processor core, on a GPU 1]")
@click.option("--lanes", type=COUNT, default=1, help=LANES_HELP)
@_workers
@click.option("--device", type=DEVICE, help="Instead of the plan's.  [default: the plan's]")
@_data_folder
@click.option("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)
@click.option("--gpu-share", type=float, default=1, help="Of one GPU, for each run of a cluster with --device cuda.")
def run_sweep(plan: str, store: str | None, dry_run: bool, device: str | None, **options: Any) -> None:
    """Train all runs of PLAN, a shipped plan's name or a TOML file, that the store does not have yet.

    Interrupted, the same command goes on where it stopped. One sweep at a time may use a store.
    """
    from shallowpaths.experiments import costs, plans, sweep  # they import torch, which --help need not wait for
    from shallowpaths.training import distributed

    chosen = plans.read_plan(plan)
    cluster = options["cluster"]
    configs = sweep.check((c.replace(device=device) if device else c for c in chosen.configs), cluster is not None)
    if dry_run:
        click.echo(f"{chosen.description}\n\n{costs.describe_costs(configs)}")
        return
    if store is None:
        raise ValueError("give a folder for the records with --store, or ask what it would cost with --dry-run")
    options["processes"] = options["processes"] or (1 if cluster else sweep.processes_for(configs))
    try:
        records = sweep.sweep(configs, store, **options)
    except KeyboardInterrupt:
        click.echo(f"stopped. What is finished is in {store}; the same command goes on from there.", err=True)
        sys.exit(130)
    if distributed.is_first():
        diverged = sum(r.outcome == "diverged" for r in records)
        said = f"{len(records)} of {len(configs)} runs are in {store}, {diverged} of them diverged."
        click.echo(f"{said}\nshallowpaths records {store} shows them.")


@main.command("records")
@click.argument("store", type=PATH)
@click.option("--best", type=COUNT, help="Mean and deviation over this many best runs (paper: 5 of 7).")
def list_records(store: Path, best: int | None) -> None:
    """Show what the runs in STORE say: a line for each setting and rate, and the best rate of each setting.

    STORE is a sweep's folder or file, or "shipped" for the records that come with the package. Rates are chosen by
    validation accuracy where the runs have a validation split, else by training loss. Runs of the paper's depth table
    are shown beside the paper's own numbers.
    """
    from shallowpaths.experiments import tables
    from shallowpaths.experiments.store import FILE_NAME, SHIPPED, load_records, shipped_records

    if str(store) == "shipped" and not store.exists():
        for name in SHIPPED:
            records = shipped_records(name)
            click.echo(f"{name}\n{'=' * len(name)}\n{tables.stands_on(records)}\n\n{tables.describe(records, best)}\n")
        return
    path = store / FILE_NAME if store.is_dir() else store
    if not path.is_file():
        said = 'is no file: give a sweep\'s folder or file, or "shipped" for the package\'s own records'
        raise ValueError(f"{path} {said}")
    click.echo(tables.describe(load_records(path), best))


@main.command("inspect")
@click.argument("model")
@click.option("--batch-size", type=click.IntRange(min=2), default=8, help="How many random images.")
@click.option("--image-size", type=COUNT, default=224, help="Their height and width.")
@click.option("--training/--evaluation", default=True, help="The mode in which it is measured.")
@click.option("--seed", default=0, help="Of the weights and the images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect_model(model: str, batch_size: int, image_size: int, training: bool, seed: int, as_json: bool) -> None:
    """Find and measure MODEL's residual additions: torchvision:NAME, timm:NAME or path/to/file.py:factory."""
    import torch

    from shallowpaths.measure import inspect
    from shallowpaths.networks.loading import load_model

    torch.manual_seed(seed)
    found = inspect(load_model(model), torch.randn(batch_size, 3, image_size, image_size), training=training, seed=seed)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else found)


@main.command("recipes")
def list_recipes() -> None:
    """List the recipes: what can stand on a residual branch."""
    rows = []
    for name in recipes.NAMES:
        recipe = recipes.get_recipe(name)
        values = [(f.name, getattr(recipe, f.name), f.default) for f in dataclasses.fields(recipe) if f.name != "name"]
        rows.append((name, ", ".join(f"{key} = {value}" for key, value, default in values if value != default)))
    click.echo(tabulate(rows, headers=("recipe", "what it sets")))


@main.command("bench")
@click.option("--device", type=DEVICE, default="auto", help="Where to measure.")
@click.option("--output", type=PATH, default=Path("_build/bench.json"), help="Where to write the rows as JSON.")
@click.option("--only", multiple=True, metavar="NAME", help="Measure this row only; may be given several times.")
def run_bench(device: str, output: Path, only: tuple[str, ...]) -> None:
    """Measure what the package's own work costs, row by row, against its targets."""
    from shallowpaths.bench import rows as bench  # imports torch, which --help and mistakes need not wait for

    if output.exists() and not output.is_file():
        raise ValueError(f"--output {output} is no plain file")
    output.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=output.parent).close()  # so that no hour of measuring ends in an error
    results = bench.run(only, device)
    click.echo(tabulate(results, headers="keys", floatfmt=".3f"))
    output.write_text(json.dumps(results, indent=1) + "\n")
