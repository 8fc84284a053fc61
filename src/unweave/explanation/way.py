"""The way by which most goes: groups from the one where it begins to the answer, tested as a whole."""

from collections.abc import Sequence
from typing import NamedTuple

from ..interventions.live import Put, heads_of, run
from .arrows import Arrow
from .groups import PartGroup
from .maps import Contrast
from .predict import others

HALF = 0.5
LONGEST = 4
"""Groups of a way, at most."""


class Way(NamedTuple):
    """Groups one after another, first to last, the answer after them; none where no arrow leads from group to group."""

    groups: tuple[int, ...] = ()
    share: float = 0.0
    """The share of the difference that swapping the first takes while all groups off the way are held."""
    control: float = 0.0
    """The largest share of random parts in the place of the first."""


def strong_ways(groups: Sequence[PartGroup], arrows: Sequence[Arrow]) -> list[tuple[int, ...]]:
    """From each group that acts on the answer, back: each time the group that carries most by the one before it, while
    any does. Ways and their ends, of two groups or more."""
    able = [arrow for arrow in arrows if arrow.passed and arrow.carried > 0 and arrow.moved > 0]
    found: list[tuple[int, ...]] = []
    for end in (arrow.source for arrow in able if arrow.target is None):
        way = [end]
        while len(way) < LONGEST:
            before = [arrow for arrow in able if arrow.target == way[0] and arrow.source not in way]
            if not before:
                break
            way.insert(0, max(before, key=lambda arrow: arrow.carried).source)
        found += [tuple(way[start:]) for start in range(len(way) - 1)]
    return list(dict.fromkeys(found))


def measured_way(
    contrast: Contrast, groups: Sequence[PartGroup], arrows: Sequence[Arrow], random: Sequence[Sequence[list[Put]]]
) -> Way:
    """A strong way, its first group swapped with all groups held that are not on it: of those by which at least half as
    much goes as by the best, the one that begins first, and of these the one by which most goes.

    Args:
        random: by group, what swaps random parts in its place.
    """
    ways, count = strong_ways(groups, arrows), heads_of(contrast.model)
    if not ways:
        return Way()
    held = [others(groups, *way).put(contrast.here, count) for way in ways]
    variants = [puts + groups[way[0]].part.put(contrast.there, count) for way, puts in zip(ways, held, strict=True)]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    if float(share.max()) <= 0:
        return Way()
    enough = [number for number, value in enumerate(share.tolist()) if value >= HALF * float(share.max())]
    best = min(enough, key=lambda number: (groups[ways[number][0]].order, -float(share[number])))
    variants = [held[best] + puts for puts in random[ways[best][0]]]
    control = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    return Way(ways[best], float(share[best]), float(control.abs().max()) if len(control) else 0.0)
