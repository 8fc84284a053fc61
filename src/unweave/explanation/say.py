"""Sentences, each a measurement with its control that can be made again: what the answer hangs on, the chain, what
works against it, what is not explained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..interventions.live import heads_of, run
from ..interventions.parts import Part
from .arrows import NOTABLE_ARROW, Arrow
from .change import Change, changed_part
from .groups import PartGroup
from .maps import Contrast
from .measure import Effect, Measured
from .names import listed
from .picture import percent
from .predict import others

HALF = 0.5
"""A claim holds where at least so much of the measured effect is found again."""
HANGS, CHAIN, DIRECT, AGAINST = 3, 5, 3, 3
"""Sentences of each kind, at most."""
LEAST_MOVED = 0.1
"""How far an arrow must move its target to be said."""
Kind = Literal["way", "hangs", "chain", "direct", "against", "change", "together"]


@dataclass(frozen=True)
class Test:
    """What is swapped, what is held, and what must come of it."""

    swap: Part
    hold: Part
    watch: Part | None
    """The part that must move towards its values in the other prompt; None: the answer's lead must fall."""
    value: float
    """As measured: the share of the way, or of the difference in lead."""

    @property
    def bound(self) -> float:
        """The least (or, of a negative value, the most) that is wanted."""
        return HALF * self.value

    def holds(self, value: float) -> bool:
        """Whether a measurement agrees."""
        return value >= self.bound if self.value > 0 else value <= self.bound


@dataclass(frozen=True)
class CheckedSentence:
    """One sentence with its number and its control."""

    text: str
    kind: Kind
    test: Test
    control: float
    """The largest of the same measurement with random groups."""
    groups: tuple[int, ...]
    wordings: tuple[int, int] | None = None
    """On how many of how many other beginnings of the prompt it holds; None: not tried."""

    @property
    def passed(self) -> bool:
        """Whether no random group would do for what is said."""
        return abs(self.control) < abs(self.test.bound)


def sentences(
    contrast: Contrast, groups: Sequence[PartGroup], measured: Measured, change: Change | None = None
) -> list[CheckedSentence]:
    """What is said; a measurement that random groups match is not among it."""
    said = [
        *_way(contrast, groups, measured),
        *_hangs(contrast, groups, measured),
        *_chain(contrast, groups, measured),
        *_direct(contrast, groups, measured),
        *_against(contrast, groups, measured),
        *([] if change is None else [_change(contrast, groups, measured, change)]),
        *_together(contrast, groups, measured),
    ]
    return [sentence for sentence in said if sentence.passed]


def values_of(contrast: Contrast, whose: str = "the") -> str:
    """What parts are put to, in words."""
    match contrast.kind:
        case "instead":
            return f"{whose} values from {contrast.instead!r}"
        case "mean":
            return f"{whose} mean values over text"
        case _:
            return "zero"


def _answer(contrast: Contrast) -> str:
    return repr(contrast.model.token_text(contrast.question.answer))


