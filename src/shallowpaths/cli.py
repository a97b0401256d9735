"""The command `shallowpaths`."""

import dataclasses
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from shallowpaths import __version__, recipes, runs

_CHOICES = {
    "network": runs.NETWORKS,
    "data": runs.DATA,
    "schedule": runs.SCHEDULES,
    "precision": runs.PRECISIONS,
    "device": runs.DEVICES,
}


class _Commands(click.Group):
    """A group whose commands turn what the user got wrong into exit code 2 and one line."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ValueError as error:
            message = " ".join(str(error).split())
            click.echo(f"shallowpaths {context.invoked_subcommand}: {message}", err=True)
            sys.exit(2)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120},
)
@click.version_option(__version__)
def main() -> None:
    """Why very deep residual networks train: run the experiments of the book Shallow Paths."""


def _run_options(command: Callable) -> Callable:
    """One option for each setting of a RunConfig, with its default; the help is the setting's own documentation."""
    for setting in reversed(dataclasses.fields(runs.RunConfig)):
        kind = next((k for k in typing.get_args(setting.type) if k is not type(None)), setting.type)
        flags, more = [f"--{setting.name.replace('_', '-')}"], {"type": kind}
        if setting.name in _CHOICES:
            more = {"type": click.Choice(_CHOICES[setting.name])}
        elif setting.type is bool:
            flags, more = [f"{flags[0]}/--no-{flags[0][2:]}"], {}
        default = None if setting.name == "learning_rate" else setting.default
        command = click.option(*flags, default=default, help=_setting_help(setting.name), **more)(command)
    return command


def _setting_help(name: str) -> str:
    lines = [line.strip() for line in (runs.RunConfig.__doc__ or "").splitlines()]
    text = next(line.partition(": ")[2] for line in lines if line.startswith(f"{name}: "))
    return f"{text} [{runs.RunConfig.learning_rate}]" if name == "learning_rate" else text


@main.command()
@_run_options
@click.option(
    "--effective-learning-rate", type=float, help="learning rate / (1 - momentum), instead of --learning-rate."
)
@click.option(
    "--data-folder", type=click.Path(path_type=Path), help="Where CIFAR-10's files are, or shall be downloaded to."
)
@click.option(
    "--store", type=click.Path(path_type=Path), help="Keep the record in this .jsonl file, or in this folder."
)
def train(effective_learning_rate: float | None, data_folder: Path | None, store: Path | None, **settings: Any) -> None:
    """Train one network and print its record."""
    learning_rate = settings.pop("learning_rate")
    if learning_rate is not None and effective_learning_rate is not None:
        raise ValueError("give either --learning-rate or --effective-learning-rate, not both")
    if effective_learning_rate is not None:
        config = runs.RunConfig.at_effective_rate(effective_learning_rate, **settings)
    else:
        config = runs.RunConfig(
            learning_rate=runs.RunConfig.learning_rate if learning_rate is None else learning_rate, **settings
        )
    from shallowpaths.sweeping import sweep  # imports torch, which --help and mistakes need not wait for

    (record,) = sweep([config], store=store, data_folder=data_folder)
    click.echo(_describe(record))


def _budget(config: runs.RunConfig) -> str:
    return f"{config.epochs} epochs" if config.steps is None else f"{config.steps} steps"


def _describe(record: runs.RunRecord) -> str:
    config = record.config
    rows = [
        (
            "network",
            f"{config.network}, depth {config.depth} ({config.blocks} blocks), width {config.width}, {record.parameters:,} parameters",
        ),
        ("recipe", config.recipe),
        (
            "data",
            f"{config.data}, {record.train_images:,} training images, {_budget(config)}, batch {config.batch_size}",
        ),
        ("learning rate", f"{config.learning_rate:g} (effective {config.effective_learning_rate:g})"),
        ("outcome", record.outcome if record.diverged_step is None else f"diverged at step {record.diverged_step}"),
    ]
    if record.test_accuracy is not None:
        rows += [
            ("training loss", f"{record.train_loss:.4f}"),
            ("test accuracy", f"{100 * record.test_accuracy:.2f} %"),
        ]
    rows += [("seed, device", f"{config.seed}, {record.device_name}"), ("seconds", f"{record.seconds:.1f}")]
    return tabulate(rows, tablefmt="plain")


