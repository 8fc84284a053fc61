"""Step `apart`: units found for one thing that prompts differ in, swapped from prompts that differ in two."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from ..errors import StudyError
from .bench import Bench, Variant
from .contrast import units_between
from .groups import right
from .protocol import FieldName, Options, Protocol
from .results import Result, ResultTable, mean
from .turning import Norms, Places, fewest, random_sets


class Apart(Options):
    """What a study file can say."""

    fields: tuple[FieldName, ...]
    """The two things: units that turn the answer when one of them changes, and units for the other."""
    keys: tuple[FieldName, ...] = ()
    """What all four prompts have in common."""
    fours: int = Field(8, ge=1)
    units: Literal["neurons", "features"] = "neurons"
    most: int = Field(200, ge=1)
    strongest: int | None = Field(None, ge=1)
    """So many of the strongest units are a set; none: the fewest that turn the answer, which may hardly do so."""

    @model_validator(mode="after")
    def _two(self) -> "Apart":
        if len(self.fields) != 2:
            raise ValueError(f"fields: give two fields, not {len(self.fields)}")
        return self


class Four(NamedTuple):
    """A variant, two that differ in one field each, and one that differs in both; their answers are four."""

    here: Variant
    first: Variant
    second: Variant
    both: Variant


KINDS = ("here", "first", "second", "both", "other")


def run(bench: Bench, options: Apart) -> Result:
    """What the model says with either set, or both, swapped from the prompt that differs in both fields."""
    fours, norms = fours_of(bench, options), Norms(bench.model, options.units)
    said: dict[str, list[str]] = {name: [] for name in ("first", "second", "together", "random")}
    common, rows = [], []
    for four in bench.each(fours):
        sets = _sets(bench, options, four, norms)
        if sets is None:
            rows.append((*(one.prompt for one in (four.here, four.both)), None, None, None, "", "", ""))
            continue
        swap = units_between(bench, four.here, four.both, options.units, options.most, norms)
        places = [swap.at(units) for units in sets]
        together = torch.cat(places).unique()
        random = random_sets(swap, together, 1, bench.seed)[0]
        tops = swap.swapped([*places, together, random]).top.tolist()
        words = [_kind(bench, four, top) for top in tops]
        for name, word in zip(said, words, strict=True):
            said[name].append(word)
        common.append(len(set(sets[0]) & set(sets[1])) / len(set(sets[0]) | set(sets[1])))
        rows.append(
            (four.here.prompt, four.both.prompt, len(sets[0]), len(sets[1]), common[-1], *map(bench.word, tops[:3]))
        )
    figures = {
        "found": len(common) / len(fours),
        "first_alone": _share(said["first"], "first"),
        "second_alone": _share(said["second"], "second"),
        "first_crosses": _share(said["first"], "second", "both"),
        "second_crosses": _share(said["second"], "first", "both"),
        "together": _share(said["together"], "both"),
        "random": _share(said["random"], "first", "second", "both"),
        "common": mean(common),
        "fours": float(len(fours)),
    }
    first, second = options.fields
    columns = ("prompt", "swapped from", f"units for {first}", f"for {second}", "in common", f"says with {first}",
               f"with {second}", "with both")  # fmt: skip
    kinds = ("the old answer", f"the new {first}", f"the new {second}", "both new", "another token")
    counts = tuple(
        (name, *(words.count(kind) for kind in KINDS))
        for name, words in zip((first, second, "both", "random"), said.values(), strict=True)
    )
    summary = (
        f"Of {len(common)} prompts, units found for {first} alone bring the answer with the new {first} and the old "
        f"{second} in {figures['first_alone']:.0%}, units for {second} the reverse in {figures['second_alone']:.0%}; "
        f"both together the answer with both new in {figures['together']:.0%}. The two sets have "
        f"{figures['common']:.1%} in common."
    )
    tables = (
        ResultTable("What the model says with units swapped", ("units for", *kinds), counts),
        ResultTable("Prompts", columns, tuple(rows)),
    )
    return Result(figures, summary, tables)


def fours_of(bench: Bench, options: Apart) -> list[Four]:
    """Variants in fours, all answered rightly, of one length, with four answers.

    Raises:
        StudyError: there are none.
    """
    pool = right(bench, bench.variants)
    one, other = options.fields
    rows: dict[tuple[str, ...], dict[tuple[str, str], Variant]] = {}
    for variant in pool:
        keys = tuple(variant.fields.get(key, "") for key in options.keys)
        rows.setdefault((*keys, str(len(bench.ids(variant)))), {})[variant.fields[one], variant.fields[other]] = variant
    found = [
        four for by in rows.values() for four in _fours(by) if len({bench.token(part.answer) for part in four}) == 4
    ]
    if not found:
        raise StudyError(f"no four variants answered rightly differ in {one}, in {other}, and in both")
    return bench.some(found, options.fours)


def _fours(by: dict[tuple[str, str], Variant]) -> Iterable[Four]:
    """For each variant the next that differs in both fields and has both between."""
    places = list(by)
    for number, (one, other) in enumerate(places):
        for new, second in (*places[number + 1 :], *places[:number]):
            if new != one and second != other and (new, other) in by and (one, second) in by:
                yield Four(by[one, other], by[new, other], by[one, second], by[new, second])
                break


def _sets(bench: Bench, options: Apart, four: Four, norms: Norms) -> tuple[list[str], list[str]] | None:
    """The ids of the fewest units for each field alone; None if a field has none."""
    found: list[list[str]] = []
    for other in (four.first, four.second):
        one = units_between(bench, four.here, other, options.units, options.most, norms)
        places: Places | None = fewest(one) if options.strongest is None else one.ranked[: options.strongest]
        if places is None:
            return None
        found.append(list(one.ids(places)))
    return found[0], found[1]


def _kind(bench: Bench, four: Four, token: int) -> str:
    answers = {bench.token(part.answer): name for part, name in zip(four, four._fields, strict=True)}
    return answers.get(token, "other")


def _share(said: list[str], *wanted: str) -> float:
    return mean([word in wanted for word in said])


APART = Protocol(
    "units found for one thing that prompts differ in and for another, swapped from prompts that differ in both: does "
    "each change its own part of the answer alone?",
    Apart,
    {
        "found": "share of prompts for which both sets were found",
        "first_alone": "share in which the first's units bring the answer that is new in the first field alone",
        "second_alone": "the same of the second",
        "first_crosses": "share in which the first's units bring an answer that is new in the second field",
        "second_crosses": "the same of the second's in the first",
        "together": "share in which both sets bring the answer that is new in both",
        "random": "share in which as many random units bring any of the three",
        "common": "mean intersection over union of the two sets",
        "fours": "how many prompts",
    },
    run,
)
