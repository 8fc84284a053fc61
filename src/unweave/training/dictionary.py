"""The dictionary while it is trained: plain named parameters in normalised units, and the way to and from files'
units."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import OptionError, TranscoderMismatch
from ..transcoders.transcoders import JumpReLU, Matrix, ReLU, Sparse, TopK, TranscoderLayer, Transcoders
from .config import TrainConfig
from .sparse import Activations, Pattern, encode
from .statistics import LayerStatistics


@dataclass(frozen=True)
class TrainableTranscoders:
    """Parameters by name, and what they need to be read.

    `encoder.3`, `encoder_bias.3` (and `log_threshold.3` of jumprelu) read at layer 3; `decoder_bias.7` and `skip.7`
    write at layer 7; `decoder.3.7` writes what layer 3's features add there. Per-layer sets have `decoder.7.7` only;
    tied ones one `decoder.7`, shared by all layers' features. Inputs and targets are divided by their layer's scale.
    """

    config: TrainConfig
    statistics: tuple[LayerStatistics, ...]
    parameters: Mapping[str, Tensor]
    thresholds: Tensor
    """[layer] running mean of batchtopk's threshold; what is saved as JumpReLU's."""
    layers: range
    """The layers trained here; all, unless processes share them."""
    widths: tuple[int, ...]

    def sources(self, layer: int) -> range:
        """The layers whose features write at `layer`."""
        return range(layer + 1) if self.config.cross_layer else range(layer, layer + 1)

    def decoder(self, source: int, target: int) -> Tensor:
        """What the features of `source` write at `target`, [feature, d]."""
        return self.parameters[
            f"decoder.{target}" if self.config.kind == "incremental" else f"decoder.{source}.{target}"
        ]

    def pre_activations(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token feature"]:
        """Of normalised inputs."""
        return torch.addmm(self.parameters[f"encoder_bias.{layer}"], x, self.parameters[f"encoder.{layer}"].T)

    def threshold(self, layer: int) -> Tensor:
        """Of jumprelu, by feature."""
        return self.parameters[f"log_threshold.{layer}"].exp()

    def predict_dense(
        self, layer: int, x: Float[Tensor, "token d"], earlier: Mapping[int, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Activations and output [token, d] in the model's own units, as a finished dictionary gives them; no gradient.

        Args:
            earlier: activations of the layers before, which cross-layer features need.
        """
        scale = self.statistics[layer]
        x = x / scale.input
        pre = self.pre_activations(layer, x)
        activations = finished(self, layer)(pre)
        y = self.parameters[f"decoder_bias.{layer}"]
        if f"skip.{layer}" in self.parameters:
            y = y + x @ self.parameters[f"skip.{layer}"].T
        for source in self.sources(layer):
            acts = activations if source == layer else earlier[source]
            y = y + sparse(acts).decode(self.decoder(source, layer))
        return activations, y * scale.output


def learns(config: TrainConfig, name: str) -> bool:
    """Whether a parameter is changed by the training."""
    return config.train == "all" or not name.startswith("encoder")


def sparse(dense: Float[Tensor, "token feature"]) -> Activations:
    """Dense activations as entries, where sparse products are the fast ones."""
    if dense.is_cuda:
        return Activations(dense, None)
    tokens, features = dense.nonzero(as_tuple=True)
    return Activations(dense[tokens, features], Pattern.of(tokens, features, len(dense), dense.shape[1]))


def finished(dictionary: TrainableTranscoders, layer: int) -> Sparse:
    """The activation function that is saved."""
    config = dictionary.config
    width = dictionary.widths[layer]
    match config.activation:
        case "relu":
            return ReLU()
        case "topk":
            return TopK(config.ks(len(dictionary.widths))[layer])
        case "jumprelu":
            return JumpReLU(dictionary.threshold(layer).detach())
        case _:
            return JumpReLU(dictionary.thresholds[layer].clamp_min(0.0).expand(width).clone())


