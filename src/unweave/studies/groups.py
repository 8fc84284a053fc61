"""Features by contrast: how active they are in one group of variants and not in another, as changes for other
prompts; and random ones like them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator
from torch import Tensor

from ..errors import StudyError
from ..interventions.edits import Feature, Intervention, shift
from ..models.passes import read_at, run
from ..transcoders.replacement import ReplacementModel
from .bench import Bench, Variant

Do = Literal["both", "out", "in"]
"""Whether a group's features are taken out, the other's put in, or both."""
Places = tuple[
    Annotated[int | str, BeforeValidator(lambda place: int(place) if re.fullmatch(r"-?\d+", str(place)) else place)],
    ...,
]
"""Where in a prompt: tokens counted from the end (-1: the last), or fields, by the last token of their value. None:
all but the first."""
AT_ONCE = 64
"""Prompts in one forward pass."""


def positions(bench: Bench, variant: Variant, at: Places) -> list[int]:
    """The positions that places mean in a variant's prompt.

    Raises:
        StudyError: a field whose value does not stand in the prompt, or a token before the prompt.
    """
    ids = bench.ids(variant)
    return [_position(bench, variant, ids, place) for place in at] if at else list(range(1, len(ids)))


def _position(bench: Bench, variant: Variant, ids: list[int], place: int | str) -> int:
    if isinstance(place, int):
        if not -len(ids) <= place < 0:
            raise StudyError(
                f"place {place} is not in the prompt {variant.prompt!r}; places count from its end, -1 being the last "
                f"of {len(ids)} tokens"
            )
        return len(ids) + place
    if place not in variant.fields:
        raise StudyError(f"no field {place!r} to look for in the prompt; the variants have {', '.join(variant.fields)}")
    tokenizer = bench.model.language_model.tokenizer
    for text in (f" {variant.fields[place]}", variant.fields[place]):
        wanted = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else []
        for begin in range(len(ids) - len(wanted), -1, -1) if wanted else ():
            if ids[begin : begin + len(wanted)] == wanted:
                return begin + len(wanted) - 1
    raise StudyError(f"{place} {variant.fields[place]!r} does not stand in the prompt {variant.prompt!r}")


def alike(variant: Variant, names: Sequence[str]) -> bool:
    """Whether fields have one value."""
    return len({variant.fields[name] for name in names}) < 2


def right(bench: Bench, variants: Sequence[Variant]) -> list[Variant]:
    """Those that the model answers rightly; prompts that were not run yet are run many at a time."""
    for part, ids in _batches(bench, bench.unasked(variants)):
        with torch.no_grad():
            logits = bench.model.language_model.module(input_ids=ids, use_cache=False).logits[:, -1].cpu()
        for variant, row in zip(part, logits, strict=True):
            bench.hear(variant, row)
    return [variant for variant in variants if bench.said(variant).right]


def _batches(bench: Bench, variants: Sequence[Variant]) -> list[tuple[list[Variant], Tensor]]:
    """Prompts of one length together."""
    lengths: dict[int, list[tuple[Variant, list[int]]]] = {}
    for variant in dict.fromkeys(variants):
        ids = bench.ids(variant)
        lengths.setdefault(len(ids), []).append((variant, ids))
    return [
        (
            [variant for variant, _ in part],
            torch.tensor([ids for _, ids in part], device=bench.model.language_model.device),
        )
        for some in lengths.values()
        for part in (some[begin : begin + AT_ONCE] for begin in range(0, len(some), AT_ONCE))
    ]


@dataclass(eq=False)
class Activity:
    """Activations of all features, layers side by side, at places of variants' prompts; each prompt is run once."""

    bench: Bench
    at: Places
    _kept: dict[Variant, Float[Tensor, "place feature"]] = field(default_factory=dict)

    def of(self, variants: Sequence[Variant]) -> Float[Tensor, "variant place feature"]:
        """Of some variants, whose prompts must have as many places each.

        Raises:
            StudyError: they have not; or as in `positions`.
        """
        self.prepare(variants)
        found = [self._kept[variant] for variant in variants]
        if len({len(one) for one in found}) > 1:
            raise StudyError(
                "prompts of different lengths have no common places; name them ('at'), or take prompts of one length"
            )
        return torch.stack(found)

    def prepare(self, variants: Sequence[Variant]) -> None:
        """Run those that were not run yet, many at a time."""
        for part, ids in _batches(self.bench, [variant for variant in variants if variant not in self._kept]):
            self._run(part, ids)

    def _run(self, variants: list[Variant], ids: Tensor) -> None:
        model = self.bench.model
        language_model, dictionary = model.language_model, model.transcoders
        dtype, seen = language_model.engine_dtype, run(language_model, ids, dictionary.write, logits=False)
        places = torch.tensor([positions(self.bench, variant, self.at) for variant in variants])
        row = torch.arange(len(variants))[:, None]
        layers = []
        for layer, (resid_mid, inputs) in enumerate(zip(seen.resid_mid, seen.inputs, strict=True)):
            mid, mlp_in = (x.to("cpu", dtype)[row, places].flatten(0, 1) for x in (resid_mid, inputs))
            activation = dictionary.encode(layer, read_at(language_model, layer, dictionary.read, mid, mlp_in))[1]
            layers.append(activation.view(*places.shape, -1))
        n_ignored = torch.tensor([dictionary.n_ignored_positions(one) for one in ids.cpu()])[:, None]
        whole = torch.cat(layers, -1).masked_fill((places < n_ignored)[..., None], 0.0)
        self._kept.update(zip(variants, whole, strict=True))


