"""One layer of a per-layer dictionary, in any of the formats that are published; told apart by file names and
tensors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import TranscoderError
from ..models.recording import ReadPoint, WritePoint
from .stored import TensorFile
from .transcoders import Activation, JumpReLU, Matrix, ReLU, TopK, TranscoderLayer

LAYER_FILES = ("sae.safetensors", "sae_weights.safetensors", "params.safetensors", "params.npz")
"""Of EleutherAI's sparsify, SAELens, Gemma Scope 2 and Gemma Scope, each in a folder of its own."""
_NUMBER = re.compile(r"(?:^|[./_])(?:layers?|blocks|h)[._](\d+)(?=$|[._/])")

_READS: dict[str, ReadPoint] = {
    "mlp.hook_in": "mlp_in",
    "pre_feedforward_layernorm.output": "mlp_in",
    "ln2.hook_normalized": "mlp_in_normalized",
    "hook_resid_mid": "mid",
    "hook_mlp_in": "mid",  # TransformerLens takes it before the norm
}
_WRITES: dict[str, WritePoint] = {
    "mlp.hook_out": "mlp_out",
    "mlp": "mlp_out",
    "hook_mlp_out": "residual",
    "post_feedforward_layernorm.output": "residual",
}


class Points(NamedTuple):
    """Where a dictionary reads and writes, and the model it was made for."""

    read: ReadPoint
    write: WritePoint
    model: str = ""


def layer_number(path: Path, folder: Path) -> int | None:
    """The layer that a file's place below a folder names; None if it names none.

    >>> layer_number(Path("a/layers.7.mlp/sae.safetensors"), Path("a"))
    7
    """
    found = _NUMBER.findall(path.parent.relative_to(folder).as_posix())
    return int(found[0]) if found else None


def points_of(path: Path) -> Points:
    """Where a layer's file says that it reads and writes.

    Raises:
        TranscoderError: it does not say, or says something else than an MLP's input and output.
    """
    match path.name:
        case "sae.safetensors":  # a transcoder of sparsify is trained on a module's input and output
            place = path.parent.name
            if not place.endswith(".mlp"):
                raise TranscoderError(
                    f"{path.parent} is about {place!r}; only transcoders of whole MLPs ('layers.N.mlp') can be traced"
                )
            return Points("mlp_in", "mlp_out")
        case "params.npz":  # Gemma Scope's transcoders
            return Points("mlp_in_normalized", "residual", "google/gemma-2-2b")
        case "sae_weights.safetensors":
            config = _json(path.parent / "cfg.json")
            about = {**config, **(config.get("metadata") or {})}
            read, write, model = (
                about.get("hook_name", about.get("hook_point")),
                about.get("hook_name_out"),
                about.get("model_name"),
            )
        case _:
            config = _json(path.parent / "config.json")
            read, write, model = (
                config.get("hf_hook_point_in"),
                config.get("hf_hook_point_out"),
                config.get("model_name"),
            )
    return Points(_point(_READS, read, path, "reads"), _point(_WRITES, write, path, "writes"), str(model or ""))


def _point(known: Mapping[str, Any], name: Any, path: Path, verb: str) -> Any:
    short = re.sub(r"^.*?\.\d+\.", "", name) if isinstance(name, str) else name
    if short not in known:
        raise TranscoderError(f"{path.parent} {verb} at {name!r}; it must be one of {', '.join(known)}")
    return known[short]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise TranscoderError(f"{path.parent} has no {path.name}, which says what the weights beside it are") from error
    except (OSError, ValueError) as error:
        raise TranscoderError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise TranscoderError(f"{path} is not a set of keys and values")
    return found


def read_layer(path: Path, config: dict[str, Any]) -> TranscoderLayer:
    """One layer's file; `config` is the `config.yaml` of a folder in circuit-tracer's format, else empty.

    Raises:
        TranscoderError: it is damaged, lacks tensors, or computes something that is not covered.
    """
    file = TensorFile(path)
    if path.suffix == ".npz":
        return _transposed(file, "W_enc", "W_dec")
    if "w_enc" in file:
        return _transposed(file, "w_enc", "w_dec")
    if "encoder.weight" in file:
        return _sparsify(file, _json(path.parent / "cfg.json"))
    if path.name == "sae_weights.safetensors":
        return _saelens(file, _json(path.parent / "cfg.json"))
    return _native(file, config)


def _transposed(file: TensorFile, encoder: str, decoder: str) -> TranscoderLayer:
    """Gemma Scope's: the encoder is [d, feature], the skip path [in, out]."""
    skip = Matrix(file.take("affine_skip_connection", 2).T) if "affine_skip_connection" in file else None
    threshold = JumpReLU(file.take("threshold", 1))
    return TranscoderLayer(
        Matrix(file.take(encoder, 2).T),
        file.take("b_enc", 1),
        Matrix(file.take(decoder, 2)),
        file.take("b_dec", 1),
        threshold,
        skip,
    )


