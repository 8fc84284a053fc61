"""Products with sparse activations: features that do not fire cost nothing, forward and backward.

With 64 of 2,048 features active, the four products around the activations (decode; gradients of activations, decoder
and encoder) cost a fifth of the dense ones in float32 on a CPU. Where dense products are cheap (a GPU, a CPU with
bfloat16 units) `Activations.pattern` is None and ordinary matrix products are used.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class Pattern:
    """Which features are kept at which tokens: the rows of a CSR matrix [token, feature]."""

    starts: Int[Tensor, " row"]
    features: Int[Tensor, " entry"]
    tokens: Int[Tensor, " entry"]
    width: int

    @staticmethod
    def of(tokens: Int[Tensor, " entry"], features: Int[Tensor, " entry"], n_tokens: int, width: int) -> "Pattern":
        """From coordinates in row order."""
        starts = torch.zeros(n_tokens + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(tokens, minlength=n_tokens), 0, out=starts[1:])
        return Pattern(starts, features, tokens, width)

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transposed matrix: where its rows start, its columns (tokens), and the order of entries that makes it."""
        small = self.features.numpy().astype(
            np.uint16 if self.width < 2**16 else np.int64
        )  # numpy sorts 16-bit keys by radix
        order = torch.from_numpy(np.argsort(small, kind="stable"))
        starts = torch.zeros(self.width + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(self.features, minlength=self.width), 0, out=starts[1:])
        return starts, self.tokens[order], order

    def product(self, values: Float[Tensor, " entry"], dense: Float[Tensor, "feature d"]) -> Float[Tensor, "token d"]:
        """The matrix with these entries, times a dense one."""
        return embedding_bag(self.features, dense, self.starts[:-1], mode="sum", per_sample_weights=values)

    def transposed_product(
        self, values: Float[Tensor, " entry"], dense: Float[Tensor, "token d"]
    ) -> Float[Tensor, "feature d"]:
        """The transposed matrix with these entries, times a dense one."""
        starts, columns, order = self.by_feature
        return _csr(starts, columns, values[order], (self.width, len(dense))) @ dense

    def sampled_product(
        self, left: Float[Tensor, "token d"], right: Float[Tensor, "feature d"]
    ) -> Float[Tensor, " entry"]:
        """The entries of `left @ right.T` at this pattern."""
        ones = _csr(
            self.starts, self.features, torch.ones(len(self.features), dtype=left.dtype), (len(left), self.width)
        )
        return torch.sparse.sampled_addmm(ones, left, right.T, beta=0.0).values()


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch calls CSR a beta on first use
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


@dataclass(frozen=True)
class Activations:
    """Activations of one layer's features: the entries of a pattern, or (pattern None) a dense [token, feature]
    matrix."""

    values: Tensor
    pattern: Pattern | None

    def decode(self, decoder: Float[Tensor, "feature d"]) -> Float[Tensor, "token d"]:
        """What the features write."""
        if self.pattern is None:
            return self.values @ decoder
        return _Decode.apply(self.values, decoder, self.pattern)  # type: ignore[no-any-return]

    def active(self) -> Int[Tensor, " feature"]:
        """How many tokens each feature is active at."""
        if self.pattern is None:
            return (self.values != 0).sum(0)
        return torch.bincount(self.pattern.features[self.values != 0], minlength=self.pattern.width)


def encode(
    x: Float[Tensor, "token d"],
    weight: Float[Tensor, "feature d"],
    bias: Float[Tensor, " feature"],
    values: Float[Tensor, " entry"],
    pattern: Pattern,
) -> Float[Tensor, " entry"]:
    """Pre-activations at a pattern, already computed without gradient, made differentiable in x, weight and bias."""
    return _Encode.apply(x, weight, bias, values, pattern)  # type: ignore[no-any-return]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pattern = pattern
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x, weight), pattern, gradient = ctx.saved_tensors, ctx.pattern, grads[0].contiguous()
        read = pattern.product(gradient, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:  # encoders that stay as they are
            return read, None, None, None, None
        bias = torch.zeros(pattern.width, dtype=gradient.dtype).index_add_(0, pattern.features, gradient)
        return read, pattern.transposed_product(gradient, x), bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, decoder: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, decoder)
        ctx.pattern = pattern
        return pattern.product(values, decoder)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (values, decoder), pattern, gradient = ctx.saved_tensors, ctx.pattern, grads[0].contiguous()
        return pattern.sampled_product(gradient, decoder), pattern.transposed_product(values, gradient), None
