"""No dictionary at all: the MLPs' own neurons as features, each with its gate held as it is on the prompt."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModel
from ..models.language_model import LanguageModel
from ..models.weights import linear
from .transcoders import Matrix, NeuronActivation, TranscoderLayer, Transcoders, check_layers

NEURONS = "neurons"
"""What stands for them where a dictionary is named."""
NUMBERS = 250_000_000
"""Weights of edges that a graph of neurons may need for it to serve as a baseline: about a gigabyte."""


def neurons(model: LanguageModel) -> Transcoders:
    """The neurons of a model as a dictionary: exact, without error, and with nearly every feature active.

    A feature's activation is what enters the MLP's last linear map. It is a multiple of a linear function of what
    the MLP reads, and the multiple (the gate, or the activation function's output over its input) is held at its
    value on the prompt.

    Raises:
        UnsupportedModel: a mixture of experts.
    """
    row = model.architecture
    if row.up is None:
        raise UnsupportedModel(
            f"{model.name}: the neurons of {row.family}'s experts cannot be features; give a dictionary (--transcoders)"
        )
    layers, digest = [], hashlib.sha256()
    for block in model.blocks:
        mlp = block.get_submodule(row.mlp)
        up, down = linear(mlp.get_submodule(row.up)), linear(mlp.get_submodule(row.down))
        rows = slice(len(up.weight) // 2, None) if row.up_part == "tail" else slice(None)
        weight, bias = up.weight[rows], up.weight.new_zeros(down.weight.shape[1]) if up.bias is None else up.bias[rows]
        out = down.weight.new_zeros(len(down.weight)) if down.bias is None else down.bias
        layers.append(
            TranscoderLayer(
                Matrix(weight),
                bias,
                Matrix(down.weight.T),
                out,
                NeuronActivation(_Hidden(model, mlp, mlp.get_submodule(row.down))),
            )
        )
        for tensor in (
            weight[:1],
            weight[-1:],
            down.weight[:1],
            down.weight[-1:],
        ):  # the whole would take long, and these tell models apart
            digest.update(tensor.double().contiguous().numpy().tobytes())
    check_layers(NEURONS, "per-layer", tuple(layers))
    return Transcoders("per-layer", tuple(layers), "mlp_in", "mlp_out", NEURONS, model.name, digest.hexdigest())


def most_neurons(model: Transcoders, n_positions: int, wanted: int) -> int:
    """How many neurons a baseline's graph of a prompt takes: `wanted`, or fewer where their edges would take too
    much memory."""
    return max(1, min(wanted, NUMBERS // (sum(model.widths) * n_positions)))


class _Hidden:
    """Runs an MLP of the model and keeps what enters its last linear map."""

    def __init__(self, model: LanguageModel, mlp: Any, down: Any):
        self.model, self.mlp, self.down = model, mlp, down

    def __call__(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.down.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            with torch.no_grad():
                # past its hooks and what may stand in for it, either of which may be what asks
                type(self.mlp).forward(self.mlp, x[None].to(self.model.device, self.model.dtype))
        finally:
            handle.remove()
        return seen[0][0].to(x)
