"""The model with attention patterns and norm denominators held fixed: linear maps and their transposes.

Folded form. With everything frozen, an attention layer is `x -> output . mix . value . x`: `value` and `output` carry
the learned gains, `mix` carries the pattern and the per-position scales of the norms before and after. Gradients are
kept feature-major, [d, position, batch], so that a transpose is two large matrix products with a small one between
them, without copies. `forward` and `transpose` of each class are each other's adjoint (bias terms apart).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .architectures import Linear, NormWeights


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with its denominator held fixed: `x -> scale (x - mean) gain + bias`, the mean only if centred."""

    scale: Float[Tensor, " pos"]
    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    centred: bool

    @staticmethod
    def freeze(weights: NormWeights, x: Float[Tensor, "pos d"], epsilon: float) -> "FrozenNorm":
        """Fix the denominator at its value for the input `x`."""
        centre = x - x.mean(-1, keepdim=True) if weights.centred else x
        scale = torch.rsqrt(centre.square().mean(-1) + epsilon)
        bias = None if weights.bias is None else weights.bias.to(x.dtype)
        return FrozenNorm(scale, weights.gain.to(x.dtype), bias, weights.centred)

    def linear(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """The norm without its bias."""
        return self._centre(x) * self.scale[:, None] * self.gain

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """The norm as the model applies it."""
        return self.linear(x) if self.bias is None else self.linear(x) + self.bias

    def transpose(self, g: Float[Tensor, "batch d"], position: int) -> Float[Tensor, "batch d"]:
        """The adjoint of `linear` at one position."""
        return self._centre(g * (self.gain * self.scale[position]))

    def fold_before(self, weight: Float[Tensor, "out d"]) -> Float[Tensor, "out d"]:
        """`weight` after this norm as one matrix, the per-position scale left out."""
        return self._centre(weight * self.gain)

    def fold_after(self, weight: Float[Tensor, "d in"]) -> Float[Tensor, "d in"]:
        """This norm after `weight` as one matrix, the per-position scale left out."""
        return (weight - weight.mean(0) if self.centred else weight) * self.gain[:, None]

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True)
class FrozenAttention:
    """Attention with its pattern held fixed, from residual stream to residual stream: linear in positions and heads.

    Rows of `value` run over (key-value head, channel); columns of `output` over (key-value head, channel, query head
    of that group). `mix[kv, q, g, p]` is the pattern of head (kv, g) from position `p` back to `q <= p`, times the
    scales of the norm before (at q) and after (at p).
    """

    value: Float[Tensor, "kvc d"]
    output: Float[Tensor, "d kvcg"]
    mix: Float[Tensor, "kv q g p"]
    constant: Float[Tensor, "pos d"]
    """What the layer adds whatever its input: the projections' and norms' biases."""

    @staticmethod
    def freeze(norm: FrozenNorm, value: Linear, pattern: Float[Tensor, "heads p q"], output: Linear, post: FrozenNorm | None) -> "FrozenAttention":
        """Fold an attention layer whose pattern was `pattern` (query position p, key position q)."""
        dtype = norm.scale.dtype
        heads, n, _ = pattern.shape
        w_v, w_o = value.weight.to(dtype), output.weight.to(dtype)
        channels = w_o.shape[1] // heads
        kv = w_v.shape[0] // channels
        groups = heads // kv
        mix = pattern.to(dtype).reshape(kv, groups, n, n).permute(0, 3, 1, 2) * norm.scale[:, None, None]
        constant = torch.zeros(n, w_o.shape[0], dtype=dtype, device=w_o.device)
        offset = torch.zeros(w_v.shape[0], dtype=dtype, device=w_v.device)
        if norm.bias is not None:
            offset = offset + w_v @ norm.bias
        if value.bias is not None:
            offset = offset + value.bias.to(dtype)
        if bool(offset.any()):
            spread = pattern.to(dtype).sum(-1).T[:, :, None] * offset.view(kv, 1, channels).expand(kv, groups, channels).reshape(heads, channels)
            constant = spread.reshape(n, -1) @ w_o.T
        if output.bias is not None:
            constant = constant + output.bias.to(dtype)
        w_o = w_o.reshape(-1, kv, groups, channels).transpose(2, 3).reshape(w_o.shape)
        if post is not None:
            constant = post.forward(constant)
            w_o, mix = post.fold_after(w_o), mix * post.scale
        return FrozenAttention(norm.fold_before(w_v).contiguous(), w_o.contiguous(), mix.contiguous(), constant)

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the layer adds to the residual stream `x`, without `constant`."""
        kv, n, _, _ = self.mix.shape
        values = (x @ self.value.T).view(n, kv, -1)
        mixed = torch.einsum("kqgp,qkc->pkcg", self.mix, values)
        return mixed.reshape(n, -1) @ self.output.T

    def cut(self, position: int) -> "FrozenAttention":
        """The same map on positions 0 to `position` alone; no later position can matter to one of these."""
        n = position + 1
        return FrozenAttention(self.value, self.output, self.mix[:, :n, :, :n].contiguous(), self.constant[:n])

    def transpose(self, g: Float[Tensor, "d pos batch"]) -> Float[Tensor, "d pos batch"]:
        """The adjoint of `forward`, for a batch of gradients at all positions."""
        d, n, batch = g.shape
        return (self.value.T @ self.heads_transpose(g.reshape(d, -1), n, Workspace())).view(d, n, batch)

    def heads_transpose(self, g: Float[Tensor, "d columns"], n: int, work: "Workspace") -> Float[Tensor, "kvc columns"]:
        """The gradient at the mixed values: all of `transpose` but the last product. Columns run over (pos, batch)."""
        kv, channels = self.mix.shape[0], self.value.shape[0] // self.mix.shape[0]
        columns = g.shape[1]
        z = torch.mm(self.output.T, g, out=work.take("heads", (self.output.shape[1], columns), g))
        z = z.view(kv, channels, -1, columns // n)
        mixed = work.take("values", (kv, channels, n, columns // n), g)
        for head, pattern in enumerate(self.mix):
            torch.bmm(pattern.reshape(n, -1).expand(channels, -1, -1), z[head], out=mixed[head])
        return mixed.view(kv * channels, columns)

    def start(self, r: Float[Tensor, "d batch"], position: int) -> Float[Tensor, "d pos batch"]:
        """`transpose` of gradients that are zero but at one position, plus those gradients themselves."""
        kv, n, groups, _ = self.mix.shape
        z = (self.output.T @ r).view(kv, -1, groups, r.shape[1])
        mixed = self.mix[:, None, :, :, position] @ z
        g = (self.value.T @ mixed.reshape(self.value.shape[0], -1)).view(-1, n, r.shape[1])
        g[:, position] += r
        return g


@dataclass(frozen=True)
class FrozenLayer:
    """One transformer block: frozen attention, where the dictionary reads and writes, and its skip path.

    `read` takes the residual stream between attention and MLP to what the encoder sees (None: as it is); `write` takes
    decoder output to what is added to the residual stream (None: as it is). `skip` is the dictionary's skip matrix
    between the two with both norms' gains folded in; `skip_scale` holds their per-position scales.
    """

    attention: FrozenAttention
    read: FrozenNorm | None
    write: FrozenNorm | None
    skip: Float[Tensor, "d d"] | None
    skip_scale: Float[Tensor, " pos"] | None
    skip_constant: Float[Tensor, " d"] | None

    @staticmethod
    def freeze(attention: FrozenAttention, read: FrozenNorm | None, write: FrozenNorm | None, skip: Float[Tensor, "d d"] | None) -> "FrozenLayer":
        """Fold the skip matrix [out, in] (None: no skip path) with the norms around it."""
        if skip is None:
            return FrozenLayer(attention, read, write, None, None, None)
        folded, scale = skip.to(attention.mix.dtype), torch.ones_like(attention.constant[:, 0])
        constant = None
        if read is not None:
            constant = None if read.bias is None else folded @ read.bias
            folded, scale = read.fold_before(folded), scale * read.scale
        if write is not None:
            constant = None if constant is None else write.fold_after(constant[:, None])[:, 0]
            folded, scale = write.fold_after(folded), scale * write.scale
        return FrozenLayer(attention, read, write, folded.contiguous(), scale, constant)

    def read_forward(self, mid: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the encoder sees of the residual stream."""
        return mid if self.read is None else self.read.forward(mid)

    def read_transpose(self, rows: Float[Tensor, "batch d"], position: int) -> Float[Tensor, "batch d"]:
        """Encoder rows at one position as directions in the residual stream."""
        return rows if self.read is None else self.read.transpose(rows, position)

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

    def run(self, start: Float[Tensor, "pos d"], written: list[Float[Tensor, "pos d"]]) -> tuple[list[Float[Tensor, "pos d"]], Float[Tensor, "pos d"]]:
        """The linear forward pass: `start` enters layer 0 and `written[l]` is added after layer l's MLP.

        Returns the residual stream before every MLP, and after the last layer.
        """
        x, mids = start, []
        for layer, added in zip(self.layers, written, strict=True):
            mid = x + layer.attention.forward(x) + layer.attention.constant
            mids.append(mid)
            x = mid + layer.skip_forward(mid) + layer.constant() + added
        return mids, x

    def sweep(
        self, position: int, starts: dict[int, Float[Tensor, "d batch"]], multiply: torch.dtype | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "d pos batch"]]]:
        """The transposed pass for a batch of targets at one position.

        Args:
            position: the targets' position; later positions cannot matter and are cut away.
            starts: by layer, directions in the residual stream before that layer's MLP (at `len(layers)`: after the
                last layer), one column a target.
            multiply: dtype of the matrix products' operands; None: as everything else.

        Yields:
            `(layer, g)` from the topmost down: g is the targets' gradient in the residual stream after that layer's
            MLP, for the targets that lie above it, in the order of descending layers; at the end `(-1, g)` for the
            embeddings. `g` is overwritten when the next one is asked for.
        """
        n, depth = position + 1, len(self.layers)
        like = next(iter(starts.values()))
        d, capacity = len(like), len(like) * n * sum(start.shape[1] for start in starts.values())
        work, buffers = Workspace(), [like.new_empty(capacity), like.new_empty(capacity)]
        g = like.new_zeros(d, n, starts[depth].shape[1] if depth in starts else 0)
        if depth in starts:
            g[:, position] = starts[depth]
        for number in range(min(max(starts), depth - 1), -1, -1):
            layer = self.layers[number]
            attention = layer.attention.cut(position)
            if g.shape[2]:
                yield number, g
                flat = g.view(d, -1)
                if layer.skip is not None and layer.skip_scale is not None:
                    scaled = torch.mul(g, layer.skip_scale[:n, None], out=work.take("scaled", g.shape, g))
                    _add_product(flat, layer.skip.T, scaled.view_as(flat), multiply)
                _add_attention(flat, attention, n, work, multiply)
            joining = starts.get(number)
            if joining is not None:
                batch = g.shape[2] + joining.shape[1]
                grown = buffers[0][: d * n * batch].view(d, n, batch)
                grown[:, :, : g.shape[2]] = g
                grown[:, :, g.shape[2] :] = attention.start(joining, position)
                g, buffers = grown, buffers[::-1]
        yield -1, g


def _add_product(g: Tensor, weight: Tensor, x: Tensor, multiply: torch.dtype | None) -> None:
    """`g += weight @ x`, in place; the operands rounded to `multiply` if given, the sum kept in g's dtype."""
    if multiply is None:
        g.addmm_(weight, x)
    else:
        g.add_(torch.mm(weight.to(multiply), x.to(multiply)))


def _add_attention(g: Tensor, attention: FrozenAttention, n: int, work: "Workspace", multiply: torch.dtype | None) -> None:
    """Add the transpose of one attention layer to the gradients `g` [d, (pos, batch)], in place."""
    if multiply is None:
        g.addmm_(attention.value.T, attention.heads_transpose(g, n, work))
        return
    rounded = FrozenAttention(*(t.to(multiply) for t in (attention.value, attention.output, attention.mix, attention.constant)))
    g.add_(torch.mm(rounded.value.T, rounded.heads_transpose(g.to(multiply), n, work)))


class Workspace:
    """Buffers that outlive a step, so that large products do not pay for fresh memory each time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of `shape` over the named buffer, which grows when it must; its content is undefined."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)
