"""The tangent model of one prompt: what the real model's pass leaves behind, put beside its weights."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import InexactAttribution, UnsupportedModel
from ..models.language_model import LanguageModel
from ..models.recording import Recording
from ..models.weights import Linear, attention_weights, linear, norm_weights, query_key_weights
from .attention import Rotary, Side, TangentAttention
from .mlps import Neurons, TangentMLP
from .norms import TangentNorm

ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How far an MLP's output may be from what its neurons write, relative to its largest entry; other dtypes round more
than this could tell."""


@dataclass(frozen=True)
class Seen:
    """One recorded pass, with what only modules' keyword arguments and routers tell."""

    recording: Recording
    rotations: dict[int, tuple[Tensor, Tensor]]
    routed: dict[int, tuple[Tensor, Tensor]]
    """By layer: the weights and the numbers of each position's experts."""


def watch(model: LanguageModel, ids: Int[Tensor, " pos"]) -> Seen:
    """Run the model once and keep what its derivative needs.

    Raises:
        ModelError: the model's logits are not finite.
    """
    row, dtype = model.architecture, model.engine_dtype
    rotations: dict[int, tuple[Tensor, Tensor]] = {}
    routed: dict[int, tuple[Tensor, Tensor]] = {}

    def rotation(layer: int) -> Callable:
        def keep(module: Any, args: Any, kwargs: Any) -> None:
            given = kwargs.get("position_embeddings")
            if given is not None:
                cos, sin = (part.detach().to("cpu", dtype).reshape(-1, part.shape[-1]) for part in given)
                rotations[layer] = (cos, sin)

        return keep

    def router(layer: int) -> Callable:
        return lambda module, args, output: routed.update(
            {layer: (output[1].detach().to("cpu", dtype), output[2].detach().cpu())}
        )

    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            attention = block.get_submodule(row.attention)
            stack.callback(attention.register_forward_pre_hook(rotation(layer), with_kwargs=True).remove)
            if row.up is None:
                chosen = block.get_submodule(row.mlp).get_submodule("router")
                stack.callback(chosen.register_forward_hook(router(layer)).remove)
        recording = model.record(ids)
    return Seen(recording, rotations, routed)


