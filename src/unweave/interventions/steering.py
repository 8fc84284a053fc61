"""Steering: features of one prompt exchanged for those of another, and the response to a growing dose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..base.choices import Mode
from ..base.progress import Progress
from ..errors import InterventionError, OptionError
from ..graphs.comparison import aligned
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .edits import (
    Change,
    Feature,
    Intervention,
    NodeLike,
    changes_of,
    check_feature,
    dosed,
    features_of,
    prompt_positions,
    shift,
)
from .interventions import Outcome, Prompt, intervene_each, record
from .plans import read_points

MOST_CURVES = 5
"""Tokens of a dose sweep when none are asked for."""


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

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> changes = unweave.swap(model, "the capital of Texas is", "the capital of Ohio is")
    >>> unweave.intervene(model, "the capital of Texas is", changes, mode="open")
    Outcome(340 changes, mode 'open': 'Columbus' 0.000 -> 0.999, 'Austin' 1.000 -> 0.000)
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
        places = _from_first_difference(pairs, ids, other_ids)
    unpaired = next((place for place in places if place not in pairs), None)
    if unpaired is not None:
        raise InterventionError(
            f"swap: position {unpaired} of the prompt has no counterpart in the other prompt, which is shorter there"
        )
    changes = []
    for layer in range(model.language_model.n_layers) if layers is None else layers:
        mine, theirs = activations(model, here, layer), activations(model, there, layer)
        for place in places:
            amounts = theirs[pairs[place]] - mine[place]
            wanted = (
                amounts.nonzero().flatten().tolist()
                if named is None
                else [f.index for f in named if (f.layer, f.position) == (layer, place)]
            )
            changes += [shift(Feature(layer, place, index), float(amounts[index]), "swap") for index in wanted]
    if not changes:
        raise InterventionError("swap: the two prompts differ in no feature at the paired positions; nothing to swap")
    return changes


def _from_first_difference(pairs: Mapping[int, int], ids: Sequence[int], other_ids: Sequence[int]) -> list[int]:
    """The paired positions from the first on at which the prompts differ."""
    differing = [place for place, other in pairs.items() if ids[place] != other_ids[other]]
    return [place for place in pairs if differing and place >= differing[0]]


def _placed(model: ReplacementModel, nodes: Sequence[NodeLike], n_positions: int) -> list[Feature]:
    """Features by position, each once."""
    found = []
    for feature in features_of(nodes):
        check_feature(feature, model.transcoders)
        found += [
            replace(feature, position=place) for place in prompt_positions(feature.id, feature.position, n_positions)
        ]
    return list(dict.fromkeys(found))


def activations(model: ReplacementModel, recording: Recording, layer: int) -> Float[Tensor, "pos feature"]:
    """The activations of one layer's features on a prompt; 0 at the first positions, where the dictionary has none."""
    found = model.transcoders.encode(layer, read_points(model, recording, layer))[1]
    found[: model.transcoders.n_ignored_positions(recording.input_ids)] = 0
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

    def __repr__(self) -> str:
        factors = ", ".join(f"{row.factor:g}" for row in self.rows)
        return f"Sweep(factors {factors}; tokens {', '.join(map(repr, self.texts))})"


def sweep(
    model: ReplacementModel,
    prompt: Prompt,
    changes: Change | Sequence[Change],
    factors: Sequence[float],
    *,
    tokens: Sequence[str | int] = (),
    mode: Mode = "frozen_attention",
    layers: range | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """The same changes at many doses (see `dosed`): what the model predicts at each.

    Args:
        tokens: whose logits and probabilities to give; none: the likeliest of the unchanged model and those that
            become likeliest at some dose, at most five.

    Raises:
        OptionError: no factors; else as in `intervene`.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> unweave.sweep(model, "the capital of Texas is", [unweave.scale("0_233_4", 0.0)], [-2.0, 0.0, 2.0])
    Sweep(factors -2, 0, 2; tokens 'Austin', 'pecan')
    """
    if not factors:
        raise OptionError("a sweep needs at least one factor")
    recording = record(model, prompt)
    variants = [dosed(changes_of(changes), factor) for factor in factors]
    outcomes: list[Outcome] = list(intervene_each(model, recording, variants, mode, layers=layers, progress=progress))
    if tokens:
        chosen = [token.id for token in outcomes[0].tokens(tokens, count=0)]
    else:
        tops = [
            int(outcome.logits[-1].argmax())
            for outcome in sorted(outcomes, key=lambda outcome: -float(outcome.logits[-1].softmax(-1).max()))
        ]
        chosen = list(
            dict.fromkeys(
                [int(outcomes[0].baseline[-1].argmax()), *tops, *outcomes[0].baseline[-1].topk(2).indices.tolist()]
            )
        )[:MOST_CURVES]
    rows = []
    for factor, outcome in zip(factors, outcomes, strict=True):
        found = outcome.tokens(chosen, count=0)
        rows.append(
            SweepRow(
                float(factor),
                tuple(t.logit_after for t in found),
                tuple(t.probability_after for t in found),
                outcome.kl(),
            )
        )
    return Sweep(tuple(chosen), tuple(model.language_model.token_text(token) for token in chosen), tuple(rows))
