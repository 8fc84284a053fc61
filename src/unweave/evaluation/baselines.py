"""What a dictionary is compared with: mean outputs, affine maps, random features, the strongest of the model's own
neurons."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.progress import Progress
from ..models.language_model import LanguageModel
from ..models.passes import Step, batches, counted, run
from ..models.recording import ReadPoint, WritePoint
from ..transcoders.dense import DenseTranscoders
from ..transcoders.neurons import neurons
from ..transcoders.transcoders import JumpReLU, Matrix, NeuronActivation, TranscoderLayer, Transcoders

SAMPLE_TOKENS = 2048
"""Tokens from which medians, thresholds and scales are taken."""
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What may be added to the diagonal of the inputs' covariance, relative to its mean; the best on every fourth batch
is taken."""
OUTLIER = 16.0
"""A token whose squared norm is larger than this many medians weighs less, as in training."""


@dataclass(frozen=True)
class AffineMaps:
    """Each MLP as an affine map of its input; `weight` holds a product of matrices [out, in], the last applied last;
    empty: a constant."""

    name: str
    weight: tuple[tuple[Float[Tensor, "_ _"], ...], ...]
    bias: tuple[Float[Tensor, " d"], ...]
    read: ReadPoint = "mlp_in"

    def start(self) -> Step:
        """A fresh pass; layers do not depend on each other."""
        return self.apply

    def apply(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output."""
        return self.linear(layer, x) + self.bias[layer]

    def linear(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output without its bias."""
        if not self.weight[layer]:
            return torch.zeros_like(x)
        for matrix in self.weight[layer]:
            x = x @ matrix.T
        return x


@dataclass(frozen=True)
class StrongestNeurons:
    """The model's own neurons: for each token those that write the longest vectors; the others write their mean.

    Source: Ameisen et al. 2025, "Circuit Tracing", where thresholded neurons are the baseline of the replacement model.
    """

    name: str
    model: LanguageModel
    neurons: Transcoders
    write: WritePoint
    count: tuple[int, ...]
    """How many are kept, by layer."""
    rest: tuple[Float[Tensor, " d"], ...]
    """What the others write on average."""
    read: ReadPoint = "mlp_in"

    def start(self) -> Step:
        """A fresh pass; layers do not depend on each other."""
        return self.apply

    def apply(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output."""
        kept, _ = self.split(layer, x)
        output = kept @ self._decoder(layer, x) + self.rest[layer] + self.neurons.layers[layer].decoder_bias.to(x)
        after = self.model.after_mlp(layer, output) if self.write == "residual" else None
        return output if after is None else after.forward(output)

    def split(
        self, layer: int, x: Float[Tensor, "token d"]
    ) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
        """Activations of the neurons that are kept, and of the others."""
        activation = self.neurons.layers[layer].activation
        assert isinstance(activation, NeuronActivation)
        hidden = activation.hidden(x)
        chosen = (hidden.abs() * self._decoder(layer, x).norm(dim=1)).topk(self.count[layer], dim=1).indices
        kept = torch.zeros_like(hidden).scatter_(1, chosen, hidden.gather(1, chosen))
        return kept, hidden - kept

    def dropped(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What the others write."""
        return self.split(layer, x)[1] @ self._decoder(layer, x)

    def _decoder(self, layer: int, x: Tensor) -> Float[Tensor, "feature d"]:
        return self.neurons.layers[layer].decoder.dense(x.dtype).to(x.device)


StandIn = DenseTranscoders | AffineMaps | StrongestNeurons
"""Something with a `name` that makes MLP outputs from what it `read`s; `start()` begins a pass through the layers."""


@dataclass(frozen=True)
class LayerSample:
    """Inputs and outputs of one layer's MLP on some tokens."""

    inputs: Float[Tensor, "token d"]
    outputs: Float[Tensor, "token d"]


@dataclass(frozen=True)
class Moments:
    """First and second moments of one MLP's input x and output y under the tokens' weights, in float64."""

    x: Float[Tensor, " d"]
    y: Float[Tensor, " d"]
    xx: Float[Tensor, "d d"]
    """Covariance of the input."""
    xy: Float[Tensor, "d d"]
    """Covariance of input (rows) and output (columns)."""
    ridge: float
    """Share of the mean of `xx`'s diagonal to add to it."""


@dataclass(frozen=True)
class BaselineFit:
    """What the baselines are made from: facts about some text that is not evaluated."""

    tokens: int
    median: Float[Tensor, " layer"]
    """Median squared norm of each MLP's outputs."""
    moments: tuple[Moments, ...]
    sample: tuple[LayerSample, ...]


def token_weights(y: Float[Tensor, "token d"], median: Float[Tensor, ""]) -> Float[Tensor, " token"]:
    """What each token counts in training: 1, or less for outputs of enormous norm: 16 median squared norms / its
    squared norm."""
    return (OUTLIER * median / y.square().sum(-1).clamp_min(1e-30)).clamp_max(1)


def fit_baselines(
    model: LanguageModel, blocks: Int[Tensor, "sequence pos"], write: WritePoint, progress: Progress
) -> BaselineFit:
    """Run the model on some text, once for a small sample and once for the moments of all tokens, position 0
    excluded."""
    dtype, layers = model.engine_dtype, range(model.n_layers)
    parts = [run(model, ids, write, logits=False) for ids in batches(sample_blocks(blocks), model)]
    sample = tuple(
        LayerSample(
            torch.cat([counted(part.inputs[layer], dtype) for part in parts]),
            torch.cat([counted(part.outputs[layer], dtype) for part in parts]),
        )
        for layer in layers
    )
    median = torch.stack([part.outputs.square().sum(-1).median() for part in sample])
    kept, tried = ([_MomentSums() for _ in layers] for _ in range(2))
    done = 0
    for number, ids in enumerate(batches(blocks, model)):
        clean = run(model, ids, write, logits=False)
        for layer, sums in enumerate(tried if number % 4 == 3 else kept):
            x, y = counted(clean.inputs[layer], dtype), counted(clean.outputs[layer], dtype)
            sums.add(x, y, token_weights(y, median[layer]))
        done += len(ids)
        progress(done / len(blocks))
    moments = tuple(_with_ridge(*pair) for pair in zip(kept, tried, strict=True))
    return BaselineFit(blocks.shape[0] * (blocks.shape[1] - 1), median, moments, sample)


def sample_blocks(blocks: Int[Tensor, "sequence pos"]) -> Int[Tensor, "_ pos"]:
    """The first blocks, about `SAMPLE_TOKENS` tokens."""
    return blocks[: max(1, SAMPLE_TOKENS // blocks.shape[1])]


class _MomentSums:
    """Weighted sums over tokens, in float64."""

    def __init__(self, totals: list[Tensor] | None = None) -> None:
        self.totals = totals

    def add(self, x: Float[Tensor, "token d"], y: Float[Tensor, "token d"], weight: Float[Tensor, " token"]) -> None:
        x, y, weight = x.double(), y.double(), weight.double()
        weighted = x * weight[:, None]
        self.add_totals([weight.sum(), weighted.sum(0), weight @ y, weighted.T @ x, weighted.T @ y])

    def add_totals(self, new: list[Tensor]) -> None:
        self.totals = new if self.totals is None else [old + part for old, part in zip(self.totals, new, strict=True)]

    def moments(self, ridge: float) -> Moments:
        assert self.totals is not None
        total, x, y, xx, xy = self.totals
        x, y = x / total, y / total
        return Moments(x, y, xx / total - x[:, None] * x, xy / total - x[:, None] * y, ridge)


def _with_ridge(kept: _MomentSums, tried: _MomentSums) -> Moments:
    """The moments of all tokens, with the ridge that predicts those of `tried` best from those of `kept`."""
    if tried.totals is None:
        return kept.moments(RIDGES[0])
    test = tried.moments(0.0)

    def error(ridge: float) -> float:
        slope = _slope(kept.moments(ridge))
        return float((slope * (test.xx @ slope - 2 * test.xy)).sum())

    best = min(RIDGES, key=error)
    kept.add_totals(tried.totals)
    return kept.moments(best)


def mean_outputs(fit: BaselineFit, dtype: torch.dtype) -> AffineMaps:
    """Every MLP puts out its mean."""
    return AffineMaps("mean output", tuple(() for _ in fit.moments), tuple(part.y.to(dtype) for part in fit.moments))


def affine_maps(fit: BaselineFit, dtype: torch.dtype) -> AffineMaps:
    """Every MLP as the affine map of its input that fits best: ridge-regularised normal equations, solved in
    float64."""
    slopes = [_slope(part) for part in fit.moments]
    bias = tuple((part.y - part.x @ slope).to(dtype) for part, slope in zip(fit.moments, slopes, strict=True))
    return AffineMaps("affine", tuple((slope.T.contiguous().to(dtype),) for slope in slopes), bias)


def low_rank_maps(fit: BaselineFit, rank: int, dtype: torch.dtype) -> AffineMaps:
    """Every MLP as the affine map of a given rank that fits best.

    Reduced-rank regression: the full map, projected on the leading directions of what it predicts (Izenman 1975).
    """
    weight, bias = [], []
    for part in fit.moments:
        slope = _slope(part)
        _, directions = torch.linalg.eigh(slope.T @ part.xx @ slope)
        leading = directions[:, -rank:]
        down = slope @ leading
        weight.append((down.T.contiguous().to(dtype), leading.contiguous().to(dtype)))
        bias.append((part.y - part.x @ down @ leading.T).to(dtype))
    return AffineMaps(f"rank {rank}", tuple(weight), tuple(bias))


def _slope(part: Moments) -> Float[Tensor, "d d"]:
    """The least-squares map of deviations, [in, out]."""
    ridge = part.ridge * part.xx.diagonal().mean().clamp_min(1e-30)
    return torch.linalg.solve(
        part.xx + ridge * torch.eye(len(part.xx), dtype=part.xx.dtype, device=part.xx.device), part.xy
    )


def random_dictionary(
    fit: BaselineFit, like: Transcoders, l0: tuple[float, ...], skip: AffineMaps, seed: int
) -> Transcoders:
    """A dictionary with as many features and the same L0, whose directions are random.

    Encoder and decoder rows are random unit vectors. Each feature's threshold lets it fire on its share of the tokens.
    A skip matrix, where `like` has one, is the best affine map. What is left is fitted by one scale a layer.

    Args:
        l0: wanted mean number of active features, by layer.
    """
    generator, layers = torch.Generator().manual_seed(seed), []
    for number, (given, part) in enumerate(zip(like.layers, fit.sample, strict=True)):
        x, rest = part.inputs, part.outputs
        encoder, decoder = (_unit_rows(given.width, x.shape[1], generator).to(x) for _ in range(2))
        matrix = None if given.skip is None else skip.weight[number][0]
        if matrix is not None:
            rest = rest - skip.linear(number, x)
        weight = token_weights(part.outputs, fit.median[number])[:, None]
        weight = weight / weight.sum()
        before = x @ encoder.T
        activation = JumpReLU(_thresholds(before, l0[number] / given.width))
        written = activation(before) @ decoder
        centre, offset = (weight * written).sum(0), (weight * rest).sum(0)
        size = (weight * (written - centre).square()).sum()
        scale = (weight * (written - centre) * (rest - offset)).sum() / size if float(size) > 0 else size
        layers.append(
            TranscoderLayer(
                Matrix(encoder), x.new_zeros(given.width), Matrix(decoder * scale), offset - scale * centre, activation,
                None if matrix is None else Matrix(matrix),
            )
        )  # fmt: skip
    return Transcoders("per-layer", tuple(layers), "mlp_in", like.write, name="random")


def strongest_neurons(
    model: LanguageModel, fit: BaselineFit, l0: tuple[float, ...], write: WritePoint
) -> StrongestNeurons:
    """As many of the model's own neurons as a dictionary has active features, the rest at their mean.

    Args:
        l0: mean number of active features, by layer.
    """
    own = neurons(model)
    count = tuple(max(1, min(round(wanted), width)) for wanted, width in zip(l0, own.widths, strict=True))
    none = tuple(part.x.new_zeros(model.d_model, dtype=model.engine_dtype) for part in fit.moments)
    found, rest = StrongestNeurons("neurons", model, own, write, count, none), []
    for layer, part in enumerate(fit.sample):
        weight = token_weights(part.outputs, fit.median[layer])[:, None]
        rest.append((weight * found.dropped(layer, part.inputs)).sum(0) / weight.sum())
    return replace(found, rest=tuple(rest))


def _thresholds(before: Float[Tensor, "token feature"], share: float) -> Float[Tensor, " feature"]:
    """For every feature the level that a share of the tokens lies above."""
    above = min(round(share * len(before)), len(before) - 1)
    return before.topk(above + 1, dim=0).values[-1]


def _unit_rows(rows: int, d: int, generator: torch.Generator) -> Float[Tensor, "rows d"]:
    return torch.nn.functional.normalize(torch.randn(rows, d, generator=generator), dim=1)