def tangent_attention(model: LanguageModel, seen: Seen, layer: int) -> TangentAttention:
    """The derivative of one layer's attention."""
    row, recording = model.architecture, seen.recording
    x = recording.attention_inputs[layer]
    block = model.blocks[layer]
    module = block.get_submodule(row.attention)
    norm = None if row.attention_norm is None else norm_weights(row, block.get_submodule(row.attention_norm))
    before = TangentNorm.at(norm, x, model.epsilon)
    after = _after(model, layer, row.attention_post_norm, recording.attention_outputs[layer])
    value, output = (_cast(part, x) for part in attention_weights(row, block))
    query, key = (_cast(part, x) for part in query_key_weights(row, block))
    pattern = recording.patterns[layer]
    heads = pattern.shape[0]
    channels = output.weight.shape[1] // heads
    groups = heads // (len(value.weight) // channels)
    read = before.frozen.forward(x)
    rotary = _rotary(seen, layer, channels)
    queries, query_side = _side(model, module, row.query_norm, query, read, rotary, heads)
    keys, key_side = _side(model, module, row.key_norm, key, read, rotary, heads // groups)
    values = _apply(value, read).view(len(x), -1, channels)
    factor = float(getattr(module, "scaling", channels**-0.5))
    queries, keys, values = (
        part.repeat_interleave(heads // part.shape[1], 1).transpose(0, 1) for part in (queries, keys, values)
    )
    cap = None if row.score_cap is None else getattr(model.config, row.score_cap)
    slope = None
    if cap is not None:
        scores = torch.bmm(queries, keys.transpose(1, 2)) * factor
        slope = 1 - torch.tanh(scores / cap).square()
    return TangentAttention(
        before, after, query_side, key_side, value.weight, output.weight, pattern, slope,
        (queries * factor).contiguous(), (keys * factor).contiguous(), values.contiguous(),
    )  # fmt: skip


def _side(
    model: LanguageModel, module: Any, name: str | None, map_: Linear, read: Tensor, rotary: Rotary | None, heads: int
) -> tuple[Float[Tensor, "pos heads c"], Side]:
    made, norm = _apply(map_, read), None
    if name is not None:
        weights = norm_weights(model.architecture, module.get_submodule(name))
        rows = made.reshape(-1, len(weights.gain))
        norm = TangentNorm.at(weights, rows, model.epsilon)
        made = norm.frozen.forward(rows)
    made = made.reshape(len(read), heads, -1)
    return made if rotary is None else rotary.forward(made), Side(map_.weight, norm, rotary, heads)


def _rotary(seen: Seen, layer: int, channels: int) -> Rotary | None:
    if layer not in seen.rotations:
        return None
    cos, sin = seen.rotations[layer]
    whole = sin[:, : sin.shape[1] // 2]
    if sin.shape[1] * 2 <= channels and not torch.equal(whole, sin[:, sin.shape[1] // 2 :]):
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)  # one number for both halves
    return Rotary(cos, sin)


def tangent_mlp(model: LanguageModel, seen: Seen, layer: int) -> TangentMLP:
    """The derivative of one layer's MLP.

    Raises:
        InexactAttribution: its neurons do not add up to what it put out.
    """
    row, recording, block = model.architecture, seen.recording, model.blocks[layer]
    mid, output = recording.resid_mid[layer], recording.mlp_outputs[layer]
    norm = None if row.mlp_norm is None else norm_weights(row, block.get_submodule(row.mlp_norm))
    before = TangentNorm.at(norm, mid, model.epsilon)
    after = _after(model, layer, row.mlp_post_norm, output)
    mlp, x = block.get_submodule(row.mlp), recording.mlp_inputs[layer]
    parts, constant = _experts(mlp, x, *seen.routed[layer]) if row.up is None else _plain(model, mlp, x)
    width = max(part.first + len(part.writes) for part in parts)
    made = TangentMLP(before, after, parts, output, width)
    written = constant.clone()
    for part in parts:
        written[part.places(len(written))] += part.activation @ part.writes
    gap, limit = float((written - output).abs().max()), ROUNDING.get(model.dtype)
    if limit is not None and gap > limit * float(output.abs().max()):
        raise InexactAttribution(
            f"{model.name}: layer {layer}'s neurons miss the output of its MLP by {gap:.2g}; its row in "
            "architectures.py does not say what this MLP computes"
        )
    return made


def _plain(model: LanguageModel, mlp: Any, x: Tensor) -> tuple[tuple[Neurons, ...], Tensor]:
    row = model.architecture
    assert row.up is not None
    up, down = _cast(linear(mlp.get_submodule(row.up)), x), _cast(linear(mlp.get_submodule(row.down)), x)
    act = getattr(mlp, row.activation)
    if row.gate is None:
        value, slope = _activation(act, _apply(up, x))
        reads = ((up.weight, slope),)
        activation = value
    else:
        gate = _cast(linear(mlp.get_submodule(row.gate)), x)
        if row.gate == row.up:
            half = len(up.weight) // 2
            gate, up = _rows(gate, slice(0, half)), _rows(up, slice(half, None))
        value, slope = _activation(act, _apply(gate, x))
        linear_part = _apply(up, x)
        reads = ((gate.weight, slope * linear_part), (up.weight, value))
        activation = value * linear_part
    constant = x.new_zeros(len(x), len(down.weight))
    if down.bias is not None:
        constant = constant + down.bias
    return (Neurons(0, None, reads, down.weight.T, activation),), constant


def _experts(
    mlp: Any, x: Tensor, weights: Float[Tensor, "pos chosen"], experts: Int[Tensor, "pos chosen"]
) -> tuple[tuple[Neurons, ...], Tensor]:
    """Of GPT-OSS: `(clamp(up) + 1) glu(clamp(gate))`, each times its router weight; gates and ups lie interleaved."""
    module, parts = mlp.experts, []
    constant, width = torch.zeros_like(x), module.down_proj.shape[1]
    for expert in experts.unique().tolist():
        positions, place = torch.where(experts == expert)
        share = weights[positions, place][:, None]
        both = module.gate_up_proj[expert].detach().to(x).T
        made = x[positions] @ both.T + module.gate_up_proj_bias[expert].detach().to(x)
        gate, up = made[:, ::2], made[:, 1::2]
        open_, inside = gate <= module.limit, up.abs() <= module.limit
        gate, up = gate.clamp(max=module.limit), up.clamp(-module.limit, module.limit)
        value, slope = _activation(lambda z, a=module.alpha: z * torch.sigmoid(z * a), gate)
        reads = ((both[::2], slope * open_ * (up + 1) * share), (both[1::2], value * inside * share))
        down = module.down_proj[expert].detach().to(x)
        parts.append(Neurons(expert * width, positions, reads, down, value * (up + 1) * share))
        constant[positions] += share * module.down_proj_bias[expert].detach().to(x)
    return tuple(parts), constant


def _activation(act: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """An activation function and its derivative, entry by entry, whatever function a config names."""
    with torch.enable_grad():
        entries = x.detach().requires_grad_()
        made = act(entries)
        (slope,) = torch.autograd.grad(made.sum(), entries)
    return made.detach(), slope


def tangent_final(model: LanguageModel, recording: Recording) -> TangentNorm:
    """The derivative of the final norm."""
    return TangentNorm.at(model.final_norm_weights, recording.final, model.epsilon)


def _after(model: LanguageModel, layer: int, name: str | None, output: Tensor) -> TangentNorm | None:
    """What follows attention or an MLP: a norm, a factor, both or nothing."""
    factor = model.residual_multiplier
    if name is None:
        return None if factor == 1 else TangentNorm.at(None, output, model.epsilon, factor)
    weights = norm_weights(model.architecture, model.blocks[layer].get_submodule(name))
    return TangentNorm.at(weights, output, model.epsilon, factor)


def check_supported(model: LanguageModel) -> None:
    """Refuse a family whose MLPs are not described.

    Raises:
        UnsupportedModel: experts of another kind than GPT-OSS's.
    """
    row = model.architecture
    if row.up is None and not all(
        isinstance(getattr(block.get_submodule(row.mlp), "experts", None), nn.Module) for block in model.blocks
    ):
        raise UnsupportedModel(f"{model.name}: the experts of {row.family} are not described; no response graph")


def _cast(map_: Linear, like: Tensor) -> Linear:
    return Linear(map_.weight.to(like), None if map_.bias is None else map_.bias.to(like))


def _rows(map_: Linear, which: slice) -> Linear:
    return Linear(map_.weight[which], None if map_.bias is None else map_.bias[which])


def _apply(map_: Linear, x: Tensor) -> Tensor:
    made = x @ map_.weight.T
    return made if map_.bias is None else made + map_.bias
