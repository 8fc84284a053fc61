"""A dose sweep as a picture."""

import warnings
from pathlib import Path

from ..base.files import write_atomically
from ..base.optional import require_figures
from ..errors import OptionError
from ..interventions.steering import Sweep

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


def check_plot_suffix(path: Path) -> Path:
    """Refuse a plot file of a kind that cannot be written.

    Raises:
        OptionError: its suffix is not .svg, .png or .pdf.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"cannot plot to {path}; the file name must end in {', '.join(PLOT_SUFFIXES)}")
    require_figures()
    return path


def plot_sweep(result: Sweep, path: str | Path, title: str = "") -> Path:
    """Draw a sweep: probabilities and divergence over the factor.

    Raises:
        OptionError: an unknown kind of file.
        FileError: it cannot be written.
    """
    path = check_plot_suffix(Path(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    factors = [row.factor for row in result.rows]
    for number, text in enumerate(result.texts):
        top.plot(
            factors,
            [row.probabilities[number] for row in result.rows],
            marker="o",
            markersize=3,
            label=repr(text).replace("$", r"\$"),
        )
    top.set(ylabel="probability", ylim=(-0.02, 1.02), title=title.replace("$", r"\$"))
    top.legend(frameon=False)
    bottom.plot(factors, [row.kl for row in result.rows], color="black", marker="o", markersize=3)
    bottom.set(xlabel="factor", ylabel="KL (nats)")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a token's characters that the font lacks become boxes
        return write_atomically(path, lambda name: figure.savefig(name, format=path.suffix[1:].lower(), dpi=160))