def start(
    config: TrainConfig,
    statistics: tuple[LayerStatistics, ...],
    init: Transcoders | None,
    device: torch.device,
    layers: range,
) -> TrainableTranscoders:
    """First parameters: random encoders, zero decoders, least-squares skip and bias; or those of a dictionary to go
    on from.

    Raises:
        OptionError: widths that do not fit the model, or a dictionary to go on from of another kind or wider, or whose
            features `train = "decoders"` cannot keep as they are.
    """
    if config.train == "decoders":  # encoders read in the model's own units, so none of their bits is lost
        statistics = tuple(replace(facts, input=1.0) for facts in statistics)
    n, d = len(statistics), statistics[0].mean.shape[0]
    widths = config.widths(n)
    parameters: dict[str, Tensor] = {}
    for layer in layers:
        facts, width = statistics[layer], widths[layer]
        generator = torch.Generator().manual_seed(config.seed * 10_007 + layer)
        parameters[f"encoder.{layer}"] = torch.randn(width, d, generator=generator) / math.sqrt(d)
        parameters[f"encoder_bias.{layer}"] = torch.zeros(width)
        if config.activation == "jumprelu":
            parameters[f"log_threshold.{layer}"] = torch.full((width,), math.log(max(config.threshold, 1e-6)))
        if config.kind == "incremental":
            parameters[f"decoder.{layer}"] = torch.zeros(width, d)
        else:
            for target in range(layer, n) if config.cross_layer else (layer,):
                parameters[f"decoder.{layer}.{target}"] = torch.zeros(width, d)
        parameters[f"decoder_bias.{layer}"] = facts.mean.clone()
        if config.kind == "skip":
            parameters[f"skip.{layer}"] = facts.affine.clone()
            parameters[f"decoder_bias.{layer}"] = facts.affine_bias.clone()
    thresholds = torch.full((n,), -1.0)
    if init is not None:
        _go_on(config, statistics, init, parameters, thresholds, layers)
    on_device = {
        name: value.to(device).contiguous().requires_grad_(learns(config, name)) for name, value in parameters.items()
    }
    return TrainableTranscoders(
        config, tuple(part.to(device) for part in statistics), on_device, thresholds.to(device), layers, widths
    )


def _go_on(
    config: TrainConfig,
    statistics: tuple[LayerStatistics, ...],
    init: Transcoders,
    parameters: dict[str, Tensor],
    thresholds: Tensor,
    layers: range,
) -> None:
    if (
        (init.kind == "cross-layer") != config.cross_layer
        or config.kind == "incremental"
        or (init.has_skip and config.kind != "skip")
    ):
        raise OptionError(
            f"init is {init.name}, a {init.kind} dictionary{' with a skip' if init.has_skip else ''}; a {config.kind} "
            f"training cannot go on from it"
        )
    if (init.read, init.write) != ("mlp_in", "mlp_out"):
        raise OptionError(
            f"init is {init.name}, which reads at {init.read} and writes at {init.write}; training reads at mlp_in "
            f"and writes at mlp_out"
        )
    init.check(len(statistics), statistics[0].mean.shape[0], config.model)
    for layer in layers:
        old, facts = init.layers[layer], statistics[layer]
        rows = old.width
        if rows > len(parameters[f"encoder.{layer}"]):
            raise TranscoderMismatch(
                f"init is {init.name}, with {rows} features at layer {layer}; the new one has "
                f"{len(parameters[f'encoder.{layer}'])}"
            )
        if config.train == "decoders":
            _check_kept(config, init, layer)
        # Pre-activations stay as they are, in the dictionary's own units; only what is read and written is scaled.
        parameters[f"encoder.{layer}"][:rows] = old.encoder.dense(torch.float32) * facts.input
        parameters[f"encoder_bias.{layer}"][:rows] = old.encoder_bias.float()
        decoder = old.decoder.dense(torch.float32)
        for slot, target in enumerate(range(layer, len(statistics)) if config.cross_layer else (layer,)):
            parameters[f"decoder.{layer}.{target}"][:rows] = (
                decoder[:, slot] if config.cross_layer else decoder
            ) / statistics[target].output
        parameters[f"decoder_bias.{layer}"] = old.decoder_bias.float() / facts.output
        if config.kind == "skip":
            parameters[f"skip.{layer}"] = (
                torch.zeros_like(parameters[f"skip.{layer}"])
                if old.skip is None
                else old.skip.dense(torch.float32) * facts.input / facts.output
            )
        if isinstance(old.activation, JumpReLU):
            thresholds[layer] = old.activation.threshold.double().mean()  # of equal ones, exactly that one
            if config.activation == "jumprelu":
                parameters[f"log_threshold.{layer}"][:rows] = old.activation.threshold.float().clamp_min(1e-6).log()


def _check_kept(config: TrainConfig, init: Transcoders, layer: int) -> None:
    """Refuse a dictionary whose features at a layer would not fire as they do now."""
    old, width, k = init.layers[layer], config.widths(len(init.layers))[layer], config.ks(len(init.layers))[layer]
    single = isinstance(old.activation, JumpReLU) and len(old.activation.threshold.clamp_min(0.0).unique()) == 1
    same = single if config.activation == "batchtopk" else old.activation == TopK(k)
    if old.width != width or not same:
        wanted = "one threshold of JumpReLU" if config.activation == "batchtopk" else f"top {k}"
        raise OptionError(
            f"train is 'decoders', which keeps features as they are: layer {layer} of {init.name} would need {width} "
            f"features (it has {old.width}) and {wanted}; give its own width, and train 'all' where activations differ"
        )


