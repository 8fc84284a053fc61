"""Attention that responds: through its values, and through the queries and keys that make its pattern."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .norms import TangentNorm

SCORES_AT_ONCE = 1 << 24
"""Gradients of scores (targets x heads x positions x positions) that are in memory at a time."""


@dataclass(frozen=True)
class Rotary:
    """Rotary embeddings of the first so many channels of each head; scalings are in `cos` and `sin`."""

    cos: Float[Tensor, "pos rotated"]
    sin: Float[Tensor, "pos rotated"]
    pairs: bool = False
    """Whether neighbouring channels turn together, instead of channels half of them apart."""

    def forward(self, x: Float[Tensor, "*batch pos heads c"]) -> Float[Tensor, "*batch pos heads c"]:
        """Rotate queries or keys at the first so many positions."""
        return self._turn(x, 1)

    def transpose(self, g: Float[Tensor, "*batch pos heads c"]) -> Float[Tensor, "*batch pos heads c"]:
        """The adjoint of `forward`."""
        return self._turn(g, -1)

    def at(self, positions: Tensor) -> "Rotary":
        """The same for rows that each lie at a position."""
        return Rotary(self.cos[positions], self.sin[positions], self.pairs)

    def _turn(self, x: Tensor, direction: int) -> Tensor:
        n, rotated = x.shape[-3], self.cos.shape[-1]
        turned, rest = x[..., :rotated], x[..., rotated:]
        cos, sin = self.cos[:n, None], self.sin[:n, None]
        swapped = self._swapped(turned) * sin if direction > 0 else -self._swapped(turned * sin)
        turned = turned * cos + swapped
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

    def _swapped(self, x: Tensor) -> Tensor:
        """(first half, second half) to (-second half, first half), or so each pair; its adjoint is its negative."""
        if self.pairs:
            return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)


@dataclass(frozen=True)
class Side:
    """The queries or the keys of one layer: a projection, perhaps a norm, perhaps a rotation."""

    weight: Float[Tensor, "hc d"]
    norm: TangentNorm | None
    """Over rows (position, head), or over whole positions where one norm spans all heads."""
    rotary: Rotary | None
    heads: int
    norm_last: bool = False
    """Whether the norm comes after the rotation."""

    def transpose(self, g: Float[Tensor, "batch pos heads c"]) -> Float[Tensor, "batchpos hc"]:
        """Gradients at rotated queries or keys, taken back to the projection's output."""
        batch, n, heads, c = g.shape
        if self.rotary is not None and not self.norm_last:
            g = self.rotary.transpose(g)
        if self.norm is not None:
            rows = g.reshape(batch, -1, self.norm.frozen.gain.shape[0])
            g = self.norm.transpose(rows)
        if self.rotary is not None and self.norm_last:
            g = self.rotary.transpose(g.reshape(batch, n, heads, c))
        return g.reshape(batch * n, heads * c)

    def forward(self, x: Float[Tensor, "row d"], positions: Tensor) -> Float[Tensor, "row heads c"]:
        """The change of rotated queries or keys for a change of the attention norm's output, each row at a position."""
        moved = x @ self.weight.T
        if self.rotary is not None and self.norm_last:
            moved = self.rotary.at(positions).forward(moved.reshape(len(x), self.heads, -1)).flatten(1)
        if self.norm is not None:
            width = self.norm.frozen.gain.shape[0]
            each = moved.shape[-1] // width
            rows = (positions[:, None] * each + torch.arange(each, device=positions.device)).flatten()
            moved = self.norm.forward(moved.reshape(-1, width), rows)
        moved = moved.reshape(len(x), self.heads, -1)
        turns = self.rotary is not None and not self.norm_last
        return self.rotary.at(positions).forward(moved) if turns and self.rotary is not None else moved


@dataclass(frozen=True)
class Gradients:
    """Gradients at an attention layer's inner places, for a batch of targets."""

    value: Float[Tensor, "batch pos heads c"]
    """At each query head's values."""
    query: Float[Tensor, "batch pos heads c"] | None
    key: Float[Tensor, "batch pos heads c"] | None
    """At each query head's rotated keys. None: patterns are held."""


