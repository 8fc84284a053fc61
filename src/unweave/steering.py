"""Steering: features of one prompt exchanged for those of another, and the response to a growing dose."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from .edits import Change, Feature, Intervention, NodeLike, check_feature, dosed, features_of, prompt_positions, shift
from .errors import InterventionError, OptionError
from .files import write_atomically
from .interventions import Outcome, Prompt, intervene_each, record
from .models import Recording
from .plans import Mode, read_points
from .replacement import ReplacementModel

MOST_CURVES = 5
"""Tokens of a dose sweep when none are asked for."""
PLOT_SUFFIXES = (".svg", ".png", ".pdf")


def aligned(prompt: Sequence[int], other: Sequence[int]) -> dict[int, int]:
    """Which position of another prompt corresponds to which of this one.

    The common beginning is aligned from the start, the rest from the end as far as both reach; positions of the longer
    prompt in between correspond to nothing.

    >>> aligned([0, 5, 6, 9], [0, 5, 7, 8, 9])     # position 3 of the other, token 8, takes the place of token 6
    {0: 0, 1: 1, 2: 3, 3: 4}
    """
    common = next((place for place, pair in enumerate(zip(prompt, other, strict=False)) if pair[0] != pair[1]), min(len(prompt), len(other)))
    rest = min(len(prompt), len(other)) - common
    pairs = {place: place for place in range(common)}
    return pairs | {len(prompt) - k: len(other) - k for k in range(rest, 0, -1)}


def swap(
    model: ReplacementModel,
    prompt: Prompt,
    other_prompt: Prompt,
    *,
    features: Sequence[NodeLike] | None = None,
    positions: Sequence[int] | None = None,
    layers: range | None = None,
) -> list[Intervention]:
    """Interventions on `prompt` that take its features out and put those of another prompt in.

    Positions are paired by `aligned`. A feature is shifted from the activation it has to the one at the other prompt's
    position; `dosed(swap(...), 3.0)` shifts three times as far.

    Args:
        features: which ones, with positions in `prompt`; None: all whose activation differs.
        positions: without `features`, positions in `prompt`; None: all paired ones from the first that differs on.
        layers: the layers whose features are swapped; None: all.

    Raises:
        InterventionError: nothing differs, or a position of `features` or `positions` has no partner.

    Source: Lindsey et al. 2025, "On the Biology of a Large Language Model", the swaps of states and countries.
    """
    if features is not None and positions is not None:
        raise OptionError("swap takes features or positions, not both; give the features with their positions")
    here, there = record(model, prompt), record(model, other_prompt)
    ids, other_ids = here.input_ids.tolist(), there.input_ids.tolist()
    pairs = aligned(ids, other_ids)
    named = None if features is None else _placed(model, features, len(ids))
    if named is not None:
        places = sorted({int(feature.position) for feature in named})
    elif positions is not None:
        places = [place for position in positions for place in prompt_positions("swap", position, len(ids))]
    else:
        differing = [place for place, other in pairs.items() if ids[place] != other_ids[other]]
        places = [place for place in pairs if differing and place >= differing[0]]
    unpaired = next((place for place in places if place not in pairs), None)
    if unpaired is not None:
        raise InterventionError(f"swap: position {unpaired} of the prompt has no counterpart in the other prompt, which is shorter there")
    changes = []
    for layer in range(model.language_model.n_layers) if layers is None else layers:
        mine, theirs = activations(model, here, layer), activations(model, there, layer)
        for place in places:
            amounts = theirs[pairs[place]] - mine[place]
            wanted = amounts.nonzero().flatten().tolist() if named is None else [f.index for f in named if (f.layer, f.position) == (layer, place)]
            changes += [shift(Feature(layer, place, index), float(amounts[index]), "swap") for index in wanted]
    if not changes:
        raise InterventionError("swap: the two prompts differ in no feature at the paired positions; nothing to swap")
    return changes


def _placed(model: ReplacementModel, nodes: Sequence[NodeLike], n_positions: int) -> list[Feature]:
    """Features by position, each once."""
    found = []
    for feature in features_of(nodes):
        check_feature(feature, model.transcoders)
        found += [replace(feature, position=place) for place in prompt_positions(feature.id, feature.position, n_positions)]
    return list(dict.fromkeys(found))


def activations(model: ReplacementModel, recording: Recording, layer: int) -> Float[Tensor, "pos feature"]:
    """The activations of one layer's features on a prompt; 0 at the first positions, where the dictionary has none."""
    found = model.transcoders.encode(layer, read_points(model, recording, layer))[1]
    found[: model.transcoders.silent(recording.input_ids)] = 0
    return found


class SweepRow(NamedTuple):
    """The prediction at one dose; logits and probabilities in the order of the sweep's tokens."""

    factor: float
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    kl: float


@dataclass(frozen=True)
class Sweep:
    """How the prediction responds to a growing dose."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    rows: tuple[SweepRow, ...]


def sweep(
    model: ReplacementModel,
    prompt: Prompt,
    changes: Sequence[Change],
    factors: Sequence[float],
    *,
    tokens: Sequence[str | int] = (),
    mode: Mode = "frozen_attention",
    layers: range | None = None,
    progress: Callable[[float], object] | None = None,
) -> Sweep:
    """The same changes at many doses (see `dosed`): what the model predicts at each.

    Args:
        tokens: whose logits and probabilities to give; none: the likeliest of the unchanged model and those that
            become likeliest at some dose, at most five.

    Raises:
        OptionError: no factors; else as in `intervene`.
    """
    if not factors:
        raise OptionError("a sweep needs at least one factor")
    recording = record(model, prompt)
    variants = [dosed(changes, factor) for factor in factors]
    outcomes: list[Outcome] = list(intervene_each(model, recording, variants, mode, layers=layers, progress=progress))
    if tokens:
        chosen = [token.id for token in outcomes[0].tokens(tokens, count=0)]
    else:
        tops = [int(outcome.logits[-1].argmax()) for outcome in sorted(outcomes, key=lambda outcome: -float(outcome.logits[-1].softmax(-1).max()))]
        chosen = list(dict.fromkeys([int(outcomes[0].baseline[-1].argmax()), *tops, *outcomes[0].baseline[-1].topk(2).indices.tolist()]))[:MOST_CURVES]
    rows = []
    for factor, outcome in zip(factors, outcomes, strict=True):
        found = outcome.tokens(chosen, count=0)
        rows.append(SweepRow(float(factor), tuple(t.logit_after for t in found), tuple(t.probability_after for t in found), outcome.kl()))
    return Sweep(tuple(chosen), tuple(model.language_model.token_text(token) for token in chosen), tuple(rows))


def check_plot_suffix(path: Path) -> Path:
    """Refuse a plot file of a kind that cannot be written.

    Raises:
        OptionError: its suffix is not .svg, .png or .pdf.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"cannot plot to {path}; the file name must end in {', '.join(PLOT_SUFFIXES)}")
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
        top.plot(factors, [row.probabilities[number] for row in result.rows], marker="o", markersize=3, label=repr(text).replace("$", r"\$"))
    top.set(ylabel="probability", ylim=(-0.02, 1.02), title=title.replace("$", r"\$"))
    top.legend(frameon=False)
    bottom.plot(factors, [row.kl for row in result.rows], color="black", marker="o", markersize=3)
    bottom.set(xlabel="factor", ylabel="KL (nats)")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a token's characters that the font lacks become boxes
        return write_atomically(path, lambda name: figure.savefig(name, format=path.suffix[1:].lower(), dpi=160))
