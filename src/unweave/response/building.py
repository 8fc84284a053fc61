"""The tangent model of one prompt: what the real model's pass leaves behind, put beside its weights."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InexactAttribution
from ..models.language_model import LanguageModel
from ..models.recording import Recording
from ..models.weights import Linear, attention_weights, linear, norm_weights, query_key_weights
from .attention import Rotary, Side, TangentAttention
from .experts import activation_at, check_experts, experts
from .mixing import TangentMixer, as_called
from .mlps import Neurons, TangentMLP
from .norms import TangentNorm

ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How far an MLP's output may be from what its neurons write, relative to its largest entry; other dtypes round more
than this could tell."""
SCORES_OFF = 1e-3
"""How far scores may be from logarithms of a pattern, relative to the largest: transformers takes softmaxes in
float32."""


@dataclass(frozen=True)
class Seen:
    """One recorded pass, with what only modules' keyword arguments and routers tell."""

    recording: Recording
    rotations: dict[int, tuple[Tensor, Tensor]]
    routed: dict[int, tuple[Tensor, Tensor]]
    """By layer: the weights and the numbers of each position's experts."""
    called: dict[int, dict[str, Any]]
    """By layer: the keyword arguments of what is not plain attention."""


def watch(model: LanguageModel, ids: Int[Tensor, " pos"]) -> Seen:
    """Run the model once and keep what its derivative needs.

    Raises:
        ModelError: the model's logits are not finite.
    """
    row, dtype = model.architecture, model.engine_dtype
    rotations: dict[int, tuple[Tensor, Tensor]] = {}
    routed: dict[int, tuple[Tensor, Tensor]] = {}
    called: dict[int, dict[str, Any]] = {}

    def rotation(layer: int) -> Callable:
        def keep(module: Any, args: Any, kwargs: Any) -> None:
            if model.mixer_kind(layer) is not None:
                called[layer] = dict(kwargs)
                return
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
            attention = model.mixing(layer)
            stack.callback(attention.register_forward_pre_hook(rotation(layer), with_kwargs=True).remove)
            if row.up is None:
                chosen = block.get_submodule(row.mlp).get_submodule(row.router)
                stack.callback(chosen.register_forward_hook(router(layer)).remove)
        recording = model.record(ids)
    return Seen(recording, rotations, routed, called)


