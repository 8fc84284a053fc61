"""Step `transplant`: features that tell two groups of variants apart, found on some prompts, taken out or put in on
others."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field, FiniteFloat
from torch import Tensor

from ..errors import StudyError
from ..interventions.interventions import intervene_each
from .batch import share
from .bench import Bench, Variant
from .groups import Activity, Do, Dose, Places, alike, dose, positions, random_like, right, starts, strongest, written
from .protocol import FieldName, Options, Protocol
from .results import Found, Plot, Result, ResultTable

EXAMPLES = 40
"""Prompts in the table."""


class Transplant(Options):
    """What a study file can say."""

    field: FieldName
    """What is to change."""
    here: str | None = None
    """Only prompts with this value of it are changed."""
    there: str | None = None
    """Only to this value."""
    keys: tuple[FieldName, ...] = ()
    """Other facts that stay: an answer is as wanted if some variant with the same keys and the new value has it."""
    across: tuple[FieldName, ...] = ()
    """Features are found on variants that have other values of all of these than the changed prompt; none: on any
    others."""
    found_on: dict[str, str] = Field({})
    """And that have these values."""
    alike: tuple[FieldName, ...] = ()
    """Only variants for which all these have one value."""
    own: bool = False
    """What is taken out is what the changed prompt itself has more of than those with the new value, in place of
    what those with the old value have."""
    at: Places = ()
    do: Do = "both"
    """Take the features of the old value out, put those of the new one in, or both."""
    features: int = Field(40, ge=1)
    """Features that are moved, counted at each place: those that write most."""
    factor: FiniteFloat = 2.0
    """How far they are moved, as a multiple of the difference between the groups: what the figures are for."""
    factors: tuple[FiniteFloat, ...] = (0.5, 1.0, 2.0, 3.0, 4.0)
    """The same for the plot."""
    targets: int = Field(60, ge=1)
    """Prompts that are changed."""
    sources: int = Field(24, ge=1)
    """Variants of each group that features are found on, at most, drawn at random."""
    draws: int = Field(5, ge=1)
    """Random sets of features beside each."""
    mode: Literal["frozen_attention", "open"] = "open"


class TransplantTarget(NamedTuple):
    """A prompt that is to be changed, and the prompts that say how."""

    variant: Variant
    value: str
    """The new value of the field."""
    old: list[Variant]
    new: list[Variant]
    wanted: list[str]
    """Answers that are as wanted."""
    moved: frozenset[str]
    """Answers of any variant with the new value and of none with the old one."""


@dataclass(frozen=True)
class Ended:
    """What the changed model answers to one target: by factor, and by factor and draw for random features."""

    top: tuple[int, ...]
    random: tuple[tuple[int, ...], ...]
    size: int
    features: tuple[str, ...]


def run(bench: Bench, options: Transplant) -> Result:
    """Change each target and random features beside it, and count what the model answers."""
    factors = tuple(sorted({options.factor, *options.factors}))
    targets = chosen(bench, options)
    activity, norms, draw = Activity(bench, options.at), written(bench.model), random.Random(bench.seed)
    activity.prepare([variant for target in targets for variant in (target.variant, *target.old, *target.new)])
    ended = []
    for target in bench.each(targets):
        amounts = strongest(difference(activity, target), norms, options.features)
        ended.append(_changed(bench, options, activity, target, amounts, norms, factors, draw))
    return _result(bench, options, factors, targets, ended)


def chosen(bench: Bench, options: Transplant) -> list[TransplantTarget]:
    """Prompts answered rightly whose counterpart is too, each with a new value drawn at random, spread evenly.

    Raises:
        StudyError: there are none, or none with sources.
    """
    pool = right(bench, [one for one in bench.variants if alike(one, options.alike)])
    answered: dict[tuple[str, ...], set[str]] = {}
    for one in pool:
        answered.setdefault(_key(one, options), set()).add(one.answer)
    values = sorted({one.fields[options.field] for one in pool})
    answers = {value: frozenset(one.answer for one in pool if one.fields[options.field] == value) for value in values}
    draw, found = random.Random(bench.seed), []
    some = [one for one in pool if options.here in (None, one.fields[options.field])]
    for here in bench.some(some, 3 * options.targets):  # some have no counterpart
        old = here.fields[options.field]
        others = [value for value in values if value != old and options.there in (None, value)]
        draw.shuffle(others)
        made = (_target(here, value, pool, answered, answers, options, draw) for value in others)
        found += islice(filter(None, made), 1)
    if not found:
        raise StudyError(
            f"no variant that is answered rightly has both a counterpart with another {options.field} and others to "
            f"find its features on"
        )
    return bench.some(found, options.targets)


def _target(
    here: Variant,
    value: str,
    pool: Sequence[Variant],
    answered: dict[tuple[str, ...], set[str]],
    answers: dict[str, frozenset[str]],
    options: Transplant,
    draw: random.Random,
) -> TransplantTarget | None:
    """A prompt with a new value, if its counterpart is answered otherwise and both values have sources."""
    old = here.fields[options.field]
    there = answered.get((value, *_key(here, options)[1:]), set())
    if not there or here.answer in there:
        return None
    mine, theirs = (_sources(options, pool, here, wanted, draw) for wanted in (old, value))
    mine = [here] if options.own else mine
    if not mine or not theirs:
        return None
    return TransplantTarget(here, value, mine, theirs, sorted(there), answers[value] - answers[old])


def _key(one: Variant, options: Transplant) -> tuple[str, ...]:
    return one.fields[options.field], *(one.fields[name] for name in options.keys)


def _sources(
    options: Transplant, pool: Sequence[Variant], here: Variant, value: str, draw: random.Random
) -> list[Variant]:
    fixed = [name for name in options.keys if name not in options.across and name not in options.found_on]
    found = [
        one for one in pool
        if one.fields[options.field] == value and one.prompt != here.prompt
        and all(one.fields[name] == here.fields[name] for name in fixed)
        and all(one.fields[name] != here.fields[name] for name in options.across)
        and all(one.fields[name] == wanted for name, wanted in options.found_on.items())
    ]  # fmt: skip
    return draw.sample(found, min(len(found), options.sources))


def difference(activity: Activity, target: TransplantTarget) -> Float[Tensor, "place feature"]:
    """How much more active each feature is on the prompts with the new value than on those with the old, on the
    mean."""
    return activity.of(target.new).mean(0) - activity.of(target.old).mean(0)


def _changed(
    bench: Bench,
    options: Transplant,
    activity: Activity,
    target: TransplantTarget,
    amounts: Tensor,
    norms: Tensor,
    factors: Sequence[float],
    draw: random.Random,
) -> Ended:
    own, model = activity.of([target.variant])[0], bench.model
    ever = activity.of([*target.old, *target.new]).abs().amax(0)
    doses = [dose(amounts, own, factor, options.do) for factor in factors]
    at, begins = positions(bench, target.variant, options.at), starts(model)
    unit = dose(amounts, own, 1.0, options.do)
    drawn = [random_like(unit, own, ever, norms, begins, draw) for _ in range(options.draws)]
    variants = [*doses, *(Dose(one.amounts * factor) for factor in factors for one in drawn)]
    outcomes = intervene_each(
        model, bench.record(target.variant), [one.changes(model, at) for one in variants], options.mode
    )
    tops = [int(outcome.logits[-1].argmax()) for outcome in outcomes]
    rest = iter(tops[len(doses) :])
    changes = unit.changes(model, at)
    return Ended(
        tuple(tops[: len(doses)]),
        tuple(tuple(next(rest) for _ in drawn) for _ in factors),
        unit.size,
        tuple(change.features[0].id for change in changes),
    )


def _result(
    bench: Bench,
    options: Transplant,
    factors: Sequence[float],
    targets: Sequence[TransplantTarget],
    ended: Sequence[Ended],
) -> Result:
    place = factors.index(options.factor)

    def hits(answers: Sequence[Sequence[str] | frozenset[str]], at: int) -> list[bool]:
        return [
            one.top[at] in {bench.token(answer) for answer in some} for one, some in zip(ended, answers, strict=True)
        ]

    def random_hits(answers: Sequence[Sequence[str] | frozenset[str]], at: int) -> list[bool]:
        return [
            top in {bench.token(answer) for answer in some}
            for one, some in zip(ended, answers, strict=True)
            for top in one.random[at]
        ]

    wanted, moved, own = (
        [one.wanted for one in targets],
        [one.moved for one in targets],
        [[one.variant.answer] for one in targets],
    )
    reached, other = share(hits(wanted, place)), share(random_hits(wanted, place))
    stayed, kept = share(hits(own, place)).value, share(random_hits(own, place)).value
    figures = {
        "reached": reached.value, "reached_low": reached.low, "controls": other.value, "controls_high": other.high,
        "moved": share(hits(moved, place)).value,
        "changed": 1 - stayed, "controls_changed": 1 - kept, "targets": float(len(targets)),
        "features": sum(one.size for one in ended) / len(ended),
    }  # fmt: skip
    series = {
        "answer as wanted": [share(hits(wanted, at)).value for at in range(len(factors))],
        f"an answer of the new {options.field}": [share(hits(moved, at)).value for at in range(len(factors))],
        "random features: answer as wanted": [share(random_hits(wanted, at)).value for at in range(len(factors))],
        "random features: another answer": [1 - share(random_hits(own, at)).value for at in range(len(factors))],
    }
    what = {"both": "exchanged", "out": "taken out", "in": "put in"}[options.do]
    plot = Plot(
        "doses", "lines", f"Features of {options.field} {what}: what the model answers",
        {"x": list(factors), "series": series, "xlabel": "dose", "ylabel": "share of prompts", "ylim": [-0.02, 1.02]},
    )  # fmt: skip
    where = " and ".join(f"token {one}" if isinstance(one, int) else f"the {one}" for one in options.at) or "all tokens"
    elsewhere = (
        " of the prompt itself"
        if options.own
        else f" found on prompts with another {' and '.join(options.across)}"
        if options.across
        else ""
    )
    summary = (
        f"With {figures['features']:.0f} features of {options.field}{elsewhere} {what} at {where}, {options.factor:g} "
        f"times, the answer is as wanted "
        f"in {reached} of {len(targets)} prompts, and of the new {options.field} in {figures['moved']:.2f}; with "
        f"random features that write as much, "
        f"in {other} of {len(targets) * options.draws} draws (another answer than before in {1 - kept:.2f} of them)."
    )
    rows = [
        (
            one.variant.prompt,
            one.variant.fields[options.field],
            one.value,
            one.variant.answer,
            _listed(one.wanted),
            bench.word(end.top[place]).strip(),
            end.size,
        )
        for one, end in list(zip(targets, ended, strict=True))[:EXAMPLES]
    ]
    columns = ("prompt", f"{options.field}", "becomes", "answer", "wanted", "answered", "features")
    found = tuple(
        Found(f"{one.variant.fields[options.field]} to {one.value}", bench.text(one.variant), end.features)
        for one, end in zip(targets, ended, strict=True)
    )
    tables = (
        _by_value(bench, options, targets, ended, place),
        ResultTable(f"What became of {len(rows)} prompts", columns, tuple(rows)),
    )
    return Result(figures, summary, tables, (plot,), found)


def _by_value(
    bench: Bench, options: Transplant, targets: Sequence[TransplantTarget], ended: Sequence[Ended], place: int
) -> ResultTable:
    """Shares by old and new value, if there are few."""
    groups: dict[tuple[str, str], list[bool]] = {}
    for one, end in zip(targets, ended, strict=True):
        groups.setdefault((one.variant.fields[options.field], one.value), []).append(
            end.top[place] in {bench.token(answer) for answer in one.wanted}
        )
    rows = (
        tuple((*values, share(hits).value, len(hits)) for values, hits in sorted(groups.items()))
        if len(groups) <= 20
        else ()
    )
    return ResultTable(f"By {options.field}", ("from", "to", "as wanted", "prompts"), rows)


def _listed(words: Sequence[str]) -> str:
    return " or ".join(words) if len(words) < 4 else f"any of {len(words)}"


TRANSPLANT = Protocol(
    "features that tell two groups apart, found on some prompts, taken out or put in on others, beside random features",
    Transplant,
    {
        "reached": "share of prompts whose answer becomes that of the counterpart with the new value",
        "reached_low": "the lower end of its 95% interval",
        "moved": "share whose answer becomes one that the new value has and the old one has not",
        "changed": "share whose answer is no longer their own",
        "controls": "share of random sets of features with which the answer becomes the counterpart's",
        "controls_high": "the upper end of its 95% interval",
        "controls_changed": "share of random sets with which the answer is no longer the prompt's own",
        "targets": "how many prompts were changed",
        "features": "mean number of features moved",
    },
    run,
)
