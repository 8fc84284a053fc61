"""Step `digits`: families of features that `operands` found are set to their means, and the answer's last digit and size are watched apart."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ..edits import Feature
from ..errors import StudyError
from ..gradients import lead
from .batch import Edits, Place, Share, logits_with, matched, share, strengths, tokens
from .bench import Bench
from .operands import sampled
from .protocol import Options, Protocol, StepName
from .results import Plot, Result, Table
from .templates import DIGIT, SIZE

NEAR = 10
"""An answer has the right size if it is less than this off."""
FIGURES = {
    "digit_without_digits": "share of sums whose last digit stays right without the features of last digits",
    "size_without_digits": f"share of sums whose answer is then less than {NEAR} off",
    "digit_without_sizes": "share of sums whose last digit stays right without the features of rough size",
    "size_without_sizes": f"share of sums whose answer is then less than {NEAR} off",
    "digit_random_digits": "last digit right with random features in place of those of last digits, mean of all draws",
    "size_random_digits": "size right with those",
    "digit_random_sizes": "last digit right with random features in place of those of rough size",
    "size_random_sizes": "size right with those",
    "digits": "features of last digits",
    "sizes": "features of rough size",
    "prompts": "sums, answered rightly by the unchanged model",
}


class Digits(Options):
    """What a study file can say."""

    of: StepName
    """An earlier step `operands`."""
    prompts: int = Field(150, ge=2)
    draws: int = Field(20, ge=1)
    """Random sets of features beside each family."""
    to: Literal["mean", "zero"] = "mean"
    """What activations are set to: their mean over the prompts, or nothing."""


class Watched(NamedTuple):
    """What is left of the answers."""

    digit: Bool[Tensor, " prompt"]
    tens: Bool[Tensor, " prompt"]
    near: Bool[Tensor, " prompt"]
    whole: Bool[Tensor, " prompt"]


def run(bench: Bench, options: Digits) -> Result:
    """Without each family, without both, and without as many random features."""
    variants = sampled(bench, options.prompts)
    ids = tokens(bench, variants)
    truth, numbers = torch.tensor([int(one.answer) for one in variants]), _numbers(bench)
    families = {one.name: [_place(name) for name in one.features] for one in bench.results[options.of].found}
    missing = next((family for family in (DIGIT, SIZE) if not families.get(family)), None)
    if missing is not None:
        raise StudyError(f"step {options.of} found no features of family {missing!r}; there is nothing to ablate")
    positions = sorted({place[1] for places in families.values() for place in places})
    some = bench.some(variants, 40)
    found = strengths(bench.model, tokens(bench, some), [lead(bench.token(one.answer)) for one in some], positions)
    where = {place: number for number, place in enumerate(found.places)}
    values = torch.zeros(len(found.places)) if options.to == "zero" else found.activation.mean(0)
    size = (found.activation - values).abs().mean(0) * found.written
    chosen = {family: [where[place] for place in places if place in where] for family, places in families.items()}

    def watched(some: Sequence[int]) -> Watched:
        edits = Edits(tuple(found.places[one] for one in some), values[list(some)].to(found.activation).expand(len(ids), -1)) if some else None
        return watch(logits_with(bench.model, ids, edits)[:, 0], numbers, truth)

    both = [*chosen[DIGIT], *chosen[SIZE]]
    after = {"unchanged": watched([]), DIGIT: watched(chosen[DIGIT]), SIZE: watched(chosen[SIZE]), "both": watched(both)}
    after |= {family: watched(places) for family, places in chosen.items() if family not in after and places}
    random: dict[str, list[Watched]] = {DIGIT: [], SIZE: []}
    sizes = {}
    drawn = {family: matched(size, found.places, chosen[family], both, options.draws, bench.seed) for family in random}
    for name, draw in bench.each([(name, draw) for name, sets in drawn.items() for draw in sets]):
        random[name].append(watched(draw))
    for family in random:
        own = float(size[chosen[family]].sum())
        sizes[family] = sum(float(size[draw].sum()) for draw in drawn[family]) / (own * len(drawn[family])), len(drawn[family][0])
    return _result(after, random, sizes, {family: len(places) for family, places in chosen.items()}, options)


def watch(logits: Float[Tensor, "prompt vocab"], numbers: Int[Tensor, " vocab"], truth: Int[Tensor, " prompt"]) -> Watched:
    """What the likeliest tokens have in common with the right answers; a token that is no number has nothing."""
    said = numbers[logits.argmax(-1)]
    known = said >= 0
    return Watched(known & (said % 10 == truth % 10), known & (said // 10 == truth // 10), known & ((said - truth).abs() < NEAR), said == truth)


def _numbers(bench: Bench) -> Int[Tensor, " vocab"]:
    """The number that each token is, or -1."""
    words = [bench.word(token).strip() for token in range(bench.model.language_model.unembedding.shape[0])]
    return torch.tensor([int(word) if word.isascii() and word.isdigit() else -1 for word in words])


def _place(name: str) -> Place:
    feature = Feature.parse(name)
    return feature.layer, int(feature.position), feature.index


def _joined(parts: Sequence[Watched]) -> Watched:
    return Watched(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _result(
    after: dict[str, Watched], random: dict[str, list[Watched]], sizes: dict[str, tuple[float, int]], counts: dict[str, int], options: Digits
) -> Result:  # fmt: skip
    controls = {family: _joined(draws) for family, draws in random.items()}

    def mean(hits: Tensor) -> float:
        return float(hits.double().mean())

    rows, bars = [], {"last digit right": [], f"less than {NEAR} off": []}
    labels = []
    for name, found in after.items():
        what = name if name in ("unchanged", "both") else f"without {name}"
        rows.append((what, None if name == "unchanged" else counts[DIGIT] + counts[SIZE] if name == "both" else counts[name], *_shares(found), None))
        labels.append(what)
        for series, hits in zip(bars.values(), (found.digit, found.near), strict=True):
            series.append(mean(hits))
        if name in controls:
            ratio, number = sizes[name]
            rows.append((f"random in place of {name}, {options.draws} draws", number, *(str(f"{mean(hits):.2f}") for hits in controls[name]), ratio))
            labels.append(f"random for {name}")
            for series, hits in zip(bars.values(), (controls[name].digit, controls[name].near), strict=True):
                series.append(mean(hits))
    digits, sizes_ = after[DIGIT], after[SIZE]
    figures = {
        "digit_without_digits": mean(digits.digit), "size_without_digits": mean(digits.near),
        "digit_without_sizes": mean(sizes_.digit), "size_without_sizes": mean(sizes_.near),
        "digit_random_digits": mean(controls[DIGIT].digit), "size_random_digits": mean(controls[DIGIT].near),
        "digit_random_sizes": mean(controls[SIZE].digit), "size_random_sizes": mean(controls[SIZE].near),
        "digits": float(counts[DIGIT]), "sizes": float(counts[SIZE]), "prompts": float(len(digits.digit)),
    }  # fmt: skip
    summary = (
        f"Over {len(digits.digit)} sums: without {counts[DIGIT]} features of last digits the last digit stays right in {figures['digit_without_digits']:.0%} "
        f"and the size in {figures['size_without_digits']:.0%} (random: {figures['digit_random_digits']:.0%} and {figures['size_random_digits']:.0%}); "
        f"without {counts[SIZE]} features of rough size the last digit stays right in {figures['digit_without_sizes']:.0%} "
        f"and the size in {figures['size_without_sizes']:.0%} (random: {figures['digit_random_sizes']:.0%} and {figures['size_random_sizes']:.0%})."
    )
    heads = ("", "features", "last digit right", "tens right", f"less than {NEAR} off", "answer right", "size by that of the family")
    data = {"labels": labels, "series": bars, "ylabel": "share of sums", "ylim": [0, 1]}
    plot = Plot("families", "bars", "What is left of the answer", data)
    return Result(figures, summary, (Table("Sums without families of features (95% intervals)", heads, tuple(rows)),), (plot,))


def _shares(found: Watched) -> tuple[str, ...]:
    shares: list[Share] = [share(hits) for hits in found]
    return tuple(map(str, shares))


DIGITS = Protocol("families of features of `operands` set to their means: the answer's last digit and its size, beside random features", Digits, FIGURES, run)
