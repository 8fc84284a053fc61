"""Dictionaries on disk: reading every format, writing the peer's and our compact one. Foreign names end here."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import FileError, TranscoderError
from .files import cache_folder, write_atomically
from .hub import Reference, download, local_folder
from .transcoders import (
    Activation,
    JumpReLU,
    Kind,
    Matrix,
    ReadPoint,
    ReLU,
    TopK,
    TranscoderLayer,
    Transcoders,
    WritePoint,
    check_layers,
)  # fmt: skip

READ_HOOKS: dict[str, ReadPoint] = {
    "hook_resid_mid": "mid",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_in": "mlp_in",
    "ln2.hook_normalized": "mlp_in_normalized",
}
"""The field's names of where a dictionary reads."""
WRITE_HOOKS: dict[str, WritePoint] = {"mlp.hook_out": "mlp_out", "hook_mlp_out": "residual"}
"""The field's names of where a dictionary writes."""
KINDS: dict[str, Kind] = {"transcoder_set": "per-layer", "cross_layer_transcoder": "cross-layer"}

SCALE = ".scale"
"""Our compact form: an int8 tensor `X` has a float scale a row in `X.scale`; `rows`, if present, numbers the stored rows."""


def read_transcoders(name: str) -> Transcoders:
    """Read a dictionary from a local folder or the hub.

    Reads the peer's per-layer and cross-layer folders (`config.yaml`), configs that list Gemma Scope `params.npz`
    files, and our compact form of either. Tensors stay memory-mapped where the format allows.

    Args:
        name: a folder, absolute or relative, or `org/repo[/folder][@revision]`.

    Raises:
        TranscoderError: not found, no or a malformed config, missing or damaged files, tensors that do not fit.
    """
    folder = local_folder(name)
    if folder is None:
        folder = download(Reference.parse(name), ["config.yaml", "*.safetensors"])
    config = _config(folder)
    kind = KINDS[_word(config, "model_kind", KINDS, folder)]
    read, write = READ_HOOKS[_word(config, "feature_input_hook", READ_HOOKS, folder)], WRITE_HOOKS[_word(config, "feature_output_hook", WRITE_HOOKS, folder)]
    files, layers = _cross_layer(folder) if kind == "cross-layer" else _per_layer(folder, config)
    check_layers(str(name), kind, layers)
    return Transcoders(kind, layers, read, write, str(name), str(config.get("model_name", "")), _sha256(files))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise TranscoderError(f"{folder} has no config.yaml; a dictionary folder holds config.yaml and its layers' files")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise TranscoderError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise TranscoderError(f"{path} is not a list of keys and values")
    return config


def _word(config: dict[str, Any], key: str, known: dict[str, Any], folder: Path) -> str:
    value = config.get(key)
    if not isinstance(value, str) or value not in known:
        raise TranscoderError(f"{folder / 'config.yaml'}: {key} is {value!r}; it must be one of {', '.join(known)}")
    return value


def _per_layer(folder: Path, config: dict[str, Any]) -> tuple[list[Path], tuple[TranscoderLayer, ...]]:
    listed = config.get("transcoders")
    if listed is not None:
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise TranscoderError(f"{folder / 'config.yaml'}: transcoders must be a list of files")
        files = [_listed_file(folder, item) for item in listed]
    else:
        files = _numbered(folder, "layer_")
    return files, tuple(_layer(file, config) for file in files)


def _listed_file(folder: Path, item: str) -> Path:
    if item.startswith("hf://"):
        reference = Reference.parse(item)
        parent, _, name = reference.path.rpartition("/")
        return download(Reference(reference.repository, parent, reference.revision), [name]) / name
    path = Path(item).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        raise TranscoderError(f"{folder / 'config.yaml'} lists {item}, but there is no such file")
    return path


def _numbered(folder: Path, prefix: str) -> list[Path]:
    files = sorted(folder.glob(f"{prefix}*.safetensors"), key=lambda path: (len(path.name), path.name))
    if not files:
        raise TranscoderError(f"{folder} holds no {prefix}0.safetensors, ...; is it a dictionary folder?")
    names = {path.name for path in files}
    missing = [number for number in range(len(files)) if f"{prefix}{number}.safetensors" not in names]
    if missing:
        raise TranscoderError(
            f"{folder} has {len(files)} {prefix}*.safetensors files but no {prefix}{missing[0]}.safetensors; layers must run from 0 without gaps"
        )
    return [folder / f"{prefix}{number}.safetensors" for number in range(len(files))]


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, memory-mapped if it is safetensors."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError, EOFError) as error:
        raise TranscoderError(f"cannot read {path}: {error}; the file is damaged or half-written, fetch it again") from error
    except Exception as error:  # zipfile.BadZipFile and its kin, from numpy
        raise TranscoderError(f"cannot read {path}: {error}") from error


