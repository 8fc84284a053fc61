"""Derivatives of what the live model does by its own inner values, many variants in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.places import Place, hooked
from .live import (
    TOKENS_PER_PASS,
    Gauge,
    TokenPair,
    Variant,
    first_touched,
    flat_puts,
    last_logits,
    prefix,
    put_in,
    readings_by_place,
    show_readings,
)


@dataclass(frozen=True)
class Slopes:
    """Derivatives of some numbers of each variant by the values at some places."""

    value: Float[Tensor, "number variant"]
    inside: dict[tuple[Place, int], Float[Tensor, "variant place _"]]
    """What is at each place, at the positions that were asked for, after what was put there."""
    at: dict[tuple[Place, int], Float[Tensor, "number variant place _"]]


Numbers = Callable[
    [Float[Tensor, "variant vocab"], Float[Tensor, "variant gauge"], range], Float[Tensor, "number variant"]
]
"""From logits at the last position, gauges, and which variants these are, to what is differentiated."""


def slopes(
    model: LanguageModel,
    prompts: Int[Tensor, "variant pos"],
    variants: Sequence[Variant],
    places: Sequence[tuple[Place, int]],
    positions: Sequence[int],
    numbers: Numbers,
    gauges: Sequence[Gauge] = (),
) -> Slopes:
    """Derivatives in the live model, a variant a row; what is put at a place counts as a value that may change."""
    looked = [*positions, *(reading.position for gauge in gauges for reading in gauge)]
    start = first_touched(model, variants, prompts.shape[1], looked)
    each = max(1, TOKENS_PER_PASS // (prompts.shape[1] - start))
    spans = [range(at, min(at + each, len(variants))) for at in range(0, len(variants), each)]
    parts = [_slopes(model, prompts, variants, span, places, positions, numbers, gauges, start) for span in spans]
    return Slopes(
        torch.cat([part.value for part in parts], 1),
        {key: torch.cat([part.inside[key] for part in parts]) for key in places},
        {key: torch.cat([part.at[key] for part in parts], 1) for key in places},
    )


def _slopes(
    model: LanguageModel, prompts: Tensor, variants: Sequence[Variant], span: range, places: Sequence,
    positions: Sequence[int], numbers: Numbers, gauges: Sequence[Gauge], start: int,
) -> Slopes:  # fmt: skip
    rows, dtype, at = prompts[span.start : span.stop], model.engine_dtype, [p - start for p in positions]
    flat, readings = flat_puts(variants[span.start : span.stop], start), readings_by_place(gauges)
    shown = torch.zeros(len(span), len(gauges), dtype=dtype)
    leaves, inside = dict[tuple[Place, int], Tensor](), dict[tuple[Place, int], Tensor]()

    def change(place: Place, layer: int, x: Tensor) -> Tensor | None:
        show_readings(shown, readings.get((place, layer), ()), x, start)
        new = put_in(flat.get((place, layer)), x)
        if (place, layer) not in places:
            return new
        x = x.clone() if new is None else new
        inside[place, layer] = x[:, at].detach().to("cpu", dtype)
        leaves[place, layer] = torch.zeros_like(x[:, at], requires_grad=True)
        x[:, at] += leaves[place, layer]
        return x

    past = prefix(model, rows, start)
    with torch.enable_grad(), hooked(model, change):
        value = numbers(last_logits(model, rows[:, start:], past), shown, span)
    found = [
        torch.autograd.grad(
            number.sum(), [leaves[key] for key in places], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for number in value
    ]  # variants do not meet, so the derivative of their sum is that of each
    at_places = {key: torch.stack([row[n] for row in found]).to("cpu", dtype) for n, key in enumerate(places)}
    return Slopes(value.detach(), inside, at_places)


def gradients(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    question: TokenPair,
    variant: Variant,
    positions: Sequence[int],
) -> tuple[float, list[Float[Tensor, "place neuron"]], list[Float[Tensor, "place neuron"]]]:
    """The lead in a variant; by layer, every neuron's activation at some positions, and the gradient of the lead at
    it."""
    places: list[tuple[Place, int]] = [("neurons", layer) for layer in range(model.n_layers)]
    found = slopes(model, ids[None], [variant], places, positions, lambda logits, *_: question.lead(logits)[None])
    return float(found.value), [found.inside[key][0] for key in places], [found.at[key][0, 0] for key in places]
