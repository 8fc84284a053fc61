"""The model with attention patterns and norm denominators held fixed: linear maps and their transposes.

Folded form. With everything frozen, an attention layer is `x -> output . mix . value . x`: `value` and `output` carry
the learned gains, `mix` carries the pattern and the per-position scales of the norms before and after. Gradients are
[batch, position, d], so a transpose is large matrix products with a small one between them, without copies, and a batch
grows at its end. `forward` and `transpose` of each class are each other's adjoint (bias terms apart).

Index letters, in shapes and in einsum:
    b  target: one gradient of a batch          d  channel of the residual stream
    p  position a gradient comes from, or the   kv key-value head
       query's; always the later one            g  query head within the group of a key-value head
    q  position it goes to, the key's: q <= p   c  channel of a head

For one layer, with A the recorded pattern, n and m the scales of the norms before (at q) and after (at p), and those
norms' gains in W_V and W_O,
    forward    y[p] = m[p] sum_(kv, g) W_O[kv, g] sum_q A[kv, g, p, q] n[q] W_V[kv] x[q]
    transpose  x'[q] = sum_kv W_V[kv]^T n[q] sum_(p >= q, g) A[kv, g, p, q] m[p] W_O[kv, g]^T y'[p]
and `mix[kv, q, p, g]` is A n[q] m[p], laid out so that for each (kv, q) the sum over (p, g) is one row of a product.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .weights import Linear, NormWeights
from .workspace import Workspace, add_product, moved

POSITIONS_PER_BLOCK = 256
"""Positions whose products with a pattern are made together; what they cannot see is left out."""
COLUMNS_IN_CACHE = 6144
"""Gradients (targets x positions) that are scaled and multiplied together."""


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with its denominator held fixed: `x -> scale (x - mean) gain + bias`, the mean only if centred."""

    scale: Float[Tensor, " pos"]
    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    centred: bool

    @staticmethod
    def uniform(factor: float, like: Float[Tensor, "pos d"]) -> "FrozenNorm":
        """What stands where there is no norm: multiplication by a number."""
        return FrozenNorm(torch.full_like(like[:, 0], factor), torch.ones_like(like[0]), None, centred=False)

    @staticmethod
    def freeze(weights: NormWeights | None, x: Float[Tensor, "pos d"], epsilon: float) -> "FrozenNorm":
        """Fix the denominator at its value for the input `x`; without weights there is no norm, and nothing changes."""
        if weights is None:
            return FrozenNorm.uniform(1.0, x)
        centre = x - x.mean(-1, keepdim=True) if weights.centred else x
        scale = torch.rsqrt(centre.square().mean(-1) + epsilon)
        return FrozenNorm(
            scale, weights.gain.to(x), None if weights.bias is None else weights.bias.to(x), weights.centred
        )

    def at(self, positions: int | Int[Tensor, " row"]) -> "FrozenNorm":
        """The norm of one position, or of one for each row that it is given."""
        return replace(self, scale=self.scale[positions].view(-1))

    @property
    def without_gain(self) -> "FrozenNorm":
        """The norm before its gain and bias."""
        return FrozenNorm(self.scale, torch.ones_like(self.gain), None, self.centred)

    def linear(self, x: Float[Tensor, "*batch pos d"]) -> Float[Tensor, "*batch pos d"]:
        """The norm without its bias."""
        return self._centre(x) * self.scale[:, None] * self.gain

    def forward(self, x: Float[Tensor, "*batch pos d"]) -> Float[Tensor, "*batch pos d"]:
        """The norm as the model applies it."""
        return self.linear(x) if self.bias is None else self.linear(x) + self.bias

    def transpose(self, g: Float[Tensor, "batch d"], position: int | Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """The adjoint of `linear` at one position, or at one for each row."""
        return self._centre(g * self.gain * self.scale[position].view(-1, 1))

    def fold_before(self, weight: Float[Tensor, "out d"]) -> Float[Tensor, "out d"]:
        """`weight` after this norm as one matrix, the per-position scale left out."""
        return self._centre(weight * self.gain)

    def fold_after(self, weight: Float[Tensor, "d in"]) -> Float[Tensor, "d in"]:
        """This norm after `weight` as one matrix, the per-position scale left out."""
        return (weight - weight.mean(0) if self.centred else weight) * self.gain[:, None]

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@runtime_checkable
class TokenMixing(Protocol):
    """What carries tokens to later ones in one layer, held fixed: attention, or what stands in its place."""

    @property
    def value(self) -> Float[Tensor, "values d"]:
        """The projection that comes first, with what can be folded into it."""
        ...

    @property
    def output(self) -> Float[Tensor, "d mixed"]:
        """The projection that comes last."""
        ...

    @property
    def constant(self) -> Float[Tensor, "pos d"]:
        """What the layer adds whatever its input."""
        ...

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the layer adds to the residual stream `x`, without `constant`."""
        ...

    def cut(self, position: int) -> "TokenMixing":
        """The same map on positions 0 to `position` alone; no later position can matter to one of these."""
        ...

    def add_transpose(self, g: Float[Tensor, "batch pos d"], work: Workspace, multiply: torch.dtype | None) -> None:
        """Add the adjoint of `forward` to gradients, in place."""
        ...

    def start(self, r: Float[Tensor, "batch d"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d"]:
        """The adjoint of gradients that are zero but at one position each, plus those gradients themselves."""
        ...


@dataclass(frozen=True)
class FrozenAttention:
    """Attention with its pattern held fixed, from residual stream to residual stream: linear in positions and heads.

    `value` runs over (key-value head, channel) and `output` over (key-value head, query head of its group, channel).
    `mix[kv, q, p, g]` is the pattern of head (kv, g) from position `p` back to `q <= p`, times the scales of the norm
    before (at q) and after (at p).
    """

    value: Float[Tensor, "kvc d"]
    output: Float[Tensor, "d kvgc"]
    mix: Float[Tensor, "kv q p g"]
    constant: Float[Tensor, "pos d"]
    """What the layer adds whatever its input: the projections' and norms' biases."""

    @staticmethod
    def freeze(
        norm: FrozenNorm, value: Linear, pattern: Float[Tensor, "heads p q"], output: Linear, post: FrozenNorm | None
    ) -> "FrozenAttention":
        """Fold an attention layer whose pattern was `pattern` (query position p, key position q)."""
        dtype = norm.scale.dtype
        heads, n, _ = pattern.shape
        w_v, w_o = value.weight.to(dtype), output.weight.to(dtype)
        channels = w_o.shape[1] // heads
        kv = w_v.shape[0] // channels
        groups = heads // kv
        mix = pattern.to(dtype).reshape(kv, groups, n, n).permute(0, 3, 2, 1) * norm.scale[:, None, None]
        constant = torch.zeros(n, w_o.shape[0], dtype=dtype, device=w_o.device)
        offset = torch.zeros(w_v.shape[0], dtype=dtype, device=w_v.device)
        if norm.bias is not None:
            offset = offset + w_v @ norm.bias
        if value.bias is not None:
            offset = offset + value.bias.to(dtype)
        if bool(offset.any()):
            spread = pattern.to(dtype).sum(-1).T[:, :, None] * offset.view(kv, 1, channels).expand(
                kv, groups, channels
            ).reshape(heads, channels)
            constant = spread.reshape(n, -1) @ w_o.T
        if output.bias is not None:
            constant = constant + output.bias.to(dtype)
        if post is not None:
            constant = post.forward(constant)
            w_o, mix = post.fold_after(w_o), mix * post.scale[:, None]
        return FrozenAttention(norm.fold_before(w_v).contiguous(), w_o.contiguous(), mix.contiguous(), constant)

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the layer adds to the residual stream `x`, without `constant`."""
        kv, n = self.mix.shape[:2]
        values = (x @ self.value.T).view(n, kv, -1)
        mixed = torch.einsum("kqpg,qkc->pkgc", self.mix, values)
        return mixed.reshape(n, -1) @ self.output.T

    def cut(self, position: int) -> "FrozenAttention":
        """The same map on positions 0 to `position` alone; no later position can matter to one of these."""
        n = position + 1
        return FrozenAttention(self.value, self.output, self.mix[:, :n, :n], self.constant[:n])

    def transpose(self, g: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """The adjoint of `forward`, for a batch of gradients at all positions."""
        return (self.values_transpose(g, Workspace()) @ self.value).view_as(g)

    def values_transpose(self, g: Float[Tensor, "batch pos d"], work: Workspace) -> Float[Tensor, "batchpos kvc"]:
        """The gradient at the values: all of `transpose` but the last product.

        A product writes into contiguous memory and is copied to its place from there: writing with a stride is slow. No
        position is read by an earlier one, so products leave out what lies before a block of positions.
        """
        batch, n, d = g.shape
        kv, channels, groups = self.mix.shape[0], self.value.shape[0] // self.mix.shape[0], self.mix.shape[3]
        flat = g.view(batch * n, d)
        mixed = work.take("values", (batch, n, kv, channels), g)
        for head, (output, pattern) in enumerate(zip(self.output.chunk(kv, dim=1), self.mix, strict=True)):
            # W_O^T y' of this key-value head's group: rows (b, p, g), read as (b, (p, g), c) without a copy.
            heads = torch.mm(flat, output, out=work.take("heads", (batch * n, output.shape[1]), g)).view(
                batch, -1, channels
            )
            rows = pattern.flatten(1)  # [position, group] rows lie side by side, so one product sums over both
            for begin in range(0, n, POSITIONS_PER_BLOCK):
                end = min(n, begin + POSITIONS_PER_BLOCK)
                # Keys `begin` to `end` are read by queries from `begin` on alone (q <= p).
                back = rows[begin:end, begin * groups :].expand(batch, -1, -1)
                made = work.take("back", (batch, end - begin, channels), g)
                mixed[:, begin:end, head] = torch.bmm(back, heads[:, begin * groups :], out=made)
        return mixed.view(batch * n, -1)

    def add_transpose(self, g: Float[Tensor, "batch pos d"], work: Workspace, multiply: torch.dtype | None) -> None:
        """Add the transpose to the gradients, in place."""
        if multiply is None:
            add_product(g, self.values_transpose(g, work), self.value, None)
            return
        rounded = FrozenAttention(*(t.to(multiply) for t in (self.value, self.output, self.mix, self.constant)))
        add_product(g, rounded.values_transpose(g.to(multiply), work), rounded.value, multiply)

    def start(self, r: Float[Tensor, "batch d"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d"]:
        """`transpose` of gradients that are zero but at one position each, plus those gradients themselves."""
        kv, n, _, groups = self.mix.shape
        heads = (r @ self.output).view(len(r), kv, groups, -1)
        mixed = torch.einsum("kqbg,bkgc->bqkc", self.mix[:, :, positions], heads)
        g = (mixed.reshape(-1, self.value.shape[0]) @ self.value).view(len(r), n, -1)
        g[torch.arange(len(r), device=r.device), positions] += r
        return g


@dataclass(frozen=True)
class FrozenLayer:
    """One transformer block: frozen attention, where the dictionary reads and writes, and its skip path.

    `read` takes the residual stream between attention and MLP to what the encoder sees (None: as it is); `write` takes
    decoder output to what is added to the residual stream (None: as it is). `skip` is the dictionary's skip matrix
    between the two with both norms' gains folded in; `skip_scale` holds their per-position scales. In a `parallel`
    block the MLP reads what enters the block; wherever a residual stream before the MLP is meant, it is that one.
    """

    attention: TokenMixing
    read: FrozenNorm | None
    write: FrozenNorm | None
    skip: Float[Tensor, "d d"] | None
    skip_scale: Float[Tensor, " pos"] | None
    skip_constant: Float[Tensor, " d"] | None
    parallel: bool = False

    @staticmethod
    def freeze(
        attention: TokenMixing,
        read: FrozenNorm | None,
        write: FrozenNorm | None,
        skip: Float[Tensor, "d d"] | None,
        parallel: bool = False,
    ) -> "FrozenLayer":
        """Fold the skip matrix [out, in] (None: no skip path) with the norms around it."""
        if skip is None:
            return FrozenLayer(attention, read, write, None, None, None, parallel)
        folded, scale = skip.to(attention.constant.dtype), torch.ones_like(attention.constant[:, 0])
        constant = None
        if read is not None:
            constant = None if read.bias is None else folded @ read.bias
            folded, scale = read.fold_before(folded), scale * read.scale
        if write is not None:
            constant = None if constant is None else write.fold_after(constant[:, None])[:, 0]
            folded, scale = write.fold_after(folded), scale * write.scale
        return FrozenLayer(attention, read, write, folded.contiguous(), scale, constant, parallel)

    def read_forward(self, mid: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the encoder sees of the residual stream."""
        return mid if self.read is None else self.read.forward(mid)

    def read_transpose(
        self, rows: Float[Tensor, "batch d"], positions: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d"]:
        """Encoder rows, all at one position or each at its position, as directions in the residual stream."""
        return rows if self.read is None else self.read.transpose(rows, positions)

    def write_linear(self, y: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What output vectors, one per position, add to the residual stream."""
        return y if self.write is None else self.write.linear(y)

    def skip_forward(self, mid: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the skip path adds to the residual stream, its constant left out."""
        if self.skip is None or self.skip_scale is None:
            return torch.zeros_like(mid)
        return (mid * self.skip_scale[:, None]) @ self.skip.T

    def constant(self) -> Float[Tensor, "pos d"]:
        """What the skip path adds whatever its input."""
        if self.skip_constant is None or self.skip_scale is None:
            return torch.zeros_like(self.attention.constant)
        scale = torch.ones_like(self.skip_scale) if self.write is None else self.write.scale
        return scale[:, None] * self.skip_constant


@dataclass(frozen=True)
class FrozenModel:
    """All layers and the final norm, held fixed as they were on one prompt."""

    layers: tuple[FrozenLayer, ...]
    final: FrozenNorm

    def run(
        self, start: Float[Tensor, "pos d"], written: list[Float[Tensor, "pos d"]]
    ) -> tuple[list[Float[Tensor, "pos d"]], Float[Tensor, "pos d"]]:
        """The linear forward pass: `start` enters layer 0 and `written[l]` is added after layer l's MLP.

        Returns the residual stream before every MLP, and after the last layer.
        """
        x, resid_mid = start, []
        for layer, added in zip(self.layers, written, strict=True):
            attended = x + layer.attention.forward(x) + layer.attention.constant
            mid = x if layer.parallel else attended
            resid_mid.append(mid)
            x = attended + layer.skip_forward(mid) + layer.constant() + added
        return resid_mid, x

    def to(self, device: torch.device) -> "FrozenModel":
        """The same on another device."""
        return moved(self, device)

    def sweep(
        self,
        positions: Int[Tensor, " target"],
        starts: dict[int, Float[Tensor, "_ d"]],
        work: Workspace,
        multiply: torch.dtype | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "_ pos d"]]]:
        """The transposed pass for a batch of targets.

        Args:
            positions: the targets' positions, in the order of `starts`; what lies after the last of them is cut away.
            starts: by layer, directions in the residual stream before that layer's MLP (at `len(layers)`: after the
                last layer), one row a target; from the highest layer down.
            work: buffers, kept between sweeps because fresh memory costs as much as a product.
            multiply: dtype of the matrix products' operands; None: as everything else.

        Yields:
            `(layer, g)` from the topmost down: g is the targets' gradient in the residual stream after that layer's
            MLP, for the targets that lie above it, in the order of `starts`; at the end `(-1, g)` for the embeddings.
            `g` is overwritten when the next one is asked for.
        """
        last, depth = int(positions.max()), len(self.layers)
        first = next(iter(starts.values()))
        places, rows = positions.to(first.device), torch.arange(len(positions), device=first.device)
        whole, batch = work.take("gradients", (len(positions), last + 1, first.shape[1]), first), 0
        if depth in starts:
            batch = len(starts[depth])
            whole[:batch] = 0
            whole[rows[:batch], places[:batch]] = starts[depth]
        for number in range(min(max(starts), depth - 1), -1, -1):
            layer = self.layers[number]
            attention, g = layer.attention.cut(last), whole[:batch]
            if batch:
                yield number, g
                if layer.parallel:
                    through = _through_skip(g, layer, work)  # before attention changes g
                    attention.add_transpose(g, work, multiply)
                    add_product(g, through, layer.skip, multiply)
                else:
                    for part in g.split(
                        max(1, COLUMNS_IN_CACHE // g.shape[1])
                    ):  # so few that the scaled copy stays in the cache
                        add_product(part, _through_skip(part, layer, work), layer.skip, multiply)
                    attention.add_transpose(g, work, multiply)
            joining = starts.get(number)
            if joining is not None:
                part, here = whole[batch : batch + len(joining)], places[batch : batch + len(joining)]
                if layer.parallel:
                    part.zero_()[rows[: len(joining)], here] = joining
                else:
                    part.copy_(attention.start(joining, here))
                batch += len(joining)
        yield -1, whole


def _through_skip(g: Tensor, layer: FrozenLayer, work: Workspace) -> Tensor:
    """Gradients with the scales of a layer's skip path; without such a path, themselves."""
    if layer.skip_scale is None:
        return g
    return torch.mul(g, layer.skip_scale[: g.shape[1], None], out=work.take("scaled", tuple(g.shape), g))
