"""One layer of a per-layer dictionary, in any of the formats that are published; told apart by file names and
tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TranscoderError
from ..models.recording import ReadPoint, WritePoint
from .configs import read_json, refuse_unknown, shown, whole
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


_GEMMA_SCOPE_2 = frozenset(
    "hf_hook_point_in hf_hook_point_out model_name architecture type width l0 affine_connection layer site num_layers "
    "n_layers d_model d_in d_out d_sae dtype name version license description sparsity seed".split()
)
"""Keys of Gemma Scope 2's configs; what is computed shows in the tensors."""


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
            return _sparsify_points(path)
        case "params.npz":  # Gemma Scope's transcoders
            return Points("mlp_in_normalized", "residual", "google/gemma-2-2b")
        case "sae_weights.safetensors":
            config = read_json(path.parent / "cfg.json")
            more = config.get("metadata") or {}
            about = {**config, **(more if isinstance(more, dict) else {})}
            read, write, model = (
                about.get("hook_name", about.get("hook_point")),
                about.get("hook_name_out"),
                about.get("model_name"),
            )
        case _:
            about = path.parent / "config.json"
            config = read_json(about)
            refuse_unknown(about, config, _GEMMA_SCOPE_2)
            if str(config.get("architecture", "jump_relu")).replace("_", "") != "jumprelu":
                raise TranscoderError(f"{about}: architecture is {shown(config['architecture'])}; it must be jump_relu")
            read, write, model = (
                config.get("hf_hook_point_in"),
                config.get("hf_hook_point_out"),
                config.get("model_name"),
            )
    return Points(_point(_READS, read, path, "reads"), _point(_WRITES, write, path, "writes"), str(model or ""))


def _point(known: Mapping[str, Any], name: Any, path: Path, verb: str) -> Any:
    short = re.sub(r"^.*?\.\d+\.", "", name) if isinstance(name, str) else ""
    if short not in known:
        raise TranscoderError(f"{path.parent} {verb} at {shown(name)}; it must be one of {', '.join(known)}")
    return known[short]


def _sparsify_points(path: Path) -> Points:
    """A module's input and output; or, of the fork, the input of the norm before it, which the training's own config
    names."""
    about = path.parent.parent / "config.json"
    config = read_json(about) if about.is_file() else {}
    model, inputs = str(config.get("model") or ""), config.get("hookpoints_in") or []
    if not inputs:
        return Points("mlp_in", "mlp_out", model)
    number, norm = layer_number(path, about.parent), "pre_feedforward_layernorm"
    if not re.search("gemma|olmo", model, re.IGNORECASE):  # there it follows attention
        norm = "(post_attention_layernorm|ln_2)"
    place = inputs[number] if isinstance(inputs, list) and number is not None and number < len(inputs) else inputs
    if not isinstance(place, str) or not re.fullmatch(rf"(.*[.])?{number}[.]{norm}", place):
        raise TranscoderError(
            f"{about}: hookpoints_in is {shown(place)}, which is not the norm before the MLP of "
            f"layer {number}; only transcoders that read there or at the MLP can be traced"
        )
    return Points("mid", "mlp_out", model)


def read_layer(path: Path, config: dict[str, Any]) -> TranscoderLayer:
    """One layer's file; `config` is the `config.yaml` of a folder in circuit-tracer's format, else empty.

    Raises:
        TranscoderError: it is damaged, lacks tensors, or computes something that is not covered.
    """
    file = TensorFile(path)
    if path.suffix == ".npz":
        layer = _transposed(file, "W_enc", "W_dec")
    elif "w_enc" in file:
        layer = _transposed(file, "w_enc", "w_dec")
    elif path.name == "sae_weights.safetensors":
        layer = _saelens(file, path.parent / "cfg.json")
    else:
        layer = _native(file, config)
    file.finish()
    return layer


def _transposed(file: TensorFile, encoder: str, decoder: str, first: int | None = None) -> TranscoderLayer:
    """Gemma Scope's: the encoder is [d, feature], the skip path [in, out]; `first` is the first slot of a decoder of
    several that is used."""
    file.only(encoder, "b_enc", decoder, "b_dec", "threshold", "affine_skip_connection")
    skip = Matrix(file.take("affine_skip_connection", 2).T) if "affine_skip_connection" in file else None
    weights = file.take(decoder, 2 if first is None else 3)
    return TranscoderLayer(
        Matrix(file.take(encoder, 2).T),
        file.take("b_enc", 1),
        Matrix(weights if first is None else weights[:, first:]),
        file.take("b_dec", 1),
        JumpReLU(file.take("threshold", 1)),
        skip,
    )


