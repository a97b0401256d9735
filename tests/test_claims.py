import json
import math

import numpy as np
import pytest

from shallowpaths.pages import claims
from shallowpaths.pages.claims import MIME, ClaimFailed, check, check_true


def test_a_claim_that_holds_leaves_its_trace(capsys):
    claim = check("B3", "the share is 1/(l+1)", [0.5, 1 / 3], np.array([0.51, 0.33]), 0.02, "2 % of width")
    assert claim.holds
    trace = claim._repr_mimebundle_()
    stored = json.loads(json.dumps(trace[MIME]))
    assert stored["measured"] == [0.51, 0.33]
    assert (stored["id"], stored["holds"], stored["tolerance"]) == ("B3", True, 0.02)
    assert "B3: holds" in trace["text/html"]
    assert "B3 holds" in capsys.readouterr().out


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
def test_a_claim_that_fails_stops_the_chapter(predicted, measured, tolerance):
    with pytest.raises(ClaimFailed, match="X1 does not hold"):
        check("X1", "equal", predicted, measured, tolerance, "just so")


def test_yes_and_no():
    assert check_true("S5", "it diverges", "diverged at steps 1, 1, 2", True, "three seeds").holds
    with pytest.raises(ClaimFailed, match="S5"):
        check_true("S5", "it diverges", "finished", False, "three seeds")


@pytest.mark.parametrize(
    ("tolerance", "because"), [(-0.1, "reason"), (math.inf, "reason"), (math.nan, "reason"), (0.1, " ")]
)
def test_a_claim_needs_a_tolerance_and_a_reason(tolerance, because):
    with pytest.raises(ValueError, match="claim X1"):
        check("X1", "equal", 1.0, 1.0, tolerance, because)


def test_nothing_measured_is_no_evidence():
    with pytest.raises(ValueError, match="something measured"):
        check("X1", "equal", [], [], 0.1, "reason")


def test_text_is_escaped():
    html = claims.Claim("X1", "a < b", 1.0, 1.0, 0.1, "x & y", True)._repr_mimebundle_()["text/html"]
    assert "a &lt; b" in html
    assert "x &amp; y" in html
