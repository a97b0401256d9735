import json
import math
import tomllib

import numpy as np
import pytest

from shallowpaths.pages import chapter as claims
from shallowpaths.pages.chapter import MIME, ClaimFailed, start_chapter

STATED = {"whose": "ours", "prediction": "1/(l + 1)", "tolerance": "{part} % of width, a < b", "found": "holds", "page": "X"}
LEDGER = {name: STATED | {"statement": text} for name, text in (("X1", "the share falls"), ("X2 wide", "it {verb}"))}
LEDGER["X3"] = STATED | {"statement": "of another chapter", "page": "Y"}
LEDGER["Z1"] = STATED | {"statement": "{part} is enough", "found": "differs", "page": "Z"}


@pytest.fixture
def chapter(monkeypatch):
    """One that makes the claims of page X of a ledger of its own."""
    monkeypatch.setattr(claims, "ledger", lambda: LEDGER)
    return start_chapter("quick", device="cpu")


def test_every_page_of_the_ledger_is_whole_and_its_claims_are_in_the_list():
    stated = claims.ledger()
    assert {fields["whose"] for fields in stated.values()} <= {"paper", "ours", "paper, ours"}
    letters = {page.stem for page in claims.FOLDER.glob("*.toml") if len(page.stem) == 1}
    assert letters <= {name[0] for name in stated}
    assert all(fields["page"] in ("depth", name[0]) for name, fields in stated.items())
    assert all(text.strip() for fields in stated.values() for text in fields.values())
    assert all(set(fields) == {*claims.FIELDS, "found", "page"} for fields in stated.values())
    assert {fields["found"] for fields in stated.values()} <= {"holds", "differs"}
    pages = [tomllib.loads(page.read_text(encoding="utf-8")) for page in claims.FOLDER.glob("*.toml")]
    assert sum(map(len, pages)) == len(stated), "a claim stands on two pages"


def test_a_chapters_claims_are_one_table_with_their_data(chapter):
    chapter.check("X1", predicted=[0.5, 1 / 3], measured=np.array([0.51, 0.33]), tolerance=0.02, part=2)
    chapter.check_true("X2 wide", holds=np.bool_(True), measured="3 of 3 trained", part=2, verb="trains")
    shown = chapter.claims("X")._repr_mimebundle_()
    first, second = json.loads(json.dumps(shown[MIME]))
    assert (first["id"], first["holds"], first["tolerance"], first["measured"]) == ("X1", True, 0.02, [0.51, 0.33])
    assert (second["id"], second["name"], second["statement"], second["predicted"]) == (
        "X2",
        "X2 wide",
        "it trains",
        None,
    )
    assert shown["text/html"].count("<tr>") == 3
    assert "1/(l + 1): 0.5, 0.333" in shown["text/html"]
    assert "<summary>± 0.02</summary>2 % of width, a &lt; b" in shown["text/html"]
    assert "X2; it trains" in shown["text/plain"]


@pytest.mark.parametrize(
    ("predicted", "measured", "tolerance"),
    [
        (1.0, 1.2, 0.1),
        ([1.0, 1.0], [1.0, 2.0], 0.5),
        (1.0, math.nan, 1.0),
        (1.0, math.inf, 1.0),
        ([1.0, 2.0], [1.0, 2.2], [0.1, 0.1]),
    ],
)
def test_a_claim_that_fails_is_shown_with_the_others_and_stops_the_chapter(
    chapter, capsys, predicted, measured, tolerance
):
    chapter.check("X1", predicted=predicted, measured=measured, tolerance=tolerance, part=2)
    chapter.check_true("X2 wide", holds=True, measured="yes", part=2, verb="trains")
    with pytest.raises(ClaimFailed, match="X1 does not hold: the share falls"):
        chapter.claims("X")
    said = capsys.readouterr().out
    assert "DOES NOT HOLD" in said
    assert "X2; it trains" in said


def test_what_the_book_does_not_find_is_a_verdict_that_it_stands_by(chapter):
    chapter.check_true("Z1", holds=False, measured="no", part=2)
    shown = chapter.claims("Z")._repr_mimebundle_()
    assert (shown[MIME][0]["holds"], shown[MIME][0]["found"]) == (False, "differs")
    assert '<td data-label="verdict" class="differs">differs</td>' in shown["text/html"]


def test_missing_data_confirm_no_difference(chapter):
    with pytest.raises(ValueError, match="claim Z1: what is not finite was not measured"):
        chapter.check("Z1", predicted=0, measured=math.nan, tolerance=1, part=2)
    with pytest.raises(ValueError, match="holds of claim X1 None"):
        chapter.check_true("X1", holds=None, measured="", part=2)


def test_what_is_found_after_all_stops_the_chapter_too(chapter, capsys):
    chapter.check_true("Z1", holds=True, measured="yes", part=2)
    with pytest.raises(ClaimFailed, match="Z1 holds: 2 is enough"):
        chapter.claims("Z")
    assert "HOLDS AFTER ALL" in capsys.readouterr().out


def test_a_claim_that_was_not_checked_stops_the_chapter(chapter):
    chapter.check("X1", predicted=1, measured=1, tolerance=0.1, part=2)
    with pytest.raises(ClaimFailed, match=r"^X2 wide was not checked$"):
        chapter.claims("X")
    assert len(chapter.claims("X", without=["X2 wide"]).data[MIME]) == 1


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_a_tolerance_is_finite_and_not_negative(chapter, tolerance):
    with pytest.raises(ValueError, match="claim X1"):
        chapter.check("X1", predicted=1.0, measured=1.0, tolerance=tolerance, part=2)


def test_nothing_measured_is_no_evidence(chapter):
    with pytest.raises(ValueError, match="something measured"):
        chapter.check("X1", predicted=[], measured=[], tolerance=0.1, part=2)


def test_what_the_ledger_does_not_say_is_refused(chapter):
    with pytest.raises(ValueError, match="claim 'X4' is unknown: choose from X1, X2 wide"):
        chapter.check("X4", predicted=1, measured=1, tolerance=0.1)
    with pytest.raises(ValueError, match="claim X2 wide: its sentences need the fact 'verb'"):
        chapter.check_true("X2 wide", holds=True, measured="yes", part=2)
