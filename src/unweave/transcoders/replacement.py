"""The replacement model, and the local replacement model of one prompt: a linear map that reproduces the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.catalogue import PACKAGED, PAIRS, SHIPPED
from ..base.choices import PositionZero, choice
from ..base.kinds import typed
from ..errors import InexactAttribution, OptionError, TranscoderError
from ..models.frozen import FrozenLayer, FrozenModel, FrozenNorm
from ..models.language_model import LanguageModel, Recording
from ..models.loading import load_model, loadable
from ..models.smollm2 import DEFAULT_MODEL
from .formats import read_transcoders
from .neurons import NEURONS, neurons
from .transcoders import Transcoders


@dataclass(frozen=True)
class ActiveFeatures:
    """The features that are on in a prompt, by (layer, position, index)."""

    layer: Int[Tensor, " feature"]
    position: Int[Tensor, " feature"]
    index: Int[Tensor, " feature"]
    activation: Float[Tensor, " feature"]
    preactivation: Float[Tensor, " feature"]
    slope: Float[Tensor, " feature"] | None = None
    """Of neurons, what gates make of one unit of the encoders' output, held; pre-activations are meant with it."""

    def __len__(self) -> int:
        return len(self.layer)


@dataclass(frozen=True)
class LocalReplacement:
    """The local replacement model: frozen layers, active features and error vectors, exact on one prompt.

    All vectors are as they enter the residual stream, after a norm that may follow the MLP.
    Source: Ameisen et al. 2025, "Circuit Tracing", section on the local replacement model.
    """

    model: LanguageModel
    transcoders: Transcoders
    recording: Recording
    """Without the attention patterns, which are in `frozen`."""
    frozen: FrozenModel
    features: ActiveFeatures
    errors: Float[Tensor, "layer pos d"]
    constants: tuple[Float[Tensor, "pos d"], ...]
    """What each MLP adds whatever the features: decoder biases, and dropped outputs of position 0."""
    position_zero: PositionZero
    n_ignored: int
    """How many positions at the start have no features."""
    logits_error: float
    """Largest difference between its logits and the model's."""
    unexplained: float | None
    """The median layer's squared errors over the squares of what its MLP adds beyond the decoder's bias, position 0
    excluded; above 1 the dictionary does worse than its bias alone, as one of another model does, or one whose
    tensors lie the wrong way round.
    None: there is no other position."""

    @property
    def n_positions(self) -> int:
        """Length of the prompt in tokens."""
        return len(self.recording.input_ids)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.frozen.layers)

    def vectors(self, features: slice, at: int) -> Float[Tensor, "feature d"]:
        """What features (of one layer, as a slice of `self.features`) add to the residual stream at layer `at`."""
        part = self.features
        if features.stop <= features.start:
            return self.errors.new_zeros(0, self.errors.shape[-1])
        layer = int(part.layer[features.start])
        rows, write = self.written_rows(layer, part.index[features], at), self.frozen.layers[at].write
        scale = 1.0 if write is None else write.scale[part.position[features], None]
        return rows * part.activation[features, None] * scale

    def written_rows(self, layer: int, index: Int[Tensor, " feature"], at: int) -> Float[Tensor, "feature d"]:
        """What features of `layer` write at layer `at` for an activation of one, through a norm that may follow but
        for its scales."""
        rows, write = self.transcoders.decoder_rows(layer, index, at, self.errors.dtype), self.frozen.layers[at].write
        return rows if write is None else write.fold_after(rows.T).T

    def encoders(
        self, layer: int, features: Int[Tensor, " feature"]
    ) -> tuple[Float[Tensor, "feature d"], Float[Tensor, " feature"]]:
        """Encoder rows and biases of features that read at `layer`, given by their numbers."""
        part, index, dtype = self.transcoders.layers[layer], self.features.index[features], self.errors.dtype
        rows, bias = part.encoder.select(index, dtype), part.encoder_bias.to(dtype)[index]
        slope = self.features.slope
        return (rows, bias) if slope is None else (rows * slope[features, None], bias * slope[features])

    def layer_slice(self, layer: int) -> slice:
        """The features that read at one layer, as a slice of `self.features`."""
        bounds = torch.searchsorted(self.features.layer, torch.tensor([layer, layer + 1]))
        return slice(int(bounds[0]), int(bounds[1]))


def _written(write: FrozenNorm | None, rows: Tensor, position: Tensor) -> Tensor:
    """Rows, each at its own position, through the frozen norm that follows the MLP."""
    return rows if write is None else write.at(position).linear(rows)


