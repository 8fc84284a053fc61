"""Where an answer's cause lies: the other prompt's values put in, place by place, token by token, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.live import Inside, TokenPair, heads_of, look, run
from ..models.language_model import LanguageModel
from ..models.places import PLACES, Place

CELLS = 6000
"""Cells of one map, times tokens of the prompt: with more, bands of layers get wider."""
BANDS = 10
"""Bands of layers in which MLPs and attention are swapped, where the prompt is short enough."""
HEADS = 6
"""Single heads that are named, at most."""
NOTABLE = 0.05
"""The share of the difference between two prompts from which a cell, a head or a stage counts."""


@dataclass(frozen=True)
class Contrast:
    """A prompt, what takes the place of its inner values, and the question between the two."""

    model: LanguageModel
    ids: Int[Tensor, " pos"]
    here: Inside
    there: Inside
    question: TokenPair
    kind: str
    """`instead`: another prompt's values; `mean`: means over text; `zero`."""
    instead: str | None
    proposed: bool
    """Whether the other prompt was found, not given."""
    positions: tuple[int, ...]
    """Where the two differ."""
    lead: float
    """The logit of the answer less that of its rival."""
    other: float
    """The same where everything is swapped."""
    other_ids: Int[Tensor, " pos"] | None = None
    """The other prompt, if it is one."""

    @property
    def whole(self) -> float:
        """What there is to explain: by how much the lead falls when everything is swapped."""
        return self.lead - self.other

    @property
    def why_not(self) -> bool:
        """Whether the answer is a token that the model does not say."""
        return int(self.here.logits.argmax()) != self.question.answer

    def share(self, lead: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """By which share of `whole` a lead is lower."""
        return (self.lead - lead) / self.whole

    def token(self, position: int) -> str:
        """The text of the token at a position."""
        return self.model.token_text(int(self.ids[position]))


class Head(NamedTuple):
    """One attention head at one position, and the share that its swap takes."""

    layer: int
    head: int
    position: int
    share: float


@dataclass(frozen=True)
class Map:
    """The share of the difference that swapping one cell takes."""

    place: Place
    layers: tuple[range, ...]
    positions: tuple[int, ...]
    share: Float[Tensor, "pos band"]


class Stage(NamedTuple):
    """MLPs of some layers at one token."""

    position: int
    layers: range
    share: float


def differing(here: Inside, there: Inside) -> tuple[int, ...]:
    """The positions where two prompts differ in anything."""
    apart = torch.stack([(here.at[key] != there.at[key]).any(-1) for key in here.at]).any(0)
    return tuple(torch.nonzero(apart).flatten().tolist())


def bands(n_layers: int, width: int) -> tuple[range, ...]:
    """Layers in bands of one width, the last perhaps narrower.

    >>> bands(5, 2)
    (range(0, 2), range(2, 4), range(4, 5))
    """
    return tuple(range(at, min(at + width, n_layers)) for at in range(0, n_layers, width))


def patching_maps(contrast: Contrast) -> dict[Place, Map]:
    """Swap the residual stream before each layer, attention's outputs and MLPs' outputs, one token at a time.

    Source: activation patching, Vig et al. 2020; Meng et al. 2022, "Locating and Editing Factual Associations".
    """
    return {place: _map(contrast, place) for place in PLACES}


def _map(contrast: Contrast, place: Place) -> Map:
    layers, positions = contrast.model.n_layers, contrast.positions
    most = max(1, CELLS // (len(contrast.ids) * max(1, len(positions))))
    wanted = layers if place == "stream" else min(BANDS, layers)
    width = -(-layers // min(wanted, most))
    spans = bands(layers, width)
    variants = [
        contrast.there.put_cells(place, span[:1] if place == "stream" else span, [position])
        for position in positions
        for span in spans
    ]
    lead = run(contrast.model, contrast.ids, contrast.question, variants).lead
    return Map(place, spans, positions, contrast.share(lead).view(len(positions), len(spans)))


def leading_heads(contrast: Contrast, attention: Map) -> tuple[Head, ...]:
    """The single heads whose swap takes most, among the cells of attention that count."""
    count, cells = heads_of(contrast.model), []
    for row, position in enumerate(attention.positions):
        for column, span in enumerate(attention.layers):
            if abs(float(attention.share[row, column])) >= NOTABLE:
                patterned = [layer for layer in span if contrast.model.has_pattern(layer)]
                cells += [(layer, head, position) for layer in patterned for head in range(count)]
    variants = [[contrast.there.put_head(layer, [position], head, count)] for layer, head, position in cells]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    found = [
        Head(layer, head, position, float(value))
        for (layer, head, position), value in zip(cells, share, strict=True)
        if abs(value) >= NOTABLE
    ]
    return tuple(sorted(found, key=lambda head: -abs(head.share))[:HEADS])


def stages(contrast: Contrast, mlps: Map, most: int = 8) -> tuple[Stage, ...]:
    """The runs of layers at one token whose MLPs matter, each swapped as a whole; those that take least are left out.

    Neighbouring bands at one token join where both take, or both give, at least 5% of the difference.
    """
    found: list[tuple[int, range]] = []
    for row, position in enumerate(mlps.positions):
        run_of: range | None = None
        sign = 0
        for column, span in enumerate(mlps.layers):
            value = float(mlps.share[row, column])
            here = 0 if abs(value) < NOTABLE else (1 if value > 0 else -1)
            if here and here == sign and run_of is not None:
                run_of = range(run_of.start, span.stop)
            else:
                found += [(position, run_of)] if run_of is not None else []
                run_of = span if here else None
            sign = here
        found += [(position, run_of)] if run_of is not None else []
    variants = [contrast.there.put_cells("neurons", span, [position]) for position, span in found]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    made = [Stage(position, span, float(value)) for (position, span), value in zip(found, share, strict=True)]
    kept = sorted((s for s in made if abs(s.share) >= NOTABLE), key=lambda stage: -abs(stage.share))[:most]
    return tuple(sorted(kept, key=lambda stage: (stage.position, stage.layers.start)))


def text_of(model: LanguageModel, ids: Int[Tensor, " pos"]) -> str:
    """A prompt as text, without a leading special token."""
    if model.tokenizer is None:
        return " ".join(map(str, ids.tolist()))
    skip = int(ids[0]) in model.tokenizer.all_special_ids
    return model.tokenizer.decode(ids.tolist()[skip:])


def with_prompt(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    other: Int[Tensor, " pos"],
    question: TokenPair,
    *,
    proposed: bool = False,
    here: Inside | None = None,
) -> Contrast:
    """The contrast of two prompts of one length."""
    here, there = here or look(model, ids), look(model, other)
    words = text_of(model, other)
    lead, swapped = float(question.lead(here.logits)), float(question.lead(there.logits))
    return Contrast(
        model, ids, here, there, question, "instead", words, proposed, differing(here, there), lead, swapped,
        other,
    )  # fmt: skip


def with_values(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    values: Mapping[Place, Sequence[Float[Tensor, " width"]]],
    question: TokenPair,
    kind: str,
    here: Inside | None = None,
) -> Contrast:
    """The contrast of a prompt with fixed values, such as means over text, everywhere but at position 0."""
    here = here or look(model, ids)
    at = {}
    for (place, layer), own in here.at.items():
        new = own.clone()
        new[1:] = values[place][layer].to(own)
        at[place, layer] = new
    there = Inside(at, here.logits)
    positions = differing(here, there)
    lead = float(question.lead(here.logits))
    swapped = run(model, ids, question, [there.put_cells("neurons", range(model.n_layers), positions)]).lead
    return Contrast(model, ids, here, there, question, kind, None, False, positions, lead, float(swapped))
