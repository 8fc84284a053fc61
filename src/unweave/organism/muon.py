"""Muon: momentum made nearly orthogonal, for the matrices inside a network (Jordan et al. 2024); torch has its own
only since 2.9."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95


def orthogonalized(gradient: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """A matrix with the same singular vectors and singular values of about 1, by five Newton-Schulz steps."""
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


@torch.no_grad()
def muon_step(parameter: nn.Parameter, momentum: Float[Tensor, "out in"], rate: float, shrink: float) -> None:
    """One step on a matrix whose gradient is there; its momentum is changed too."""
    assert parameter.grad is not None
    momentum.lerp_(parameter.grad, 1 - MOMENTUM)
    step = orthogonalized(parameter.grad.lerp(momentum, MOMENTUM))
    parameter.mul_(1 - rate * shrink).sub_(step, alpha=rate * max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5)