class _File:
    """The tensors of one file, with errors that name the file."""

    def __init__(self, path: Path):
        self.path, self.tensors = path, _tensors(path)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, dimensions: int) -> Tensor:
        """A tensor that must be there with so many dimensions."""
        if name not in self.tensors:
            raise TranscoderError(f"{self.path} has no tensor {name!r} (it has {sorted(self.tensors)})")
        tensor = self.tensors[name]
        if tensor.dim() != dimensions:
            raise TranscoderError(f"{self.path}: {name!r} has shape {list(tensor.shape)}, expected {dimensions} dimensions")
        return tensor

    def matrix(self, name: str, dimensions: int = 2, height: int | None = None) -> Matrix:
        """A weight matrix, plain or compact."""
        stored = self.take(name, dimensions)
        if stored.dtype != torch.int8:
            return Matrix(stored)
        scale = self.take(name + SCALE, dimensions - 1)
        if scale.shape != stored.shape[:-1]:
            raise TranscoderError(f"{self.path}: {name + SCALE!r} has shape {list(scale.shape)}, expected {list(stored.shape[:-1])}")
        if "rows" not in self or height is None:
            return Matrix(stored, scale)
        rows, n = self.take("rows", 1), len(stored)
        if len(rows) != n or (n and not (int(rows[0]) >= 0 and int(rows[-1]) < height and bool((rows.diff() > 0).all()))):
            raise TranscoderError(f"{self.path}: 'rows' must be {n} ascending numbers below {height}")
        return Matrix(stored, scale, rows, height)


def _layer(path: Path, config: dict[str, Any]) -> TranscoderLayer:
    file = _File(path)
    if path.suffix == ".npz":
        encoder = Matrix(file.take("W_enc", 2).T)  # Gemma Scope stores [d, feature]
        return TranscoderLayer(encoder, file.take("b_enc", 1), Matrix(file.take("W_dec", 2)), file.take("b_dec", 1), JumpReLU(file.take("threshold", 1)))
    bias = file.take("b_enc", 1)
    skip = file.matrix("W_skip") if "W_skip" in file else None
    threshold = file.take("activation_function.threshold", 1) if "activation_function.threshold" in file else None
    width = len(bias)
    return TranscoderLayer(
        file.matrix("W_enc", height=width), bias, file.matrix("W_dec", height=width), file.take("b_dec", 1), _activation(file, config, threshold, width), skip
    )


def _activation(file: _File, config: dict[str, Any], threshold: Tensor | None, width: int) -> Activation:
    """TopK if the config or a scalar `k` says so, JumpReLU if there are thresholds, else ReLU."""
    named = config.get("activation")
    if named not in (None, "topk", "relu", "jump_relu"):
        raise TranscoderError(f"{file.path.parent / 'config.yaml'}: activation is {named!r}; it must be topk, relu or jump_relu")
    if named == "topk" or (named is None and "k" in file):
        k = config["k"] if "k" in config else int(file.take("k", 0)) if "k" in file else None
        if not isinstance(k, int) or isinstance(k, bool):
            raise TranscoderError(f"{file.path.parent / 'config.yaml'}: activation is topk but k is {k!r}; it must be a whole number")
        return TopK(k)
    if threshold is not None:
        return JumpReLU(threshold.expand(width) if threshold.numel() == 1 else threshold)
    if named == "jump_relu":
        raise TranscoderError(f"{file.path} has no thresholds, but the config says jump_relu")
    return ReLU()


def _cross_layer(folder: Path) -> tuple[list[Path], tuple[TranscoderLayer, ...]]:
    encoders, decoders = _numbered(folder, "W_enc_"), _numbered(folder, "W_dec_")
    if len(encoders) != len(decoders):
        raise TranscoderError(f"{folder} has {len(encoders)} encoder files but {len(decoders)} decoder files")
    layers = []
    for number, (enc, dec) in enumerate(zip(encoders, decoders, strict=True)):
        file, decoder = _File(enc), _File(dec)
        threshold = file.take(f"threshold_{number}", 1) if f"threshold_{number}" in file else None
        layers.append(
            TranscoderLayer(
                file.matrix(f"W_enc_{number}"), file.take(f"b_enc_{number}", 1), decoder.matrix(f"W_dec_{number}", 3),
                file.take(f"b_dec_{number}", 1), ReLU() if threshold is None else JumpReLU(threshold),
            )
        )  # fmt: skip
    return [*encoders, *decoders], tuple(layers)


