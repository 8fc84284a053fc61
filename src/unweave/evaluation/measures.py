"""Counting over tokens: unexplained variance, how often features fire, how far predictions move."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .baselines import token_weights
from .results import DENSITY_EDGES, Features, Replaced, Unexplained


class TrueOutputs:
    """One layer's true MLP outputs on the tokens seen so far: their number, sums and sums of squares, plain and
    weighted."""

    def __init__(self, median: Float[Tensor, ""], mean: Float[Tensor, " d"]):
        self.median, self.mean = median, mean
        self.sums: dict[str, Tensor] = {}

    def add(self, y: Float[Tensor, "token d"]) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Count tokens; returns their weights and their squared distances from the mean of the fitting text."""
        weight, wide = token_weights(y, self.median), y.double()
        squares = wide.square().sum(-1)
        for name, w in (("plain", torch.ones_like(squares)), ("weighted", weight.double())):
            new = torch.cat([w.sum()[None], (w * squares).sum()[None], w @ wide])
            self.sums[name] = self.sums[name] + new if name in self.sums else new
        return weight, (wide - self.mean.double()).square().sum(-1)

    def deviation(self, name: str) -> float:
        """Sum of squared deviations from the mean of these tokens."""
        total, squares, y = self.sums[name][0], self.sums[name][1], self.sums[name][2:]
        return max(float(squares - y.square().sum() / total), 1e-30)


class Errors:
    """One stand-in's squared errors at one layer."""

    def __init__(self) -> None:
        self.plain = self.weighted = 0.0
        self.ratios: list[Tensor] = []

    def add(
        self, error: Float[Tensor, "token d"], weight: Float[Tensor, " token"], deviation: Float[Tensor, " token"]
    ) -> None:
        """Count tokens, with what `Targets.add` returned for them."""
        squares = error.double().square().sum(-1)
        self.plain += float(squares.sum())
        self.weighted += float((squares * weight).sum())
        self.ratios.append((squares / deviation.clamp_min(1e-30)).cpu())

    def unexplained(self, targets: TrueOutputs) -> Unexplained:
        """Fractions of variance unexplained."""
        ratios = torch.cat(self.ratios)
        return Unexplained(
            self.plain / targets.deviation("plain"),
            self.weighted / targets.deviation("weighted"),
            float(ratios.mean()),
            float(ratios.median()),
        )


class Firing:
    """How often each feature of one layer was active."""

    def __init__(self, tokens: int = 0, counts: Int[Tensor, " feature"] | None = None):
        self.tokens, self.counts = tokens, torch.zeros(0, dtype=torch.int64) if counts is None else counts

    @staticmethod
    def pooled(parts: Sequence["Firing"]) -> "Firing":
        """Over all their tokens."""
        return Firing(sum(part.tokens for part in parts), torch.stack([part.counts for part in parts]).sum(0))

    def add(self, activation: Float[Tensor, "token feature"]) -> None:
        """Count tokens."""
        new = (activation != 0).sum(0).cpu()
        self.tokens += len(activation)
        self.counts = self.counts + new if len(self.counts) else new

    @property
    def l0(self) -> float:
        """Mean number of active features."""
        return float(self.counts.sum()) / max(self.tokens, 1)

    def features(self) -> Features:
        """Dead ones, and the histogram of the others' densities."""
        alive = self.counts[self.counts > 0]
        bins = torch.bucketize(
            (alive.double() / self.tokens).log10(), torch.tensor(DENSITY_EDGES[1:-1], dtype=torch.float64), right=True
        )
        histogram = torch.bincount(bins, minlength=len(DENSITY_EDGES) - 1)
        return Features(len(self.counts), len(self.counts) - len(alive), tuple(histogram.tolist()))


class Truth(NamedTuple):
    """The model's own predictions of one batch at positions 1 to the last but one, and what came next."""

    next: Int[Tensor, "sequence token"]
    probability: Float[Tensor, "sequence token vocab"]
    loss: Float[Tensor, "sequence token"]
    entropy: Float[Tensor, "sequence token"]
    top: Int[Tensor, "sequence token"]

    @staticmethod
    def of(ids: Int[Tensor, "sequence pos"], logits: Float[Tensor, "sequence pos vocab"]) -> "Truth":
        """Keep what comparisons need."""
        return Truth(*map(torch.stack, zip(*map(_own, predictions(logits), ids[:, 2:]), strict=True)))


def _own(z: Float[Tensor, "token vocab"], after: Int[Tensor, " token"]) -> tuple[Tensor, ...]:
    """`Truth` of one sequence; sequence by sequence everything stays in the cache."""
    probability, normalizer = z.softmax(-1), z.logsumexp(-1)
    return after, probability, normalizer - _at(z, after), normalizer - _expected(probability, z), z.argmax(-1)


def predictions(logits: Float[Tensor, "sequence pos vocab"]) -> Float[Tensor, "sequence token vocab"]:
    """The logits of all positions but the first, which is excluded, and the last, after which nothing is known."""
    return logits[:, 1:-1].float()


def losses(truth: Truth, logits: Float[Tensor, "sequence pos vocab"]) -> Float[Tensor, "sequence token"]:
    """Cross-entropy of each prediction, in nats."""
    return torch.stack(
        [z.logsumexp(-1) - _at(z, after) for z, after in zip(predictions(logits), truth.next, strict=True)]
    )


class Shift:
    """How far predictions move when all MLPs are replaced."""

    def __init__(self) -> None:
        self.tokens, self.loss, self.kl, self.same = 0, 0.0, 0.0, 0.0

    def add(self, truth: Truth, logits: Float[Tensor, "sequence pos vocab"]) -> None:
        """Count predictions: KL(model || replaced) is the cross-entropy of the two less the model's entropy."""
        for z, after, probability, entropy, top in zip(
            predictions(logits), truth.next, truth.probability, truth.entropy, truth.top, strict=True
        ):
            normalizer = z.logsumexp(-1)
            self.tokens += len(z)
            self.loss += float((normalizer - _at(z, after)).double().sum())
            self.kl += float((normalizer - _expected(probability, z) - entropy).double().sum())
            self.same += float((z.argmax(-1) == top).sum())

    def replaced(self) -> Replaced:
        """Means over predictions."""
        return Replaced(self.loss / self.tokens, max(self.kl / self.tokens, 0.0), self.same / self.tokens)


def _at(z: Float[Tensor, "token vocab"], token: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    return z.gather(1, token[:, None])[:, 0]


def _expected(probability: Float[Tensor, "token vocab"], z: Float[Tensor, "token vocab"]) -> Float[Tensor, " token"]:
    return torch.einsum("nv,nv->n", probability, z)
