"""The book: its chapters as they lie in the repository, executed with two seeds, rendered, and opened in a browser."""

import html
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import browser as browsers
from building.execution import Executor, Parameters, Task, chapters, claims_of
from building.rendering import Renderer

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
SEEDS = (0, 1)  # the first is the one that `make book` runs, so that it is run once for both
RUNS = [(path, seed) for seed in SEEDS for path in NOTEBOOKS]
OPENING = ("install-package", "parameters", "setup")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_the_contents_name_every_page_once():
    assert sorted(chapters(ROOT)) == NOTEBOOKS
    named = (ROOT / "_toc.yml").read_text()
    for page in [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]:
        assert named.count(f"book/{page.stem}\n") == 1, f"_toc.yml does not name book/{page.stem} once"


@each_notebook
def test_a_chapter_is_committed_without_outputs_and_calm(path):
    """In view: cells of at most 12 lines, and fewer than half of the code. No line is wider than a page has room for."""
    nbformat.validate(nbformat.read(path, as_version=4))
    in_view, folded = [], []
    for cell in code_of(path):
        assert not cell.outputs, f"{path.name}: a cell has outputs"
        assert cell.execution_count is None, f"{path.name}: a cell has a number from being run"
        tags, lines = set(cell.metadata.get("tags", [])), cell.source.splitlines()
        if "remove-cell" in tags:
            continue
        wide = [line for line in lines if len(line) > 88]
        assert not wide, f"{path.name}: over 88 characters: {wide[0]}"
        if tags & {"hide-cell", "hide-input"}:
            folded += lines
            continue
        in_view += lines
        assert len(lines) <= 12, f"{path.name}: over 12 lines in view: {lines[0]}"
    assert len(in_view) < len(folded), f"{path.name}: {len(in_view)} lines in view, {len(folded)} folded"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem != "intro"], ids=lambda path: path.stem)
def test_a_chapter_opens_with_its_answer_and_ends_with_its_claims(path):
    cells = code_of(path)
    assert "chapter.answer(" in next(cell for cell in cells if cell.id not in OPENING).source
    assert cells[-1].source.startswith("chapter.claims(")
    assert len(cells[-1].source.splitlines()) == 1
    assert not cells[-1].metadata.get("tags")


@each_notebook
def test_a_chapter_takes_profile_seed_and_device(path):
    tagged = [cell for cell in code_of(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name} needs one cell tagged parameters"
    values: dict[str, object] = {}
    exec(tagged[0].source, values)
    values.pop("__builtins__")
    assert values == {"profile": None, "seed": 0, "device": None}


def test_the_diff_of_the_chapter_on_skipinit_is_the_code_that_it_runs():
    cells = nbformat.read(ROOT / "book" / "04_skipinit.ipynb", as_version=4).cells
    text, code = (next(cell.source for cell in cells if cell.id == name) for name in ("diff-text", "diff-run"))
    lines = text.partition("```diff\n")[2].partition("```")[0].splitlines()
    for side in "-+":
        block = "\n".join(line[1:].rstrip() for line in lines if line[:1] in (side, " "))
        unspaced = [line for line in code.splitlines() if line]
        assert "\n".join(line for line in block.splitlines() if line) in "\n".join(unspaced)


@pytest.fixture(scope="module")
def outcomes():
    """Every chapter with both seeds, through the function that `make book` uses: what did not change is not run again."""
    executor = Executor(ROOT)
    done = executor.execute([Task(path, Parameters(seed=seed)) for path, seed in RUNS], keep_going=True)
    return {(outcome.task.chapter, outcome.task.parameters.seed): outcome for outcome in done}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "seed"), RUNS, ids=lambda value: getattr(value, "stem", f"seed {value}"))
def test_every_claim_of_a_chapter_holds(outcomes, path, seed):
    outcome = outcomes[path, seed]
    assert outcome.problem is None, f"{path.name} failed {outcome.problem}"
    claims = claims_of(outcome.notebook)
    assert claims or path.stem == "intro", f"{path.name} checks no claim"
    for claim in claims:
        assert claim["holds"] == (claim["found"] == "holds"), f"{claim['id']} is not as stated: {claim}"
        assert claim["rule"], f"{claim['id']} does not say why its tolerance is what it is"


