"""Build the book: execute its chapters, render its pages.

`make book` calls `build.py all` in the environment that it made. Each step can be called by itself, see --help.
"""

from __future__ import annotations

from pathlib import Path

import click

from building import stamping, vendoring
from building.execution import Executor, Parameters, Task, chapters, choose
from building.picture import save_picture
from building.problems import BookProblem
from building.rendering import Renderer

ROOT = Path(__file__).resolve().parent.parent
PROFILE = click.Choice(("quick", "gpu", "paper"))
DEVICE = click.Choice(("cpu", "cuda", "mps"))
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def run_options(command):
    """The options that say how chapters run, and the argument that says which."""
    for decorator in (
        click.argument("names", metavar="[CHAPTER]...", nargs=-1),
        click.option("--jobs", type=click.IntRange(min=1), default=2, help="Chapters that run at the same time."),
        click.option("--device", type=DEVICE, help="Without it each chapter chooses."),
        click.option("--seed", type=click.IntRange(min=0), default=0, help="The seed that every chapter starts from."),
        click.option("--profile", type=PROFILE, default="quick", help="A CPU and minutes, a GPU, or hours."),
    ):
        command = decorator(command)
    return command


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.pass_context
def main(context: click.Context) -> None:
    """Build the book. Without a command: `all`, with its defaults."""
    if context.invoked_subcommand is None:
        context.invoke(build_all)


@main.command("all")
@run_options
def build_all(names: tuple[str, ...], profile: str, seed: int, device: str | None, jobs: int) -> None:
    """Execute what changed, then render; the last line is the path of the first page.

    CHAPTER (a number, a name or a path) limits what is executed; the others' results must be current.
    """
    parameters = Parameters(profile, seed, device)
    chosen, executor = choose(ROOT, names), Executor(ROOT, jobs)
    for path in chapters(ROOT):
        if path not in chosen:
            executor.current(Task(path, parameters))  # refuses now, not after an hour, what cannot be shown
    _execute(names, parameters, jobs)
    _render(parameters)


@main.command()
@run_options
def execute(names: tuple[str, ...], profile: str, seed: int, device: str | None, jobs: int) -> None:
    """Execute chapters that changed with papermill; results go to _build/executed.

    CHAPTER is a number, a name or a path; without one, all chapters of _toc.yml.
    """
    _execute(names, Parameters(profile, seed, device), jobs)


@main.command()
@click.option("--profile", type=PROFILE, default="quick", help="Profile of the executed chapters to show.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Their seed.")
@click.option("--device", type=DEVICE, help="Their device, if one was given.")
def render(profile: str, seed: int, device: str | None) -> None:
    """Render the executed chapters into _build/html; a stale or missing one is refused."""
    _render(Parameters(profile, seed, device))


@main.command()
def vendor() -> None:
    """Fetch and check the scripts that the pages are served with (MathJax, the widget manager)."""
    for tarball in vendoring.fetch(ROOT / "_build" / "vendor"):
        click.echo(tarball)


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 where a chapter would be changed.")
def stamp(check: bool) -> None:
    """Write the repository's address (pyproject.toml) into every chapter's install cell."""
    repository = stamping.address(ROOT)
    due = [path for path in chapters(ROOT) if not stamping.is_stamped(path, repository)]
    if check and due:
        raise BookProblem(f"run `make stamp`: {', '.join(path.name for path in due)} differ from pyproject.toml")
    for path in due:
        stamping.stamp(path, repository)
        click.echo(f"stamped {path.relative_to(ROOT)}")
    click.echo(f"address: {repository or 'not known yet (pyproject.toml, [project.urls])'}")


@main.command()
def picture() -> None:
    """Copy the introduction's figure, as last executed, to the README's picture (book/_assets)."""
    executed = Executor(ROOT).current(Task(ROOT / "book" / "intro.ipynb", Parameters()))
    for path in save_picture(executed, ROOT / "book" / "_assets" / "shallow_paths"):
        click.echo(path.relative_to(ROOT))


def _execute(names: tuple[str, ...], parameters: Parameters, jobs: int) -> None:
    tasks = [Task(path, parameters) for path in choose(ROOT, names)]
    outcomes = Executor(ROOT, jobs).execute(tasks)
    failed = [f"chapter {outcome.task.title} failed {outcome.problem}" for outcome in outcomes if outcome.problem]
    if failed:
        raise BookProblem("\n".join(failed))


def _render(parameters: Parameters) -> None:
    executor, renderer = Executor(ROOT), Renderer(ROOT, ROOT / "_build" / "html")
    if not renderer.render([executor.current(Task(path, parameters)) for path in chapters(ROOT)]):
        click.echo("pages: unchanged, not rendered again")
    click.echo(renderer.index)


if __name__ == "__main__":
    main()
