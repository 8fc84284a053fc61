"""Units taken away together, beside the sum of what each was predicted to do: how far effects add up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .putting import Changed, mask_of
from .statistics import Estimate, estimate

SIZES = (1, 2, 4, 8, 16, 32, 64)
DRAWS = 8
"""Random sets of each size beside the strongest, drawn from twice as many of the strongest (at least `POOL`)."""
POOL = 16
OFF = 0.25
"""How far a measured change may be from the predicted sum, relative to it, for effects to count as adding up."""

Sets = Sequence[Sequence[Tensor]]
"""By size, the numbers of the units of several sets."""


@dataclass(frozen=True)
class JointEffect:
    """The strongest units taken away together, beside the sum of their predicted effects."""

    size: int
    predicted: float
    measured: float
    ratio: Estimate
    """Measured over predicted change, by least squares over the strongest set and random ones of its size; 1: they add
    up."""


def joint_sets(order: Int[Tensor, " unit"], seed: int = 0) -> list[list[Tensor]]:
    """By size, the first so many of some units and random sets of as many that are among the first."""
    generator, found = torch.Generator().manual_seed(seed), []
    for size in (size for size in SIZES if size <= len(order)):
        pool = order[: max(2 * size, POOL)]
        drawn = [pool[torch.randperm(len(pool), generator=generator)[:size]] for _ in range(DRAWS)]
        found.append([order[:size], *(drawn if len(pool) > size else [])])
    return found


def joint_changes(changed: Changed, sets: Sets, whole: Float[Tensor, ""]) -> list[Tensor]:
    """By size, the change of the target when each set of a graph's units is taken away in the real model."""
    masks = [mask_of(changed, changed.own[some]) for group in sets for some in group]
    return list((changed.run(masks).target - whole).double().split([len(group) for group in sets]))


def joint_effects(
    predicted: Float[Tensor, " unit"],
    sets: Sets,
    changes: Sequence[Tensor],
    seed: int = 0,
) -> tuple[JointEffect, ...]:
    """Measured changes beside sums of single predictions."""
    found = []
    for group, real in zip(sets, changes, strict=True):
        sums = torch.stack([predicted[some].double().sum() for some in group])
        ratio = estimate(_slope, sums, real, seed=seed)
        found.append(JointEffect(len(group[0]), float(sums[0]), float(real[0]), ratio))
    return tuple(found)


def adds_up_to(effects: Sequence[JointEffect]) -> int:
    """The largest size up to which measured changes are within a quarter of predicted sums; 0: not even one unit's.

    >>> within, beyond = Estimate(1.1, 1.0, 1.2, 9), Estimate(0.4, 0.1, 0.6, 9)
    >>> adds_up_to([JointEffect(1, -1.0, -1.1, within), JointEffect(2, -2.0, -0.8, beyond)])
    1
    """
    last = 0
    for effect in effects:
        alone = effect.measured / effect.predicted if effect.predicted else float("nan")
        ratio = alone if effect.ratio.n < 3 else effect.ratio.value
        if not abs(ratio - 1) <= OFF:
            break
        last = effect.size
    return last


def _slope(x: Float[Tensor, "resample set"], y: Float[Tensor, "resample set"]) -> Float[Tensor, " resample"]:
    """Least squares through the origin; NaN where nothing was predicted."""
    size = x.double().square().sum(-1)
    return torch.where(size > 0, (x.double() * y.double()).sum(-1) / size.clamp_min(1e-300), float("nan"))
