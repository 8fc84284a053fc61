"""What an activation depends on over pairs of numbers: their last digits, their rough size, one exact number, or
something else."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 10
DIGIT, SIZE, SUM, OPERAND, OTHER = "last digit", "rough size", "exact sum", "exact operand", "other"
FAMILIES = (DIGIT, SIZE, SUM, OPERAND, OTHER)
LEAST = 0.5
"""A template that explains less than half of the variance says nothing."""
WAVES = 4
"""Frequencies between two that a grid of numbers tells apart."""
CLOSE = 0.05
"""Of two templates that explain the same but for this much the simpler is taken."""
MARGIN = 0.1
"""By so much must an exact number explain more than last digits and rough size, which it contains."""

Numbers = Int[Tensor, " prompt"]
Maps = Float[Tensor, "feature prompt"]


class Template(NamedTuple):
    """A set of functions of two numbers, one of which a map is fitted with by least squares."""

    name: str
    family: str
    explained: Callable[[Maps, Numbers, Numbers], Float[Tensor, " feature"]]
    """Share of the variance, corrected for the number of functions."""


class TemplateFit(NamedTuple):
    """What one feature's activation depends on."""

    family: str
    template: str
    """The simplest of its family that explains nearly as much as the best one."""
    explained: float
    """Share of the variance that the template explains."""
    by_family: dict[str, float]
    """The most that a template of each family explains."""


def _centred(maps: Maps) -> tuple[Maps, Tensor]:
    centred = maps.double() - maps.double().mean(1, keepdim=True)
    return centred, centred.square().sum(1)


def _corrected(within: Tensor, whole: Tensor, prompts: int, functions: int) -> Tensor:
    """1 less the unexplained variance, each side divided by its degrees of freedom; 0 where a template has as many
    functions as there are prompts."""
    if functions >= prompts:
        return torch.zeros_like(whole)
    share = 1 - (within / (prompts - functions)) / (whole / (prompts - 1)).clamp_min(1e-30)
    return torch.where(whole > 1e-12, share, 0.0)


def grouped(label: Callable[[Numbers, Numbers], Numbers]) -> Callable[[Maps, Numbers, Numbers], Tensor]:
    """Any function of a label."""

    def explained(maps: Maps, a: Numbers, b: Numbers) -> Tensor:
        return between(maps, label(a, b))

    return explained


def between(maps: Maps, labels: Numbers) -> Float[Tensor, " feature"]:
    """The share of each row's variance that lies between groups, corrected for their number.

    >>> between(torch.tensor([[1.0, 1.0, 3.0, 3.0]]), torch.tensor([0, 0, 1, 1])).tolist()
    [1.0]
    """
    centred, whole = _centred(maps)
    groups = torch.unique(labels, return_inverse=True)[1]
    count = torch.bincount(groups).double()
    means = torch.zeros(len(maps), len(count), dtype=torch.float64).index_add_(1, groups, centred) / count
    return _corrected((whole - (means.square() * count).sum(1)).clamp_min(0), whole, maps.shape[1], len(count))


def smooth(*numbers: Callable[[Numbers, Numbers], Numbers]) -> Callable[[Maps, Numbers, Numbers], Tensor]:
    """Products of cosines whose waves are longer than twice the base: nothing that tells neighbouring numbers apart."""

    def explained(maps: Maps, a: Numbers, b: Numbers) -> Tensor:
        basis = torch.ones(len(a), 1, dtype=torch.float64)
        for number in numbers:
            x = number(a, b) - number(a, b).min()
            n = int(x.max()) + 1
            waves = torch.arange((n - 1) // BASE + (n % BASE == 0 and n > BASE) * 0)
            wave = torch.cos(torch.pi * (x[:, None] + 0.5) * waves / n) if len(waves) else torch.ones(len(a), 1)
            basis = (basis[:, :, None] * wave[:, None].double()).flatten(1)
        centred, whole = _centred(maps)
        if basis.shape[1] >= len(a):
            return torch.zeros_like(whole)
        inside = centred @ torch.linalg.qr(basis).Q
        return _corrected((whole - inside.square().sum(1)).clamp_min(0), whole, len(a), basis.shape[1])

    return explained


TEMPLATES = (
    Template("parity of a", DIGIT, grouped(lambda a, b: a % 2)),
    Template("parity of b", DIGIT, grouped(lambda a, b: b % 2)),
    Template("parity of a + b", DIGIT, grouped(lambda a, b: (a + b) % 2)),
    Template("parities of a and b", DIGIT, grouped(lambda a, b: a % 2 * 2 + b % 2)),
    Template("last digit of a", DIGIT, grouped(lambda a, b: a % BASE)),
    Template("last digit of b", DIGIT, grouped(lambda a, b: b % BASE)),
    Template("last digit of a + b", DIGIT, grouped(lambda a, b: (a + b) % BASE)),
    Template("last digits of a and b", DIGIT, grouped(lambda a, b: a % BASE * BASE + b % BASE)),
    Template("size of a", SIZE, smooth(lambda a, b: a)),
    Template("size of b", SIZE, smooth(lambda a, b: b)),
    Template("size of a + b", SIZE, smooth(lambda a, b: a + b)),
    Template("sizes of a and b", SIZE, smooth(lambda a, b: a, lambda a, b: b)),
    Template("tens of a and b", SIZE, grouped(lambda a, b: a // BASE * 1000 + b // BASE)),
    Template("a + b", SUM, grouped(lambda a, b: a + b)),
    Template("a", OPERAND, grouped(lambda a, b: a)),
    Template("b", OPERAND, grouped(lambda a, b: b)),
)
"""From the simplest to the richest within each family."""


def wavelengths(grids: Float[Tensor, "feature a b"]) -> Float[Tensor, " feature"]:
    """Of each feature's strongest plane wave over consecutive numbers, the smallest step of one number after which
    it repeats.

    >>> a = torch.arange(100)
    >>> round(wavelengths(torch.cos(2 * torch.pi * (a[:, None] + a) / 25)[None]).item())
    25
    """
    size = WAVES * max(grids.shape[1:])
    power = torch.fft.rfft2(grids - grids.mean((1, 2), keepdim=True), (size, size)).abs()
    power[:, 0, 0] = 0
    peak = power.flatten(1).argmax(1)
    down, across = peak // power.shape[2], peak % power.shape[2]
    return size / torch.maximum(torch.minimum(down, size - down), across)


def fits(maps: Maps, a: Numbers, b: Numbers) -> list[TemplateFit]:
    """What each feature's activation depends on.

    An exact sum or operand is taken only if it explains clearly more than last digits and rough size do.
    """
    shares = {template.name: template.explained(maps, a, b) for template in TEMPLATES}
    return [_fit({name: float(found[row]) for name, found in shares.items()}) for row in range(len(maps))]


def _fit(shares: dict[str, float]) -> TemplateFit:
    best = {family: max(shares[t.name] for t in TEMPLATES if t.family == family) for family in FAMILIES[:-1]}
    coarse = DIGIT if best[DIGIT] >= best[SIZE] else SIZE
    exact = SUM if best[SUM] >= best[OPERAND] else OPERAND
    family = exact if best[exact] > best[coarse] + MARGIN else coarse
    if best[family] < LEAST:
        return TemplateFit(OTHER, OTHER, best[family], best)
    template = next(t.name for t in TEMPLATES if t.family == family and shares[t.name] >= best[family] - CLOSE)
    return TemplateFit(family, template, shares[template], best)