@dataclass(frozen=True)
class ReplacementModel:
    """A language model together with the dictionary that replaces its MLPs."""

    language_model: LanguageModel
    transcoders: Transcoders

    def __post_init__(self) -> None:
        model = self.language_model
        self.transcoders.check(model.n_layers, model.d_model, model.name)

    def __repr__(self) -> str:
        return f"ReplacementModel({self.language_model.name!r}, {self.transcoders!r})"

    def localize(self, prompt: str | Sequence[int] | Tensor, position_zero: PositionZero = "error") -> LocalReplacement:
        """Run the model once and freeze it around the prompt.

        Raises:
            PromptError: the prompt cannot be run.
            OptionError: an unknown `position_zero`.
            InexactAttribution: the frozen model does not reproduce the model's logits.
        """
        choice("position_zero", position_zero, PositionZero)
        model = self.language_model
        recording = model.record(model.tokenize(prompt))
        patterns = list(recording.patterns)
        recording = replace(recording, patterns=())
        frozen, outputs = _freeze(model, self.transcoders, recording, patterns)
        n_ignored = self.transcoders.n_ignored_positions(recording.input_ids)
        features = _encode(self.transcoders, recording, frozen, n_ignored)
        errors, constants = _split_outputs(
            self.transcoders, recording, frozen, features, outputs, n_ignored if position_zero == "drop" else 0
        )
        return LocalReplacement(
            model, self.transcoders, recording, frozen, features, errors, constants, position_zero, n_ignored,
            logits_error=_check_exact(model, recording, frozen, outputs),
            unexplained=_unexplained(self.transcoders, recording, frozen, outputs, errors, n_ignored),
        )  # fmt: skip


def check_model(model: object) -> ReplacementModel:
    """The model, if it is one with a dictionary.

    Raises:
        OptionError: it is a name, a model alone, or anything else.
    """
    if isinstance(model, ReplacementModel):
        return model
    name = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
    raise OptionError(f"the model is {name}; give a model with a dictionary, as unweave.load(...) returns")


def _freeze(
    model: LanguageModel, transcoders: Transcoders, recording: Recording, patterns: list[Tensor | None]
) -> tuple[FrozenModel, list[Tensor]]:
    """The frozen model, and what each MLP adds to the residual stream beyond its skip path; empties `patterns` as it
    goes.

    Patterns grow with the square of the prompt; at a thousand tokens a second copy is a gigabyte.
    """
    layers, outputs = [], []
    for number, part in enumerate(transcoders.layers):
        norm, post = model.frozen_mlp_norms(recording, number)
        read = {"mid": None, "mlp_in": norm, "mlp_in_normalized": norm.without_gain}[transcoders.read]
        write = post if transcoders.write == "mlp_out" else None
        skip = None if part.skip is None else part.skip.dense(recording.final.dtype)
        layer = FrozenLayer.freeze(
            model.frozen_attention(recording, number, patterns.pop(0)), read, write, skip, model.parallel
        )
        output = recording.mlp_outputs[number] if post is None else post.forward(recording.mlp_outputs[number])
        layers.append(layer)
        outputs.append(output - layer.skip_forward(recording.resid_mid[number]) - layer.constant())
    return FrozenModel(tuple(layers), model.frozen_final_norm(recording)), outputs


def _encode(transcoders: Transcoders, recording: Recording, frozen: FrozenModel, n_ignored: int) -> ActiveFeatures:
    """Active features of all layers; none at the first `silent` positions."""
    parts = []
    for number, layer in enumerate(frozen.layers):
        position, *facts = transcoders.active(number, layer.read_forward(recording.resid_mid[number]), n_ignored)
        parts.append((torch.full_like(position, number), position, *facts))
    found = ActiveFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return (
        replace(found, preactivation=found.activation, slope=found.activation / found.preactivation)
        if transcoders.of_neurons
        else found
    )


