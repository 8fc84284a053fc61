"""Step `operands`: what the features that make an answer of two numbers depend on: last digits, rough size, exact
sums."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ..errors import StudyError
from ..interventions.attribution_patching import lead
from ..interventions.edits import Feature
from .batch import Place, Strengths, activations_at, right, strengths, tokens
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol
from .results import Found, Plot, Result, ResultTable
from .templates import DIGIT, FAMILIES, OPERAND, OTHER, SIZE, SUM, TemplateFit, fits, wavelengths

FIGURES = {
    "strongest": "how many features were classified: those with the largest mean effect on the answer",
    "covered": "their share of the summed effects of all features at these positions",
    "digits": "how many of them depend on last digits",
    "sizes": "how many depend on rough size",
    "sums": "how many depend on the exact sum",
    "operands": "how many depend on one exact operand",
    "others": "how many depend on none of these",
    "digit_fit": "mean share of variance that its template explains, of features of last digits",
    "size_fit": "the same of features of rough size",
    "sum_fit": "the same of features of exact sums",
    "wave": "median wavelength of the strongest wave in the features of rough size, in numbers; if it is far below "
    "the range, places repeat",
    "digit_most": "the largest share of variance that last digits explain, of all that were classified",
    "explained": "share of the effects of those classified that features of one of the four families have",
}


class Operands(Options):
    """What a study file can say."""

    first: FieldName
    """The field of the first number, ..."""
    second: FieldName
    """... and of the second."""
    sample: int = Field(40, ge=2)
    """Prompts answered rightly on which effects are measured."""
    strongest: int = Field(240, ge=1)
    """So many features are classified."""
    shown: int = Field(5, ge=0)
    """Heat maps of each family."""


def run(bench: Bench, options: Operands) -> Result:
    """The strongest features from the first operand's token on, each fitted over all variants."""
    variants = bench.variants
    a, b = (
        torch.tensor([whole_number(variant, name) for variant in variants]) for name in (options.first, options.second)
    )
    ids = tokens(bench, variants)
    start = bench.positions(variants[0], options.first)[0]
    positions = list(range(start, ids.shape[1]))
    sample = sampled(bench, options.sample)
    steps = bench.each(list(range(2 * len(sample))))
    found = strengths(
        bench.model, tokens(bench, sample), [lead(bench.token(one.answer)) for one in sample], positions, steps=steps
    )
    mean = moved(found).abs().mean(0)
    top = mean.topk(min(options.strongest, len(mean))).indices.tolist()
    places = [found.places[one] for one in top]
    maps = activations_at(bench.model, ids, places, lambda share: bench.progress(0.5 + share / 2)).T.contiguous()
    kinds = fits(maps, a, b)
    grids = _grids(maps, a, b)
    waves = torch.full((len(places),), math.nan) if grids is None else wavelengths(grids)
    words = bench.words(variants[0])
    at = {position: _at(words, position, bench, variants[0], options) for position in positions}
    effect = mean[top]
    heat = _heat(grids, sorted(set(a.tolist())), sorted(set(b.tolist())), places, kinds, at, options)
    return Result(
        _figures(kinds, effect, float(effect.sum() / mean.sum()), waves),
        _summary(kinds, effect, len(variants)),
        (_families(kinds, effect), _list(places, kinds, effect, at, waves)),
        (*heat, _bars(places, kinds, bench.model.language_model.n_layers)),
        tuple(
            Found(
                family,
                bench.text(sample[0]),
                tuple(Feature(*place).id for place, kind in zip(places, kinds, strict=True) if kind.family == family),
            )
            for family in FAMILIES
            if any(kind.family == family for kind in kinds)
        ),
    )


def sampled(bench: Bench, most: int) -> list[Variant]:
    """Variants answered rightly, spread evenly; only twice as many are asked as are wanted."""
    return bench.some(right(bench, bench.some(bench.variants, 2 * most)), most)


def moved(found: Strengths) -> Float[Tensor, "prompt place"]:
    """What is lost to first order when each activation is set to its mean over the prompts: a constant activation
    tells nothing of the numbers."""
    unit = torch.where(found.activation != 0, found.effect / found.activation.where(found.activation != 0, 1.0), 0.0)
    return unit * (found.activation - found.activation.mean(0))


def whole_number(variant: Variant, name: str) -> int:
    """A field as a number.

    Raises:
        StudyError: it is none.
    """
    try:
        return int(variant.fields[name])
    except (KeyError, ValueError) as error:
        raise StudyError(
            f"{name} of {variant.prompt!r} is {variant.fields.get(name)!r}, which is not a whole number"
        ) from error


def _at(words: Sequence[str], position: int, bench: Bench, variant: Variant, options: Operands) -> str:
    """A position for people: the operand's name or the token."""
    for name in (options.first, options.second):
        if position in bench.positions(variant, name):
            return name
    return words[position].strip()