def gemma_scope_2_cross_layer(path: Path, number: int, n_layers: int) -> TranscoderLayer:
    """One layer of Gemma Scope 2's cross-layer sets, whose decoder [feature, layer, d] has a slot for every layer of
    the model.

    Raises:
        TranscoderError: as `read_layer`; or slots for another number of layers.
    """
    file = TensorFile(path)
    layer = _transposed(file, "w_enc", "w_dec", number)
    slots = file.take("w_dec", 3).shape[1]
    if slots != n_layers:
        raise TranscoderError(f"{path} writes at {slots} layers, but the dictionary has {n_layers} files, one a layer")
    return layer


_SAELENS = frozenset(
    "architecture d_in d_out d_sae dtype device metadata model_name hook_name hook_name_out hook_point hook_layer "
    "hook_layer_out hook_head_index hook_head_index_out prepend_bos dataset_path dataset_trust_remote_code "
    "context_size model_from_pretrained_kwargs model_class_name sae_lens_version sae_lens_training_version "
    "neuronpedia_id seqpos_slice activation_fn_str activation_fn_kwargs finetuning_scaling_factor sparsity "
    "jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale l0_coefficient "
    "l0_warm_up_steps l1_coefficient l1_warm_up_steps lp_norm decoder_init_norm pre_act_loss_coefficient".split()
)
"""Keys of SAELens's configs that name places, origins and how it was trained."""


def _saelens(file: TensorFile, about: Path) -> TranscoderLayer:
    config = read_json(about)
    wanted: dict[str, tuple[Any, ...]] = {
        "architecture": ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
        "normalize_activations": (None, "none"),
        "apply_b_dec_to_input": (None, False),
        "reshape_activations": (None, "none"),
        "activation_fn": (None, "relu"),
        "activation_fn_str": (None, "relu"),
        "activation_fn_kwargs": (None, {}),
        "finetuning_scaling_factor": (None, False),
        "hook_head_index": (None,),
        "hook_head_index_out": (None,),
    }
    refuse_unknown(about, config, _SAELENS | set(wanted))
    wrong = [f"{key}={shown(config.get(key))}" for key, values in wanted.items() if config.get(key) not in values]
    if wrong:
        raise TranscoderError(f"{about}: {', '.join(wrong)}; only plain, skip and JumpReLU transcoders can be traced")
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
    stored = file.take("k", 0, torch.int64, torch.int32) if "k" in file else None
    k = None if stored is None else int(stored)
    about, named = file.path.parent / "config.yaml", activation_name(file.path.parent / "config.yaml", config)
    if named == "topk" or (named is None and k is not None):
        found = top_k(about, {"k": k, **config})
        if threshold is not None:
            raise TranscoderError(f"{file.path} has thresholds, but its activation is topk")
        if k is not None and config.get("k", k) != k:
            raise TranscoderError(f"{file.path} has k={k}, but {about.name} says k={shown(config['k'])}")
        return found
    if k is not None:
        raise TranscoderError(f"{file.path} holds a 'k', but the config says {named}")
    if threshold is not None and named == "relu":
        raise TranscoderError(f"{file.path} has thresholds, but the config says relu")
    if threshold is not None:
        return JumpReLU(threshold.expand(width) if threshold.numel() == 1 else threshold)
    if named == "jump_relu":
        raise TranscoderError(f"{file.path} has no thresholds, but the config says jump_relu")
    return ReLU()


def activation_name(about: Path, config: Mapping[str, Any]) -> str | None:
    """The activation that a `config.yaml` names.

    Raises:
        TranscoderError: one that is not known; `k` or `rectified` with another than topk.
    """
    named = config.get("activation")
    if named is not None and not (isinstance(named, str) and named in ("topk", "relu", "jump_relu")):
        raise TranscoderError(f"{about}: activation is {shown(named)}; it must be topk, relu or jump_relu")
    if not isinstance(config.get("rectified"), bool | None):
        raise TranscoderError(f"{about}: rectified is {shown(config['rectified'])}; it must be true or false")
    if named in ("relu", "jump_relu") and (config.get("k") is not None or config.get("rectified")):
        raise TranscoderError(f"{about}: k and rectified go with activation topk, which is {named}")
    return named


def top_k(about: Path, config: Mapping[str, Any]) -> TopK:
    """TopK as a `config.yaml` has it."""
    if config.get("k") is None:
        raise TranscoderError(f"{about}: activation is topk but k is None; it must be a whole number")
    return TopK(whole(about, "k", config["k"], 1), rectified=config.get("rectified") is True)
