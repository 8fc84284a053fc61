"""The real model with values put in place, many variants in one pass; whatever is not put responds."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UnsupportedModel
from ..models.language_model import LanguageModel
from ..models.places import Place, hooked

PREFIXES = 6
"""Beginnings of prompts whose keys and values are kept."""
TOKENS_PER_PASS = 384
"""Variants in one forward pass, times tokens of the prompt."""


@dataclass(frozen=True)
class NeuronPlaces:
    """Neurons of one prompt by place."""

    layer: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]

    def __len__(self) -> int:
        return len(self.layer)

    def select(self, which: Tensor) -> "NeuronPlaces":
        """Some of them, by number or mask."""
        return NeuronPlaces(self.layer[which], self.position[which], self.index[which])

    def join(self, other: "NeuronPlaces") -> "NeuronPlaces":
        """These, then those."""
        pairs = ((self.layer, other.layer), (self.position, other.position), (self.index, other.index))
        return NeuronPlaces(*(torch.cat(pair) for pair in pairs))

    @staticmethod
    def of(triples: Sequence[tuple[int, int, int]]) -> "NeuronPlaces":
        """From (layer, position, index).

        >>> NeuronPlaces.of([(3, 1, 7)]).ids
        ['3_7_1']
        """
        columns = torch.tensor(list(triples), dtype=torch.int64).reshape(-1, 3)
        return NeuronPlaces(columns[:, 0], columns[:, 1], columns[:, 2])

    @property
    def triples(self) -> list[tuple[int, int, int]]:
        """(layer, position, index) of each."""
        columns = (self.layer.tolist(), self.position.tolist(), self.index.tolist())
        return list(zip(*columns, strict=True))

    @property
    def ids(self) -> list[str]:
        """Each as nodes are named: layer, index, position."""
        return [f"{layer}_{index}_{position}" for layer, position, index in self.triples]


@dataclass(frozen=True)
class Put:
    """Values put at one place of one layer: of whole vectors (index None), or of single entries."""

    place: Place
    layer: int
    position: Int[Tensor, " put"]
    index: Int[Tensor, " put"] | None
    value: Float[Tensor, "*put"]
    add: bool = False
    """Whether values are added to what is there."""


Variant = Sequence[Put]


@dataclass(frozen=True)
class Inside:
    """The values at every place of one prompt."""

    at: dict[tuple[Place, int], Float[Tensor, "pos width"]]
    logits: Float[Tensor, " vocab"]
    """At the last position, as the model gives them."""

    def units(self, units: NeuronPlaces) -> Float[Tensor, " unit"]:
        """Activations of some units."""
        found = self.logits.new_zeros(len(units))
        for layer in units.layer.unique().tolist():
            here = units.layer == layer
            found[here] = self.at["neurons", layer][units.position[here], units.index[here]]
        return found

    def put_units(self, units: NeuronPlaces) -> list[Put]:
        """Set units to the values they have here."""
        values = self.units(units)
        return [
            Put("neurons", layer, units.position[here], units.index[here], values[here])
            for layer in units.layer.unique().tolist()
            for here in [units.layer == layer]
        ]

    def put_cells(self, place: Place, layers: Sequence[int], positions: Sequence[int]) -> list[Put]:
        """Set whole vectors to what they are here."""
        at = torch.tensor(list(positions), dtype=torch.int64)
        return [Put(place, layer, at, None, self.at[place, layer][at]) for layer in layers]

    def put_head(self, layer: int, positions: Sequence[int], head: int, heads: int) -> Put:
        """Set one head's output before the output projection to what it is here."""
        values = self.at["heads", layer]
        width = values.shape[1] // heads
        channels = torch.arange(head * width, (head + 1) * width)
        at = torch.tensor(list(positions), dtype=torch.int64).repeat_interleave(width)
        index = channels.repeat(len(positions))
        return Put("heads", layer, at, index, values[at, index])


class GaugeReading(NamedTuple):
    """A direction at one place, and what the prompt itself gives along it."""

    place: Place
    layer: int
    position: int
    direction: Float[Tensor, " width"]
    own: float


Gauge = Sequence[GaugeReading]
"""Readings that are added up: how far a group is from its own values (0) to the other prompt's (1)."""