def _figures(kinds: list[TemplateFit], effect: Tensor, covered: float, waves: Tensor) -> dict[str, float]:
    count = Counter(kind.family for kind in kinds)

    def fit(family: str) -> float:
        found = [kind.explained for kind in kinds if kind.family == family]
        return sum(found) / len(found) if found else float("nan")

    known = torch.tensor([kind.family != OTHER for kind in kinds])
    return {
        "strongest": float(len(kinds)),
        "covered": covered,
        "digits": float(count[DIGIT]),
        "sizes": float(count[SIZE]),
        "sums": float(count[SUM]),
        "operands": float(count[OPERAND]),
        "others": float(count[OTHER]),
        "digit_fit": fit(DIGIT),
        "size_fit": fit(SIZE),
        "sum_fit": fit(SUM),
        "wave": float(waves[torch.tensor([kind.family == SIZE for kind in kinds])].nanmedian())
        if count[SIZE]
        else math.nan,
        "digit_most": max(kind.by_family[DIGIT] for kind in kinds),
        "explained": float(effect[known].sum() / effect.sum()),
    }


def _summary(kinds: list[TemplateFit], effect: Tensor, prompts: int) -> str:
    count = Counter(kind.family for kind in kinds)
    shares = _shares(kinds, effect)
    what = ", ".join(
        f"{count[family]} on {'none of these' if family == OTHER else family} ({shares[family]:.0%} of the effects)"
        for family in FAMILIES
    )
    return (
        f"Of the {len(kinds)} features with the largest effects on the answer, over {prompts} prompts, the "
        f"activation depends: {what}."
    )


def _shares(kinds: list[TemplateFit], effect: Tensor) -> dict[str, float]:
    return {
        family: float(effect[torch.tensor([kind.family == family for kind in kinds])].sum() / effect.sum())
        for family in FAMILIES
    }


def _families(kinds: list[TemplateFit], effect: Tensor) -> ResultTable:
    shares, rows = _shares(kinds, effect), []
    for family in FAMILIES:
        here = [kind for kind in kinds if kind.family == family]
        templates = ", ".join(
            f"{name} {count}" for name, count in Counter(kind.template for kind in here).most_common()
        )
        means = [sum(kind.by_family[of] for kind in here) / len(here) if here else None for of in FAMILIES[:-1]]
        rows.append((family, len(here), shares[family], templates if family != OTHER else "", *means))
    heads = ("family", "features", "share of effects", "templates", *(f"mean R2 of {of}" for of in FAMILIES[:-1]))
    return ResultTable("What activations depend on", heads, tuple(rows))


def _list(
    places: list[Place], kinds: list[TemplateFit], effect: Tensor, at: dict[int, str], waves: Tensor
) -> ResultTable:
    rows = tuple(
        (
            Feature(*place).id,
            at[place[1]],
            float(size),
            kind.family,
            kind.template,
            kind.explained,
            wave,
            *(kind.by_family[of] for of in FAMILIES[:-1]),
        )
        for place, kind, size, wave in zip(places, kinds, effect.tolist(), waves.tolist(), strict=True)
    )
    return ResultTable(
        "The strongest features",
        ("feature", "on", "effect", "family", "template", "R2", "wavelength", *(f"R2 of {of}" for of in FAMILIES[:-1])),
        rows,
    )


def _grids(maps: Tensor, a: Tensor, b: Tensor) -> Float[Tensor, "feature a b"] | None:
    """Activations by both numbers, if there is one prompt for every pair."""
    rows, columns = torch.unique(a, return_inverse=True), torch.unique(b, return_inverse=True)
    shape = len(rows[0]), len(columns[0])
    cell = rows[1] * shape[1] + columns[1]
    if len(torch.unique(cell)) != shape[0] * shape[1]:
        return None
    return torch.zeros(len(maps), shape[0] * shape[1]).index_copy_(1, cell, maps.float()).view(-1, *shape)


def _heat(
    grids: Tensor | None,
    rows: list[int],
    columns: list[int],
    places: list[Place],
    kinds: list[TemplateFit],
    at: dict[int, str],
    options: Operands,
) -> list[Plot]:
    """The strongest features of each family as operand plots, where there is a prompt for every pair of numbers."""
    plots: list[Plot] = []
    if grids is None or not options.shown:
        return plots
    for family in FAMILIES:
        panels = []
        for number in [number for number, kind in enumerate(kinds) if kind.family == family][: options.shown]:
            layer, position, index = places[number]
            title = f"{layer}_{index} on {at[position]}: {kinds[number].template} {kinds[number].explained:.2f}"
            panels.append({"title": title, "values": grids[number].round(decimals=3).tolist()})
        data = {"panels": panels, "rows": rows, "columns": columns, "ylabel": options.first, "xlabel": options.second}
        plots += (
            [
                Plot(
                    family.replace(" ", "-"),
                    "heat",
                    f"Activation over {options.first} and {options.second}: {family}",
                    data,
                )
            ]
            if panels
            else []
        )
    return plots


def _bars(places: list[Place], kinds: list[TemplateFit], n_layers: int) -> Plot:
    count = Counter((kind.family, place[0]) for place, kind in zip(places, kinds, strict=True))
    series = {family: [count[family, layer] for layer in range(n_layers)] for family in FAMILIES}
    data = {"labels": list(range(n_layers)), "series": series, "xlabel": "layer", "ylabel": "features", "stacked": True}
    return Plot("layers", "bars", "Families of the strongest features by layer", data)


OPERANDS = Protocol(
    "what the features behind an answer of two numbers depend on, fitted over all pairs: last digits, rough size, "
    "exact sums",
    Operands,
    FIGURES,
    run,
)
