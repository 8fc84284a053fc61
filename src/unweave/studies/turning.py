"""Which units turn one prompt's answer into another's: swapped in the real model, the fewest that do, random ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.choices import UnitKind
from ..response.response import response_graph
from ..transcoders.neurons import neurons
from ..transcoders.replacement import ReplacementModel
from ..validation.putting import Changed, ChangedNeurons, Results, changed_of, mask_of
from .groups import starts, written

NEAREST = 20
"""From how many units of like size a random one is drawn."""
STEPS = 16
"""Sizes that are tried between two powers of two."""

Unit = tuple[int, int]
"""A unit at whatever position: (layer, index)."""
Places = Int[Tensor, " _"]
"""Units at positions, by their number among all of a prompt's."""


class Norms:
    """How much each unit writes for an activation of one, by layer and index."""

    def __init__(self, model: ReplacementModel, units: UnitKind):
        own = model if units == "features" else ReplacementModel(model.language_model, neurons(model.language_model))
        self.begin, self.norm = torch.tensor(starts(own)), written(own)

    def of(self, layer: Tensor, index: Tensor) -> Float[Tensor, " unit"]:
        """Of some units."""
        return self.norm[self.begin[layer] + index]

    @property
    def widths(self) -> list[int]:
        """How many units each layer has."""
        return self.begin.diff().tolist()


@dataclass(frozen=True, eq=False)
class PairUnits:
    """All units of a prompt, and what putting some of them to their values in another prompt does, all else live."""

    changed: Changed
    mediated: float
    """The share of the units' effects that passes through other units."""
    layer: Int[Tensor, " place"]
    position: Int[Tensor, " place"]
    index: Int[Tensor, " place"]
    moved: Float[Tensor, " place"]
    """How much the swap changes what each writes."""
    ranked: Places
    """The graph's units that hold the answer up against the other's, the strongest first."""
    support: Float[Tensor, " unit"]
    """How much they do, as a share of all."""

    def swapped(self, sets: Sequence[Places]) -> Results:
        """What the model says with each set swapped."""
        return self.changed.run([mask_of(self.changed, places) for places in sets])

    def turns(self, sets: Sequence[Places]) -> list[bool]:
        """Whether each set's swap puts the other prompt's answer ahead of this one's."""
        return (self.swapped(sets).target < 0).tolist() if sets else []

    def everything_but(self, places: Places) -> Int[Tensor, " rest"]:
        """All units but some."""
        return torch.nonzero(~mask_of(self.changed, places)).flatten()

    def everywhere(self, units: Sequence[Unit]) -> Places:
        """Units at all positions."""
        width = int(self.index.max()) + 1
        wanted = torch.tensor([layer * width + index for layer, index in units if index < width], dtype=torch.int64)
        return torch.nonzero(torch.isin(self.layer * width + self.index, wanted)).flatten()

    def units(self, places: Places) -> list[Unit]:
        """Units at whatever position, in order, each once."""
        return list(dict.fromkeys(zip(self.layer[places].tolist(), self.index[places].tolist(), strict=True)))

    def at(self, ids: Sequence[str]) -> Places:
        """Units by their names; those that the prompt does not have are left out."""
        width, n = int(self.index.max()) + 1, int(self.position.max()) + 1
        wanted = [tuple(map(int, name.split("_"))) for name in ids]
        keys = torch.tensor([(layer * n + at) * width + index for layer, index, at in wanted], dtype=torch.int64)
        return torch.nonzero(torch.isin((self.layer * n + self.position) * width + self.index, keys)).flatten()

    def ids(self, places: Places) -> tuple[str, ...]:
        """Units as a graph names them."""
        columns = (column[places].tolist() for column in (self.layer, self.index, self.position))
        return tuple(f"{layer}_{index}_{position}" for layer, index, position in zip(*columns, strict=True))


