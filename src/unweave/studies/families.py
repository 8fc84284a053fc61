"""Step `families`: families of features that `operands` found are set to their means, and the answer's last digit
and size are watched apart."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ..errors import StudyError
from ..interventions.attribution_patching import lead
from ..interventions.edits import Feature
from .batch import Edits, Place, logits_with, matched, share, strengths, tokens
from .bench import Bench
from .operands import sampled
from .protocol import Options, Protocol, StepName
from .results import Plot, Result, ResultTable
from .templates import DIGIT, FAMILIES, OTHER, SIZE, SUM

NEAR = 10
"""An answer has the right size if it is less than this off."""
OF = {"digits": DIGIT, "sizes": SIZE, "sums": SUM}
"""Families by their names in figures."""
FIGURES = {
    **{
        f"digit_without_{name}": f"share of sums whose last digit stays right without the features of {family}"
        for name, family in OF.items()
    },
    **{f"size_without_{name}": f"share of sums whose answer is then less than {NEAR} off" for name in OF},
    **{f"off_without_{name}": "by how much it is then wrong on the mean" for name in OF},
    **{
        f"digit_random_{name}": f"last digit right with random features in place of those of {family}, mean of all "
        f"draws"
        for name, family in OF.items()
    },
    **{f"size_random_{name}": "size right with those" for name in OF},
    "digits": "features of last digits",
    "sizes": "features of rough size",
    "sums": "features of exact sums",
    "prompts": "sums, answered rightly by the unchanged model",
}


class Families(Options):
    """What a study file can say."""

    of: StepName
    """An earlier step `operands`."""
    prompts: int = Field(120, ge=2)
    draws: int = Field(10, ge=1)
    """Random sets of features beside each family."""
    to: Literal["mean", "zero"] = "mean"
    """What activations are set to: their mean over the prompts, or nothing."""


class Watched(NamedTuple):
    """What is left of the answers."""

    digit: Bool[Tensor, " prompt"]
    tens: Bool[Tensor, " prompt"]
    near: Bool[Tensor, " prompt"]
    whole: Bool[Tensor, " prompt"]
    off: Float[Tensor, " prompt"]
    """By how much the answer is wrong; NaN where it is no number."""


class Ablated(NamedTuple):
    """What is left without nothing, without each family, and without all of them."""

    after: dict[str, Watched]
    random: dict[str, Watched]
    """Without random features in a family's place, all draws in one."""
    ratio: dict[str, float]
    """Size of the random features by that of the family."""
    counts: dict[str, int]
    """Features."""


def run(bench: Bench, options: Families) -> Result:
    """Without each family, without both, and without as many random features."""
    return tell(measure(bench, options), options)


def measure(bench: Bench, options: Families) -> Ablated:
    """Set families to their means, and random features in their place.

    Raises:
        StudyError: the earlier step found no family.
    """
    variants = sampled(bench, options.prompts)
    ids = tokens(bench, variants)
    truth, numbers = torch.tensor([int(one.answer) for one in variants]), number_of_tokens(bench)
    families = _families(bench, options)
    positions = sorted({place[1] for places in families.values() for place in places})
    # On all prompts: a look-up of one digit is on in few of them, and would else stay on.
    found = strengths(bench.model, ids, [lead(bench.token(one.answer)) for one in variants], positions)
    values = torch.zeros(len(found.places)) if options.to == "zero" else found.activation.mean(0)
    size = (found.activation - values).abs().mean(0) * found.written
    chosen = _numbers(families, found.places)
    every = [one for places in chosen.values() for one in places]

    def watched(some: Sequence[int]) -> Watched:
        places = tuple(found.places[one] for one in some)
        edits = Edits(places, values[list(some)].to(found.activation).expand(len(ids), -1)) if some else None
        return watch(logits_with(bench.model, ids, edits)[:, 0], numbers, truth)

    cases = {"nothing": [], **chosen, "all of these": every}
    after = {name: watched(places) for name, places in cases.items()}
    drawn = {
        family: matched(size, found.places, places, every, options.draws, bench.seed)
        for family, places in chosen.items()
    }
    random: dict[str, list[Watched]] = {family: [] for family in drawn}
    for family, draw in bench.each([(family, draw) for family, draws in drawn.items() for draw in draws]):
        random[family].append(watched(draw))
    ratio = {
        family: sum(float(size[draw].sum()) for draw in draws) / (float(size[chosen[family]].sum()) * len(draws))
        for family, draws in drawn.items()
    }
    joined = {family: _joined(draws) for family, draws in random.items()}
    return Ablated(after, joined, ratio, {name: len(places) for name, places in cases.items()})


