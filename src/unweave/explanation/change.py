"""Why not another token: the fewest groups whose change makes the model say it, found and tested by doing it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..interventions.live import heads_of, run
from ..interventions.parts import Part
from .groups import PartGroup
from .maps import Contrast
from .measure import Measured, random_parts


@dataclass(frozen=True)
class Change:
    """Groups that are swapped together so that a token which is not said comes first."""

    groups: tuple[int, ...]
    share: float
    """Of the difference."""
    answer: float
    """The token's probability then."""
    rank: int
    top: int
    random: float
    """The largest share that as many random parts take."""
    random_first: int
    """In how many of the random sets it comes first."""
    draws: int


def smallest_change(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured, draws: int) -> Change | None:
    """The groups that help most, as few as make the token come first (all that help, if that does not), none of which
    can be left out.

    None where no group helps.
    """
    count = heads_of(contrast.model)
    parts = [group.part for group in groups]

    def swap(sets: Sequence[Sequence[int]]):
        variants = [[put for number in some for put in parts[number].put(contrast.there, count)] for some in sets]
        return run(contrast.model, contrast.ids, contrast.question, variants)

    order = sorted(range(len(groups)), key=lambda number: -measured.effects[number].share)
    helping = [number for number in order if measured.effects[number].share > 0]
    if not helping:
        return None
    prefixes = [helping[: size + 1] for size in range(len(helping))]
    first = [size for size, rank in enumerate(swap(prefixes).rank.tolist()) if rank == 1]
    chosen = prefixes[first[0]] if first else helping
    for number in reversed(chosen):
        less = [other for other in chosen if other != number]
        if first and less and int(swap([less]).rank[0]) == 1:
            chosen = less
    ran = swap([chosen])
    drawn = [random_parts(contrast, parts[number], draws) for number in chosen]
    draws = min(map(len, drawn))  # of whole MLPs there are only so many other runs of layers
    sets = [[put for some in drawn for put in some[draw].put(contrast.there, count)] for draw in range(draws)]
    control = run(contrast.model, contrast.ids, contrast.question, sets)
    random = float(contrast.share(control.lead).abs().max()) if draws else 0.0
    return Change(
        tuple(sorted(chosen)), float(contrast.share(ran.lead)[0]), float(ran.answer[0]), int(ran.rank[0]),
        int(ran.top[0]), random, int((control.rank == 1).sum()), draws,
    )  # fmt: skip


def changed_part(groups: Sequence[PartGroup], change: Change) -> Part:
    """All that is swapped."""
    whole = Part()
    for number in change.groups:
        whole = whole.join(groups[number].part)
    return whole
