"""The way by which most goes: groups from the one where it begins to the answer, tested as a whole."""

from collections.abc import Sequence
from typing import NamedTuple

from ..interventions.live import Put, heads_of, run
from .arrows import Arrow
from .groups import PartGroup
from .maps import Contrast
from .predict import others

LONGEST = 4
"""Groups of a way, at most."""


class Way(NamedTuple):
    """Groups one after another, first to last, the answer after them; none where no arrow leads from group to group."""

    groups: tuple[int, ...] = ()
    share: float = 0.0
    """The share of the difference that swapping the first takes while all groups off the way are held."""
    control: float = 0.0
    """The largest share of random parts in the place of the first."""


def strongest_way(groups: Sequence[PartGroup], arrows: Sequence[Arrow]) -> tuple[int, ...]:
    """From the answer back: each time the group that carries most by the one before it, while any does."""
    way: list[int] = []
    while len(way) < LONGEST:
        target = way[0] if way else None
        able = [
            arrow for arrow in arrows
            if arrow.target == target and arrow.passed and arrow.carried > 0 and arrow.moved > 0
            and arrow.source not in way
        ]  # fmt: skip
        if not able:
            break
        way.insert(0, max(able, key=lambda arrow: arrow.carried).source)
    return tuple(way) if len(way) > 1 else ()


def measured_way(
    contrast: Contrast, groups: Sequence[PartGroup], arrows: Sequence[Arrow], random: Sequence[Sequence[list[Put]]]
) -> Way:
    """The strongest way, the first of its groups swapped with all groups held that are not on it; of its ends, which
    are ways as well, the one by which most goes.

    Args:
        random: by group, what swaps random parts in its place.
    """
    whole, count = strongest_way(groups, arrows), heads_of(contrast.model)
    ways = [whole[start:] for start in range(len(whole) - 1)]
    if not ways:
        return Way()
    held = [others(groups, *way).put(contrast.here, count) for way in ways]
    variants = [puts + groups[way[0]].part.put(contrast.there, count) for way, puts in zip(ways, held, strict=True)]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    best = int(share.argmax())
    variants = [held[best] + puts for puts in random[ways[best][0]]]
    control = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    return Way(ways[best], float(share[best]), float(control.abs().max()) if len(control) else 0.0)
