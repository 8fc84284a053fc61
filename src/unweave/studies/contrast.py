"""Step `contrast`: pairs of prompts, and the units whose swap turns the answer of the one into that of the other."""

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from pydantic import Field

from ..errors import StudyError
from .bench import Bench, PromptPair, Variant
from .groups import right
from .protocol import FieldName, Options, Protocol, StepName
from .results import Found, Plot, Result, ResultTable, mean, number
from .turning import (
    Norms,
    PairUnits,
    Places,
    Unit,
    fewest,
    pair_units,
    random_sets,
    random_units,
    without_spare,
)

RECURRING = "Units by mean strength over the pairs"
"""The title of the table from which other steps take this step's units."""
LISTED = 256
"""How many of them are listed."""


class ContrastOptions(Options):
    """What a study file can say."""

    field: FieldName
    """What the two prompts of a pair differ in."""
    keys: tuple[FieldName, ...] = ()
    """What they must have in common; none: all other fields of the prompt that do not depend on the field."""
    here: str | None = None
    """The field's value in the prompt that is changed; none: any."""
    pairs: int = Field(8, ge=2)
    units: Literal["neurons", "features"] = "neurons"
    most: int = Field(200, ge=1)
    """Units of a response graph, and so the largest set."""
    spare: bool = True
    """Whether units that are not needed are taken out of the sets."""
    carry: int = Field(64, ge=1)
    """How many units found on other pairs are swapped at all positions."""
    like: StepName | None = None
    """Another `contrast`, whose strongest units are swapped here too."""
    draws: int = Field(10, ge=1)


@dataclass(frozen=True, eq=False)
class _Turned:
    """One pair, looked into."""

    pair: PromptPair
    one: PairUnits
    whole: bool
    """Whether all units together turn the answer."""
    ranked: int | None
    """How many of the strongest do."""
    places: Places | None
    random: tuple[bool, ...]
    without: bool
    """Whether all units but the set turn it."""
    says: bool
    """Whether the other's answer is then the likeliest of all tokens."""
    after: float
    """The probability of the other's answer with the set swapped."""


def run(bench: Bench, options: ContrastOptions) -> Result:
    """The fewest units found for each pair, random ones, all others, and units found on the other pairs alone."""
    pairs = pairs_of(bench, options.field, options.keys, options.pairs, options.here)
    norms = Norms(bench.model, options.units)
    found = [_turned(bench, options, pair, norms) for pair in bench.each(pairs)]
    carried = [_carried(bench, options, norms, found, which) for which in range(len(found))]
    figures = _figures(bench, found) | {
        "carried": mean([one[0] for one in carried]),
        "carried_random": mean([one[1] for one in carried]),
    }
    figures |= _like(bench, options, norms, found)
    return Result(figures, _summary(options, figures), _tables(bench, options, found), _plots(bench, options, found),
                  tuple(_found(bench, options, one) for one in found if one.places is not None))  # fmt: skip


def pairs_of(bench: Bench, field: str, keys: Sequence[str], most: int, first: str | None = None) -> list[PromptPair]:
    """Pairs of variants answered rightly that differ in a field and in their answers, the second drawn at random; of as
    many tokens where there are such.

    Raises:
        StudyError: fewer than two.
    """
    pool = right(bench, bench.variants)
    fixed = list(keys) or bench.free(field)
    alike: dict[tuple[str | None, ...], list[Variant]] = {}
    for variant in pool:
        alike.setdefault(_common(variant, fixed, bool(keys)), []).append(variant)
    draw = random.Random(bench.seed)
    wanted = [variant for variant in pool if first is None or variant.fields.get(field) == first]
    found = []
    for here in bench.some(wanted, most * 4):
        group = alike[_common(here, fixed, bool(keys))]
        place, n = group.index(here), len(bench.ids(here))
        fits = [
            there
            for there in (*group[place + 1 :], *group[:place])
            if there.fields.get(field) != here.fields.get(field)
            and bench.token(there.answer) != bench.token(here.answer)
        ]
        alike_long = [there for there in fits if len(bench.ids(there)) == n] or fits
        found += [PromptPair(here, draw.choice(alike_long))] if fits else []
    if len(found) < 2:
        raise StudyError(
            f"of {len(pool)} variants that the model answers rightly (of {len(bench.variants)}) fewer than two differ "
            f"in {field} and its answer alone"
        )
    return bench.some(found, most)