def _sha256(files: list[Path]) -> str:
    """One hash of all files' bytes, in order; remembered per file by path, size and time of change."""
    memory_file = cache_folder() / "sha256.json"
    try:
        memory = dict(json.loads(memory_file.read_text()))
    except (OSError, ValueError, TypeError):
        memory = {}
    whole, fresh = hashlib.sha256(), {}
    for path in files:
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in memory:
            with path.open("rb") as file:
                memory[key] = fresh[key] = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(memory[key].encode())
    if fresh:
        _remember(memory_file, memory)
    return whole.hexdigest()


def _remember(path: Path, memory: dict[str, str]) -> None:
    """Keep hashes for next time; a cache that cannot be written costs only time."""
    with suppress(FileError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda name: Path(name).write_text(json.dumps(memory)))


def write_transcoders(transcoders: Transcoders, folder: str | Path, *, compact: bool = False, rows: list[Tensor] | None = None) -> Path:
    """Write a dictionary as a folder that `read_transcoders` reads; the plain form is the peer's, byte for byte.

    Args:
        compact: weights as int8 with one float32 scale a row (a quarter of the size of float32).
        rows: by layer, the features whose rows are stored, ascending; the rows of others, which must never fire, are
            left out and read back as zero. Only for compact per-layer sets.

    Raises:
        FileError: the folder cannot be written.
        TranscoderError: a cross-layer set with skip matrices or a set of mixed kinds, which no format holds.
    """
    folder = Path(folder).expanduser()
    first = transcoders.layers[0].activation
    config: dict[str, Any] = {
        "model_name": transcoders.model_name,
        "model_kind": _key_of(KINDS, transcoders.kind),
        "feature_input_hook": _key_of(READ_HOOKS, transcoders.read),
        "feature_output_hook": _key_of(WRITE_HOOKS, transcoders.write),
    }
    if isinstance(first, TopK):
        config |= {"activation": "topk", "k": first.k}
    if rows is not None and not (compact and transcoders.kind == "per-layer"):
        raise TranscoderError(f"{transcoders.name}: rows can be left out of compact per-layer sets only")
    if any(type(layer.activation) is not type(first) for layer in transcoders.layers) or (transcoders.kind == "cross-layer" and transcoders.has_skip):
        raise TranscoderError(f"{transcoders.name}: layers of different activations, or a cross-layer set with skip matrices, fit no format")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error}") from error
    for number, layer in enumerate(transcoders.layers):
        for name, tensors in _layer_files(transcoders.kind, number, layer, compact, None if rows is None else rows[number]):
            write_atomically(folder / name, lambda path, tensors=tensors: save_file(tensors, path))
    text = yaml.safe_dump(config, sort_keys=False)
    return write_atomically(folder / "config.yaml", lambda path: Path(path).write_text(text)).parent


def _key_of(table: dict[str, Any], value: Any) -> str:
    return next(key for key, known in table.items() if known == value)


def _layer_files(kind: Kind, number: int, layer: TranscoderLayer, compact: bool, rows: Tensor | None) -> list[tuple[str, dict[str, Tensor]]]:
    def weights(name: str, matrix: Matrix, keep: Tensor | None = None) -> dict[str, Tensor]:
        if not compact:
            plain = matrix.stored if matrix.scale is None and matrix.rows is None else matrix.dense(torch.float32)
            return {name: plain.contiguous()}
        values = matrix.dense(torch.float32) if keep is None else matrix.select(keep, torch.float32)
        scale = (values.abs().amax(-1) / 127).clamp_min(1e-12)
        return {name: (values / scale[..., None]).round().to(torch.int8), name + SCALE: scale}

    threshold = layer.activation.threshold if isinstance(layer.activation, JumpReLU) else None
    if kind == "cross-layer":
        encoder = weights(f"W_enc_{number}", layer.encoder) | {f"b_enc_{number}": layer.encoder_bias, f"b_dec_{number}": layer.decoder_bias}
        if threshold is not None:
            encoder[f"threshold_{number}"] = threshold
        return [(f"W_enc_{number}.safetensors", encoder), (f"W_dec_{number}.safetensors", weights(f"W_dec_{number}", layer.decoder))]
    bias = layer.encoder_bias
    tensors = weights("W_enc", layer.encoder, rows) | weights("W_dec", layer.decoder, rows)
    if rows is not None:
        tensors["rows"] = rows.to(torch.int32)
        bias = torch.zeros_like(bias).index_copy_(0, rows, bias[rows])  # with no encoder row, a bias alone could fire
    tensors |= {"b_enc": bias.contiguous(), "b_dec": layer.decoder_bias.contiguous()}
    if threshold is not None:
        one = compact and bool((threshold == threshold[0]).all())
        tensors["activation_function.threshold"] = threshold[:1].clone() if one else threshold.contiguous()
    if layer.skip is not None:
        tensors |= weights("W_skip", layer.skip)
    return [(f"layer_{number}.safetensors", tensors)]
