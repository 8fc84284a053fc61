"""The real model with values put in place, many variants in one pass; whatever is not put responds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UnsupportedModel
from ..models.language_model import LanguageModel

Place = Literal["stream", "heads", "neurons"]
"""What enters a block; what enters attention's output projection, head by head; what enters the MLP's last map."""
PLACES: tuple[Place, ...] = ("stream", "heads", "neurons")
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

    with torch.no_grad(), _hooked(model, lambda *seen: keep(*seen)):
        logits = _logits(model, ids[None])
    return Inside(at, logits[0])


def next_logits(model: LanguageModel, prompts: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
    """The logits at the last position of several prompts of one length."""
    each = max(1, TOKENS_PER_PASS // prompts.shape[1])
    with torch.no_grad():
        return torch.cat([_logits(model, part) for part in prompts.split(each)])


def run_logits(
    model: LanguageModel, prompts: Int[Tensor, "row pos"], variants: Sequence[Variant]
) -> Float[Tensor, "row vocab"]:
    """The logits at the last position of several prompts of one length, each in its own variant."""
    flat = _flat(variants)
    with torch.no_grad(), _hooked(model, lambda place, layer, x: _put(flat.get((place, layer)), x)):
        return _logits(model, prompts)


def run(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    question: TokenPair,
    variants: Sequence[Variant],
    read: NeuronPlaces | None = None,
    gauges: Sequence[Gauge] = (),
) -> Ran:
    """Run a prompt in many variants, everything live."""
    read = NeuronPlaces.of([]) if read is None else read
    each = max(1, TOKENS_PER_PASS // len(ids))
    parts = [
        _one_pass(model, ids, question, variants[at : at + each], read, gauges) for at in range(0, len(variants), each)
    ]
    if not parts:
        none = torch.zeros(0)
        return Ran(none, none, none, none.long(), none.long(), torch.zeros(0, len(read)), torch.zeros(0, len(gauges)))
    return Ran(*(torch.cat([getattr(part, name) for part in parts]) for name in Ran.__dataclass_fields__))


def _one_pass(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    question: TokenPair,
    variants: Sequence[Variant],
    read: NeuronPlaces,
    gauges: Sequence[Gauge],
) -> Ran:
    flat = _flat(variants)
    seen = torch.zeros(len(variants), len(read), dtype=model.engine_dtype)
    shown = torch.zeros(len(variants), len(gauges), dtype=model.engine_dtype)
    readings: dict[tuple[Place, int], list[tuple[int, GaugeReading]]] = {}
    for number, gauge in enumerate(gauges):
        for reading in gauge:
            readings.setdefault((reading.place, reading.layer), []).append((number, reading))

    def change(place: Place, layer: int, x: Tensor) -> Tensor | None:
        here = torch.nonzero(read.layer == layer).flatten() if place == "neurons" else read.layer[:0]
        if len(here):
            seen[:, here] = x[:, read.position[here], read.index[here]].detach().to(seen)
        for number, reading in readings.get((place, layer), ()):
            shown[:, number] += x[:, reading.position].to(shown) @ reading.direction.to(shown) - reading.own
        return _put(flat.get((place, layer)), x)

    with torch.no_grad(), _hooked(model, change):
        logits = _logits(model, ids.expand(len(variants), -1))
    own = logits[:, question.answer]
    chances = logits.softmax(-1)
    rank = (logits > own[:, None]).sum(-1) + 1
    answer, rival = chances[:, question.answer], chances[:, question.rival]
    return Ran(question.lead(logits), answer, rival, rank, logits.argmax(-1), seen, shown)


def gradients(
    model: LanguageModel, ids: Int[Tensor, " pos"], question: TokenPair, variant: Variant
) -> tuple[float, list[Float[Tensor, "pos neuron"]], list[Float[Tensor, "pos neuron"]]]:
    """The lead in a variant; by layer, every neuron's activation there, and the gradient of the lead at it."""
    flat = _flat([variant])
    leaves: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}

    def change(place: Place, layer: int, x: Tensor) -> Tensor | None:
        new = _put(flat.get((place, layer)), x)
        if place != "neurons":
            return new
        x = x if new is None else new
        values[layer] = x[0].detach()
        leaves[layer] = torch.zeros_like(x, requires_grad=True)
        return x + leaves[layer]

    with torch.enable_grad(), _hooked(model, change):
        lead = question.lead(_logits(model, ids[None]))[0]
        found = torch.autograd.grad(lead, [leaves[layer] for layer in range(model.n_layers)])
    dtype = model.engine_dtype
    activations = [values[layer].to("cpu", dtype) for layer in range(model.n_layers)]
    return float(lead.detach()), activations, [part[0].to("cpu", dtype) for part in found]


def _logits(model: LanguageModel, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
    """Logits at the last position, as the model gives them; those of other positions are not computed."""
    head = model.module.get_output_embeddings()
    raw: list[Tensor] = []
    handles = [
        head.register_forward_pre_hook(lambda module, args: (args[0][:, -1:], *args[1:])),
        head.register_forward_hook(lambda module, args, output: raw.append(output)),
    ]
    try:
        model.module(input_ids=ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return model.capped(model.raw_logits(raw[0][:, -1]).to("cpu", model.engine_dtype))


Flat = dict[tuple[Place, int], dict[tuple[bool, bool], list[tuple[int, Put]]]]


def _flat(variants: Sequence[Variant]) -> Flat:
    """What is put at each place and layer: whole vectors, then single entries; what is added comes last."""
    flat: Flat = {}
    for row, variant in enumerate(variants):
        for put in variant:
            here = flat.setdefault((put.place, put.layer), {})
            here.setdefault((put.add, put.index is not None), []).append((row, put))
    return flat


def _put(puts: dict[tuple[bool, bool], list[tuple[int, Put]]] | None, x: Tensor) -> Tensor | None:
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


@contextmanager
def _hooked(model: LanguageModel, change: Callable[[Place, int, Tensor], Tensor | None]) -> Iterator[None]:
    """`change` is told what passes each place, and may return what is to pass instead."""
    row, handles = model.architecture, []

    def before(place: Place, layer: int) -> Callable:
        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            new = change(place, layer, args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        return hook

    try:
        for layer, block in enumerate(model.blocks):
            modules = {
                "stream": block,
                "heads": block.get_submodule(row.attention).get_submodule(row.output),
                "neurons": block.get_submodule(row.mlp).get_submodule(row.down),
            }
            for place in PLACES:
                hook = before(place, layer)
                handles.append(modules[place].register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