@main.command()
@click.argument("plan", metavar="PLAN")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Folder, or .jsonl file, that keeps the records. Needed unless --dry-run.",
)
@click.option("--dry-run", is_flag=True, help="Only say what the plan would run and what that is predicted to cost.")
@click.option("--limit-seconds", type=click.FloatRange(min=0), help="Start no run later than this.")
@click.option(
    "--processes", type=click.IntRange(min=1), help="Runs at a time.  [default: one per processor core, on a GPU 1]"
)
@click.option("--device", type=click.Choice(runs.DEVICES), help="Instead of the plan's.  [default: the plan's]")
@click.option(
    "--data-folder", type=click.Path(path_type=Path), help="Where CIFAR-10's files are, or shall be downloaded to."
)
def sweep(
    plan: str,
    store: Path | None,
    dry_run: bool,
    limit_seconds: float | None,
    processes: int | None,
    device: str | None,
    data_folder: Path | None,
) -> None:
    """Train all runs of PLAN, a shipped plan's name or a TOML file, that the store does not have yet.

    Several processes may work on one store. Interrupted, the same command goes on where it stopped.
    """
    from shallowpaths import plans, sweeping  # import torch, which --help and mistakes need not wait for

    chosen = plans.read_plan(plan)
    configs = [c.replace(device=device) for c in chosen.configs] if device else list(chosen.configs)
    if dry_run:
        click.echo(_describe_plan(chosen.description, configs))
        return
    if store is None:
        raise ValueError("give a folder for the records with --store, or ask what it would cost with --dry-run")
    if processes is None:
        processes = sweeping.processes_for(configs)
    try:
        records = sweeping.sweep(configs, store, data_folder, limit_seconds=limit_seconds, processes=processes)
    except KeyboardInterrupt:
        click.echo(f"stopped. What is finished is in {store}; the same command goes on from there.", err=True)
        sys.exit(130)
    diverged = sum(r.outcome == "diverged" for r in records)
    click.echo(f"{len(records)} of {len(configs)} runs are in {store}, {diverged} of them diverged.")
    click.echo(f"shallowpaths records {store} shows them.")


def _describe_plan(description: str, configs: list[runs.RunConfig]) -> str:
    """What a plan would cost here, part by part."""
    from shallowpaths.plans import costs

    parts: dict[tuple, list[runs.RunConfig]] = {}
    for config in configs:
        parts.setdefault((config.network, config.depth, config.width, config.batch_size), []).append(config)
    predictions = [costs.predict(part) for part in parts.values()]
    rows = [
        (*part, p.runs, f"{p.operations:.1e}", _duration(p.seconds)) for part, p in zip(parts, predictions, strict=True)
    ]
    total = costs.predict(configs)
    rows.append(("all", "", "", "", total.runs, f"{total.operations:.1e}", _duration(total.seconds)))
    headers = ("network", "depth", "width", "batch", "runs", "operations", "time")
    basis = (
        f"Predicted for this machine ({total.device}), one run after the other, from training steps of 16-layer networks "
        "measured just now, times steps and blocks. Runs that diverge end early and cost less. "
        f"A device that sustained 10^13 operations a second would take {_duration(total.operations / 1e13)}."
    )
    return "\n\n".join((description, tabulate(rows, headers=headers, disable_numparse=True), basis))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


@main.command("records")
@click.argument("store", type=click.Path(path_type=Path, exists=True))
@click.option("--best", type=click.IntRange(min=1), help="Mean and deviation over this many best runs (paper: 5 of 7).")
def list_records(store: Path, best: int | None) -> None:
    """Show what the runs in STORE say: a line for each setting and rate, and the best rate of each setting.

    Rates are chosen by validation accuracy where the runs have a validation split, else by training loss.
    """
    from shallowpaths import record_tables, stores

    path = store / stores.FILE_NAME if store.is_dir() else store
    if not path.exists():
        raise ValueError(f"{store} has no {stores.FILE_NAME}")
    click.echo(record_tables.describe(stores.load_records(path), best))


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
@click.option("--device", type=click.Choice(runs.DEVICES), default="auto", help="Where to measure.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("_build/bench.json"),
    help="Write the rows to this file, as a list in JSON.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Measure this row only; may be given several times.")
@click.option(
    "--data-folder", type=click.Path(path_type=Path), help="Where CIFAR-10's files are; without them images are random."
)
def run_bench(device: str, output: Path, only: tuple[str, ...], data_folder: Path | None) -> None:
    """Measure what the package's own work costs, row by row, against its targets."""
    from shallowpaths import bench  # imports torch, which --help and mistakes need not wait for

    results = bench.run(only, device, data_folder=data_folder)
    bench.write(results, output)
    says = {True: "yes", False: "no", None: ""}
    rows = [(r.name, r.device, f"{r.value:.3f}", r.target or "", says[r.holds], r.detail) for r in results]
    click.echo(tabulate(rows, headers=("row", "device", "value", "target", "holds", "detail"), disable_numparse=True))
