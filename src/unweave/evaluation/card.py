"""A dictionary's card: an evaluation as Markdown with plots, to lie beside the weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..base.files import check_writable, write_atomically
from ..base.optional import require_figures
from .results import DENSITY_EDGES, Evaluation, TextFigures
from .table import (
    LAYERS,
    NEURONS,
    PROMPTS,
    RESPONSES,
    TOTALS,
    Row,
    headline,
    kinds,
    layers,
    neurons,
    prompts,
    responses,
    scope,
    totals,
)

COLOURS = ("#1f5fa8", "#b4551d", "#4a7f3c", "#7a5195", "#888888", "#c2a83e")


def card_files(folder: str | Path) -> dict[str, Path]:
    """Where a card's parts go, checked to be writable.

    Raises:
        FileError: the folder cannot be made or written.
        MissingPackage: what draws the plots is not installed.
    """
    require_figures()
    names = {"text": "evaluation.md", "facts": "evaluation.json"} | {name: f"evaluation-{name}.svg" for name in PLOTS}
    return {part: check_writable(Path(folder).expanduser() / name) for part, name in names.items()}


def write_card(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write `evaluation.md`, its plots and `evaluation.json` to a folder; returns the Markdown file.

    Raises:
        FileError: the folder cannot be made or written.
    """
    files = card_files(folder)
    for name, draw in PLOTS.items():
        _plot(files[name], evaluation, draw)
    facts = json.dumps(evaluation.facts(), indent=1, ensure_ascii=False)
    write_atomically(files["facts"], lambda path: Path(path).write_text(facts + "\n"))
    text = _markdown(evaluation, {name: path.name for name, path in files.items()})
    return write_atomically(files["text"], lambda path: Path(path).write_text(text))


def _markdown(evaluation: Evaluation, names: dict[str, str]) -> str:
    setting, mean = evaluation.setting, evaluation.mean
    widths = sorted({part.width for part in evaluation.features})
    features = str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    skip = " with skip matrices" if setting.skip else ""
    parts = [
        f"# Evaluation of {setting.transcoders} for {setting.model}",
        f"{headline(evaluation)}.",
        f"A {setting.kind} dictionary{skip}, {len(evaluation.features)} layers of {features} features; "
        f"{scope(evaluation)}.",
        "## All MLPs replaced",
        "Attention is live. FVU: fraction of variance unexplained, mean over layers. Baselines know nothing of "
        "features.",
        *(f"### {text.name}, {text.tokens:,} tokens\n\n{_table(TOTALS, totals(text))}" for text in kinds(evaluation)),
        "## By layer",
        f"Mean over the kinds of text ({', '.join(text.name for text in evaluation.texts)}). Alone: nats added when "
        f"only this layer's MLP is replaced.",
        f"![FVU by layer]({names['fvu']})\n![Nats added by layer]({names['alone']})\n![Densities of "
        f"features]({names['density']})",
        _table(LAYERS, layers(evaluation)),
        "## Responses",
        "Error of the predicted change of an MLP's output over the size of the true change: after one upstream "
        "feature is taken away, after a move "
        "towards another token's input, after noise of that size. Above 1 is worse than to predict no change. Held: "
        "norm and active features "
        "stay the same, as in a graph.",
        f"![Error of responses by layer]({names['response']})",
        _table(RESPONSES, responses(mean.layers)),
    ]
    if evaluation.prompts:
        parts += [
            "## Whole graphs",
            "Replacement and completeness with everything counted; peer-style, position 0's errors are left out.",
            _table(PROMPTS, prompts(evaluation.prompts)),
        ]
    if evaluation.neurons:
        parts += [
            "## As many features as neurons",
            "Graphs of the most influential features, and of as many of the model's own neurons with their gates "
            "held; what is left out counts as error.",
            _table(NEURONS, neurons(evaluation.neurons)),
        ]
    made = (
        f"Seed {setting.seed}, unweave {setting.version}, {setting.seconds:.0f} s. Dictionary sha256 "
        f"`{setting.sha256}`. All figures: {names['facts']}."
    )
    return "\n\n".join([*parts, made]) + "\n"


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, tuple("---" if not number else "---:" for number in range(len(head))), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plot(path: Path, evaluation: Evaluation, draw: Callable[[Any, Evaluation], None]) -> None:
    require_figures()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    draw(axes, evaluation)
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context(
        {"svg.hashsalt": "unweave", "svg.fonttype": "none"}
    ):  # the same evaluation gives the same file
        write_atomically(path, lambda name: figure.savefig(name, format="svg", metadata={"Date": None}))


def _draw_fvu(axes: Any, evaluation: Evaluation) -> None:
    for colour, one in zip(
        COLOURS, (one for one in evaluation.mean.stand_ins if one.name != "mean output"), strict=False
    ):
        axes.plot(
            [layer.weighted for layer in one.unexplained],
            color=colour,
            label=one.name,
            linestyle="-" if one.name == "dictionary" else "--",
        )
    axes.set(xlabel="layer", ylabel="weighted FVU", ylim=(0, None))
    _legend(axes)


def _draw_alone(axes: Any, evaluation: Evaluation) -> None:
    texts: Sequence[TextFigures] = evaluation.texts
    for number, text in enumerate(texts):
        at = [layer + (number - (len(texts) - 1) / 2) * 0.8 / len(texts) for layer in range(len(text.layers))]
        axes.bar(
            at,
            [layer.alone for layer in text.layers],
            width=0.8 / len(texts),
            color=COLOURS[number % len(COLOURS)],
            label=text.name,
        )
    axes.set(xlabel="layer", ylabel="nats added, replaced alone")
    _legend(axes)


def _draw_density(axes: Any, evaluation: Evaluation) -> None:
    counts = [sum(column) for column in zip(*(part.histogram for part in evaluation.features), strict=True)]
    dead = sum(part.dead for part in evaluation.features)
    step = DENSITY_EDGES[1] - DENSITY_EDGES[0]
    axes.bar([edge + step / 2 for edge in DENSITY_EDGES[:-1]], counts, width=0.9 * step, color=COLOURS[0])
    axes.bar([DENSITY_EDGES[0] - step / 2], [dead], width=0.9 * step, color=COLOURS[1], label="never fired")
    axes.set(xlabel="log10 of the share of tokens a feature fires on", ylabel="features, all layers")
    _legend(axes)


def _draw_response(axes: Any, evaluation: Evaluation) -> None:
    layers = evaluation.mean.layers
    for colour, kind in zip(COLOURS, ("feature", "towards", "noise"), strict=False):
        for style, series in (
            ("-", [layer.held_response for layer in layers]),
            (":", [layer.affine_response for layer in layers]),
        ):
            values = [getattr(one, kind) for one in series]
            axes.plot(values, color=colour, linestyle=style, label=f"{kind}, {'held' if style == '-' else 'affine'}")
    axes.axhline(1, color="#888888", linewidth=0.8)
    axes.set(xlabel="layer", ylabel="error of responses", ylim=(0, None))
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


PLOTS: dict[str, Callable[[Any, Evaluation], None]] = {
    "fvu": _draw_fvu, "alone": _draw_alone, "density": _draw_density, "response": _draw_response,
}  # fmt: skip
