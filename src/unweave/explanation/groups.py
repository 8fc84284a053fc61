"""Groups of neurons, attention heads and whole MLPs: few enough to read, each of parts that do the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.live import NeuronPlaces
from ..interventions.parts import Part
from .choose import Chosen
from .maps import Head, Stage

MOST = 12
"""Groups, where the user does not say how many."""
SPAN = 1 / 3
"""Layers that a group of neurons may span, of all there are."""
PRICE = 0.03
"""What another group costs beside what it makes better."""
SPREAD = 0.5
"""A stage whose units carry less than this share of it is a group as a whole: it is spread over many neurons."""
NOTABLE_HEAD = 0.1
Partition = list[list[int]]


@dataclass(frozen=True)
class PartGroup:
    """Parts of the model that are swapped together, all of one kind."""

    part: Part
    name: str = ""
    place: str = ""
    """Where it sits, in words: the name without what it pushes for."""
    evidence: str = ""
    """What the name rests on."""
    pushes: tuple[str, ...] = ()
    """The tokens it pushes for, where most members do."""
    support: int | None = None
    """How many members push for them."""
    label: str | None = None
    """Of most members' feature pages."""
    against: bool = False
    """Whether it works against the answer."""

    @property
    def kind(self) -> str:
        """`neurons`, `heads` or `MLPs`."""
        return "MLPs" if self.part.mlps else "heads" if self.part.heads else "neurons"

    @property
    def position(self) -> int:
        """The last token that it sits on."""
        return self.part.positions[-1]

    @property
    def order(self) -> tuple[int, int, bool]:
        """By token, layer, and attention before MLP."""
        return self.position, self.part.layers.start, self.kind != "heads"

    def __len__(self) -> int:
        return len(self.part)

    def before(self, other: "PartGroup") -> bool:
        """Whether it can act on another: nothing goes back in layers or in tokens."""
        first, last = self.part.layers.start, other.part.layers.stop - 1
        return self.part.positions[0] <= other.position and (first, self.kind != "heads") < (
            last,
            other.kind != "heads",
        )


@dataclass(frozen=True)
class Profiles:
    """What is known of each unit: what it does to the answer, and what it does to each other unit."""

    units: NeuronPlaces
    effect: Float[Tensor, " unit"]
    moved: Float[Tensor, "source target"]
    depth: int
    """Layers of the model."""

    @property
    def through(self) -> Float[Tensor, "source target"]:
        """What each unit does to the answer by way of each other, to first order."""
        return self.moved.clamp(-2, 2) * self.effect

    @property
    def rows(self) -> Float[Tensor, "unit profile"]:
        """Signed profiles of what goes out of each unit and what comes in, each part of length 1."""
        through = self.through
        out = torch.cat([through, self.effect[:, None]], 1)
        into = self.moved.clamp(-2, 2).T * self.effect.abs()
        return torch.cat([_unit(out), _unit(into)], 1)

    def select(self, which: Tensor) -> "Profiles":
        """Those of some units."""
        return Profiles(self.units.select(which), self.effect[which], self.moved[which][:, which], self.depth)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def hidden(profiles: Profiles, partition: Partition) -> float:
    """The share of what units do to one another that lies inside groups, where no arrow shows it."""
    through = profiles.through.abs()
    inside = sum(float(through[group][:, group].sum()) for group in partition)
    return inside / max(float(through.sum()), 1e-12)


def agreement(profiles: Profiles, partition: Partition) -> float:
    """The mean cosine of each member's profile with the rest of its group (1 for a group of one), weighed by effect."""
    rows, weight = profiles.rows, profiles.effect.abs()
    total = torch.zeros(())
    for group in partition:
        if len(group) == 1:
            total += weight[group[0]]
            continue
        for unit in group:
            rest = rows[[other for other in group if other != unit]].sum(0)
            total += weight[unit] * torch.cosine_similarity(rows[unit], rest, dim=0)
    return float(total / weight.sum().clamp_min(1e-12))