def gemma_scope_2_cross_layer(path: Path, number: int, n_layers: int) -> TranscoderLayer:
    """One layer of Gemma Scope 2's cross-layer sets, whose decoder [feature, layer, d] has a slot for every layer of
    the model.

    Raises:
        TranscoderError: as `read_layer`; or slots for another number of layers.
    """
    file = TensorFile(path)
    decoder = file.take("w_dec", 3)
    if decoder.shape[1] != n_layers:
        raise TranscoderError(
            f"{path} writes at {decoder.shape[1]} layers, but the dictionary has {n_layers} files, one a layer"
        )
    skip = Matrix(file.take("affine_skip_connection", 2).T) if "affine_skip_connection" in file else None
    return TranscoderLayer(
        Matrix(file.take("w_enc", 2).T), file.take("b_enc", 1), Matrix(decoder[:, number:]), file.take("b_dec", 1),
        JumpReLU(file.take("threshold", 1)), skip,
    )  # fmt: skip


def _sparsify(file: TensorFile, config: dict[str, Any]) -> TranscoderLayer:
    wanted = {
        "transcode": (True,),
        "activation": (None, "topk"),
        "embed_skip": (None, False),
        "gram_lookup": (None, False),
    }
    wrong = [f"{key}={config.get(key)!r}" for key, values in wanted.items() if config.get(key) not in values]
    k = config.get("k")
    if wrong or not isinstance(k, int):
        raise TranscoderError(
            f"{file.path.parent / 'cfg.json'}: {', '.join(wrong) or f'k={k!r}'}; only TopK transcoders "
            f"(transcode=true) can be traced"
        )
    skip = Matrix(file.take("W_skip", 2)) if "W_skip" in file else None
    encoder, decoder = Matrix(file.take("encoder.weight", 2)), Matrix(file.take("W_dec", 2))
    return TranscoderLayer(
        encoder, file.take("encoder.bias", 1), decoder, file.take("b_dec", 1), TopK(k, rectified=True), skip
    )


def _saelens(file: TensorFile, config: dict[str, Any]) -> TranscoderLayer:
    wanted = {
        "architecture": ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
        "normalize_activations": (None, "none"),
        "apply_b_dec_to_input": (None, False),
        "reshape_activations": (None, "none"),
        "activation_fn": (None, "relu"),
    }
    wrong = [f"{key}={config.get(key)!r}" for key, values in wanted.items() if config.get(key) not in values]
    if wrong:
        raise TranscoderError(
            f"{file.path.parent / 'cfg.json'}: {', '.join(wrong)}; only plain, skip and JumpReLU transcoders can be "
            f"traced"
        )
    jump = str(config["architecture"]).startswith("jumprelu")
    activation = JumpReLU(file.take("threshold", 1).clamp_min(0)) if jump else ReLU()
    skip = Matrix(file.take("W_skip", 2)) if "skip" in config["architecture"] else None
    return TranscoderLayer(
        Matrix(file.take("W_enc", 2).T),
        file.take("b_enc", 1),
        Matrix(file.take("W_dec", 2)),
        file.take("b_dec", 1),
        activation,
        skip,
    )


def _native(file: TensorFile, config: dict[str, Any]) -> TranscoderLayer:
    bias = file.take("b_enc", 1)
    skip = file.matrix("W_skip") if "W_skip" in file else None
    threshold = file.take("activation_function.threshold", 1) if "activation_function.threshold" in file else None
    width = len(bias)
    return TranscoderLayer(
        file.matrix("W_enc", height=width),
        bias,
        file.matrix("W_dec", height=width),
        file.take("b_dec", 1),
        _activation(file, config, threshold, width),
        skip,
    )


def _activation(file: TensorFile, config: dict[str, Any], threshold: Tensor | None, width: int) -> Activation:
    """TopK if the config or a scalar `k` says so, JumpReLU if there are thresholds, else ReLU."""
    named = config.get("activation")
    if named not in (None, "topk", "relu", "jump_relu"):
        raise TranscoderError(
            f"{file.path.parent / 'config.yaml'}: activation is {named!r}; it must be topk, relu or jump_relu"
        )
    if named == "topk" or (named is None and "k" in file):
        k = config["k"] if "k" in config else int(file.take("k", 0)) if "k" in file else None
        if not isinstance(k, int) or isinstance(k, bool):
            raise TranscoderError(
                f"{file.path.parent / 'config.yaml'}: activation is topk but k is {k!r}; it must be a whole number"
            )
        return TopK(k, rectified=config.get("rectified") is True)
    if threshold is not None:
        return JumpReLU(threshold.expand(width) if threshold.numel() == 1 else threshold)
    if named == "jump_relu":
        raise TranscoderError(f"{file.path} has no thresholds, but the config says jump_relu")
    return ReLU()
