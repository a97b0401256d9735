"""Explorers in a browser without a network, opened from the disk.

On a page of their own, so that the book need not be built: the same HTML, script, style and libraries as in the book.
"""

import math
import statistics
from pathlib import Path

import pytest

import browser as browsers
from building import vendoring
from made_records import record, validated
from shallowpaths.pages import explorers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="_static/explorer.css">
<style>html[data-theme=dark] {{ background: #121212; --pst-color-text-base: #ced6dd }}</style>
<script src="_static/explorer.js"></script></head><body style="margin: 0.5rem">{}</body></html>"""
LIMIT = 2_000_000  # bytes of a page with what it loads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a page for the three explorers as the chapters have them."""
    made = tmp_path_factory.mktemp("explorers")
    vendoring.unpack(ROOT / "_build" / "vendor", made / "_static" / "vendor")
    for name in ("explorer.js", "explorer.css"):
        (made / "_static" / name).write_bytes((ROOT / "book" / "_assets" / name).read_bytes())
    downscaling = explorers.signal_explorer(("batchnorm", "zero-gamma"), ("downscaling", "skip_variance"))
    shown = [explorers.signal_explorer(), downscaling, explorers.path_explorer()]
    (made / "page.html").write_text(PAGE.format("".join(explorer.html() for explorer in shown)))
    return made


@pytest.fixture(scope="module")
def tab():
    if browsers.find() is None:
        pytest.skip(f"no browser on this machine (tried {', '.join(browsers.NAMES)})")
    with browsers.browser() as page:
        yield page


def opened(tab, folder, width=1000):
    """The page, loaded and drawn; every explorer by its number."""
    tab.open(folder / "page.html", width)
    assert tab.evaluate("document.querySelectorAll('.explorer-legend li').length") > 3
    return tab


def shown(tab, number):
    """What an explorer shows: its picture and its words."""
    return tab.evaluate(
        f"(e => [e.querySelector('.explorer-picture').innerHTML, e.querySelector('.explorer-words').textContent])"
        f"(document.querySelectorAll('.explorer')[{number}])"
    )


def changed(tab, number, before):
    """What it shows now, which must differ from before in picture and words."""
    after = shown(tab, number)
    assert after[0] != before[0], "the picture is the same"
    assert after[1] != before[1], "the words are the same"
    return after


SLIDER = (
    "[...document.querySelectorAll('.explorer')[{}].querySelectorAll('input')]"
    ".find(input => input.labels[0].textContent.startsWith('{}'))"
)
CONTROLS = "[...document.querySelectorAll('.explorer input, .explorer select')]"


@pytest.mark.parametrize("number", range(3))
def test_a_slider_moves_by_mouse_and_by_keyboard_and_the_picture_changes(tab, folder, number):
    opened(tab, folder)
    slider = SLIDER.format(number, "blocks")
    before = shown(tab, number)
    left, top, width, height = tab.evaluate(
        f"(i => (i.scrollIntoView(), (r => [r.x, r.y, r.width, r.height])(i.getBoundingClientRect())))({slider})"
    )
    mouse, middle = tab.tab.mouse, top + height / 2
    mouse.move(left + width / 2, middle)
    mouse.down()
    seen = {before[1]}
    for part in (0.5, 0.6, 0.7, 0.8, 0.9):  # a drag: each step shows a state of its own, before the button is let go
        mouse.move(left + part * width, middle)
        seen.add(shown(tab, number)[1])
    mouse.up()
    assert len(seen) >= 4, f"a drag showed {seen}"
    dragged = changed(tab, number, before)
    assert tab.evaluate(f"document.activeElement === {slider}")
    tab.tab.keyboard.press("ArrowLeft")
    stepped = changed(tab, number, dragged)
    tab.tab.keyboard.press("Home")
    first = changed(tab, number, stepped)
    assert " 4 blocks" in first[1]
    assert tab.evaluate(f"{slider}.ariaValueText") == "4"


def test_a_menu_changes_the_picture_and_wakes_the_slider_that_it_needs(tab, folder):
    opened(tab, folder)
    alpha = SLIDER.format(0, "alpha")
    assert tab.evaluate(f"{alpha}.disabled")
    before = shown(tab, 0)
    tab.evaluate("document.querySelectorAll('.explorer select')[1].focus()")
    for _ in range(2):
        tab.tab.keyboard.press("ArrowDown")
    after = changed(tab, 0, before)
    assert after[1].startswith("skipinit with alpha 0,")
    assert not tab.evaluate(f"{alpha}.disabled")


def test_every_value_of_every_control_is_drawn_within_100_milliseconds_from_the_disk_alone(tab, folder):
    opened(tab, folder)
    milliseconds = tab.evaluate("""(() => {
      const all = [];
      for (const input of document.querySelectorAll('.explorer input, .explorer select')) {
        if (input.disabled) continue;
        const last = input.max ? Number(input.max) : input.options.length - 1;
        for (let value = 0; value <= last; value++) {
          const begun = performance.now();
          input.value = value;
          input.dispatchEvent(new Event('input', {bubbles: true}));
          document.body.getBoundingClientRect();  // layout is part of a redraw
          all.push(performance.now() - begun);
        }
      }
      return all;
    })()""")
    assert len(milliseconds) > 40
    assert statistics.median(milliseconds) < 100, f"{len(milliseconds)} redraws, up to {max(milliseconds):.0f} ms"
    assert tab.errors == []
    assert {address.split(":")[0] for address in tab.requests} == {"file"}


def test_a_page_with_all_explorers_and_all_that_it_loads_is_light(tab, folder):
    opened(tab, folder)
    loaded = {address.removeprefix("file://") for address in tab.requests}
    assert len(loaded) == 5
    assert sum(Path(path).stat().st_size for path in loaded) < LIMIT


@pytest.mark.parametrize("width", [360, 1000])
def test_it_is_readable_on_a_phone_and_in_the_dark(tab, folder, width):
    opened(tab, folder, width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    heights = tab.evaluate(f"{CONTROLS}.map(control => control.offsetHeight)")
    assert min(heights) >= 44  # for a finger
    names = tab.evaluate(f"{CONTROLS}.map(control => control.labels.length)")
    assert set(names) == {1}
    colours = "[...document.querySelectorAll('.explorer-picture svg')].map(svg => getComputedStyle(svg).color)"
    light = tab.evaluate(colours)
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert light == ["rgb(0, 0, 0)"] * 3
    assert tab.evaluate(colours) == ["rgb(206, 214, 221)"] * 3
    strokes = "[...document.querySelectorAll('.explorer-picture svg [stroke=currentColor]')].length"
    assert tab.evaluate(strokes) >= 3


def test_what_trains_is_told_from_what_does_not_by_its_marks(tab, folder):
    """Filled, hollow and crossed marks, each with its entry in the legend; asking for more turns filled ones hollow."""
    runs = [
        record(rate, loss=loss, accuracy=1 - loss / 2.5, depth=depth, recipe=recipe)
        for recipe in ("skipinit", "batchnorm")
        for depth in (16, 100)
        for rate, loss in ((0.01, 0.5), (0.02, 2.0), (0.04, math.inf))
    ]
    explorer = explorers.trainability_explorer(runs, {"skipinit": {"border": {16: 0.3, 100: 1e-30}}})
    (folder / "map.html").write_text(PAGE.format(explorer.html()))
    tab.open(folder / "map.html", 390)
    legend = "[...document.querySelectorAll('.explorer-legend li')].map(entry => entry.lastChild.textContent)"
    assert tab.evaluate(legend) == ["border", "skipinit: 50 % or more", "less", "diverged"]
    before = shown(tab, 0)
    tab.evaluate(f"{SLIDER.format(0, 'test accuracy')}.focus()")
    tab.tab.keyboard.press("End")
    after = changed(tab, 0, before)
    assert after[1].startswith("skipinit, at least 90 % of test images right: at depth 16 at no rate")
    assert tab.evaluate(legend) == ["border", "less", "diverged"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.errors == []


def test_the_batch_size_moves_the_rates_by_keyboard_on_a_phone_and_in_the_dark(tab, folder):
    """One entry in the legend for what several recipes have, and it fits a narrow page."""
    runs = [
        validated(rate, accuracy and accuracy - abs(math.log2(rate / best)) / 20, recipe=recipe, batch_size=size)
        for recipe in ("batchnorm", "regularized-skipinit")
        for size, best in ((16, 0.125), (1024, 0.5))
        for rate, accuracy in ((0.125, 0.5), (0.25, 0.5), (0.5, 0.5), (1.0, None))
    ]
    predicted = {name: {16: 0.1, 1024: 0.6} for name in ("batchnorm", "regularized-skipinit")}
    (folder / "batch.html").write_text(PAGE.format(explorers.batch_size_explorer(runs, predicted).html()))
    tab.open(folder / "batch.html", 360)
    legend = "[...document.querySelectorAll('.explorer-legend li')].map(entry => entry.lastChild.textContent)"
    names = ["best to largest stable", "batchnorm", "regularized-skipinit", "diverged", "best, predicted"]
    assert tab.evaluate(legend) == names
    before = shown(tab, 0)
    assert "batchnorm best at 0.125 on the grid's edge (predicted 0.1)" in before[1]
    tab.evaluate(f"{SLIDER.format(0, 'batch size')}.focus()")
    tab.tab.keyboard.press("End")
    assert "batchnorm best at 0.5 (predicted 0.6)" in changed(tab, 0, before)[1]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert tab.evaluate("getComputedStyle(document.querySelector('.explorer-picture svg')).color") == "rgb(206, 214, 221)"
    assert tab.errors == []
    assert {address.split(":")[0] for address in tab.requests} == {"file"}


def test_an_explorer_without_a_width_is_drawn_once_it_has_one(tab, folder):
    """A picture of no width would have axes of negative length: the browser says so on its console."""
    folded = folder / "folded.html"
    page = (folder / "page.html").read_text()
    folded.write_text(page.replace('<body style="margin: 0.5rem">', '<body style="display: none">'))
    tab.open(folded)
    assert tab.errors == []
    tab.evaluate("document.body.style.display = 'block'")
    tab.until("document.querySelectorAll('.explorer-legend li').length > 3")
    assert min(tab.evaluate("[...document.querySelectorAll('.explorer-picture')].map(p => p.clientWidth)")) > 300
    assert tab.errors == []


def test_without_scripts_the_first_picture_and_its_words_are_there(tab, folder):
    still = folder / "still.html"
    still.write_text((folder / "page.html").read_text().replace('<script src="_static/explorer.js"></script>', ""))
    tab.open(still, 360, drawn="document.readyState === 'complete'")
    assert tab.evaluate("document.querySelectorAll('.explorer-picture svg[role=img]').length") == 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("[...document.querySelectorAll('.explorer-words')].every(p => p.textContent.length > 40)")