def by_band(profiles: Profiles, count: int) -> Partition:
    """Token, band of layers and sign: the baseline that looks at nothing else."""
    for bands in (6, 5, 4, 3, 2, 1):
        found: dict[tuple, list[int]] = {}
        for unit, (layer, position, _) in enumerate(profiles.units.triples):
            found.setdefault((position, layer * bands // profiles.depth, float(profiles.effect[unit]) < 0), []).append(
                unit
            )
        if len(found) <= count or bands == 1:
            return [found[key] for key in sorted(found)]
    return []


def by_link(profiles: Profiles, count: int) -> Partition:
    """Complete link on the cosine of signed profiles, inside one token and one sign."""
    rows = profiles.rows / 2**0.5
    distance = 1 - rows @ rows.T
    position, sign = profiles.units.position, profiles.effect < 0
    apart = (position[:, None] != position) | (sign[:, None] != sign)
    distance[apart] = 4.0
    groups = [[unit] for unit in range(len(profiles.units))]
    far = distance.clone()
    far.fill_diagonal_(9.0)
    while len(groups) > count:
        flat = int(far.argmin())
        first, second = sorted(divmod(flat, len(groups)))
        if float(far[first, second]) >= 4.0:
            break
        groups[first] = sorted(groups[first] + groups[second])
        merged = torch.maximum(far[first], far[second])
        far[first], far[:, first] = merged, merged
        far[first, first] = 9.0
        del groups[second]
        keep = [row for row in range(len(far)) if row != second]
        far = far[keep][:, keep]
    return sorted(groups)


def by_segments(profiles: Profiles, count: int) -> Partition:
    """Runs of layers at one token and of one sign, cut where the sum of what is hidden inside groups and of how far
    members are from their group is smallest; exact, by dynamic programming."""
    lines: dict[tuple[int, bool], list[int]] = {}
    for unit, (_, position, _) in enumerate(profiles.units.triples):
        lines.setdefault((position, float(profiles.effect[unit]) < 0), []).append(unit)
    best: list[tuple[float, Partition]] = [(0.0, [])]
    for _, line in sorted(lines.items()):
        line.sort(key=lambda unit: profiles.units.triples[unit][::2])
        cuts = _cut(profiles, line, count)
        new: dict[int, tuple[float, Partition]] = {}
        for used, (cost, groups) in enumerate(best):
            for pieces, (more, segments) in enumerate(cuts, 1):
                number = used + pieces
                if groups is not None and number <= max(count, len(lines)):
                    candidate = (cost + more, groups + segments)
                    if number not in new or candidate[0] < new[number][0]:
                        new[number] = candidate
        best = [new.get(number, (float("inf"), [])) for number in range(max(new) + 1)]
    able = [(cost, groups) for cost, groups in best[: max(count, len(lines)) + 1] if cost < float("inf")]
    return min(able, key=lambda found: found[0])[1] if able else []


def _cut(profiles: Profiles, line: list[int], most: int) -> list[tuple[float, Partition]]:
    """The best cuts of one line into 1, 2, ... pieces."""
    n = len(line)
    cost = [[_cost(profiles, line[start:stop]) if stop > start else 0.0 for stop in range(n + 1)] for start in range(n)]
    table: list[list[tuple[float, int]]] = [[(cost[0][stop] if stop else 0.0, 0) for stop in range(n + 1)]]
    for _ in range(1, min(most, n)):
        last = table[-1]
        table.append(
            [
                min(((last[cut][0] + cost[cut][stop], cut) for cut in range(1, stop)), default=(float("inf"), 0))
                for stop in range(n + 1)
            ]
        )
    found = []
    for pieces in range(len(table)):
        stop, groups = n, []
        for row in range(pieces, -1, -1):
            start = table[row][stop][1]
            groups.append(sorted(line[start:stop]))
            stop = start
        found.append((table[pieces][n][0], groups[::-1]))
    return found


def _cost(profiles: Profiles, group: list[int]) -> float:
    first, last = (int(profiles.units.layer[unit]) for unit in (group[0], group[-1]))
    wide = max(0.0, (last - first + 1) / profiles.depth - SPAN)
    through, rows, weight = profiles.through.abs(), profiles.rows, profiles.effect.abs()
    inside = through[group][:, group].sum() / through.sum().clamp_min(1e-12)
    middle = (rows[group] * weight[group, None]).sum(0)
    far = 1 - torch.cosine_similarity(rows[group], middle[None], dim=1)
    return float(inside + (weight[group] * far).sum() / weight.sum().clamp_min(1e-12)) + PRICE + wide


METHODS: dict[str, Callable[[Profiles, int], Partition]] = {
    "segments": by_segments,
    "link": by_link,
    "band": by_band,
}
DEFAULT = "segments"


def make_groups(
    chosen: Chosen, heads: Sequence[Head], profiles: Profiles, count: int | None = None, method: str = DEFAULT
) -> tuple[PartGroup, ...]:
    """Groups in the order of tokens and layers: whole stages that are spread over many neurons, heads, and neurons in
    groups by one method."""
    spread = [
        number for number, carried in enumerate(chosen.carried) if carried.share < SPREAD and carried.stage.share > 0
    ]
    whole = [PartGroup(_whole(chosen.carried[number].stage)) for number in spread]
    joined = _head_groups([head for head in heads if abs(head.share) >= NOTABLE_HEAD])
    rest = torch.tensor([number for number, owner in enumerate(chosen.stage) if owner not in spread], dtype=torch.int64)
    left = max(1, (count or MOST) - len(whole) - len(joined))
    part = profiles.select(rest)
    partition = METHODS[method](part, left) if len(rest) else []
    made = [
        PartGroup(Part(part.units.select(torch.tensor(group))), against=float(part.effect[group].sum()) < 0)
        for group in partition
    ]
    return tuple(sorted([*whole, *joined, *made], key=lambda group: group.order))


def _whole(stage: Stage) -> Part:
    return Part(mlps=tuple((layer, stage.position) for layer in stage.layers))


def _head_groups(heads: Sequence[Head]) -> list[PartGroup]:
    """Heads of one token and sign, at most two layers apart."""
    found: list[list[Head]] = []
    for head in sorted(heads, key=lambda head: (head.position, head.share < 0, head.layer, head.head)):
        last = found[-1][-1] if found else None
        near = last is not None and last.position == head.position and (last.share < 0) == (head.share < 0)
        if last is not None and near and head.layer - last.layer <= 2:
            found[-1].append(head)
        else:
            found.append([head])
    return [
        PartGroup(Part(heads=tuple((head.layer, head.head, head.position) for head in some)), against=some[0].share < 0)
        for some in found
    ]
