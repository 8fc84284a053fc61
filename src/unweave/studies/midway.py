"""Step `midway`: features set between two prompts with different numbers, to see whether the answer lies between
theirs."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field, FiniteFloat
from torch import Tensor

from ..errors import StudyError
from .batch import Edits, Place, all_activations, logits_with, right, share, tokens
from .bench import Bench, PromptPair, Variant
from .families import number_of_tokens
from .operands import whole_number
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable

FIGURES = {
    "between": "share of answers strictly between both sums, the features being half-way",
    "moved_half": "how far the answer has then moved, by the distance of the sums, on the mean",
    "moved_whole": "the same with all features those of the other prompt",
    "monotone": "share of pairs whose answer never moves back while the dose grows",
    "chance": "share of all numbers that lie between the sums, on the mean",
    "pairs": "how many pairs there were",
}


class Midway(Options):
    """What a study file can say."""

    first: FieldName
    """The field of the number in which the prompts differ."""
    apart: int = Field(30, ge=2)
    """By how much."""
    pairs: int = Field(80, ge=2)
    doses: tuple[FiniteFloat, ...] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def run(bench: Bench, options: Midway) -> Result:
    """All features from the number's token on, set at each dose from one prompt's activations to the other's."""
    pairs = _pairs(bench, options)
    here, there = (tokens(bench, [getattr(pair, side) for pair in pairs]) for side in ("here", "there"))
    start = bench.positions(pairs[0].here, options.first)[0]
    places, values = _active(bench, here, there, range(start, here.shape[1]))
    numbers = number_of_tokens(bench)
    sums = torch.tensor([[int(pair.here.answer), int(pair.there.answer)] for pair in pairs])
    doses = sorted({*options.doses, 0.0, 0.5, 1.0})
    said = []
    for dose in bench.each(doses):
        edits = Edits(places, values[0] + dose * (values[1] - values[0]))
        said.append(numbers[logits_with(bench.model, here, edits)[:, 0].argmax(-1)])
    answers = torch.stack(said)
    moved = torch.where(
        answers >= 0, (answers - sums[:, 0]).double() / (sums[:, 1] - sums[:, 0]), math.nan
    )  # of a word that is no number nothing is said
    half, whole = doses.index(0.5), doses.index(1.0)
    between = (moved[half] > 0) & (moved[half] < 1)
    monotone = (moved.diff(dim=0) >= 0).all(0)
    known, (low, high) = numbers[numbers >= 0], sums.aminmax(dim=1)
    inside = (known > low[:, None]) & (known < high[:, None])
    figures = {
        "between": float(between.double().mean()), "moved_half": float(moved[half].nanmean()),
        "moved_whole": float(moved[whole].nanmean()),
        "monotone": float(monotone.double().mean()), "chance": float(inside.double().mean()),
        "pairs": float(len(pairs)),
    }  # fmt: skip
    rows = tuple(
        (
            dose,
            float(row.nanmean()),
            float(row.nanquantile(0.1)),
            float(row.nanquantile(0.9)),
            str(share((row > 0) & (row < 1))),
        )
        for dose, row in zip(doses, moved, strict=True)
    )
    heads = ("dose", "mean move of the answer", "10% move less", "90% move less", "answers strictly between")
    summary = (
        f"In {len(pairs)} pairs of sums {options.apart} apart, with features half-way between both prompts the answer "
        f"lies strictly between both sums "
        f"in {figures['between']:.0%} (of all numbers {figures['chance']:.0%} do) and has moved by "
        f"{figures['moved_half']:.2f} of the distance; "
        f"with all features those of the other prompt it has moved by {figures['moved_whole']:.2f}."
    )
    series = {
        "mean": [row[1] for row in rows],
        "a tenth of pairs below": [row[2] for row in rows],
        "a tenth above": [row[3] for row in rows],
    }
    data = {
        "x": doses,
        "series": series,
        "xlabel": "dose of the other prompt's features",
        "ylabel": "move, by distance",
    }
    return Result(
        figures,
        summary,
        (ResultTable("Answers while the features move", heads, rows),),
        (Plot("moves", "lines", "How far the answer moves with the features", data),),
    )


def _pairs(bench: Bench, options: Midway) -> list[PromptPair]:
    """Variants answered rightly, each with the one whose first number is so much larger, all else the same; up and
    down in turn."""
    by_fields = {_key(variant, options.first, 0): variant for variant in bench.variants}
    partners = [(one, by_fields.get(_key(one, options.first, options.apart))) for one in bench.variants]
    some = bench.some([PromptPair(one, other) for one, other in partners if other is not None], 2 * options.pairs)
    if not some:
        raise StudyError(f"no two variants differ by {options.apart} in {options.first} alone")
    good = set(right(bench, [side for pair in some for side in pair]))
    kept = bench.some([pair for pair in some if pair.here in good and pair.there in good], options.pairs)
    if not kept:
        raise StudyError(f"of {len(some)} pairs of variants the model answers none rightly on both sides")
    return [pair if number % 2 == 0 else PromptPair(pair.there, pair.here) for number, pair in enumerate(kept)]


def _key(variant: Variant, first: str, more: int) -> tuple:
    others = tuple((name, variant.fields[name]) for name in variant.asked if name != first)
    return variant.template, whole_number(variant, first) + more, others


def _active(
    bench: Bench, here: Int[Tensor, "prompt pos"], there: Int[Tensor, "prompt pos"], positions: Sequence[int]
) -> tuple[tuple[Place, ...], Float[Tensor, "2 prompt place"]]:  # fmt: skip
    """All features active on any of the prompts, and their activations on both sides."""
    places: list[Place] = []
    values = []
    mine, theirs = (
        all_activations(bench.model, ids, range(bench.model.language_model.n_layers), positions)
        for ids in (here, there)
    )
    for (layer, position), dense in mine.items():
        both = torch.stack([dense, theirs[layer, position]])
        index = (both[0] != both[1]).any(0).nonzero().flatten()
        places += [(layer, position, one) for one in index.tolist()]
        values.append(both[:, :, index])
    if not places:
        raise StudyError("the two sides of the pairs differ in no feature")
    return tuple(places), torch.cat(values, 2)


MIDWAY = Protocol(
    "features set between two prompts with different numbers: whether the answer moves along with them",
    Midway,
    FIGURES,
    run,
)
