"""Any quantity against any other: what is drawn is what was given."""

import pytest

from shallowpaths.pages import plots

MEASURED = {"batchnorm": {1: 2.0, 4: 8.0}, "skipinit, seed 0": {1: 3.0, 4: 5.0}, "skipinit, seed 1": {1: 4.0, 4: 6.0}}
PREDICTED = {"bound": {1: 1.0, 4: 16.0}, "limit": {1: 7.0}}


def test_marks_and_lines_are_what_was_measured_and_predicted():
    figure = plots.values_against(MEASURED, PREDICTED, "blocks", "eigenvalue", log="xy", title="digits")
    (axes,) = figure.light.axes
    drawn = {line.get_label(): dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()}
    assert drawn == {**MEASURED, **PREDICTED}
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("log", "log", "digits")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
    assert len({line.get_linestyle() for line in axes.get_lines() if line.get_label().startswith("skipinit")}) == 2
    assert figure.alt == (
        "eigenvalue against blocks. measured: batchnorm 2 at 1, 8 at 4; skipinit, seed 0 3 at 1, 5 at 4; skipinit, seed 1 4 at 1, "
        "6 at 4. predicted: bound 1 at 1, 16 at 4; limit 7 at 1."
    )
    assert figure.svg()


def test_several_networks_are_a_mark_each_and_their_mean_is_said():
    measured = {"batchnorm": {6: [1.5, 1.7], 12: [2.1]}, "batchnorm, linear": {6: [1.4]}}
    figure = plots.values_against(measured, {"predicted": {6: 1.6, 9: 1.9, 12: 2.2}}, "blocks", "mean path length")
    drawn = {line.get_label(): line for line in figure.light.axes[0].get_lines()}
    assert list(zip(*drawn["batchnorm"].get_data(), strict=True)) == [(6, 1.5), (6, 1.7), (12, 2.1)]
    assert drawn["batchnorm"].get_linestyle() == "None", "no line joins them"
    assert drawn["batchnorm"].get_marker() != drawn["batchnorm, linear"].get_marker()
    assert "batchnorm 1.6 at 6, 2.1 at 12; batchnorm, linear 1.4 at 6. predicted: predicted 1.6 at 6, 1.9 at 9" in figure.alt


def test_each_recipe_has_a_panel_with_its_own_predictions():
    predicted = {"skipinit, devices: 8": {1: 2.0, 4: 3.0}, "batchnorm, devices: 8": {1: 1.0, 4: 4.0}}
    figure = plots.values_against(MEASURED, predicted, "batch size", "seconds", log="xy", panels=True)
    first, second = figure.light.axes
    drawn = [{line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in axes.get_lines()} for axes in (first, second)]
    assert (first.get_title(), second.get_title()) == ("batchnorm", "skipinit")
    assert drawn[0] == {"batchnorm": MEASURED["batchnorm"], "devices: 8": {1: 1.0, 4: 4.0}}
    assert drawn[1] == {f"seed {s}": MEASURED[f"skipinit, seed {s}"] for s in (0, 1)} | {"devices: 8": {1: 2.0, 4: 3.0}}
    assert [text.get_text() for text in figure.light.legends[0].get_texts()] == ["batchnorm", "devices: 8", "seed 0", "seed 1"]


def test_of_many_points_the_alternative_tells_ends_and_range():
    figure = plots.values_against({"skipinit": {block: [(block - 5) ** 2] for block in range(1, 21)}}, {}, "block", "alpha")
    assert figure.alt == "alpha against block. measured: skipinit 16 at 1, 225 at 20, all between 0 and 225."


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="nothing measured"):
        plots.values_against({}, PREDICTED, "x", "y")
    with pytest.raises(ValueError, match="log 'z'"):
        plots.values_against(MEASURED, PREDICTED, "x", "y", log="z")