def _common(variant: Variant, fixed: Sequence[str], keyed: bool) -> tuple[str | None, ...]:
    return (*(variant.fields.get(key) for key in fixed), None if keyed else variant.template)


def units_between(
    bench: Bench, here: Variant, there: Variant, units: Literal["neurons", "features"], most: int, norms: Norms
) -> PairUnits:
    """The units that hold a variant's answer up against another's."""
    tokens = (bench.token(here.answer), bench.token(there.answer))
    return pair_units(bench.model, bench.text(here), bench.text(there), tokens, units, most, norms)


def _turned(bench: Bench, options: ContrastOptions, pair: PromptPair, norms: Norms) -> _Turned:
    one = units_between(bench, pair.here, pair.there, options.units, options.most, norms)
    whole = one.turns([one.everything_but(torch.empty(0, dtype=torch.int64))])[0]
    places = fewest(one)
    if places is None:
        return _Turned(pair, one, whole, None, None, (), whole, False, 0.0)
    ranked, places = len(places), without_spare(one, places) if options.spare else places
    drawn = random_sets(one, places, options.draws, bench.seed)
    after = one.swapped([places, one.everything_but(places), *drawn])
    turned = (after.target < 0).tolist()
    p = float((after.answer[0] - after.target[0]).exp())
    return _Turned(
        pair,
        one,
        whole,
        ranked,
        places,
        tuple(turned[2:]),
        turned[1],
        int(after.top[0]) == bench.token(pair.there.answer),
        p,
    )


def strengths(found: Sequence[PairUnits]) -> list[tuple[Unit, float, int]]:
    """Units at whatever position by how much they hold the answers up, mean over the pairs; and on how many pairs."""
    total: Counter[Unit] = Counter()
    seen: Counter[Unit] = Counter()
    for one in found:
        layers, indices = one.layer[one.ranked].tolist(), one.index[one.ranked].tolist()
        for layer, index, share in zip(layers, indices, one.support.tolist(), strict=True):
            total[layer, index] += share
        seen.update(set(zip(layers, indices, strict=True)))
    return [(unit, share / len(found), seen[unit]) for unit, share in total.most_common()]


def _carried(
    bench: Bench, options: ContrastOptions, norms: Norms, found: Sequence[_Turned], which: int
) -> tuple[bool, bool]:
    """Whether units found on the other pairs turn this pair's answer, and whether random ones of their layers do."""
    others = [other.one for place, other in enumerate(found) if place != which]
    units = [unit for unit, _, _ in strengths(others)[: options.carry]]
    return _everywhere(bench, norms, found[which].one, units)


def _everywhere(bench: Bench, norms: Norms, one: PairUnits, units: Sequence[Unit]) -> tuple[bool, bool]:
    drawn = random_units(units, norms.widths, bench.seed)
    yes = one.turns([one.everywhere(units), one.everywhere(drawn)])
    return yes[0], yes[1]


def _like(bench: Bench, options: ContrastOptions, norms: Norms, found: Sequence[_Turned]) -> dict[str, float]:
    """What the units of another step do on these pairs."""
    if options.like is None:
        return {"like": float("nan"), "like_random": float("nan")}
    table = next((one for one in bench.results[options.like].tables if one.title == RECURRING), None)
    if table is None:
        raise StudyError(f"like: step {options.like} is no contrast, so it has no units to swap")
    units = [(int(str(row[0])), int(str(row[1]))) for row in table.rows[: options.carry]]
    done = [_everywhere(bench, norms, one.one, units) for one in found]
    return {"like": mean([one[0] for one in done]), "like_random": mean([one[1] for one in done])}


def _figures(bench: Bench, found: Sequence[_Turned]) -> dict[str, float]:
    sets = [set(one.one.units(one.places)) for one in found if one.places is not None]
    reached = [one for one in found if one.places is not None]
    places = [(one.one.position[one.places], int(one.one.position.max())) for one in reached if one.places is not None]
    return {
        "right": len(right(bench, bench.variants)) / len(bench.variants),
        "pairs": float(len(found)),
        "turned": len(reached) / len(found),
        "whole": mean([one.whole for one in found]),
        "ranked": _median([one.ranked for one in reached if one.ranked is not None]),
        "units": _median([len(one.places) for one in reached if one.places is not None]),
        "says": sum(one.says for one in reached) / len(found),
        "random": mean([yes for one in reached for yes in one.random]),
        "without": mean([one.without for one in found]),
        "mediated": mean([one.one.mediated for one in found]),
        "at_last": mean([float((at == last).float().mean()) for at, last in places]),
        "alike": mean([len(a & b) / len(a | b) for a, b in combinations(sets, 2)]),
    }


