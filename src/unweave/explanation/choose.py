"""Few neurons that carry what a stage carries, found by the gradient, taken anew after every few."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.live import NeuronPlaces, Put, run
from ..interventions.slopes import gradients
from .maps import Contrast, Stage

MOST = 100
"""NeuronPlaces in all."""
ENOUGH = 0.8
"""The share of what a stage carries that its units are to carry."""
FEW = 4
"""NeuronPlaces between two gradients, or half of those there are if that is more."""
EACH = 24
"""NeuronPlaces of one stage, at most: what these do not carry is spread over many."""
AGAINST = 12
"""NeuronPlaces that work against the answer, at most."""
DRAWS = 20
"""Random sets as control."""
SEED = 0


class Carried(NamedTuple):
    """What the units of one stage carry of what the stage as a whole does."""

    stage: Stage
    units: int
    share: float


@dataclass(frozen=True)
class Chosen:
    """The units, which stage each belongs to (-1: found as working against the answer), and what they do together."""

    units: NeuronPlaces
    stage: tuple[int, ...]
    carried: tuple[Carried, ...]
    swapped: float
    """The share of the difference that swapping them all takes."""
    kept: float
    """The share that is left where every other neuron is swapped."""
    random: Float[Tensor, " draw"]
    """As `swapped`, for as many random neurons of the same layers and tokens."""


def nothing_chosen() -> Chosen:
    """No units."""
    return Chosen(NeuronPlaces.of([]), (), (), 0.0, 0.0, torch.zeros(0))


def choose(contrast: Contrast, stages: Sequence[Stage], most: int = MOST) -> Chosen:
    """For each stage the fewest neurons (greedily) that carry 0.8 of what it carries; at most `most` in all."""
    chosen, owner, carried = NeuronPlaces.of([]), [], []
    left = most - min(AGAINST, most // 5)
    smallest_first = sorted(range(len(stages)), key=lambda number: abs(stages[number].share))
    for place, number in enumerate(smallest_first):
        stage = stages[number]
        found, share = _of_stage(contrast, stage, min(EACH, left // (len(stages) - place)))
        left -= len(found)
        chosen, owner = chosen.join(found), [*owner, *[number] * len(found)]
        carried.append((number, Carried(stage, len(found), share / stage.share)))
    against = _against(contrast, chosen, min(AGAINST, most - len(chosen)))
    chosen, owner = chosen.join(against), [*owner, *[-1] * len(against)]
    order = sorted(range(len(chosen)), key=lambda unit: chosen.triples[unit][1::-1] + chosen.triples[unit][2:])
    chosen, owner = chosen.select(torch.tensor(order, dtype=torch.int64)), tuple(owner[unit] for unit in order)
    draws = random_sets(contrast, chosen, DRAWS)
    there, question = contrast.there, contrast.question
    variants = [there.put_units(chosen), all_but(contrast, chosen), *map(there.put_units, draws)]
    share = contrast.share(run(contrast.model, contrast.ids, question, variants).lead)
    return Chosen(
        chosen, owner, tuple(found for _, found in sorted(carried)), float(share[0]), float(1 - share[1]), share[2:]
    )


def _of_stage(contrast: Contrast, stage: Stage, most: int) -> tuple[NeuronPlaces, float]:
    sign = 1.0 if stage.share > 0 else -1.0
    chosen = NeuronPlaces.of([])
    while True:
        few = min(max(FEW, len(chosen) // 2), most - len(chosen))
        share, found = _strongest(contrast, chosen, stage, sign, few)
        if share / stage.share >= ENOUGH or not len(found):
            return chosen, share
        chosen = chosen.join(found)


def _against(contrast: Contrast, chosen: NeuronPlaces, most: int) -> NeuronPlaces:
    """Neurons anywhere whose swap would raise the lead most, the prompt being as it is."""
    _, found = _strongest(contrast, NeuronPlaces.of([]), None, -1.0, most + len(chosen))
    known = set(chosen.triples)
    fresh = [triple for triple in found.triples if triple not in known][:most]
    if not fresh:
        return NeuronPlaces.of([])
    lead = run(
        contrast.model,
        contrast.ids,
        contrast.question,
        [contrast.there.put_units(NeuronPlaces.of([triple])) for triple in fresh],
    ).lead
    share = contrast.share(lead)
    return NeuronPlaces.of([triple for triple, value in zip(fresh, share.tolist(), strict=True) if value < -0.005])


def _strongest(
    contrast: Contrast, swapped: NeuronPlaces, stage: Stage | None, sign: float, count: int
) -> tuple[float, NeuronPlaces]:
    """The share that swapping some units takes, and the units of a stage (None: anywhere) whose swap beside it lowers
    (`sign` 1) or raises the lead most, to first order."""
    put: list[Put] = contrast.there.put_units(swapped)
    places = contrast.positions if stage is None else (stage.position,)
    lead, values, slopes = gradients(contrast.model, contrast.ids, contrast.question, put, places)
    layers = range(contrast.model.n_layers) if stage is None else stage.layers
    positions = torch.tensor(places)
    there = contrast.there.at
    effects = torch.stack([(values[layer] - there["neurons", layer][positions]) * slopes[layer] for layer in layers])
    effects = effects * (sign if contrast.whole > 0 else -sign)
    width = effects.shape[-1]
    order = effects.flatten().argsort(descending=True, stable=True)[: count + len(swapped)]
    known, found = set(swapped.triples), []
    for flat in order.tolist():
        if float(effects.flatten()[flat]) <= 0:
            break
        rest, index = divmod(flat, width)
        row, place = divmod(rest, len(positions))
        triple = (layers[row], int(positions[place]), index)
        if triple not in known:
            found.append(triple)
    return float(contrast.share(torch.tensor(lead))), NeuronPlaces.of(found[:count])


def all_but(contrast: Contrast, kept: NeuronPlaces) -> list[Put]:
    """Every neuron swapped but these, which keep the values of the prompt."""
    at = torch.tensor(contrast.positions)
    puts = []
    for layer in range(contrast.model.n_layers):
        value = contrast.there.at["neurons", layer].clone()
        here = kept.layer == layer
        position, index = kept.position[here], kept.index[here]
        value[position, index] = contrast.here.at["neurons", layer][position, index]
        puts.append(Put("neurons", layer, at, None, value[at]))
    return puts


def random_sets(contrast: Contrast, units: NeuronPlaces, count: int, seed: int = SEED) -> list[NeuronPlaces]:
    """Sets of as many other neurons, each of the same layer and token as one of these."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[NeuronPlaces] = []
    widths = {layer: contrast.here.at["neurons", layer].shape[1] for layer in units.layer.unique().tolist()}
    for _ in range(count):
        taken = set(units.triples)
        some = []
        for layer, position, _ in units.triples:
            index, tries = -1, torch.randint(widths[layer], (50,), generator=generator).tolist()
            while tries and (index < 0 or (layer, position, index) in taken):
                index = tries.pop()
            taken.add((layer, position, index))
            some.append((layer, position, index))
        drawn.append(NeuronPlaces.of(some))
    return drawn


def single_effects(
    contrast: Contrast, units: NeuronPlaces
) -> tuple[Float[Tensor, " unit"], Float[Tensor, "source target"]]:
    """For every unit swapped alone, the share of the difference it takes, and how far every other unit goes from its
    own value (0) to the one in the other prompt (1)."""
    there = contrast.there
    variants = [there.put_units(units.select(torch.tensor([unit]))) for unit in range(len(units))]
    ran = run(contrast.model, contrast.ids, contrast.question, variants, units)
    own, other = contrast.here.units(units), there.units(units)
    moved = (ran.units - own) / _apart(other - own)
    moved.fill_diagonal_(0)
    return contrast.share(ran.lead), moved


def _apart(difference: Tensor) -> Tensor:
    return torch.where(difference.abs() < 1e-9, torch.full_like(difference, 1e-9), difference)
