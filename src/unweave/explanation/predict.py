"""What a response graph of groups predicts: each group's effect and each arrow to first order, all else responding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.live import Gauge, GaugeReading, Variant, heads_of, run
from ..interventions.parts import Part
from ..interventions.slopes import Slopes, slopes
from ..models.places import Place
from .groups import PartGroup
from .maps import Contrast, Head

LEAST = 0.1
"""The share of an arrow that a head carries, to first order, from which it is tried."""
TRIED = 3
"""Heads of one arrow that are tried, at most."""


@dataclass(frozen=True)
class Predicted:
    """First-order predictions of what is measured; the names are those of measurements."""

    alone: Float[Tensor, " group"]
    """The share of the difference that swapping a group takes, nothing held."""
    direct: Float[Tensor, " group"]
    """The same with the other groups held."""
    moved: Float[Tensor, "source target"]
    """How far a target goes to its values in the other prompt, the other groups held."""
    carried: Float[Tensor, "source target"]
    """The share of the difference that goes from a source by a target alone."""
    positions: tuple[int, ...]
    slopes: Slopes = field(repr=False)
    """By number (lead, how far the group moved) and variant (all held; all but one group; that one alone), at those
    positions."""


def predict(contrast: Contrast, groups: Sequence[PartGroup]) -> Predicted:
    """The edges of the response graph whose nodes are groups of any kind, in two backward passes.

    An edge is the derivative of the target by the source's values, times by how much the other prompt's differ, with
    all other groups held and everything else (norms, attention patterns, other neurons) responding to first order.
    Source: edges as in `response_graph`.
    """
    model, count, n = contrast.model, heads_of(contrast.model), len(groups)
    shifts = [group.part.differences(contrast.there, contrast.here, count) for group in groups]
    held = [group.part.put(contrast.here, count) for group in groups]
    variants: list[Variant] = [
        [put for number, puts in enumerate(held) if number != but for put in puts] for but in range(-1, n)
    ]
    variants += held
    gauges = [group.part.gauge(contrast.here, contrast.there, count) for group in groups]
    kinds: tuple[Place, ...] = ("heads", "neurons")
    places: list[tuple[Place, int]] = [(kind, layer) for kind in kinds for layer in range(model.n_layers)]
    positions = sorted({position for shift in shifts for *_, position, _ in shift} | {len(contrast.ids) - 1})

    def numbers(logits: Tensor, shown: Tensor, span: range) -> Tensor:
        target = torch.tensor([min(max(0, variant - 1), n - 1) for variant in span])
        return torch.stack([contrast.question.lead(logits), shown[torch.arange(len(span)), target]])

    found = slopes(model, contrast.ids.expand(len(variants), -1), variants, places, positions, numbers, gauges)
    change = torch.zeros(2, len(variants), n, dtype=torch.float64)  # number, variant, source
    for source, shift in enumerate(shifts):
        for place, layer, position, line in shift:
            change[:, :, source] += (found.at[place, layer][:, :, positions.index(position)] @ line).double()
    share = -change[0] / contrast.whole
    alone, direct = share[1 + n :].diagonal(), share[0]
    moved, carried = change[1, 1 : 1 + n].T, (share[1 : 1 + n] - share[0]).T
    return Predicted(alone.float(), direct.float(), moved.float(), carried.float(), tuple(positions), found)


def carrying_heads(
    contrast: Contrast, groups: Sequence[PartGroup], predicted: Predicted, source: int, target: int | None
) -> tuple[Head, ...]:
    """The heads at the target's token that carry most of an arrow, to first order, strongest first.

    What a head puts out changes when the source is swapped with the other groups held (measured); how much that moves
    the target is the target's derivative by it.
    """
    count, n_layers = heads_of(contrast.model), contrast.model.n_layers
    at = len(contrast.ids) - 1 if target is None else groups[target].position
    row = predicted.positions.index(at)
    first = groups[source].part.layers.start
    last = n_layers if target is None else groups[target].part.layers.stop
    taken = {head for number, group in enumerate(groups) if number != source for head in group.part.heads}
    names, gauges = list[tuple[int, int]](), list[Gauge]()
    for layer in filter(contrast.model.has_pattern, range(first + 1, last)):
        slope = predicted.slopes.at["heads", layer]
        line = -slope[0, 0, row] / contrast.whole if target is None else slope[1, 1 + target, row]
        values = contrast.here.at["heads", layer][at]
        width = len(values) // count
        for head in range(count):
            if (layer, head, at) not in taken:
                direction = torch.zeros_like(line)
                direction[head * width : (head + 1) * width] = line[head * width : (head + 1) * width]
                names.append((layer, head))
                gauges.append([GaugeReading("heads", layer, at, direction, float(direction @ values))])
    swapped = groups[source].part.put(contrast.there, count) + [
        put
        for number, group in enumerate(groups)
        if number not in (source, target)
        for put in group.part.put(contrast.here, count)
    ]
    shown = run(contrast.model, contrast.ids, contrast.question, [swapped], gauges=gauges).gauges[0]
    found = [Head(layer, head, at, share) for (layer, head), share in zip(names, shown.tolist(), strict=True)]
    return tuple(sorted(found, key=lambda head: -abs(head.share))[:TRIED])


def others(groups: Sequence[PartGroup], *but: int | None) -> Part:
    """All groups but some, as one part."""
    held = Part()
    for number, group in enumerate(groups):
        if number not in but:
            held = held.join(group.part)
    return held