@dataclass(frozen=True)
class TangentAttention:
    """The derivative of an attention layer, from residual stream to residual stream, as it was on one prompt.

    Heads are query heads; `keys` and `values` are repeated for the heads that share them. A softmax's derivative is
    `dP = P (dS - <P, dS>)`, also where a sink takes part of the weight and is left out of the pattern.
    """

    before: TangentNorm
    after: TangentNorm | None
    query: Side
    key: Side
    value: Float[Tensor, "kvc d"]
    output: Float[Tensor, "d hc"]
    pattern: Float[Tensor, "heads p q"]
    slope: Float[Tensor, "heads p q"] | None
    """Of a soft cap on the scores; None: there is none."""
    queries: Float[Tensor, "heads pos c"]
    """As they meet the keys, times the factor on the scores."""
    keys: Float[Tensor, "heads pos c"]
    """The same for what meets the queries."""
    values: Float[Tensor, "heads pos c"]
    factor: float = 1.0
    """On the scores."""

    def cut(self, n: int) -> "TangentAttention":
        """The same on the first `n` positions."""
        if n == self.pattern.shape[1]:
            return self
        slope = None if self.slope is None else self.slope[:, :n, :n]
        pattern = self.pattern[:, :n, :n]
        return replace(
            self, pattern=pattern, slope=slope, queries=self.queries[:, :n], keys=self.keys[:, :n],
            values=self.values[:, :n],
        )  # fmt: skip

    def transpose(self, g: Float[Tensor, "batch pos d"], *, held: bool = False) -> Float[Tensor, "batch pos d"]:
        """The gradient at the layer's input for gradients at what it adds; `held`: patterns do not respond."""
        n = g.shape[1]
        part, (heads, _, _) = self.cut(n), self.pattern.shape
        at_once = max(1, SCORES_AT_ONCE // (heads * n * max(n, self.values.shape[-1])))
        return torch.cat([part._transpose(rows, held) for rows in g.split(at_once)])

    def _transpose(self, g: Tensor, held: bool) -> Tensor:
        found = self.inner(g, held=held)
        batch, n, heads, c = found.value.shape
        groups = heads // (len(self.value) // c)
        into = found.value.view(batch, n, -1, groups, c).sum(3).view(batch * n, -1) @ self.value
        if found.query is not None and found.key is not None:
            keys = found.key.view(batch, n, -1, groups, c).sum(3)
            into.addmm_(self.query.transpose(found.query), self.query.weight)
            into.addmm_(self.key.transpose(keys), self.key.weight)
        return self.before.transpose(into.view(batch, n, -1))

    def inner(self, g: Float[Tensor, "batch pos d"], *, held: bool) -> Gradients:
        """The gradients at values, and at rotated queries and keys, before heads that share them are added up."""
        batch, n, _ = g.shape
        heads = self.pattern.shape[0]
        g = g if self.after is None else self.after.transpose(g)
        made = (g.reshape(batch * n, -1) @ self.output).view(batch, n, heads, -1)
        by_head = made.view(batch * n, heads, -1).transpose(0, 1)
        value = torch.einsum("hpq,bphc->bqhc", self.pattern, made).contiguous()
        if held:
            return Gradients(value, None, None)
        scores = torch.bmm(by_head, self.values.transpose(1, 2)).view(heads, batch, n, n)
        scores = self._through_softmax(scores)
        query = torch.bmm(scores.view(heads, batch * n, n), self.keys)
        key = torch.bmm(scores.transpose(2, 3).reshape(heads, batch * n, n), self.queries)
        query, key = (part.view(heads, batch, n, -1).permute(1, 2, 0, 3).contiguous() for part in (query, key))
        return Gradients(value, query, key)

    def carried(self, g: Float[Tensor, "pos d"]) -> Float[Tensor, "heads p q"]:
        """What each head adds to a target by way of each query and key, for the gradients at what the layer adds."""
        g = g if self.after is None else self.after.transpose(g)
        made = (g @ self.output).view(len(g), self.pattern.shape[0], -1)
        return self.pattern * torch.einsum("phc,hqc->hpq", made, self.values)

    def _through_softmax(self, scores: Float[Tensor, "heads batch p q"]) -> Float[Tensor, "heads batch p q"]:
        """Between patterns and scores: the derivative of the softmax is its own transpose, as is that of a soft cap."""
        pattern = self.pattern[:, None]
        weighted = scores * pattern
        moved = torch.addcmul(weighted, pattern, weighted.sum(-1, keepdim=True), value=-1)
        return moved if self.slope is None else moved.mul_(self.slope[:, None])

    def forward(self, x: Float[Tensor, "pos d"], *, held: bool = False) -> Float[Tensor, "pos d"]:
        """The change of what the layer adds for a change of its input: the adjoint of `transpose`."""
        n = len(x)
        part, places = self.cut(n), torch.arange(n, device=x.device)
        read = self.before.forward(x, places)
        heads, _, c = self.values.shape
        groups = heads // (len(self.value) // c)
        moved = (read @ self.value.T).view(n, -1, c).repeat_interleave(groups, 1)
        made = torch.einsum("hpq,qhc->phc", part.pattern, moved)
        if not held:
            made = made + torch.einsum("hpq,hqc->phc", part.pattern_change(read, places), part.values)
        out = made.reshape(n, -1) @ self.output.T
        return out if self.after is None else self.after.forward(out, places)

    def pattern_change(self, read: Float[Tensor, "pos d"], places: Tensor) -> Float[Tensor, "heads p q"]:
        """The change of the pattern for a change of what the attention norm gives."""
        groups = self.pattern.shape[0] // self.key.heads
        queries = self.query.forward(read, places)
        keys = self.key.forward(read, places).repeat_interleave(groups, 1)
        scores = torch.einsum("phc,hqc->hpq", queries, self.keys) + torch.einsum("qhc,hpc->hpq", keys, self.queries)
        if self.slope is not None:
            scores = scores * self.slope
        return self.pattern * (scores - (self.pattern * scores).sum(-1, keepdim=True))
