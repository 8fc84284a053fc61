"""Drawing what a study measured: bars, lines and heat maps as SVG, the same file for the same figures."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..base.optional import require_figures
from .results import Plot

COLOURS = ("#1f5fa8", "#b4551d", "#4a7f3c", "#7a5195", "#888888", "#c2a83e")
PANEL = 1.9
"""Width and height of one heat map, in inches."""
ACROSS = 5


def draw(plot: Plot, path: Path) -> Path:
    """Draw a plot to an SVG file.

    Raises:
        FileError: it cannot be written.
    """
    require_figures()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.hashsalt": "unweave", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9}
    ):  # the same figures give the same file
        figure = Figure(layout="constrained", figsize=_size(plot))
        FigureCanvasSVG(figure)
        figure.suptitle(_plain(plot.title), fontsize=10)
        DRAW[plot.kind](figure, plot.data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a token's characters that the font lacks become boxes
            return write_atomically(path, lambda name: figure.savefig(name, format="svg", metadata={"Date": None}))


def _size(plot: Plot) -> tuple[float, float]:
    if plot.kind != "heat":
        labels = plot.data.get("labels", [])
        return 7.2, 2.9 + (
            0.04 * max(len(str(label)) for label in labels) if _slanted(labels) else 0.0
        )  # slanted names take height
    panels = len(plot.data["panels"])
    return max(5.5, PANEL * min(panels, ACROSS) + 0.8), (PANEL + 0.4) * math.ceil(panels / ACROSS) + 0.5


def _slanted(labels: list[Any]) -> bool:
    """Whether labels are names too long to stand side by side."""
    return not all(isinstance(label, int) for label in labels) and sum(len(str(label)) + 2 for label in labels) > 80


def _bars(figure: Any, data: dict[str, Any]) -> None:
    axes, labels, series = figure.subplots(), data["labels"], data["series"]
    stacked, wide = data.get("stacked", False), 0.8 / (1 if data.get("stacked") else len(series))
    bottom = [0.0] * len(labels)
    for number, (name, values) in enumerate(series.items()):
        offset = 0.0 if stacked else (number - (len(series) - 1) / 2) * wide
        axes.bar(
            [place + offset for place in range(len(labels))],
            values,
            wide,
            bottom=bottom if stacked else None,
            color=COLOURS[number % 6],
            label=_plain(name),
        )
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    numbers = all(isinstance(label, int) for label in labels)
    step = math.ceil(len(labels) / 15) if numbers else 1
    slanted = _slanted(labels)
    shown = [_plain(str(label)) for label in labels[::step]]
    axes.set_xticks(
        range(0, len(labels), step), shown, rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    if all(isinstance(value, int) for values in series.values() for value in values):
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(-0.6, max(len(labels), 5) - 0.4)  # a few bars stay narrow
    _finish(axes, data, len(series) > 1)


def _lines(figure: Any, data: dict[str, Any]) -> None:
    axes = figure.subplots()
    for number, (name, values) in enumerate(data["series"].items()):
        axes.plot(
            data["x"], values, color=COLOURS[number % 6], marker="o", markersize=3, linewidth=1.2, label=_plain(name)
        )
    _finish(axes, data, len(data["series"]) > 1)


def _heat(figure: Any, data: dict[str, Any]) -> None:
    panels, rows, columns = data["panels"], data["rows"], data["columns"]
    down, across = math.ceil(len(panels) / ACROSS), min(len(panels), ACROSS)
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        panel = panels[place]
        values = panel["values"]
        low = min(min(row) for row in values)
        axes.imshow(values, cmap="Blues", vmin=min(0.0, low), aspect="auto", interpolation="nearest", origin="lower")
        axes.set_title(_plain(panel["title"]).replace(": ", "\n", 1), fontsize=8)
        for labels, set_ticks in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
            step = max(1, (len(labels) - 1) // 4)
            set_ticks(range(0, len(labels), step), [str(label) for label in labels[::step]], fontsize=7)
        if place % across == 0:
            axes.set_ylabel(_plain(data.get("ylabel", "")), fontsize=8)
        if place // across == down - 1 or place + across >= len(panels):
            axes.set_xlabel(_plain(data.get("xlabel", "")), fontsize=8)


def _finish(axes: Any, data: dict[str, Any], legend: bool) -> None:
    axes.set(xlabel=_plain(data.get("xlabel", "")), ylabel=_plain(data.get("ylabel", "")))
    if "ylim" in data:
        axes.set_ylim(*data["ylim"])
    if "line" in data:
        axes.axhline(data["line"], color="#888888", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _plain(text: str) -> str:
    """Text in which no dollar sign begins a formula."""
    return text.replace("$", r"\$").replace("\n", "⏎")


DRAW: dict[str, Callable[[Any, dict[str, Any]], None]] = {"bars": _bars, "lines": _lines, "heat": _heat}
