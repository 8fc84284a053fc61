"""Step `shared`: which share of active features two variants have in common, layer by layer, for one meaning in two
languages and for two meanings."""

import random
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ..errors import StudyError
from ..validation.statistics import Estimate, estimate
from .bench import Bench, Variant
from .groups import Activity, Places, alike, right, starts
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable


class Shared(Options):
    """What a study file can say."""

    meaning: FieldName
    """What is meant: the same in a pair, another in the pair it is compared with."""
    language: FieldName
    """What differs in both pairs."""
    keys: tuple[FieldName, ...] = ()
    """Other facts, alike in both."""
    alike: tuple[FieldName, ...] = ()
    """Only variants for which all these have one value, such as the language of the question and of its word."""
    at: Places = (-1,)
    """Features active at any of these."""
    pairs: int = Field(150, ge=3)


def run(bench: Bench, options: Shared) -> Result:
    """Overlap by layer of pairs with the same meaning, and of the same prompts with another meaning in the same
    other language."""
    triples = _triples(bench, options)
    activity = Activity(bench, options.at)
    activity.prepare([variant for triple in triples for variant in triple])
    bounds = starts(bench.model)
    found: list[tuple[Tensor, Tensor]] = []
    for here, same, other in bench.each(triples):
        sets = [(one[0] > 0).any(0) for one in (activity.of([variant]) for variant in (here, same, other))]
        found.append((_by_layer(sets[0], sets[1], bounds), _by_layer(sets[0], sets[2], bounds)))
    same, other = (torch.stack(part).double() for part in zip(*found, strict=True))
    meanings = {
        name: number for number, name in enumerate(sorted({triple[0].fields[options.meaning] for triple in triples}))
    }
    cluster = torch.tensor([meanings[triple[0].fields[options.meaning]] for triple in triples])
    return _result(bench, options, same, other, cluster)


def _triples(bench: Bench, options: Shared) -> list[tuple[Variant, Variant, Variant]]:
    """(a prompt, the same meaning in another language, another meaning in that language)."""
    variants = right(bench, [one for one in bench.variants if alike(one, options.alike)])
    fixed = (*options.keys, options.language)
    by_kind: dict[tuple[str, ...], list[Variant]] = {}
    for one in variants:
        by_kind.setdefault(tuple(one.fields[name] for name in fixed), []).append(one)
    draw, found = random.Random(bench.seed), []
    for here in variants:
        own = tuple(here.fields[name] for name in options.keys)
        languages = [kind for kind in by_kind if kind[:-1] == own and kind[-1] != here.fields[options.language]]
        draw.shuffle(languages)
        for kind in languages:
            same, others = _by_meaning(here, by_kind[kind], options)
            if same and others:
                found.append((here, same[0], draw.choice(others)))
                break
    if len(found) < 3:
        raise StudyError(
            f"only {len(found)} variants that are answered rightly have a partner of the same {options.meaning} and "
            f"another {options.language}"
        )
    return bench.some(found, options.pairs)


def _by_meaning(here: Variant, those: Sequence[Variant], options: Shared) -> tuple[list[Variant], list[Variant]]:
    """Those that mean the same, and those that mean something else and are answered otherwise."""
    same = [one for one in those if one.fields[options.meaning] == here.fields[options.meaning]]
    answers = {one.answer for one in same}
    others = [one for one in those if one.fields[options.meaning] != here.fields[options.meaning]]
    return same, [one for one in others if one.answer not in answers]


def _by_layer(one: Tensor, other: Tensor, bounds: list[int]) -> Float[Tensor, " layer"]:
    """Intersection over union of two sets of features; 0 where both are empty."""
    shares = []
    for first, stop in pairwise(bounds):
        a, b = one[first:stop], other[first:stop]
        shares.append((a & b).sum() / (a | b).sum().clamp_min(1))
    return torch.stack(shares)


def _mean(values: Float[Tensor, " pair"], cluster: Tensor, seed: int) -> Estimate:
    return estimate(lambda x, _: x.mean(-1), values, values, cluster=cluster, seed=seed)


def _result(bench: Bench, options: Shared, same: Tensor, other: Tensor, cluster: Tensor) -> Result:
    gain, layers = same - other, same.shape[1]
    mean = gain.mean(0)
    peak = int(mean.argmax())
    inside = range(1, layers - 1) or range(layers)
    middle = max(inside, key=lambda layer: float(mean[layer]))
    ends = max((0, layers - 1), key=lambda layer: float(mean[layer]))
    rise, at_peak = (
        _mean(gain[:, middle] - gain[:, ends], cluster, bench.seed),
        _mean(gain[:, peak], cluster, bench.seed),
    )
    figures = {
        "peak": float(peak), "gain": at_peak.value, "gain_low": at_peak.low, "same": float(same.mean(0)[peak]),
        "other": float(other.mean(0)[peak]),
        "middle": rise.value, "middle_low": rise.low, "pairs": float(len(same)),
    }  # fmt: skip
    rows = []
    for layer in range(layers):
        a, b, c = (_mean(values[:, layer], cluster, bench.seed) for values in (same, other, gain))
        rows.append((layer, *a[:3], *b[:3], *c[:3]))
    what = f"the same {options.meaning}", f"another {options.meaning}"
    columns = ("layer", *(f"{name}{part}" for name in (*what, "difference") for part in ("", ", from", ", to")))
    summary = (
        f"Of the features active in two prompts of another {options.language}, {what[0]} shares {figures['same']:.0%} "
        f"at layer {peak} and {what[1]} "
        f"{figures['other']:.0%}: {figures['gain']:.1%} more (95% from {at_peak.low:.1%} to {at_peak.high:.1%}; "
        f"{len(same)} pairs). "
        f"In the best layer between the ends, {middle}, the difference is {rise.value:.1%} above that at the larger "
        f"end, layer {ends} "
        f"(95% from {rise.low:.1%} to {rise.high:.1%})."
    )
    data = {
        "x": list(range(layers)),
        "series": {what[0]: same.mean(0).tolist(), what[1]: other.mean(0).tolist(), "difference": mean.tolist()},
        "xlabel": "layer", "ylabel": "share in common", "line": 0.0,
    }  # fmt: skip
    plot = Plot("layers", "lines", f"Features in common to prompts of another {options.language}", data)
    return Result(
        figures,
        summary,
        (ResultTable("Intersection over union by layer, with 95% intervals over meanings", columns, tuple(rows)),),
        (plot,),
    )


SHARED = Protocol(
    "the share of active features in common to one meaning in two languages, and to two meanings, layer by layer",
    Shared,
    {
        "peak": "layer at which the same meaning has most more in common than another",
        "gain": "by how much more, intersection over union, at that layer",
        "gain_low": "the lower end of its 95% interval",
        "same": "intersection over union for the same meaning at that layer",
        "other": "the same for another meaning",
        "middle": "the largest gain between the first and the last layer, less the larger of these two",
        "middle_low": "the lower end of its 95% interval",
        "pairs": "how many pairs there were",
    },
    run,
)