def tangent_attention(model: LanguageModel, seen: Seen, layer: int) -> TangentAttention | TangentMixer:
    """The derivative of one layer's attention, or of what stands in its place."""
    row, recording = model.architecture, seen.recording
    x, pattern = recording.attention_inputs[layer], recording.patterns[layer]
    block, module = model.blocks[layer], model.mixing(layer)
    norm = None if row.attention_norm is None else norm_weights(row, block.get_submodule(row.attention_norm))
    before = TangentNorm.at(norm, x, model.epsilon)
    after = _after(model, layer, row.attention_post_norm, recording.attention_outputs[layer])
    if model.mixer_kind(layer) is not None or pattern is None:
        steps = model.mixer_steps(recording, layer, pattern)
        run = as_called(module, seen.called[layer])
        return TangentMixer(before, after, run, before.frozen.forward(x), steps)
    value, output = (_cast(part, x) for part in attention_weights(row, block))
    query, key = (_cast(part, x) for part in query_key_weights(row, block))
    heads = pattern.shape[0]
    channels = output.weight.shape[1] // heads
    groups = heads // (len(value.weight) // channels)
    read = before.frozen.forward(x)
    rotary = _rotary(model, seen, layer, channels)
    scaled = _grown(model, rotary) if row.query_scale else rotary
    queries, query_side = _side(model, module, row.query_norm, query, read, scaled, heads)
    keys, key_side = _side(model, module, row.key_norm, key, read, rotary, heads // groups)
    values = _apply(value, read).view(len(x), -1, channels)
    factor = float(getattr(module, "scaling", channels**-0.5))
    queries, keys, values = (
        part.repeat_interleave(heads // part.shape[1], 1).transpose(0, 1) for part in (queries, keys, values)
    )
    cap = None if row.score_cap is None else getattr(model.config, row.score_cap)
    scores, slope = torch.bmm(queries, keys.transpose(1, 2)) * factor, None
    if cap is not None:
        slope = 1 - torch.tanh(scores / cap).square()
        scores = cap * torch.tanh(scores / cap)
    _check_scores(model, layer, scores, pattern)
    return TangentAttention(
        before, after, query_side, key_side, value.weight, output.weight, pattern, slope,
        (queries * factor).contiguous(), (keys * factor).contiguous(), values.contiguous(), factor,
    )  # fmt: skip


def _side(
    model: LanguageModel, module: Any, name: str | None, map_: Linear, read: Tensor, rotary: Rotary | None, heads: int
) -> tuple[Float[Tensor, "pos heads c"], Side]:
    made, norm = _apply(map_, read), None
    last = model.architecture.norm_last
    if last and rotary is not None:
        made = rotary.forward(made.view(len(read), heads, -1))
    if name is not None and hasattr(module, name):  # some families have these norms by a key
        weights = norm_weights(model.architecture, module.get_submodule(name))
        rows = made.reshape(-1, len(weights.gain))
        norm = TangentNorm.at(weights, rows, model.epsilon)
        made = norm.frozen.forward(rows)
    made = made.reshape(len(read), heads, -1)
    turned = made if rotary is None or last else rotary.forward(made)
    return turned, Side(map_.weight, norm, rotary, heads, last)


def _rotary(model: LanguageModel, seen: Seen, layer: int, channels: int) -> Rotary | None:
    row, module = model.architecture, model.blocks[layer].get_submodule(model.architecture.attention)
    window = getattr(module, "sliding_window", None) is not None
    match row.rotates:
        case "use_rope":
            turns = bool(module.use_rope)
        case "windows":
            turns = not window or bool(module.is_sliding)
        case "windows only":
            turns = window
        case "all":
            turns = True
    if layer not in seen.rotations or not turns:
        return None
    cos, sin = seen.rotations[layer]
    if row.pairs:
        if not torch.equal(sin[:, ::2], sin[:, 1::2]):  # the numbers of pairs, once for each half
            cos, sin = (part[:, : part.shape[1] // 2].repeat_interleave(2, 1) for part in (cos, sin))
        return Rotary(cos, sin, pairs=True)
    whole = sin[:, : sin.shape[1] // 2]
    if sin.shape[1] * 2 <= channels and not torch.equal(whole, sin[:, sin.shape[1] // 2 :]):
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)  # one number for both halves
    return Rotary(cos, sin)


def _grown(model: LanguageModel, rotary: Rotary | None) -> Rotary | None:
    """A rotation that also multiplies queries by what they grow by with their position."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    beta, context = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if rotary is None or beta is None or context is None:
        return rotary
    growth = 1 + beta * torch.log(1 + torch.floor(torch.arange(len(rotary.cos)) / context))[:, None]  # in float32
    return Rotary(rotary.cos * growth, rotary.sin * growth, rotary.pairs)


def _check_scores(
    model: LanguageModel, layer: int, scores: Float[Tensor, "heads p q"], pattern: Float[Tensor, "heads p q"]
) -> None:
    """Refuse queries and keys that do not make the recorded pattern: within a row, its logarithms are the scores but
    for a constant.

    Raises:
        InexactAttribution: they do not.
    """
    if model.dtype not in ROUNDING:
        return
    seen = pattern > 1e-4
    apart = torch.where(seen, pattern.clamp(min=1e-30).log() - scores, torch.nan)
    centre = apart.nanmean(-1, keepdim=True)
    gap = float(torch.nan_to_num((apart - centre).abs(), nan=0.0).max())
    limit = SCORES_OFF * max(1.0, float(torch.where(seen, scores, 0.0).abs().max()))
    if not gap <= limit:
        raise InexactAttribution(
            f"{model.name}: layer {layer}'s queries and keys miss its attention pattern by {gap:.2g} (in logarithms); "
            f"the row of {model.architecture.family} does not say how they meet, so no response graph is made of it"
        )


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
    parts, constant = experts(row, mlp, x, *seen.routed[layer]) if row.up is None else _plain(model, mlp, x)
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
    act = getattr(mlp, row.activation, None) or getattr(torch.nn.functional, row.activation)
    if row.gate is None:
        value, slope = activation_at(act, _apply(up, x))
        reads = ((up.weight, slope),)
        activation = value
    else:
        gate = _cast(linear(mlp.get_submodule(row.gate)), x)
        if row.gate == row.up:
            half = len(up.weight) // 2
            gate, up = _rows(gate, slice(0, half)), _rows(up, slice(half, None))
        value, slope = activation_at(act, _apply(gate, x))
        linear_part = _apply(up, x)
        reads = ((gate.weight, slope * linear_part), (up.weight, value))
        activation = value * linear_part
    constant = x.new_zeros(len(x), len(down.weight))
    if down.bias is not None:
        constant = constant + down.bias
    return (Neurons(0, None, reads, down.weight.T, activation),), constant


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
        UnsupportedModel: experts of another kind than its row says.
    """
    if model.architecture.up is None:
        for layer, block in enumerate(model.blocks):
            check_experts(model.name, model.architecture, layer, block.get_submodule(model.architecture.mlp))


def _cast(map_: Linear, like: Tensor) -> Linear:
    return Linear(map_.weight.to(like), None if map_.bias is None else map_.bias.to(like))


def _rows(map_: Linear, which: slice) -> Linear:
    return Linear(map_.weight[which], None if map_.bias is None else map_.bias[which])


def _apply(map_: Linear, x: Tensor) -> Tensor:
    made = x @ map_.weight.T
    return made if map_.bias is None else made + map_.bias
