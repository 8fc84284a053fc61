"""Rank and log-log correlation, agreement of signs, and bootstrap intervals over whole samples or clusters of them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 1000
SMALLEST = 1e-12
"""What log-log correlation takes for zero."""

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Of two [resample, item] tensors, one value a resample; NaN where it is not defined."""


class Estimate(NamedTuple):
    """A statistic with the central 95% of its bootstrap distribution; NaN where there is too little to say."""

    value: float
    low: float
    high: float
    n: int


def ranks(x: Float[Tensor, "resample item"]) -> Float[Tensor, "resample item"]:
    """Ranks within each row, ties at their mean.

    >>> ranks(torch.tensor([[3.0, 1.0, 3.0]]))
    tensor([[1.5000, 0.0000, 1.5000]], dtype=torch.float64)
    """
    ordered = x.sort(-1).values.contiguous()
    low = torch.searchsorted(ordered, x.contiguous())
    high = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (low + high - 1).double() / 2


def pearson(x: Float[Tensor, "resample item"], y: Float[Tensor, "resample item"]) -> Float[Tensor, " resample"]:
    """Linear correlation of each pair of rows; NaN if one of them does not vary."""
    x, y = (part.double() - part.double().mean(-1, keepdim=True) for part in (x, y))
    size = x.square().sum(-1) * y.square().sum(-1)
    return torch.where(size > 0, (x * y).sum(-1) / size.clamp_min(1e-300).sqrt(), math.nan)


def spearman(x: Float[Tensor, "resample item"], y: Float[Tensor, "resample item"]) -> Float[Tensor, " resample"]:
    """Rank correlation of each pair of rows.

    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 4.0, 9.0]]))
    tensor([1.], dtype=torch.float64)
    """
    return pearson(ranks(x), ranks(y))


def log_log(x: Float[Tensor, "resample item"], y: Float[Tensor, "resample item"]) -> Float[Tensor, " resample"]:
    """Linear correlation of the logarithms of absolute values."""
    return pearson(*(part.double().abs().clamp_min(SMALLEST).log() for part in (x, y)))


def same_sign(x: Float[Tensor, "resample item"], y: Float[Tensor, "resample item"]) -> Float[Tensor, " resample"]:
    """Share of items on whose sign both agree, each counted by the size of `y`: a wrong sign of a large effect
    weighs more.

    >>> same_sign(torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 1.0]]))
    tensor([0.7500], dtype=torch.float64)
    """
    size = y.double().abs()
    total = size.sum(-1)
    return torch.where(total > 0, (size * (x.sign() == y.sign())).sum(-1) / total.clamp_min(1e-300), math.nan)


def explained(x: Float[Tensor, "resample item"], y: Float[Tensor, "resample item"]) -> Float[Tensor, " resample"]:
    """Share of the squares of `y` that `x` predicts as it stands; negative where predicting nothing would be better."""
    total = y.double().square().sum(-1)
    return torch.where(total > 0, 1 - (y.double() - x.double()).square().sum(-1) / total.clamp_min(1e-300), math.nan)


def estimate(
    statistic: Statistic,
    x: Float[Tensor, " item"],
    y: Float[Tensor, " item"],
    *,
    cluster: Int[Tensor, " item"] | None = None,
    seed: int = 0,
) -> Estimate:
    """A statistic and its interval by the percentile bootstrap.

    Args:
        cluster: items of one number are drawn together, since they are not independent; None: each by itself.
    """
    n = len(x)
    if n < 3:
        return Estimate(math.nan, math.nan, math.nan, n)
    generator = torch.Generator().manual_seed(seed)
    value = float(statistic(x[None], y[None])[0])
    if cluster is None:
        drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
        found = statistic(x[drawn], y[drawn])
    else:
        members = [torch.nonzero(cluster == name).flatten() for name in cluster.unique().tolist()]
        draws = torch.randint(len(members), (RESAMPLES, len(members)), generator=generator).tolist()
        picked = [torch.cat([members[number] for number in draw]) for draw in draws]
        found = torch.cat([statistic(x[items][None], y[items][None]) for items in picked])
    found = found[found.isfinite()]
    if not len(found):
        return Estimate(value, math.nan, math.nan, n)
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return Estimate(value, low, high, n)


def mean(values: Float[Tensor, " item"], seed: int = 0) -> Estimate:
    """The mean of values that are defined, and its interval."""
    values = values[values.isfinite()].double()
    return estimate(lambda x, _: x.mean(-1), values, values, seed=seed)
