"""The weights that an architecture row points at: norms, value and output projections of one block."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .row import Architecture


class NormWeights(NamedTuple):
    """The learned part of a norm."""

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    centred: bool


class Linear(NamedTuple):
    """A linear map in [out, in] orientation."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None


def norm_weights(row: Architecture, module: Any) -> NormWeights:
    """Gain and bias of a norm module of this family."""
    gain = module.weight.detach().cpu()
    match row.norm:
        case "rms":
            return NormWeights(gain, None, centred=False)
        case "rms_plus_one":
            return NormWeights(1 + gain, None, centred=False)
        case "layer":
            return NormWeights(
                gain, None if (bias := getattr(module, "bias", None)) is None else bias.detach().cpu(), True
            )


def attention_weights(row: Architecture, block: Any) -> tuple[Linear, Linear]:
    """The value and output projections of one transformer block of this family."""
    attention = block.get_submodule(row.attention)
    value, channels = linear(attention.get_submodule(row.value)), value_channels(row, attention)
    values = Linear(value.weight[channels], None if value.bias is None else value.bias[channels])
    return values, linear(attention.get_submodule(row.output))


def query_key_weights(row: Architecture, block: Any) -> tuple[Linear, Linear]:
    """The query and key projections of one transformer block of this family."""
    attention = block.get_submodule(row.attention)
    if row.value_part == "whole":
        return linear(attention.get_submodule(row.query)), linear(attention.get_submodule(row.key))
    shared, queries = linear(attention.get_submodule(row.value)), linear(attention.get_submodule(row.output)).weight
    channels = torch.arange(len(shared.weight))
    if row.value_part == "tail":
        width = queries.shape[1]
        parts = channels[:width], channels[width : (len(channels) + width) // 2]
    else:
        each = channels.view(attention.config.num_attention_heads, 3, -1)
        parts = each[:, 0].flatten(), each[:, 1].flatten()
    query, key = (Linear(shared.weight[part], None if shared.bias is None else shared.bias[part]) for part in parts)
    return query, key


def value_channels(row: Architecture, attention: Any) -> Int[Tensor, " channel"] | slice:
    """Which outputs of an attention module's value projection are values; the others are queries and keys."""
    weight, output = (linear(attention.get_submodule(name)).weight for name in (row.value, row.output))
    match row.value_part:
        case "whole":
            return slice(None)
        case "tail":
            return slice(len(weight) - (len(weight) - output.shape[1]) // 2, None)
        case "each head":
            return torch.arange(len(weight)).view(attention.config.num_attention_heads, 3, -1)[:, 2].flatten()


def linear(module: Any) -> Linear:
    """The weights of a linear module."""
    bias = None if module.bias is None else module.bias.detach().cpu()
    weight = module.weight.detach().cpu()
    return Linear(weight if isinstance(module, nn.Linear) else weight.T, bias)  # GPT-2's Conv1D stores [in, out]