def starts(model: ReplacementModel) -> list[int]:
    """Where each layer's features begin when layers stand side by side, and where the last layer's end."""
    return [0, *accumulate(model.transcoders.widths)]


def written(model: ReplacementModel) -> Float[Tensor, " feature"]:
    """The norm of what each feature writes, over all layers, for an activation of one."""
    transcoders, norms = model.transcoders, []
    for layer, width in enumerate(transcoders.widths):
        stored = transcoders.layers[layer].decoder.rows
        rows = torch.arange(width) if stored is None else stored.long()
        squares = sum(
            transcoders.decoder_rows(layer, rows, at, torch.float32).square().sum(-1)
            for at in transcoders.writes(layer)
        )
        norms.append(torch.zeros(width).index_copy_(0, rows, torch.as_tensor(squares).sqrt()))
    return torch.cat(norms)


def strongest(
    amounts: Float[Tensor, "place feature"], norms: Float[Tensor, " feature"], most: int
) -> Float[Tensor, "place feature"]:
    """The amounts that write most, at most so many; the others are zero."""
    size = (amounts.abs() * norms.to(amounts)).flatten()
    kept = size.topk(min(most, len(size))).indices
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[kept] = True
    return amounts.where(mask.view_as(amounts), torch.zeros_like(amounts))


@dataclass(frozen=True, eq=False)
class Dose:
    """How far each feature is moved at each place of one prompt."""

    amounts: Float[Tensor, "place feature"]

    @property
    def size(self) -> int:
        """How many features are moved, counted at each place."""
        return int(self.amounts.count_nonzero())

    def changes(self, model: ReplacementModel, at: Sequence[int]) -> list[Intervention]:
        """The same as changes at positions of a prompt."""
        begins = torch.tensor(starts(model))
        place, feature = self.amounts.nonzero(as_tuple=True)
        layer = torch.searchsorted(begins, feature, right=True) - 1
        rows = zip(
            place.tolist(),
            layer.tolist(),
            (feature - begins[layer]).tolist(),
            self.amounts[place, feature].tolist(),
            strict=True,
        )
        return [shift(Feature(layer, at[place], index), amount) for place, layer, index, amount in rows]


def dose(
    amounts: Float[Tensor, "place feature"], own: Float[Tensor, "place feature"], factor: float, do: Do = "both"
) -> Dose:
    """What an activation gains (above 0) is added `factor` times; of what it loses there is taken out what the
    prompt has, `factor` times.

    >>> dose(torch.tensor([[2.0, -3.0, -3.0]]), torch.tensor([[0.0, 1.0, 0.0]]), 2.0).amounts.tolist()
    [[4.0, -2.0, 0.0]]
    """
    gain, loss = amounts.clamp_min(0), torch.minimum(amounts.neg().clamp_min(0), own.clamp_min(0))
    return Dose(factor * ((gain if do != "out" else 0 * gain) - (loss if do != "in" else 0 * loss)))


def random_like(
    one: Dose,
    own: Float[Tensor, "place feature"],
    ever: Float[Tensor, "place feature"],
    norms: Float[Tensor, " feature"],
    begins: Sequence[int],
    draw: random.Random,
) -> Dose:
    """As many random features, of the same layers and at the same places, that are moved so far that each writes as
    much.

    In place of one that is taken out, a feature is drawn that is active on the prompt; in place of one that is put
    in, one that is active at the place in some prompt (`ever`). Where there are too few such, any other of the layer.
    """
    amounts = torch.zeros_like(one.amounts)
    for place in range(len(amounts)):
        for first, stop in pairwise(begins):
            moved = one.amounts[place, first:stop]
            free = (moved == 0) & (norms[first:stop] > 0)
            pools = {sign: (x[place, first:stop] != 0) & free for sign, x in ((-1, own), (1, ever))}
            for sign in (-1, 1):
                wanted = (moved.sign() == sign).nonzero().flatten().tolist()
                pool = [
                    index for index in pools[sign].nonzero().flatten().tolist() if amounts[place, first + index] == 0
                ]
                if len(pool) < len(wanted):
                    rest = [
                        index
                        for index in free.nonzero().flatten().tolist()
                        if index not in pool and amounts[place, first + index] == 0
                    ]
                    pool += draw.sample(rest, min(len(rest), len(wanted) - len(pool)))
                for index, other in zip(wanted, draw.sample(pool, min(len(pool), len(wanted))), strict=False):
                    amounts[place, first + other] = moved[index] * norms[first + index] / norms[first + other]
    return Dose(amounts)