def pair_units(
    model: ReplacementModel, here: str, there: str, tokens: tuple[int, int], units: UnitKind, most: int, norms: Norms
) -> PairUnits:
    """The units of a prompt that hold its answer up against another prompt's, found by a response graph.

    Args:
        tokens: the answers, this prompt's and the other's.
        most: how many units the graph has.

    Raises:
        PromptError, TargetError, OptionError, TranscoderError: as in `response_graph`.
    """
    asked = model if units == "features" else model.language_model
    graph = response_graph(asked, here, tokens, instead=there, units=units, most=most)
    changed = changed_of(model, graph)
    if isinstance(changed, ChangedNeurons):
        depth, n, width = changed.baseline.shape
        grid = torch.meshgrid(torch.arange(depth), torch.arange(n), torch.arange(width), indexing="ij")
        layer, position, index = (part.flatten() for part in grid)
        taken = (changed.own_values - changed.baseline).flatten()
    else:
        all_ = changed.everything
        layer, position, index, taken = all_.layer, all_.position, all_.index, all_.taken
    order = changed.support.argsort(descending=True, stable=True)
    order = order[changed.support[order] > 0]
    share = changed.support[order] / changed.support.abs().sum().clamp_min(1e-30)
    return PairUnits(
        changed, graph.provenance.mediated or 0.0, layer, position, index, taken.abs() * norms.of(layer, index),
        changed.own[order], share,
    )  # fmt: skip


def fewest(one: PairUnits) -> Places | None:
    """The fewest of the strongest units whose swap turns the answer; None if all of the graph's do not."""
    n, size, tried = len(one.ranked), 1, [0]
    while size < n:
        tried.append(size)
        size *= 2
    tried.append(n)
    turned = one.turns([one.ranked[:size] for size in tried[1:]]) if n else []
    if not any(turned):
        return None
    last = turned.index(True) + 1
    low, high = tried[last - 1], tried[last]
    between = sorted({low + (high - low) * step // STEPS for step in range(1, STEPS)} - {low, high})
    turned = one.turns([one.ranked[:size] for size in between])
    return one.ranked[: next((size for size, yes in zip(between, turned, strict=True) if yes), high)]


def without_spare(one: PairUnits, places: Places) -> Int[Tensor, " kept"]:
    """What is left of a set that turns the answer when nothing more can be left out: what is missed least goes first,
    many at a time."""
    while len(places) > 1:
        left = one.swapped([torch.cat([places[:at], places[at + 1 :]]) for at in range(len(places))]).target
        order = left.argsort(stable=True)
        sizes = [size for size in (len(places) >> shift for shift in range(1, len(places).bit_length())) if size]
        tries = [places[torch.sort(order[size:]).values] for size in sizes]
        best = next((kept for kept, yes in zip(tries, one.turns(tries), strict=True) if yes), None)
        if best is None:
            break
        places = best
    return places


def random_sets(one: PairUnits, places: Places, draws: int, seed: int) -> list[Places]:
    """Sets of as many other units, each drawn from those of the same layer and position whose swap changes what they
    write by about as much."""
    generator, taken = torch.Generator().manual_seed(seed), mask_of(one.changed, places)
    close = []
    for place in places.tolist():
        layer = (one.layer == one.layer[place]) & ~taken
        here = layer & (one.position == one.position[place])
        alike = torch.nonzero(here if bool(here.any()) else layer).flatten()
        away = (one.moved[alike] - one.moved[place]).abs()
        close.append(alike[away.argsort(stable=True)[:NEAREST]])
    drawn = []
    for _ in range(draws):
        used: dict[int, None] = {}
        for alike in close:
            free = [unit for unit in alike.tolist() if unit not in used]
            if free:
                used[free[int(torch.randint(len(free), (), generator=generator))]] = None
        drawn.append(torch.tensor(list(used), dtype=torch.int64))
    return drawn


def random_units(units: Sequence[Unit], widths: Sequence[int], seed: int) -> list[Unit]:
    """As many other units of the same layers, at whatever position."""
    generator, chosen = torch.Generator().manual_seed(seed), set(units)
    for layer, _ in units:
        if sum(at == layer for at, _ in chosen) < widths[layer]:
            other = (layer, int(torch.randint(widths[layer], (), generator=generator)))
            while other in chosen:
                other = (layer, int(torch.randint(widths[layer], (), generator=generator)))
            chosen.add(other)
    return sorted(chosen - set(units))