def to_transcoders(dictionary: TrainableTranscoders, name: str) -> Transcoders:
    """The dictionary as files hold it: scales folded into the weights, thresholds fixed."""
    config, n = dictionary.config, len(dictionary.statistics)

    def plain(key: str) -> Tensor:
        return dictionary.parameters[key].detach().float().cpu()

    layers = []
    for layer in range(n):
        facts = dictionary.statistics[layer]
        if config.cross_layer:
            targets = range(layer, n)
            decoder = torch.stack(
                [
                    dictionary.decoder(layer, t).detach().float().cpu() * dictionary.statistics[t].output
                    for t in targets
                ],
                1,
            )
        else:
            decoder = plain(f"decoder.{layer}.{layer}") * facts.output
        activation = finished(dictionary, layer)
        layers.append(
            TranscoderLayer(
                Matrix(plain(f"encoder.{layer}") / facts.input), plain(f"encoder_bias.{layer}"), Matrix(decoder),
                plain(f"decoder_bias.{layer}") * facts.output,
                JumpReLU(activation.threshold.cpu()) if isinstance(activation, JumpReLU) else activation,
                Matrix(plain(f"skip.{layer}") * facts.output / facts.input) if config.kind == "skip" else None,
            )
        )  # fmt: skip
    return Transcoders(
        "cross-layer" if config.cross_layer else "per-layer", tuple(layers), "mlp_in", "mlp_out", name, config.model
    )


def select(
    dictionary: TrainableTranscoders, layer: int, x: Float[Tensor, "token d"], k: float, dense: bool, kth: Any
) -> Activations:
    """Activations of one layer on normalised inputs, differentiable in the encoder.

    Args:
        k: mean active features a token (batchtopk) or their number (topk).
        dense: whether ordinary matrix products are the fast ones.
        kth: the value of a rank among candidates, over all processes (see `parallel.joint_kth`).
    """
    config, width = dictionary.config, dictionary.widths[layer]
    with torch.set_grad_enabled(dense):
        pre = dictionary.pre_activations(layer, x)
    if config.activation == "topk":
        best = pre.detach().topk(int(k), dim=-1).indices.sort(-1).values
        keep: Bool[Tensor, "token feature"] = torch.zeros_like(pre, dtype=torch.bool).scatter_(-1, best, True)
    elif config.activation == "batchtopk":
        fixed = dictionary.thresholds[layer].clamp_min(0.0) if config.train == "decoders" else None
        keep = pre.detach() > (_batch_threshold(dictionary, layer, pre.detach(), k, kth) if fixed is None else fixed)
    elif config.activation == "relu":
        keep = pre.detach() > 0
    else:
        keep = pre.detach() > (dictionary.threshold(layer).detach() - config.bandwidth / 2).clamp_min(0)
    if dense:
        values, threshold, pattern = (
            pre * keep,
            dictionary.threshold(layer) if config.activation == "jumprelu" else None,
            None,
        )
    else:
        tokens, features = keep.nonzero(as_tuple=True)
        pattern = Pattern.of(tokens, features, len(x), width)
        values = encode(
            x,
            dictionary.parameters[f"encoder.{layer}"],
            dictionary.parameters[f"encoder_bias.{layer}"],
            pre[tokens, features],
            pattern,
        )
        threshold = dictionary.threshold(layer)[features] if config.activation == "jumprelu" else None
    if threshold is not None:
        values = _Jump.apply(values, threshold.expand_as(values), config.bandwidth)
    return Activations(values, pattern)


def _batch_threshold(
    dictionary: TrainableTranscoders, layer: int, pre: Float[Tensor, "token feature"], k: float, kth: Any
) -> Tensor:
    """The value that leaves k features a token on average, and its running mean.

    Sorting a whole batch is slow; nearly always the values over 0.7 of the last threshold are enough.
    """
    wanted = max(1, round(k * len(pre)))
    last = dictionary.thresholds[layer]
    candidates = pre[pre > torch.clamp(0.7 * last, min=0.0)] if last > 0 else pre[pre > 0]
    if last > 0 and len(candidates) < wanted:
        candidates = pre[pre > 0]
    found = kth(candidates, wanted)
    rate = 0.02 if (found - last).abs() < 0.1 * last else 0.2  # far off at the start, or after going on from another k
    dictionary.thresholds[layer] = found if last < 0 else last + rate * (found - last)
    return found


class _Jump(torch.autograd.Function):
    """JumpReLU with a rectangular straight-through window (Rajamanoharan et al. 2024, eq. 11)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(values, threshold)
        ctx.bandwidth = bandwidth
        return values * (values > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, threshold = ctx.saved_tensors
        window = ((values - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return grads[0] * (values > threshold), -threshold * window * grads[0], None