@pytest.mark.slow
def test_a_wrong_profile_is_refused_with_the_list_of_good_ones(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOKS[0]),
        str(tmp_path / "out.ipynb"),
        "-p",
        "profile",
        "nonsense",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "profile 'nonsense' is unknown: choose from quick, gpu, paper" in done.stderr


@pytest.fixture(scope="module")
def book(outcomes):
    """The pages, rendered from the chapters of the first seed."""
    renderer = Renderer(ROOT, ROOT / "_build" / "test-html")
    executed = [outcomes[path, SEEDS[0]].notebook for path in NOTEBOOKS]
    assert None not in executed, "a chapter did not execute, so there is nothing to render"
    renderer.render(executed)
    assert renderer.render(executed) is False, "unchanged, and yet rendered again"
    return renderer.index.parent


@pytest.mark.slow
@each_notebook
def test_a_page_shows_what_its_chapter_computed(book, outcomes, path):
    page = (book / "book" / f"{path.stem}.html").read_text()
    executed = nbformat.read(outcomes[path, SEEDS[0]].notebook, as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert (
        page.count("figure-light")
        >= sum("figure-light" in output.get("data", {}).get("text/html", "") for output in outputs)
        > 0
    )
    for claim in claims_of(outcomes[path, SEEDS[0]].notebook):
        assert html.escape(claim["statement"]) in page
    assert 'class="fails"' not in page
    assert "Traceback" not in page
    assert "injected-parameters" not in page
    assert "importlib.util" not in page  # the cell that installs the package is for notebooks only


@pytest.mark.slow
@each_notebook
def test_a_page_and_what_its_explorers_load_is_light(book, path):
    """At most 2 MB: the text, every figure twice, the explorers' data and scripts. All pages share theme and MathJax."""
    scripts = [
        book / "_static" / name
        for name in ("explorer.js", "explorer.css", "vendor/d3.min.js", "vendor/plot.umd.min.js")
    ]
    page = book / "book" / f"{path.stem}.html"
    assert sum(file.stat().st_size for file in [page, *scripts]) < 2_000_000


# What scrolls sideways in a frame of its own: code, and tables.
TOO_WIDE = """[...document.querySelectorAll('.bd-article :is(pre, .output, .book-table, .pst-scrollable-table-container)')]
  .filter(e => e.offsetWidth > 0 && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""


@pytest.mark.slow
@pytest.mark.skipif(browsers.find() is None, reason=f"no browser on this machine (tried {', '.join(browsers.NAMES)})")
def test_in_a_browser_without_a_network_every_page_is_whole(book):
    with browsers.browser() as page:
        for path in sorted((book / "book").glob("*.html")):
            for width, dark in ((1280, False), (1280, True), (390, False)):
                page.open(path, width, dark)
                asked = [address for address in page.requests if not address.startswith(("file:", "data:", "blob:"))]
                assert asked == [], f"{path.name} asks for {asked}"
                assert page.errors == [], f"{path.name}: {page.errors}"
                overhang = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert overhang <= 0, f"{path.name} is {overhang} pixels too wide at {width}"
                shown = page.evaluate(
                    "[...document.querySelectorAll('.figure-light')].filter(i => i.offsetWidth > 0).length"
                )
                other = page.evaluate(
                    "[...document.querySelectorAll('.figure-dark')].filter(i => i.offsetWidth > 0).length"
                )
                assert (other if dark else shown) == page.evaluate("document.querySelectorAll('.figure-light').length")
                assert (shown if dark else other) == 0, f"{path.name} shows a figure of the other theme"
                assert page.evaluate(TOO_WIDE if width == 1280 else "[]") == [], f"{path.name}: scrolls sideways"
            formulas = page.evaluate("document.querySelectorAll('.math').length")
            assert page.evaluate("document.querySelectorAll('mjx-container').length") >= formulas
