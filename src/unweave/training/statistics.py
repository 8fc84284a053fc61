"""What is measured before training: scales, the mean, the weight of outliers, and the least-squares affine map."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ModelError


@dataclass(frozen=True)
class LayerStatistics:
    """Of one MLP, in units in which inputs and targets have a root mean square of one (all but `input`, `output`)."""

    input: float
    """Root mean square of the MLP's inputs."""
    output: float
    """Root mean square of its outputs, outliers weighted down."""
    mean: Float[Tensor, " d"]
    """Weighted mean output."""
    variance: float
    """Weighted mean squared distance of outputs from `mean`; a loss divided by it is a fraction of variance
    unexplained."""
    median: float
    """Median squared norm of outputs."""
    affine: Float[Tensor, "d d"]
    affine_bias: Float[Tensor, " d"]
    """The weighted least-squares affine map from inputs to outputs."""

    def to(self, device: torch.device) -> "LayerStatistics":
        """The same on another device."""
        return replace(
            self, mean=self.mean.to(device), affine=self.affine.to(device), affine_bias=self.affine_bias.to(device)
        )

    def weights(self, y: Float[Tensor, "token d"], outlier: float) -> Float[Tensor, " token"]:
        """Weights at most 1 that cap a token's squared norm at `outlier` medians."""
        return (outlier * self.median / y.square().sum(-1).clamp_min(1e-12)).clamp_max(1.0)


def measure(
    batches: Iterable[tuple[list[Tensor], list[Tensor]]], outlier: float, layers: range
) -> dict[int, LayerStatistics]:
    """Statistics by layer from recorded (inputs, outputs), each a list over `layers` of [token, d].

    Raises:
        ModelError: inputs or outputs that are not finite.
    """
    sums: dict[int, _LayerSums] = {}
    for inputs, outputs in batches:
        for layer, x, y in zip(layers, inputs, outputs, strict=True):
            if not bool(x.isfinite().all() and y.isfinite().all()):
                raise ModelError(
                    f"the MLP of layer {layer} gives values that are not finite; its model cannot be trained on"
                )
            if layer not in sums:
                sums[layer] = _LayerSums(float(y.square().sum(-1).median().clamp_min(1e-12)), x.shape[1])
            sums[layer].add(x, y, outlier)
    return {layer: part.finish() for layer, part in sums.items()}


class _LayerSums:
    """Running weighted second moments of [inputs, 1, outputs] in float64; the median is the first batch's."""

    def __init__(self, median: float, d: int):
        self.median, self.d, self.total = median, d, 0.0
        self.moments = torch.zeros(2 * d + 1, 2 * d + 1, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, outlier: float) -> None:
        weight = (outlier * self.median / y.square().sum(-1).clamp_min(1e-12)).clamp_max(1.0)
        rows = torch.cat([x, torch.ones_like(x[:, :1]), y], 1)
        self.moments += (rows.T @ (rows * weight[:, None])).cpu().double()
        self.total += float(weight.sum())

    def finish(self) -> LayerStatistics:
        d, m = self.d, self.moments / self.total
        x, y = slice(0, d + 1), slice(d + 1, 2 * d + 1)
        mean = m[d, y]
        power = float(m[y, y].diagonal().sum())
        # The ridge fades as tokens outnumber dimensions; with few of them the map would fit noise.
        ridge = (
            (1e-6 + 0.01 * d / self.total) * float(m[:d, :d].diagonal().mean()) * torch.eye(d + 1, dtype=torch.float64)
        )
        ridge[d, d] = 0.0
        affine = torch.linalg.solve(m[x, x] + ridge, m[x, y])  # [d + 1, d]
        scale_in = max(float(m[:d, :d].diagonal().mean()) ** 0.5, 1e-12)
        scale_out = max((power / d) ** 0.5, 1e-12)
        return LayerStatistics(
            input=scale_in,
            output=scale_out,
            mean=(mean / scale_out).float(),
            variance=max(power - float(mean.square().sum()), 1e-12) / scale_out**2,
            median=self.median / scale_out**2,
            affine=(affine[:d].T * scale_in / scale_out).float().contiguous(),
            affine_bias=(affine[d] / scale_out).float(),
        )