def _split_outputs(
    transcoders: Transcoders,
    recording: Recording,
    frozen: FrozenModel,
    features: ActiveFeatures,
    outputs: list[Float[Tensor, "pos d"]],
    dropped: int,
) -> tuple[Float[Tensor, "layer pos d"], tuple[Tensor, ...]]:
    """Each MLP's output less what its features write: (the part that no feature explains, the constant part).

    At the first `dropped` positions all counts as constant.
    """
    dtype = recording.final.dtype
    bounds = torch.searchsorted(features.layer, torch.arange(len(frozen.layers) + 1))
    unexplained, constants = [output.clone() for output in outputs], []
    beyond = [torch.zeros_like(output) for output in outputs] if any(p.more for p in transcoders.layers) else []
    for source in range(len(frozen.layers)):
        span = slice(int(bounds[source]), int(bounds[source + 1]))
        for at in transcoders.writes(source) if span.stop > span.start else ():
            rows = transcoders.decoder_rows(source, features.index[span], at, dtype)
            position, write, more = features.position[span], frozen.layers[at].write, transcoders.more(source, at)
            unexplained[at].index_add_(0, position, -_written(write, rows * features.activation[span, None], position))
            if more is not None:
                added = rows * more.to(dtype)[features.index[span], None]
                beyond[at].index_add_(0, position, _written(write, added, position))
    for number, layer in enumerate(frozen.layers):
        bias = transcoders.layers[number].decoder_bias.to(dtype).expand_as(recording.final)
        constant = layer.write_linear(bias) + (beyond[number] if beyond else 0.0)
        unexplained[number] -= constant
        constant = constant.clone()
        constant[:dropped] += unexplained[number][:dropped]
        unexplained[number][:dropped] = 0
        constants.append(constant)
        if not bool(unexplained[number].isfinite().all()):
            raise TranscoderError(
                f"{transcoders.name}: layer {number} gives outputs that are not finite; its biases or skip matrix "
                f"hold NaN"
            )
    return torch.stack(unexplained), tuple(constants)


def _unexplained(
    transcoders: Transcoders,
    recording: Recording,
    frozen: FrozenModel,
    outputs: list[Tensor],
    errors: Float[Tensor, "layer pos d"],
    n_ignored: int,
) -> float | None:
    first, shares = max(1, n_ignored), []
    if first >= len(recording.input_ids):
        return None
    for part, layer, mid, output, error in zip(
        transcoders.layers, frozen.layers, recording.resid_mid, outputs, errors, strict=True
    ):
        bias = layer.write_linear(part.decoder_bias.to(output).expand_as(output))
        whole = (output + layer.skip_forward(mid) - bias)[first:].square().sum()
        shares.append(error[first:].square().sum() / whole.clamp_min(1e-30))
    return float(torch.stack(shares).median())


def _check_exact(model: LanguageModel, recording: Recording, frozen: FrozenModel, outputs: list[Tensor]) -> float:
    """Largest difference of the last position's logits between the frozen model and the real one.

    Raises:
        InexactAttribution: beyond what rounding explains, so something is not frozen as the model computes it.
    """
    _, final = frozen.run(recording.embeddings, outputs)
    logits = frozen.final.forward(final)[-1] @ model.unembedding.to(final.dtype).T
    if model.unembedding_bias is not None:
        logits = logits + model.unembedding_bias.to(final.dtype)
    true = recording.logits[-1]
    error = float((logits - true).abs().max())
    if model.dtype in (torch.float32, torch.float64) and error > 1e-3 * float(true.abs().max()):
        raise InexactAttribution(
            f"{model.name}: the frozen model's logits differ from the model's by {error:.2g}; this model computes "
            f"something "
            "that its row in architectures.py does not freeze"
        )
    return error


@typed
def load(
    model: str = DEFAULT_MODEL, transcoders: str | None = None, *, dtype: str = "float32", device: str = "cpu"
) -> ReplacementModel:
    """Load a language model together with a dictionary for it.

    Args:
        model: `smollm2` or `organism` (which ship with the package) or another short name, a local folder, or a
            Hugging Face name.
        transcoders: a local folder, `org/repo[/folder][@revision]` a short name, or `neurons` (the
            model's own); None: the one that goes with a short name.
        dtype: `float32`, `float64`, `bfloat16` or `float16`; edges are computed in float32, for float64 models in
            float64.
        device: where the model runs, `cpu`, `cuda` or `mps`; edges are computed on the CPU.

    Raises:
        ModelError, UnsupportedModel: the model cannot be loaded or is not frozen exactly.
        TranscoderError, TranscoderMismatch: the dictionary cannot be read, or is for another model.

    >>> load("smollm2")                                                        # doctest: +SKIP
    ReplacementModel('smollm2', Transcoders('smollm2': per-layer, skip, 30 layers, widths 2048 to 3072, d 576))
    """
    wanted = transcoders or (
        model if model in SHIPPED | PACKAGED or (model in PAIRS and not Path(model).exists()) else None
    )
    if wanted is None:
        raise TranscoderError(
            f"no dictionary is known for {model[:200]}; give transcoders=... (--transcoders), a folder or 'org/repo'"
        )
    if wanted == NEURONS and not Path(NEURONS).exists():
        loaded = load_model(model, dtype=dtype, device=device)
        return ReplacementModel(loaded, neurons(loaded))
    loadable(model)  # before a dictionary is fetched, which is far larger than a config
    dictionary = read_transcoders(wanted)
    return ReplacementModel(load_model(model, dtype=dtype, device=device), dictionary)
