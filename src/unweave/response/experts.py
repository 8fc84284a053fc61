"""MLPs of several experts, with the router's choice and weights held: which neurons work where."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UnsupportedModel
from ..models.row import Architecture
from .mlps import Neurons


def experts(
    row: Architecture, mlp: Any, x: Tensor, weights: Float[Tensor, "pos chosen"], chosen: Int[Tensor, "pos chosen"]
) -> tuple[tuple[Neurons, ...], Tensor]:
    """The neurons of the experts that were chosen, and what they add whatever their activations."""
    return _interleaved(mlp, x, weights, chosen) if row.experts == "interleaved" else _halves(mlp, x, weights, chosen)


def choosers(row: Architecture, mlp: Any) -> list[Any]:
    """The modules whose outputs are held: the router, and what weighs an expert that all positions share."""
    return [mlp.get_submodule(name) for name in (row.router, "shared_expert_gate") if hasattr(mlp, name)]


def check_experts(name: str, row: Architecture, layer: int, mlp: Any) -> None:
    """Refuse an MLP that is not experts as the row says.

    Raises:
        UnsupportedModel: one dense MLP among experts, or experts kept in another way.
    """
    kept = getattr(getattr(mlp, "experts", None), "gate_up_proj", None)
    if row.experts is None or not isinstance(kept, Tensor) or kept.dim() != 3:
        raise UnsupportedModel(
            f"{name}: the MLP of layer {layer} is not experts as {row.family} keeps them in transformers 5; no "
            f"response graph (attribution graphs work)"
        )


def _interleaved(mlp: Any, x: Tensor, weights: Tensor, chosen: Tensor) -> tuple[tuple[Neurons, ...], Tensor]:
    """Of GPT-OSS: `(clamp(up) + 1) glu(clamp(gate))`, each times its router weight; gates and ups lie interleaved."""
    module, parts = mlp.experts, []
    constant, width = torch.zeros_like(x), module.down_proj.shape[1]
    for expert in chosen.unique().tolist():
        positions, place = torch.where(chosen == expert)
        share = weights[positions, place][:, None]
        both = module.gate_up_proj[expert].detach().to(x).T
        made = x[positions] @ both.T + module.gate_up_proj_bias[expert].detach().to(x)
        gate, up = made[:, ::2], made[:, 1::2]
        open_, inside = gate <= module.limit, up.abs() <= module.limit
        gate, up = gate.clamp(max=module.limit), up.clamp(-module.limit, module.limit)
        value, slope = activation_at(lambda z, a=module.alpha: z * torch.sigmoid(z * a), gate)
        reads = ((both[::2], slope * open_ * (up + 1) * share), (both[1::2], value * inside * share))
        down = module.down_proj[expert].detach().to(x)
        parts.append(Neurons(expert * width, positions, reads, down, value * (up + 1) * share))
        constant[positions] += share * module.down_proj_bias[expert].detach().to(x)
    return tuple(parts), constant


def _halves(mlp: Any, x: Tensor, weights: Tensor, chosen: Tensor) -> tuple[tuple[Neurons, ...], Tensor]:
    """`up act(gate)`, each times its router weight; gates lie before ups. The neurons of an expert that all
    positions share have the last numbers, and are times its own gate, which is held as the router is."""
    module, parts = mlp.experts, []
    width = module.down_proj.shape[2]
    for expert in chosen.unique().tolist():
        positions, place = torch.where(chosen == expert)
        gate, up = module.gate_up_proj[expert].detach().to(x).chunk(2)
        down = module.down_proj[expert].detach().to(x)
        share = weights[positions, place][:, None]
        parts.append(_gated(expert * width, positions, x[positions], gate, up, down, module.act_fn, share))
    shared = getattr(mlp, "shared_expert", None)
    if shared is not None:
        gate, up, down = (part.weight.detach().to(x) for part in (shared.gate_proj, shared.up_proj, shared.down_proj))
        share = torch.sigmoid(x @ mlp.shared_expert_gate.weight.detach().to(x).T)
        # first, as it is whole: what works at some positions is added to it
        parts.insert(0, _gated(len(module.down_proj) * width, None, x, gate, up, down, shared.act_fn, share))
    return tuple(parts), torch.zeros_like(x)


def _gated(
    first: int,
    positions: Tensor | None,
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    act: Callable,
    share: Tensor,
) -> Neurons:
    value, slope = activation_at(act, x @ gate.T)
    linear = x @ up.T
    reads = ((gate, slope * linear * share), (up, value * share))
    return Neurons(first, positions, reads, down.T, value * linear * share)


def activation_at(act: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """An activation function and its derivative, entry by entry, whatever function a config names."""
    with torch.enable_grad():
        entries = x.detach().requires_grad_()
        made = act(entries)
        (slope,) = torch.autograd.grad(made.sum(), entries)
    return made.detach(), slope
