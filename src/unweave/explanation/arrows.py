"""Arrows from group to group and to the answer, measured, with what was predicted beside."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..validation.statistics import spearman
from .maps import Head

NOTABLE_ARROW = 0.05
"""The share of the difference between the prompts that an arrow carries, from which it is shown."""


class Arrow(NamedTuple):
    """What one group does to another, or (`target` None) to the answer, not by way of a third group."""

    source: int
    target: int | None
    moved: float
    """How far the target goes to its values in the other prompt, the other groups held: 1 is all the way. Of the
    answer: the share of the difference that is taken."""
    carried: float
    """The share of the difference between the prompts that goes this way: from the source by the target alone."""
    control: float
    """The largest `moved` in absolute value of random groups (of the answer: what they take, nothing held)."""
    predicted: float
    """`moved` as the response graph of groups has it, to first order."""
    predicted_carried: float
    heads: tuple[Head, ...] = ()
    """At the target's token, those that carry most of it to first order."""
    by_heads: float | None = None
    """The share of `moved` that is gone when those heads are held."""

    @property
    def passed(self) -> bool:
        """Whether it is larger than what any random group did."""
        return abs(self.moved) > self.control and abs(self.carried) >= NOTABLE_ARROW


class ArrowAgreement(NamedTuple):
    """How well the response graph's arrows are those that were measured."""

    arrows: int
    """That passed their control."""
    signs: float
    """The share of those whose predicted sign is right."""
    spearman: float | None
    """Over all arrows, of what was predicted with what was measured, signs included."""


def agreement_of_arrows(arrows: Sequence[Arrow]) -> ArrowAgreement | None:
    """Predictions beside measurements; None where no arrow passed."""
    passed = [arrow for arrow in arrows if arrow.passed]
    if not passed:
        return None
    right = sum((arrow.predicted > 0) == (arrow.moved > 0) for arrow in passed)
    columns = (torch.tensor([[getattr(arrow, name) for arrow in arrows]]) for name in ("predicted", "moved"))
    ranks = float(spearman(*columns)) if len(arrows) > 2 else math.nan
    return ArrowAgreement(len(passed), right / len(passed), ranks if math.isfinite(ranks) else None)
