"""A reader's own network: what `inspect` found, drawn with what batch normalization on the branch would give."""

from matplotlib.figure import Figure

from shallowpaths.measure import Inspection
from shallowpaths.pages.plots.drawing import new_axes, plain_log_ticks, predict, style_of
from shallowpaths.pages.plots.figure import BookFigure


def inspection(found: Inspection) -> BookFigure:
    """Variances on the skip path and at the end of the branch, and the branch share beside 1/(l+1) and 1/2, by block."""
    blocks, at = found.blocks, range(1, len(found.blocks) + 1)
    shares = [block.branch_share for block in blocks]

    def draw() -> Figure:
        figure, (signal, share) = new_axes(2, (4.2, 3.6), sharey=False)
        marks = {"linestyle": "none", "markersize": 4.5}
        signal.plot(at, [b.skip_variance for b in blocks], **style_of("skip path") | marks, label="skip path")
        signal.plot(at, [b.branch_variance for b in blocks], **style_of("branch") | marks, label="branch")
        signal.set(title="variance", yscale="log")
        share.plot(at, shares, **style_of("branch") | marks, label="measured")
        predict(share, dict(zip(at, (b.predicted_share for b in blocks), strict=True)), label="$1/(l+1)$")
        predict(share, dict.fromkeys(at, 0.5), label="1/2", linestyle=":")
        share.set(title="branch share")
        plain_log_ticks(share)
        for axes in (signal, share):
            axes.set_xlabel("residual addition")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        return figure

    said = (
        f"Variances and branch shares at the {len(blocks)} residual additions of {found.network} in {found.mode} mode,"
        f" weights {found.weights}. From first to last, skip variance {blocks[0].skip_variance:.3g} to"
        f" {blocks[-1].skip_variance:.3g}, branch share {shares[0]:.3g} to {shares[-1]:.3g}, predicted"
        f" {blocks[0].predicted_share:.3g} to {blocks[-1].predicted_share:.3g}. Verdict: {found.verdict}."
    )
    return BookFigure(draw, said)
