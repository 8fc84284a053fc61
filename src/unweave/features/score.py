"""How well labels tell where features fire, on text that the pages were not made from.

A label is used as a detector: contexts of 16 tokens of held-out text, does the label pick those in which the feature
    fires?
Beside it stands the simplest label there is, the token that the feature fires on most often.
Source of the method: Paulo et al. 2024, "Automatically Interpreting Millions of Features in LLMs" (detection).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..base.progress import Progress
from ..errors import TextError
from ..models.passes import batches
from ..transcoders.replacement import ReplacementModel
from .collect import activations
from .rules import Members, Rule, holds
from .units import units_of

CONTEXT = 16
"""Tokens in a context that a label picks or not."""
Place = tuple[int, int]
"""(layer, index) of a feature."""


@dataclass(frozen=True)
class Detection:
    """A detector's counts over contexts (or over positions)."""

    both: int
    """Picked, and the feature fires."""
    picked: int
    firing: int
    of: int

    @property
    def precision(self) -> float:
        """Share of the picked that fire; 0 if nothing was picked."""
        return self.both / self.picked if self.picked else 0.0

    @property
    def recall(self) -> float:
        """Share of the firing that were picked."""
        return self.both / self.firing if self.firing else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.picked + self.firing
        return 2 * self.both / total if total else 0.0


def contexts(hit: np.ndarray) -> np.ndarray:
    """Whether anything holds in each context of positions 1 on, [sequence, pos] to [sequence, context].

    >>> contexts(np.arange(40)[None] == 20).tolist()
    [[False, True]]
    """
    length = (hit.shape[1] - 1) // CONTEXT * CONTEXT
    if not length:
        return np.asarray(hit[:, 1:].any(1, keepdims=True))
    return np.asarray(hit[:, 1 : length + 1].reshape(len(hit), -1, CONTEXT).any(2))


def detection(picked: np.ndarray, firing: np.ndarray) -> Detection:
    """Counts of a detector."""
    return Detection(int((picked & firing).sum()), int(picked.sum()), int(firing.sum()), firing.size)


def firing_on(
    model: ReplacementModel,
    blocks: Int[Tensor, "sequence pos"],
    features: Sequence[Place],
    report: Progress = lambda share: None,
    levels: Sequence[np.ndarray] = (),
) -> dict[Place, np.ndarray]:
    """Where features fire in blocks of tokens, [sequence, pos] each; never at position 0."""
    units = units_of(model, levels)
    wanted: dict[int, list[int]] = {}
    for layer, index in features:
        wanted.setdefault(layer, []).append(index)
    parts: dict[Place, list[np.ndarray]] = {place: [] for place in features}
    done = 0
    for ids in batches(blocks, model.language_model):
        for layer, activation in activations(model, units, ids):
            if layer in wanted:
                chosen = (activation[..., torch.tensor(wanted[layer], device=activation.device)] != 0).cpu().numpy()
                for column, index in enumerate(wanted[layer]):
                    parts[layer, index].append(np.pad(chosen[..., column], ((0, 0), (1, 0))))
        done += len(ids)
        report(done / len(blocks))
    return {place: np.concatenate(rows) for place, rows in parts.items()}


def detect(rule: Rule, ids: np.ndarray, firing: np.ndarray, members: Members) -> tuple[Detection, Detection]:
    """A rule as a detector of contexts and of single positions."""
    picked = holds(rule, ids, members)
    return detection(contexts(picked), contexts(firing)), detection(picked[:, 1:], firing[:, 1:])


def summary(found: Sequence[Detection]) -> dict[str, float]:
    """Means over features; and the median F1.

    Raises:
        TextError: there is nothing to take the mean of.
    """
    if not found:
        raise TextError("none of the features fires on the held-out text; give more of it")
    figures = {name: float(np.mean([getattr(one, name) for one in found])) for name in ("precision", "recall", "f1")}
    return {name: round(value, 4) for name, value in figures.items()} | {
        "median_f1": round(float(np.median([one.f1 for one in found])), 4)
    }
