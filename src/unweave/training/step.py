"""One step: its place in the schedule, losses of all layers, their gradients, Adam."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TrainingError
from . import parallel
from .config import TrainConfig
from .dictionary import TrainableTranscoders, select
from .sparse import Activations

ALONE = parallel.Processes()


@dataclass(frozen=True)
class Schedule:
    """What changes from step to step."""

    k: tuple[float, ...]
    """Active features a token, by layer; comes down to the config's over the first `k_anneal` of the tokens."""
    sparsity: float
    """Weight of the penalty; rises over the whole training."""
    rate: float
    """Adam's step size: a linear rise over `warmup` steps, level, a linear fall over the last `decay` of the tokens."""


def schedule(config: TrainConfig, widths: tuple[int, ...], step: int, share: float) -> Schedule:
    """Of a step, after `share` of all tokens; k starts at its value when going on from a dictionary."""
    fresh = (
        1.0
        if config.init
        else config.k_start + (1 - config.k_start) * min(1.0, share / config.k_anneal if config.k_anneal else 1.0)
    )
    k = tuple(
        min(fresh * k, max(0.5 * width, k)) if fresh > 1 else float(k)
        for k, width in zip(config.ks(len(widths)), widths, strict=True)
    )
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    falling = min(1.0, (1 - share) / config.decay) if config.decay else 1.0
    least = 1e-3 if config.objective == "local" else 0.05
    return Schedule(k, config.sparsity * share, config.lr * rising * max(falling, least))


def precision_of(config: TrainConfig, device: torch.device) -> torch.dtype:
    """bfloat16 where it is asked for, or where products in it are fast."""
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if config.precision == "bfloat16" or (config.precision == "auto" and fast) else torch.float32


@dataclass(frozen=True)
class StepFigures:
    """What one step saw, by trained layer."""

    fvu: Float[Tensor, " layer"]
    """Fraction of (outlier-weighted) variance unexplained."""
    l0: Float[Tensor, " layer"]
    """Mean active features a token."""
    dead: Float[Tensor, " layer"]
    """Share of features silent for longer than `dead_after` tokens."""
    penalty: float
    """The sparsity penalty, weighted."""
    divergence: float | None = None
    """End to end: mean KL(model || replaced), in nats."""


def take_step(
    dictionary: TrainableTranscoders, optimizer: torch.optim.Adam, inputs: list[Float[Tensor, "token d"]],
    targets: list[Float[Tensor, "token d"]],
    silent: Int[Tensor, "layer feature"], plan: Schedule, precision: torch.dtype, processes: parallel.Processes = ALONE,
) -> StepFigures:  # fmt: skip
    """Change the parameters by one batch, joined with those of the other processes.

    Raises:
        TrainingError: a loss or gradient that is not finite; nothing is changed then.
    """
    dense = inputs[0].is_cuda or precision != torch.float32 or not torch.backends.mkl.is_available()
    with torch.autocast(inputs[0].device.type, precision, enabled=precision != torch.float32):
        measured = losses(
            dictionary, inputs, targets, silent, plan.k, plan.sparsity, dense,
            lambda candidates, wanted: parallel.joint_kth(processes, candidates, wanted), processes.count,
        )  # fmt: skip
    apply(dictionary, optimizer, measured, silent, plan.rate, processes)
    return measured


def apply(
    dictionary: TrainableTranscoders, optimizer: torch.optim.Adam, measured: StepFigures,
    silent: Int[Tensor, "layer feature"], rate: float, processes: parallel.Processes = ALONE,
) -> None:  # fmt: skip
    """One step of Adam on the gradients that lie at the parameters, joined with those of the other processes.

    Raises:
        TrainingError: a loss or gradient that is not finite; nothing is changed then.
    """
    gradients = [parameter.grad for parameter in dictionary.parameters.values() if parameter.grad is not None]
    parallel.average(processes, [*gradients, measured.fvu, measured.l0])
    parallel.least(processes, silent)
    if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()) or not bool(measured.fvu.isfinite().all()):
        bad = [
            layer
            for layer, value in zip(dictionary.layers, measured.fvu.tolist(), strict=True)
            if not math.isfinite(value)
        ]
        raise TrainingError(f"the loss is not finite {f'in layers {bad}' if bad else 'in its gradient'}")
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def optimizer_of(dictionary: TrainableTranscoders) -> torch.optim.Adam:
    """Adam. End to end the step size is a share of each tensor's root mean square at the start: gradients come from
    whole predictions, and tensors of different layers have no common unit."""
    if dictionary.config.objective == "local":
        group = {"params": list(dictionary.parameters.values()), "scale": 1.0}
        return torch.optim.Adam([group], lr=dictionary.config.lr, fused=True)
    groups = [
        {"params": [value], "scale": float(value.detach().double().square().mean().sqrt().clamp_min(1e-6))}
        for value in dictionary.parameters.values()
    ]
    return torch.optim.Adam(groups, lr=dictionary.config.lr, betas=(0.9, 0.98), fused=True)