def _rival(contrast: Contrast) -> str:
    return repr(contrast.model.token_text(contrast.question.rival))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _way(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    way = measured.way
    if way.share < NOTABLE_ARROW:
        return []
    places = [groups[number].place for number in way.groups]
    said = f"{_answer(contrast)} is held back" if contrast.why_not else f"{_answer(contrast)} comes about"
    most = "mostly" if way.share > HALF else "in part"
    text = (
        f"{said} {most} on this way: {', then '.join(places)}. With the first swapped and every group off this way "
        f"held, {percent(way.share)} of the difference is gone (random parts: at most {percent(way.control)})."
    )
    test = Test(groups[way.groups[0]].part, others(groups, *way.groups), None, way.share)
    return [CheckedSentence(text, "way", test, way.control, way.groups)]


def _hangs(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    order = sorted(range(len(groups)), key=lambda number: -measured.effects[number].share)
    said = []
    for number in order[:HANGS]:
        effect, group = measured.effects[number], groups[number]
        if effect.share < NOTABLE_ARROW:
            break
        role = _verb(group, "matters, but is not necessary", "matter, but are not necessary")
        if effect.answer < measured.answer / 2:
            role = _verb(group, "is necessary", "are necessary")
        if contrast.why_not:
            role = f"{_verb(group, 'holds', 'hold')} {_answer(contrast)} back"
        text = (
            f"{_capital(group.name)} {role}: with "
            f"{values_of(contrast, _verb(group, 'its', 'their'))}, {_after(contrast, effect, measured.answer)} That is "
            f"{percent(effect.share)} of the difference (random parts: at most {percent(effect.control)})."
        )
        said.append(
            CheckedSentence(text, "hangs", Test(group.part, Part(), None, effect.share), effect.control, (number,))
        )
    return said


def _after(contrast: Contrast, effect: Effect, before: float) -> str:
    answer, way = _answer(contrast), "falls" if effect.answer < before else "rises"
    random = f"(random parts: {percent(effect.random_answer)})"
    text = f"{answer} {way} from {percent(before)} to {percent(effect.answer)} {random}"
    if percent(before) == percent(effect.answer):
        text = f"{answer} stays at {percent(before)} {random}"
    if contrast.why_not and effect.rank == 1:
        text += " and comes first"
    elif effect.rank > 1:
        text += f", and {contrast.model.token_text(effect.top)!r} comes first"
    return f"{text}."


def _verb(group: PartGroup, one: str, many: str) -> str:
    return one if len(group) == 1 else many


def _chain(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    arrows = [
        a
        for a in measured.arrows
        if a.target is not None and a.passed and a.carried > 0 and abs(a.moved) >= LEAST_MOVED
    ]
    strongest = sorted(arrows, key=lambda arrow: -arrow.carried)[:CHAIN]
    said, met = [], set[int | None]()
    for arrow in sorted(strongest, key=lambda arrow: (groups[arrow.source].order, -arrow.carried)):
        assert arrow.target is not None
        source, target = groups[arrow.source], groups[arrow.target]
        name = target.place if arrow.target in met else target.name
        met.add(arrow.target)
        more = ", more than all of it, as what works against it is held" if arrow.carried > 1.005 else ""
        text = (
            f"{_capital(source.place)} {_verb(source, 'acts', 'act')} on {name}: swapped, "
            f"{_verb(source, 'it moves', 'they move')} {_verb(target, 'it', 'them')} {_moved(arrow.moved)} "
            f"(random parts: at most {percent(arrow.control)}; predicted {percent(arrow.predicted)}){_by(arrow)}. "
            f"{percent(arrow.carried)} of the difference passes here{more}."
        )
        test = Test(source.part, _others(groups, arrow), target.part, arrow.moved)
        said.append(CheckedSentence(text, "chain", test, arrow.control, (arrow.source, arrow.target)))
    return said


def _moved(share: float) -> str:
    """How far a group goes to its values in the other prompt.

    >>> _moved(0.58), _moved(1.06), _moved(-0.12)
    ('58% of the way', 'all of the way (106%)', '12% of the way in the opposite direction')
    """
    if share < 0:
        return f"{percent(-share)} of the way in the opposite direction"
    return f"all of the way ({percent(share)})" if share >= 0.995 else f"{percent(share)} of the way"


def _by(arrow: Arrow) -> str:
    """The heads that carry most of an arrow, if holding them shows it."""
    if arrow.by_heads is None or arrow.by_heads < HALF:
        return ""
    names = listed([f"{head.layer}.{head.head}" for head in arrow.heads])
    return f", {percent(min(1.0, arrow.by_heads))} of that by head{'s' * (len(arrow.heads) > 1)} {names}"


def _others(groups: Sequence[PartGroup], arrow: Arrow) -> Part:
    return others(groups, arrow.source, arrow.target)


def _direct(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    arrows = [a for a in measured.arrows if a.target is None and a.passed and a.carried > 0]
    said = []
    for arrow in sorted(arrows, key=lambda arrow: -arrow.moved)[:DIRECT]:
        group = groups[arrow.source]
        text = (
            f"{_capital(group.place)} {_verb(group, 'speaks', 'speak')} {'against' if contrast.why_not else 'for'} "
            f"{_answer(contrast)} directly: swapped, {percent(arrow.moved)} of the difference is gone "
            f"({_free(measured, arrow)}random parts: at most {percent(arrow.control)}; predicted "
            f"{percent(arrow.predicted)}){_by(arrow)}."
        )
        test = Test(group.part, _others(groups, arrow), None, arrow.moved)
        said.append(CheckedSentence(text, "direct", test, arrow.control, (arrow.source,)))
    return said


def _free(measured: Measured, arrow: Arrow) -> str:
    """Beside a share above all of the difference: what it is where nothing is held, so that others make up for it."""
    share = measured.effects[arrow.source].share
    return f"with all other groups free {percent(share)}; " if arrow.moved > 1.005 else ""


def _against(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    order = sorted(range(len(groups)), key=lambda number: measured.effects[number].share)
    said = []
    for number in order[:AGAINST]:
        effect, group = measured.effects[number], groups[number]
        if effect.share > -NOTABLE_ARROW / 2:
            break
        role = "for it: swapped, it falls further behind" if contrast.why_not else "against it: swapped, the lead over"
        what = "" if contrast.why_not else f"{_rival(contrast)} grows "
        text = (
            f"{_capital(group.name)} {_verb(group, 'works', 'work')} {role} {what}by {percent(-effect.share)} of the "
            f"difference (random parts: at most {percent(effect.control)})."
        )
        said.append(
            CheckedSentence(text, "against", Test(group.part, Part(), None, effect.share), effect.control, (number,))
        )
    return said


def _change(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured, change: Change) -> CheckedSentence:
    names = "; ".join(groups[number].place for number in change.groups)
    answer, before = _answer(contrast), percent(measured.answer)
    count = f"{len(change.groups)} groups" if len(change.groups) > 1 else "one group"
    are = "It is" if len(change.groups) == 1 else "They are"
    random = f"of {change.draws} random sets of parts, {change.random_first or 'none'} would do"
    if change.rank == 1:
        less = ", and none of them can be left out" if len(change.groups) > 1 else ""
        said = f"it is enough to change {count}{less}: with {values_of(contrast)}, {answer} rises from {before} to "
        text = f"For {answer} to be said {said}{percent(change.answer)} and comes first ({random}). {are}: {names}."
    else:
        top = repr(contrast.model.token_text(change.top))
        text = (
            f"Changing {count} that {_verb_of(len(change.groups))} is not enough: with {values_of(contrast)}, {answer} "
            f"goes from {before} to {percent(change.answer)}, and {top} comes first. {are}: {names}."
        )
    test = Test(changed_part(groups, change), Part(), None, change.share)
    return CheckedSentence(text, "change", test, change.random, change.groups)


def _verb_of(count: int) -> str:
    return "helps" if count == 1 else "help"


def _left_over(left: float) -> str:
    """What the groups together leave of the difference, or by how much they go beyond it.

    >>> _left_over(0.12), _left_over(-0.36)
    ('12% is not explained', '36% is too much: what holds it back is in no group')
    """
    if left > -0.005:
        return f"{percent(max(0.0, left))} is not explained"
    return f"{percent(-left)} is too much: what holds it back is in no group"


def _other_way_round(kept: float) -> str:
    """What is lost where every neuron is swapped but those of groups.

    >>> _other_way_round(1.2)
    'The other way round, with every neuron swapped but theirs, nothing is gone: the difference is even larger by 20%.'
    """
    round_ = "The other way round, with every neuron swapped but theirs,"
    if kept > 0.995:
        more = f": the difference is even larger by {percent(kept - 1)}" if kept > 1.005 else ""
        return f"{round_} nothing is gone{more}."
    if kept < 0:
        return f"{round_} all is gone: neurons that are in no group are needed beside them."
    return f"{round_} {percent(1 - kept)} is gone: so much needs neurons that are in no group."


def _together(contrast: Contrast, groups: Sequence[PartGroup], measured: Measured) -> list[CheckedSentence]:
    if not groups:
        return []
    whole = Part()
    for group in groups:
        whole = whole.join(group.part)
    rest = _left_over(1 - measured.together)
    all_ = f"All {len(groups)} groups swapped together take" if len(groups) > 1 else "This one group takes"
    text = (
        f"{all_} {percent(measured.together)} of the difference (random parts: "
        f"at most {percent(measured.random_together)}), so {rest}. {_other_way_round(measured.kept)}"
    )
    test = Test(whole, Part(), None, measured.together)
    return [CheckedSentence(text, "together", test, measured.random_together, tuple(range(len(groups))))]


def run_tests(contrast: Contrast, tests: Sequence[Test]) -> list[float]:
    """Make measurements again, on this prompt and contrast."""
    count = heads_of(contrast.model)
    variants = [test.hold.put(contrast.here, count) + test.swap.put(contrast.there, count) for test in tests]
    watched = [test.watch or Part() for test in tests]
    gauges = [part.gauge(contrast.here, contrast.there, count) for part in watched]
    ran = run(contrast.model, contrast.ids, contrast.question, variants, gauges=gauges)
    share = contrast.share(ran.lead)
    return [
        float(share[number] if test.watch is None else ran.gauges[number, number]) for number, test in enumerate(tests)
    ]


def elsewhere(test: Test, places: dict[int, int]) -> Test:
    """The same test on a prompt whose tokens lie elsewhere."""
    return replace(
        test,
        swap=test.swap.moved(places),
        hold=test.hold.moved(places),
        watch=None if test.watch is None else test.watch.moved(places),
    )
