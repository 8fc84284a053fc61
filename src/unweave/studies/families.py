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


def run(bench: Bench, options: Families) -> Result:
    """Without each family, without both, and without as many random features."""
    variants = sampled(bench, options.prompts)
    ids = tokens(bench, variants)
    truth, numbers = torch.tensor([int(one.answer) for one in variants]), number_of_tokens(bench)
    families = {
        one.name: [_place(name) for name in one.features]
        for one in bench.results[options.of].found
        if one.name in FAMILIES and one.name != OTHER
    }
    if not families:
        raise StudyError(f"step {options.of} found no family of features; there is nothing to ablate")
    positions = sorted({place[1] for places in families.values() for place in places})
    # On all prompts: a look-up of one digit is on in few of them, and would else stay on.
    found = strengths(bench.model, ids, [lead(bench.token(one.answer)) for one in variants], positions)
    where = {place: number for number, place in enumerate(found.places)}
    values = torch.zeros(len(found.places)) if options.to == "zero" else found.activation.mean(0)
    size = (found.activation - values).abs().mean(0) * found.written
    chosen = {family: [where[place] for place in places if place in where] for family, places in families.items()}
    chosen = {family: places for family, places in chosen.items() if places}
    every = [one for places in chosen.values() for one in places]

    def watched(some: Sequence[int]) -> Watched:
        edits = (
            Edits(
                tuple(found.places[one] for one in some), values[list(some)].to(found.activation).expand(len(ids), -1)
            )
            if some
            else None
        )
        return watch(logits_with(bench.model, ids, edits)[:, 0], numbers, truth)

    after = {
        "nothing": watched([]),
        **{family: watched(places) for family, places in chosen.items()},
        "all of these": watched(every),
    }
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
    counts = {"nothing": 0, **{family: len(places) for family, places in chosen.items()}, "all of these": len(every)}
    return _result(after, {family: _joined(draws) for family, draws in random.items()}, ratio, counts, options)


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


def _result(
    after: dict[str, Watched],
    controls: dict[str, Watched],
    ratio: dict[str, float],
    counts: dict[str, int],
    options: Families,
) -> Result:
    rows: list[tuple] = []
    bars: dict[str, list[float]] = {"last digit right": [], f"less than {NEAR} off": []}
    labels: list[str] = []
    for name, found in after.items():
        rows.append((name, counts[name] or None, *(str(share(hits)) for hits in found[:4]), _off(found), None))
        labels.append(name)
        if name in controls:
            rows.append(
                (
                    f"random for {name}, {options.draws} draws",
                    counts[name],
                    *(f"{_mean(hits):.2f}" for hits in controls[name][:4]),
                    _off(controls[name]),
                    ratio[name],
                )
            )
            labels.append(f"random for {name}")
        for one in (found, *([controls[name]] if name in controls else [])):
            bars["last digit right"].append(_mean(one.digit))
            bars[f"less than {NEAR} off"].append(_mean(one.near))
    figures = {"prompts": float(len(after["nothing"].digit))}
    for name, family in OF.items():
        for kind, source in (("without", after), ("random", controls)):
            hits = source.get(family)
            figures |= {
                f"digit_{kind}_{name}": _mean(hits.digit) if hits else math.nan,
                f"size_{kind}_{name}": _mean(hits.near) if hits else math.nan,
            }
        figures |= {f"off_without_{name}": _off(after[family]) if family in after else math.nan}
        figures[name] = float(counts.get(family, 0))
    lines = [
        f"without the {counts[family]} of {family} the last digit stays right in {_mean(hits.digit):.0%} and the size "
            f"in {_mean(hits.near):.0%} "
        f"(random: {_mean(controls[family].digit):.0%} and {_mean(controls[family].near):.0%})"
        for family, hits in after.items() if family in controls
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
    data = {"labels": labels, "series": bars, "ylabel": "share of sums", "ylim": [0, 1]}
    plot = Plot("families", "bars", "What is left of the answer without families of features", data)
    return Result(
        figures,
        summary,
        (ResultTable("Sums without families of features (95% intervals)", heads, tuple(rows)),),
        (plot,),
    )


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