def losses(
    dictionary: TrainableTranscoders, inputs: list[Float[Tensor, "token d"]], targets: list[Float[Tensor, "token d"]],
    silent: Int[Tensor, "layer feature"],
    k: tuple[float, ...], sparsity: float, dense: bool, kth: Any, processes: int = 1,
) -> StepFigures:  # fmt: skip
    """Add the gradients of one batch to the parameters' `.grad`; inputs and targets are in the model's units, by
    trained layer.

    The loss is the sum over layers of the weighted fraction of variance unexplained, the tanh penalty of relu and
    jumprelu (Anthropic 2025, Circuit tracing: methods), and an auxiliary loss of dead features (Gao et al. 2024,
    section A.2; its second part is the pre-activation loss of Anthropic 2025). Each layer's output is back-propagated
    to the activations alone, then the encoders; so memory holds one layer's dense tensors at a time, for cross-layer
    sets too.

    Args:
        silent: tokens since each feature last fired, brought up to date here.
        kth: see `parallel.joint_kth`.
        processes: how many batches like this one are joined; only the count of tokens for `silent` needs it.
    """
    config, facts = dictionary.config, dictionary.statistics
    order = {layer: at for at, layer in enumerate(dictionary.layers)}
    xs = {layer: inputs[at] / facts[layer].input for layer, at in order.items()}
    made = {layer: select(dictionary, layer, xs[layer], k[layer], dense, kth) for layer in order}
    leaves = {layer: Activations(acts.values.detach().requires_grad_(), acts.pattern) for layer, acts in made.items()}
    dead = {layer: (silent[layer, : dictionary.widths[layer]] > config.dead_after).nonzero()[:, 0] for layer in order}
    fvu = []
    for layer, at in order.items():
        y = targets[at] / facts[layer].output
        out = dictionary.parameters[f"decoder_bias.{layer}"]
        if f"skip.{layer}" in dictionary.parameters:
            out = torch.addmm(out, xs[layer], dictionary.parameters[f"skip.{layer}"].T)
        for source in dictionary.sources(layer):
            out = out + leaves[source].decode(dictionary.decoder(source, layer))
        weight = facts[layer].weights(y, config.outlier)
        missed = y - out
        loss = (weight * missed.square().sum(-1)).mean() / facts[layer].variance
        fvu.append(loss.detach())
        if config.auxiliary and len(dead[layer]):
            loss = loss + config.auxiliary * _revival(
                dictionary, layer, dead[layer], xs[layer], missed.detach(), weight
            )
        loss.backward()
    penalty = _penalty(dictionary, leaves, sparsity) if sparsity and not config.sparse_by_k else 0.0
    for layer, acts in made.items():
        acts.values.backward(leaves[layer].values.grad)
    l0 = []
    for layer, acts in leaves.items():
        counts = acts.active()
        l0.append(counts.sum() / len(xs[layer]))
        row = silent[layer, : len(counts)]
        row += len(xs[layer]) * processes
        row[counts > 0] = 0
    share = torch.stack([torch.tensor(len(dead[layer]) / dictionary.widths[layer]) for layer in order])
    return StepFigures(torch.stack(fvu), torch.stack(l0).float(), share, penalty)


PUSH = 1e-3
"""Weight, within the auxiliary loss, of raising pre-activations that are below zero everywhere and so have no other
gradient."""


def _revival(
    dictionary: TrainableTranscoders, layer: int, dead: Tensor, x: Tensor, missed: Tensor, weight: Tensor
) -> Tensor:
    """How well the strongest dead features alone would make what is still missing, and how far they are from firing."""
    encoder, bias = (
        dictionary.parameters[f"encoder.{layer}"][dead],
        dictionary.parameters[f"encoder_bias.{layer}"][dead],
    )
    pre = torch.addmm(bias, x, encoder.T)
    k = min(len(dead), x.shape[1] // 2)
    best = pre.topk(k, dim=-1)
    acts = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
    left = missed - acts @ dictionary.decoder(layer, layer)[dead]
    threshold = dictionary.thresholds[layer].clamp_min(0.0)
    return (weight * left.square().sum(-1)).mean() / dictionary.statistics[layer].variance + PUSH * (
        threshold - pre
    ).relu().mean()


def _penalty(dictionary: TrainableTranscoders, leaves: dict[int, Activations], sparsity: float) -> float:
    """sum over features of tanh(c |decoder| a), the norm over all layers that the feature writes at; its gradient is
    added."""
    config, total = dictionary.config, 0.0
    n = len(dictionary.widths)
    for layer, acts in leaves.items():
        written = range(layer, n) if config.cross_layer else (layer,)
        norms = (
            torch.stack([dictionary.decoder(layer, target).square().sum(-1) for target in written])
            .sum(0)
            .clamp_min(1e-12)
            .sqrt()
        )
        norms = norms if acts.pattern is None else norms[acts.pattern.features]
        tokens = len(acts.values) if acts.pattern is None else len(acts.pattern.starts) - 1
        value = sparsity * torch.tanh(config.tanh_scale * norms * acts.values).sum() / tokens
        value.backward()
        total += float(value.detach())
    return total
