import re

import pytest

from shallowpaths.pages.tables import table


def test_a_table_rounds_numbers_aligns_them_and_escapes_words():
    shown = table([("a < b", 0.123456, 3), ("c", None, 12)], ("recipe", "loss", "runs"))._repr_mimebundle_()
    assert "a &lt; b" in shown["text/html"]
    assert re.search(r'<td style="text-align: right;"> *12 *</td>', shown["text/html"])
    assert "0.123" in shown["text/plain"]
    assert "0.1234" not in shown["text/plain"]
    assert "–" in shown["text/plain"]


def test_digits_stay_as_they_are_given():
    shown = repr(table([("0.30", "8.00"), ("12.10", "1.5 ± 0.2")], ("rate", "loss")))
    assert shown.splitlines()[2:] == ["  0.30       8.00", " 12.10  1.5 ± 0.2"]


@pytest.mark.parametrize("rows", [[], [("a",)], [("a", 1), ("b", 2, 3)]])
def test_a_row_has_a_cell_for_each_header(rows):
    with pytest.raises(ValueError, match="rows of 2 cells each, one for each of name, value"):
        table(rows, ("name", "value"))