def _families(bench: Bench, options: Families) -> dict[str, list[Place]]:
    found = {
        one.name: [_place(name) for name in one.features]
        for one in bench.results[options.of].found
        if one.name in FAMILIES and one.name != OTHER
    }
    if not found:
        raise StudyError(f"step {options.of} found no family of features; there is nothing to ablate")
    return found


def _numbers(families: dict[str, list[Place]], places: Sequence[Place]) -> dict[str, list[int]]:
    """Of each family the features that are among some, by their numbers; families without any left out."""
    where = {place: number for number, place in enumerate(places)}
    found = {family: [where[place] for place in own if place in where] for family, own in families.items()}
    return {family: own for family, own in found.items() if own}


def watch(
    logits: Float[Tensor, "prompt vocab"], numbers: Int[Tensor, " vocab"], truth: Int[Tensor, " prompt"]
) -> Watched:
    """What the likeliest tokens have in common with the right answers; a token that is no number has nothing."""
    said = numbers[logits.argmax(-1)]
    known = said >= 0
    off = torch.where(known, (said - truth).abs().double(), math.nan)
    return Watched(
        known & (said % 10 == truth % 10),
        known & (said // 10 == truth // 10),
        known & ((said - truth).abs() < NEAR),
        said == truth,
        off,
    )


def number_of_tokens(bench: Bench) -> Int[Tensor, " vocab"]:
    """The number that each token is, or -1."""
    words = [bench.word(token).strip() for token in range(bench.model.language_model.unembedding.shape[0])]
    return torch.tensor([int(word) if word.isascii() and word.isdigit() else -1 for word in words])


def _place(name: str) -> Place:
    feature = Feature.parse(name)
    return feature.layer, int(feature.position), feature.index


def _joined(parts: Sequence[Watched]) -> Watched:
    return Watched(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def tell(found: Ablated, options: Families) -> Result:
    """Figures, the table, the plot and a sentence."""
    figures = _figures(found)
    lines = [
        f"without the {found.counts[family]} of {family} the last digit stays right in {_mean(hits.digit):.0%} and "
            f"the size in {_mean(hits.near):.0%} "
        f"(random: {_mean(found.random[family].digit):.0%} and {_mean(found.random[family].near):.0%})"
        for family, hits in found.after.items() if family in found.random
    ]  # fmt: skip
    summary = f"Of {int(figures['prompts'])} sums, {'; '.join(lines)}."
    heads = (
        "set to their means",
        "features",
        "last digit right",
        "tens right",
        f"less than {NEAR} off",
        "answer right",
        "mean error",
        "size by that of the family",
    )
    table = ResultTable("Sums without families of features (95% intervals)", heads, tuple(_rows(found, options)))
    return Result(figures, summary, (table,), (_plot(found),))


def _figures(found: Ablated) -> dict[str, float]:
    figures = {"prompts": float(len(found.after["nothing"].digit))}
    for name, family in OF.items():
        for kind, source in (("without", found.after), ("random", found.random)):
            hits = source.get(family)
            figures |= {
                f"digit_{kind}_{name}": _mean(hits.digit) if hits else math.nan,
                f"size_{kind}_{name}": _mean(hits.near) if hits else math.nan,
            }
        figures |= {f"off_without_{name}": _off(found.after[family]) if family in found.after else math.nan}
        figures[name] = float(found.counts.get(family, 0))
    return figures


def _rows(found: Ablated, options: Families) -> list[tuple]:
    rows: list[tuple] = []
    for name, own in found.after.items():
        rows.append((name, found.counts[name] or None, *(str(share(hits)) for hits in own[:4]), _off(own), None))
        if name in found.random:
            random = found.random[name]
            shares = (f"{_mean(hits):.2f}" for hits in random[:4])
            title = f"random for {name}, {options.draws} draws"
            rows.append((title, found.counts[name], *shares, _off(random), found.ratio[name]))
    return rows


def _plot(found: Ablated) -> Plot:
    bars = {}
    for name, own in found.after.items():
        bars |= {name: own} | ({f"random for {name}": found.random[name]} if name in found.random else {})
    series = {
        "last digit right": [_mean(one.digit) for one in bars.values()],
        f"less than {NEAR} off": [_mean(one.near) for one in bars.values()],
    }
    data = {"labels": list(bars), "series": series, "ylabel": "share of sums", "ylim": [0, 1]}
    return Plot("families", "bars", "What is left of the answer without families of features", data)


def _off(found: Watched) -> float:
    return float(found.off.nanmean())


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean())


ABLATED = Protocol(
    "families of features of `operands` set to their means: what is left of the last digit and of the size, beside "
    "random features",
    Families,
    FIGURES,
    run,
)