@dataclass(frozen=True)
class TokenPair:
    """Why `answer` rather than `rival`."""

    answer: int
    rival: int

    def lead(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
        """The logit of the answer less that of its rival."""
        return logits[..., self.answer] - logits[..., self.rival]


@dataclass(frozen=True)
class Ran:
    """What variants gave, one row each."""

    lead: Float[Tensor, " variant"]
    answer: Float[Tensor, " variant"]
    """Probability of the answer."""
    rival: Float[Tensor, " variant"]
    rank: Int[Tensor, " variant"]
    """The answer's; 1 is the likeliest."""
    top: Int[Tensor, " variant"]
    units: Float[Tensor, "variant unit"]
    """The activations of the units that were read, as they would be if nothing were put there."""
    gauges: Float[Tensor, "variant gauge"]
    """What gauges show, as they would if nothing were put there."""


def check_supported(model: LanguageModel) -> None:
    """Refuse models whose MLPs are experts.

    Raises:
        UnsupportedModel: they are.
    """
    if model.architecture.up is None:
        family = model.architecture.family
        raise UnsupportedModel(f"{model.name}: the neurons of {family}'s experts cannot be swapped, so not explained")


def heads_of(model: LanguageModel) -> int:
    """The number of attention heads of a layer."""
    return int(model.config.num_attention_heads)


def look(model: LanguageModel, ids: Int[Tensor, " pos"]) -> Inside:
    """Run a prompt and keep the values at all places."""
    at: dict[tuple[Place, int], Tensor] = {}

    def keep(place: Place, layer: int, x: Tensor) -> None:
        at[place, layer] = x[0].detach().to("cpu", model.engine_dtype)

    with torch.no_grad(), hooked(model, lambda *seen: keep(*seen)):
        logits = last_logits(model, ids[None])
    return Inside(at, logits[0])


def next_logits(model: LanguageModel, prompts: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
    """The logits at the last position of several prompts of one length."""
    each = max(1, TOKENS_PER_PASS // prompts.shape[1])
    with torch.no_grad():
        return torch.cat([last_logits(model, part) for part in prompts.split(each)])


def run_logits(
    model: LanguageModel, prompts: Int[Tensor, "row pos"], variants: Sequence[Variant]
) -> Float[Tensor, "row vocab"]:
    """The logits at the last position of several prompts of one length, each in its own variant."""
    start = first_touched(model, variants, prompts.shape[1])
    flat = flat_puts(variants, start)
    past = prefix(model, prompts, start)
    with torch.no_grad(), hooked(model, lambda place, layer, x: put_in(flat.get((place, layer)), x)):
        return last_logits(model, prompts[:, start:], past)


def run(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    question: TokenPair,
    variants: Sequence[Variant],
    read: NeuronPlaces | None = None,
    gauges: Sequence[Gauge] = (),
) -> Ran:
    """Run a prompt in many variants, everything live; what comes before all that is put or read runs once."""
    read = NeuronPlaces.of([]) if read is None else read
    looked = [*read.position.tolist(), *(reading.position for gauge in gauges for reading in gauge)]
    start = first_touched(model, variants, len(ids), looked)
    each = max(1, TOKENS_PER_PASS // (len(ids) - start))
    parts = [
        _one_pass(model, ids, question, variants[at : at + each], read, gauges, start)
        for at in range(0, len(variants), each)
    ]
    if not parts:
        none = torch.zeros(0)
        return Ran(none, none, none, none.long(), none.long(), torch.zeros(0, len(read)), torch.zeros(0, len(gauges)))
    return Ran(*(torch.cat([getattr(part, name) for part in parts]) for name in Ran.__dataclass_fields__))


def _one_pass(
    model: LanguageModel, ids: Int[Tensor, " pos"], question: TokenPair, variants: Sequence[Variant],
    read: NeuronPlaces, gauges: Sequence[Gauge], start: int,
) -> Ran:  # fmt: skip
    flat = flat_puts(variants, start)
    seen = torch.zeros(len(variants), len(read), dtype=model.engine_dtype)
    shown, readings = torch.zeros(len(variants), len(gauges), dtype=model.engine_dtype), readings_by_place(gauges)

    def change(place: Place, layer: int, x: Tensor) -> Tensor | None:
        here = torch.nonzero(read.layer == layer).flatten() if place == "neurons" else read.layer[:0]
        if len(here):
            seen[:, here] = x[:, read.position[here] - start, read.index[here]].detach().to(seen)
        show_readings(shown, readings.get((place, layer), ()), x, start)
        return put_in(flat.get((place, layer)), x)

    past = prefix(model, ids[None], start, len(variants))
    with torch.no_grad(), hooked(model, change):
        logits = last_logits(model, ids[start:].expand(len(variants), -1), past)
    own = logits[:, question.answer]
    chances = logits.softmax(-1)
    rank = (logits > own[:, None]).sum(-1) + 1
    answer, rival = chances[:, question.answer], chances[:, question.rival]
    return Ran(question.lead(logits), answer, rival, rank, logits.argmax(-1), seen, shown)


def first_touched(model: LanguageModel, variants: Sequence[Variant], length: int, looked: Sequence[int] = ()) -> int:
    """The first position where anything is put or looked at; the last, if nothing is; the very first in a model whose
    state cannot be kept and copied (recurrences, convolutions)."""
    if not all(model.has_pattern(layer) for layer in range(model.n_layers)):
        return 0
    puts = [int(put.position.min()) for variant in variants for put in variant if len(put.position)]
    return min([length - 1, *puts, *looked])


_PREFIXES: WeakKeyDictionary[Any, dict[tuple, Any]] = WeakKeyDictionary()


def prefix(model: LanguageModel, prompts: Int[Tensor, "row pos"], start: int, rows: int = 1) -> Any:
    """Keys and values of the positions before one, which no variant changes, `rows` times; None where there is none.

    The last few are kept, for as long as the model's weights are what they were.
    """
    if start == 0:
        return None
    known, before = _PREFIXES.setdefault(model.module, {}), prompts[:, :start]
    state = sum(weight._version for weight in model.module.parameters())
    key = (state, before.shape, tuple(before.flatten().tolist()))
    if key not in known:
        while len(known) >= PREFIXES:
            del known[next(iter(known))]
        with torch.no_grad():
            ran = model.module(input_ids=before.to(model.device), use_cache=True, logits_to_keep=1)
        known[key] = ran.past_key_values
    past = copy.deepcopy(known[key])  # running on changes it
    if rows > 1:
        past.batch_repeat_interleave(rows)
    return past


def readings_by_place(gauges: Sequence[Gauge]) -> dict[tuple[Place, int], list[tuple[int, GaugeReading]]]:
    """What is read at each place and layer, with the number of its gauge."""
    found: dict[tuple[Place, int], list[tuple[int, GaugeReading]]] = {}
    for number, gauge in enumerate(gauges):
        for reading in gauge:
            found.setdefault((reading.place, reading.layer), []).append((number, reading))
    return found


def show_readings(
    shown: Float[Tensor, "variant gauge"], readings: Sequence[tuple[int, GaugeReading]], x: Tensor, start: int
) -> None:
    """Add what gauges read at one place, whose first position is `start`."""
    for number, reading in readings:
        here = x[:, reading.position - start].to(shown)
        shown[:, number] += here @ reading.direction.to(shown) - reading.own


def last_logits(model: LanguageModel, ids: Int[Tensor, "row pos"], past: Any = None) -> Float[Tensor, "row vocab"]:
    """Logits at the last position, as the model gives them; those of other positions are not computed."""
    head = model.module.get_output_embeddings()
    raw: list[Tensor] = []
    handles = [
        head.register_forward_pre_hook(lambda module, args: (args[0][:, -1:], *args[1:])),
        head.register_forward_hook(lambda module, args, output: raw.append(output)),
    ]
    try:
        model.module(input_ids=ids.to(model.device), past_key_values=past, use_cache=past is not None)
    finally:
        for handle in handles:
            handle.remove()
    return model.capped(model.raw_logits(raw[0][:, -1]).to("cpu", model.engine_dtype))


Flat = dict[tuple[Place, int], dict[tuple[bool, bool], list[tuple[int, Put]]]]


def flat_puts(variants: Sequence[Variant], start: int = 0) -> Flat:
    """What is put at each place and layer, positions counted from `start`: whole vectors, then single entries; what is
    added comes last."""
    flat: Flat = {}
    for row, variant in enumerate(variants):
        for put in variant:
            here = flat.setdefault((put.place, put.layer), {})
            moved = replace(put, position=put.position - start) if start else put
            here.setdefault((put.add, put.index is not None), []).append((row, moved))
    return flat


def put_in(puts: dict[tuple[bool, bool], list[tuple[int, Put]]] | None, x: Tensor) -> Tensor | None:
    """What passes a place, with values put in; None where there are none."""
    if puts is None:
        return None
    x = x.clone()
    for (add, _), some in sorted(puts.items(), key=lambda item: item[0]):
        row = torch.cat([torch.full_like(put.position, number) for number, put in some])
        position = torch.cat([put.position for _, put in some])
        index = [put.index for _, put in some if put.index is not None]
        where = (row, position, torch.cat(index)) if index else (row, position)
        x.index_put_(where, torch.cat([put.value for _, put in some]).to(x), accumulate=add)
    return x