def _median(values: Sequence[int]) -> float:
    return float(statistics.median(values)) if values else float("nan")


def _summary(options: ContrastOptions, figures: dict[str, float]) -> str:
    n = int(figures["pairs"])
    text = (
        f"In {round(figures['turned'] * n)} of {n} pairs {options.most} {options.units} or fewer, set to their values "
        f"in the other prompt with all else live, put the other's answer ahead; "
    )
    if figures["turned"]:
        text += (
            f"of as many random ones of the same layers, places and sizes {figures['random']:.1%} of draws do. The "
            f"median set has {number(figures['units'])}. "
        )
    return text + (
        f"Without the sets, all other units turn {figures['without']:.0%}. The {options.carry} units that matter most "
        f"on the other pairs, swapped at all positions, turn {figures['carried']:.0%} (random "
        f"{figures['carried_random']:.0%})."
    )


def _tables(bench: Bench, options: ContrastOptions, found: Sequence[_Turned]) -> tuple[ResultTable, ...]:
    columns = (
        "prompt", "instead", "answer", "other's", "strongest units", "all needed", "at tokens", "layers",
        "random turn it", "the others turn it", "p of the other's", "mediated",
    )  # fmt: skip
    rows = [_row(bench, one) for one in found]
    recurring = [
        (layer, index, share, pairs) for (layer, index), share, pairs in strengths([one.one for one in found])[:LISTED]
    ]
    return (
        ResultTable(f"Pairs, {options.units}", columns, tuple(rows)),
        ResultTable(RECURRING, ("layer", "unit", "share of the answer's lead", "pairs"), tuple(recurring)),
    )


def _row(bench: Bench, one: _Turned) -> tuple[str | int | float | None, ...]:
    here, there = one.pair
    start = (bench.text(here), bench.text(there), here.answer, there.answer)
    if one.places is None:
        return (*start, None, None, "", "", None, "yes" if one.without else "no", None, one.one.mediated)
    words = bench.words(here)
    at = Counter(words[place] for place in one.one.position[one.places].tolist())
    layers = one.one.layer[one.places]
    return (
        *start, one.ranked, len(one.places), ", ".join(f"{word!r} {count}" for word, count in at.most_common(4)),
        f"{int(layers.min())} to {int(layers.max())}, median {int(layers.median())}", mean(one.random),
        "yes" if one.without else "no", one.after, one.one.mediated,
    )  # fmt: skip


def _plots(bench: Bench, options: ContrastOptions, found: Sequence[_Turned]) -> tuple[Plot, ...]:
    layers = Counter(layer for one in found if one.places is not None for layer in one.one.layer[one.places].tolist())
    labels = list(range(bench.model.language_model.n_layers))
    data = {"labels": labels, "series": {options.units: [layers[layer] for layer in labels]}, "xlabel": "layer",
            "ylabel": options.units}  # fmt: skip
    return (Plot("layers", "bars", f"Where the {options.units} are that turn the answer ({options.field})", data),)


def _found(bench: Bench, options: ContrastOptions, one: _Turned) -> Found:
    assert one.places is not None
    here, there = one.pair
    name = f"{here.fields[options.field]} to {there.fields[options.field]} ({options.units})"
    return Found(name, bench.text(here), one.one.ids(one.places), options.units)


CONTRAST = Protocol(
    "pairs of prompts: the fewest units of a response graph whose swap turns the answer, random ones, all others, and "
    "units found on other pairs",
    ContrastOptions,
    {
        "right": "share of variants that the model answers rightly; pairs are of these alone",
        "pairs": "how many pairs",
        "turned": "share of pairs in which no more than `most` units put the other's answer ahead",
        "says": "share in which the other's answer is then the likeliest token",
        "whole": "share in which all units of the model together do",
        "ranked": "median number of strongest units that it takes",
        "units": "the same when none is left that is not needed",
        "random": "share of draws in which as many random units of the same layers, places and sizes do",
        "without": "share of pairs in which all units but those do",
        "carried": "share of pairs that the units strongest on the other pairs, swapped at all positions, turn",
        "carried_random": "the same of random units of their layers",
        "like": "the same of the units of another step",
        "like_random": "the same of random units of those layers",
        "mediated": "mean share of the units' effects that passes through other units",
        "at_last": "mean share of the sets at the last token",
        "alike": "mean intersection over union of two pairs' sets, at whatever position",
    },
    run,
)
