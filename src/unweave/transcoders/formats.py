"""Dictionaries on disk: reading every format, writing the peer's and our compact one. Foreign names end here."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ..base.catalogue import PACKAGED, PAIRS, SHIPPED, shipped_dictionary
from ..base.fetching import fetch
from ..base.files import write_atomically
from ..base.hub import Reference, local_folder
from ..base.kinds import typed
from ..errors import FileError, TranscoderError
from ..models.recording import ReadPoint, WritePoint
from .configs import read_yaml, refuse_unknown, shown
from .identity import identity, sha256_of
from .layers import LAYER_FILES, Points, activation_name, gemma_scope_2_cross_layer, points_of, read_layer, top_k
from .sparsify import read_sparsify
from .stored import SCALE, TensorFile, numbered
from .transcoders import (
    Activation,
    JumpReLU,
    Kind,
    Matrix,
    ReLU,
    Slots,
    TopK,
    TranscoderLayer,
    Transcoders,
    check_layers,
)
from .wanted import foreign_files, one_a_layer

READ_HOOKS: dict[str, ReadPoint] = {
    "hook_resid_mid": "mid",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_in": "mlp_in",
    "ln2.hook_normalized": "mlp_in_normalized",
}
"""The field's names of where a dictionary reads."""
WRITE_HOOKS: dict[str, WritePoint] = {"mlp.hook_out": "mlp_out", "hook_mlp_out": "residual"}
"""The field's names of where a dictionary writes."""
GEMMA_3_CHAT = (2, 105, 2364, 107)
"""`<bos><start_of_turn>user` and a line break: circuit-tracer takes no features there from dictionaries for Gemma
3's instruct models."""
KEYS = frozenset(
    "model_kind model_name feature_input_hook feature_output_hook transcoders activation k rectified ignored_prefix "
    "scan special_load_fn repo_id subfolder revision features_dir license description authors".split()
)
"""Of `config.yaml`; those of the second line say where things are, or nothing about what is computed."""
UNSAID_K = {"facebook/crv-8b-instruct-transcoders": 128}
"""The k that circuit-tracer assumes for a repository whose config does not say."""
KINDS: dict[str, Kind] = {"transcoder_set": "per-layer", "cross_layer_transcoder": "cross-layer"}


@typed
def read_transcoders(name: str) -> Transcoders:
    """Read a dictionary from a local folder or the hub.

    Formats: `docs/dictionaries.md`. Tensors stay memory-mapped where the format allows.

    Args:
        name: a folder, absolute or relative, `org/repo[/folder][@revision]`, or a short name; `*` in place of the layer
            chooses among the layers' folders.

    Raises:
        TranscoderError: not found, no or a malformed config, missing or damaged files, tensors that do not fit.

    >>> import unweave
    >>> unweave.read_transcoders("organism")
    Transcoders('organism': cross-layer, 6 layers, widths 2048, d 192)
    """
    if str(name) in PAIRS and str(name) not in SHIPPED | PACKAGED and not Path(name).exists():
        name = PAIRS[str(name)].dictionary
    given, _, pattern = _split(str(name)) if "*" in str(name) else (str(name), "", "")
    folder = shipped_dictionary(given) or local_folder(given)
    if folder is None:
        folder = _from_hub(Reference.parse(given), pattern)
    config: dict[str, Any] = {}
    if pattern or not (folder / "config.yaml").is_file():
        kind, points, files, layers = _foreign(folder, pattern)
    else:
        config = read_yaml(folder / "config.yaml")
        refuse_unknown(folder / "config.yaml", config, KEYS)
        if config.get("activation") == "topk" and "k" not in config:
            config |= {"k": UNSAID_K.get(given.partition("@")[0])}
        kind = KINDS[_word(config, "model_kind", KINDS, folder)]
        read, write = (
            READ_HOOKS[_word(config, "feature_input_hook", READ_HOOKS, folder)],
            WRITE_HOOKS[_word(config, "feature_output_hook", WRITE_HOOKS, folder)],
        )
        points = Points(read, write, str(config.get("model_name", "")))
        files, layers = _cross_layer(folder, config) if kind == "cross-layer" else _per_layer(folder, config)
    check_layers(str(name), kind, layers)
    weights, ignored = sha256_of(files), _ignored(config, points.model, folder)
    whole = identity(weights, kind, points.read, points.write, ignored, layers)
    return Transcoders(kind, layers, points.read, points.write, str(name), points.model, whole, ignored, weights)


def _from_hub(reference: Reference, pattern: str) -> Path:
    """The local folder of a dictionary on the hub: its config first, which may say what its files are."""
    called = Path(reference.repository, reference.path)

    def choose(names: list[str]) -> list[str]:
        whole = "config.yaml" in names and not pattern
        return ["config.yaml"] if whole else foreign_files(names, pattern, called)

    folder = fetch(reference, choose)
    if pattern or not (folder / "config.yaml").is_file():
        return folder
    listed = read_yaml(folder / "config.yaml").get("transcoders")
    if isinstance(listed, list):
        named = [item for item in listed if isinstance(item, str) and not item.startswith(("hf://", "/", "~"))]
        return fetch(reference, lambda names: ["config.yaml", *(name for name in named if name in names)])
    return fetch(
        reference,
        lambda names: ["config.yaml", *(name for name in names if "/" not in name and name.endswith(".safetensors"))],
    )


def _ignored(config: dict[str, Any], model: str, folder: Path) -> tuple[int, ...]:
    """The opening of a chat that a dictionary was not trained on."""
    prefix = config.get("ignored_prefix")
    if prefix is None:
        return GEMMA_3_CHAT if re.search(r"gemma-3-\w+-it$", model) else ()
    if not isinstance(prefix, list) or not all(
        isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in prefix
    ):
        raise TranscoderError(
            f"{folder / 'config.yaml'}: ignored_prefix is {shown(prefix)}; it must be a list of token ids"
        )
    return tuple(prefix)


def _split(name: str) -> tuple[str, str, str]:
    """A name with `*`: the folder that is fixed (with the revision), and the pattern of the layers' folders below
    it."""
    place, at, revision = name.partition("@")
    parts = place.split("/")
    first = next(number for number, part in enumerate(parts) if "*" in part)
    return "/".join(parts[:first]) + at + revision, "/", "/".join(parts[first:])


def _foreign(folder: Path, pattern: str) -> tuple[Kind, Points, list[Path], tuple[TranscoderLayer, ...]]:
    """A folder without `config.yaml`: Gemma Scope 2's cross-layer files, or one folder a layer as others publish
    them."""
    if not pattern and (folder / "params_layer_0.safetensors").is_file():
        files = numbered(folder, "params_layer_")
        points = points_of(files[0]) if (folder / "config.json").is_file() else Points("mlp_in", "residual")
        return (
            "cross-layer",
            points,
            files,
            tuple(gemma_scope_2_cross_layer(path, number, len(files)) for number, path in enumerate(files)),
        )
    places = [folder] if not pattern else sorted(path for path in folder.glob(pattern) if path.is_dir())
    found = one_a_layer(
        {path for place in places for name in LAYER_FILES for path in place.rglob(name)}, folder, pattern
    )
    files = [found[number] for number in sorted(found)]
    points = {points_of(path) for path in files}
    if len(points) > 1:
        raise TranscoderError(
            f"{folder}: layers disagree on where they read and write, or on the model: "
            f"{' and '.join(map(str, sorted(points)[:2]))}"
        )
    if files[0].name == "sae.safetensors":
        kind, layers = read_sparsify(files)
        return kind, points.pop(), files, layers
    return "per-layer", points.pop(), files, tuple(read_layer(path, {}) for path in files)


def _word(config: dict[str, Any], key: str, known: dict[str, Any], folder: Path) -> str:
    value = config.get(key)
    if not isinstance(value, str) or value not in known:
        raise TranscoderError(
            f"{folder / 'config.yaml'}: {key} is {shown(value)}; it must be one of {', '.join(known)}"
        )
    return value


def _per_layer(folder: Path, config: dict[str, Any]) -> tuple[list[Path], tuple[TranscoderLayer, ...]]:
    if config.get("transcoders") is not None:
        files = _listed_files(folder, config)
    else:
        files = numbered(folder, "layer_")
        _nothing_else(folder, files)
    return files, tuple(read_layer(file, config) for file in files)


def _listed_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    listed = config["transcoders"]
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise TranscoderError(f"{folder / 'config.yaml'}: transcoders must be a list of files")
    twice = next((item for number, item in enumerate(listed) if item in listed[:number]), None)
    if twice is not None:
        raise TranscoderError(
            f"{folder / 'config.yaml'} lists {twice} for two layers; each layer needs a file of its own"
        )
    remote = {item: Reference.parse(item) for item in listed if item.startswith("hf://")}
    places: dict[tuple[str, str | None], list[str]] = {}
    for reference in remote.values():
        places.setdefault((reference.repository, reference.revision), []).append(reference.path)
    roots = {
        (repository, revision): fetch(
            Reference(repository, "", revision), lambda names, paths=paths: _all_of(names, paths)
        )
        for (repository, revision), paths in places.items()
    }  # all of a repository in one go
    found = []
    for item in listed:
        there = remote.get(item)
        local = _listed_file(folder, item) if there is None else roots[there.repository, there.revision] / there.path
        found.append(local)
    return found


def _all_of(names: list[str], paths: list[str]) -> list[str]:
    missing = next((path for path in paths if path not in names), None)
    if missing is not None:
        raise TranscoderError(f"a config lists {missing}, which its repository on the hub does not have")
    return paths


def _listed_file(folder: Path, item: str) -> Path:
    path = Path(item).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        raise TranscoderError(f"{folder / 'config.yaml'} lists {item}, but there is no such file")
    return path


def _cross_layer(folder: Path, config: dict[str, Any]) -> tuple[list[Path], tuple[TranscoderLayer, ...]]:
    if config.get("transcoders") is not None:  # Gemma Scope 2's files, one a layer
        files = _listed_files(folder, config)
        return files, tuple(gemma_scope_2_cross_layer(path, number, len(files)) for number, path in enumerate(files))
    bundles = not (folder / "W_enc_0.safetensors").is_file() and (folder / "layer_0.safetensors").is_file()
    encoders = numbered(folder, "layer_" if bundles else "W_enc_")
    decoders = encoders if bundles else numbered(folder, "W_dec_")
    if len(encoders) != len(decoders):
        raise TranscoderError(f"{folder} has {len(encoders)} encoder files but {len(decoders)} decoder files")
    _nothing_else(folder, [*encoders, *decoders])
    layers = []
    for number, (enc, dec) in enumerate(zip(encoders, decoders, strict=True)):
        file = TensorFile(enc)
        decoder = file if bundles else TensorFile(dec)
        layers.append(_crossing_layer(folder, config, file, decoder, "" if bundles else f"_{number}"))
        file.finish()
        decoder.finish()
    return encoders if bundles else [*encoders, *decoders], tuple(layers)


def _crossing_layer(
    folder: Path, config: dict[str, Any], file: TensorFile, decoder: TensorFile, suffix: str
) -> TranscoderLayer:
    """One layer of circuit-tracer's cross-layer sets; bundles have names without a number."""
    about, named = folder / "config.yaml", activation_name(folder / "config.yaml", config)
    names = (f"threshold{suffix}", *(() if suffix else ("activation_function.threshold",)))
    found = next((name for name in names if name in file), None)
    threshold = None if found is None else file.take(found, 1)
    if (named is None and config.get("k") is not None) or (threshold is not None and named in ("topk", "relu")):
        there = "there is a k" if named is None else "the files hold thresholds"
        raise TranscoderError(f"{about}: activation is {named}, but {there}")
    if named == "jump_relu" and threshold is None:
        raise TranscoderError(f"{file.path} has no thresholds, but the config says jump_relu")
    activation = top_k(about, config) if named == "topk" else ReLU() if threshold is None else JumpReLU(threshold)
    return TranscoderLayer(
        file.matrix(f"W_enc{suffix}"), file.take(f"b_enc{suffix}", 1), decoder.matrix(f"W_dec{suffix}", 3),
        file.take(f"b_dec{suffix}", 1), activation,
        file.matrix(f"W_skip{suffix}") if f"W_skip{suffix}" in file else None,
    )  # fmt: skip


def _nothing_else(folder: Path, files: list[Path]) -> None:
    """Refuse weights in a folder that its format has no place for, such as skip matrices in a file of their own."""
    strange = sorted({path.name for path in folder.glob("*.safetensors")} - {path.name for path in files})
    if strange:
        raise TranscoderError(
            f"{folder} holds {', '.join(strange[:3])}, which this format does not know; what is in there is not covered"
        )


def write_transcoders(
    transcoders: Transcoders, folder: str | Path, *, compact: bool = False, rows: list[Tensor] | None = None
) -> Path:
    """Write a dictionary as a folder that `read_transcoders` reads; the plain form is the peer's, byte for byte.

    Args:
        compact: weights as int8 with one float32 scale a row (a quarter of the size of float32).
        rows: by layer, the features whose rows are stored, ascending; the rows of others, which must never fire, are
            left out and read back as zero. Only for compact per-layer sets.

    Raises:
        FileError: the folder cannot be written.
        TranscoderError: a cross-layer set with skip matrices or a set of mixed kinds, which no format holds.

    >>> import unweave
    >>> transcoders = unweave.read_transcoders("organism")
    >>> unweave.write_transcoders(transcoders, "copy", compact=True)          # doctest: +SKIP
    """
    if transcoders.of_neurons:
        raise TranscoderError("neurons are part of the model and are not written; give a dictionary")
    folder = Path(folder).expanduser()
    first = transcoders.layers[0].activation
    config: dict[str, Any] = {
        "model_name": transcoders.model_name,
        "model_kind": _key_of(KINDS, transcoders.kind),
        "feature_input_hook": _key_of(READ_HOOKS, transcoders.read),
        "feature_output_hook": _key_of(WRITE_HOOKS, transcoders.write),
    }
    if isinstance(first, TopK):
        config |= {"activation": "topk", "k": first.k} | ({"rectified": True} if first.rectified else {})
    if transcoders.ignored_prefix:
        config["ignored_prefix"] = list(transcoders.ignored_prefix)
    if rows is not None and not (compact and transcoders.kind == "per-layer"):
        raise TranscoderError(f"{transcoders.name}: rows can be left out of compact per-layer sets only")
    if any(layer.more or getattr(layer.activation, "shift", None) is not None for layer in transcoders.layers):
        raise TranscoderError(f"{transcoders.name}: shifted activations (post_enc) fit no format that is written")
    if any(_kind_of(layer.activation) != _kind_of(first) for layer in transcoders.layers) or (
        transcoders.kind == "cross-layer" and transcoders.has_skip and not compact
    ):
        raise TranscoderError(
            f"{transcoders.name}: layers of different activations fit no format, and a cross-layer set with skip "
            f"matrices only the compact one (--compact)"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error}") from error
    for number, layer in enumerate(transcoders.layers):
        for name, tensors in _layer_files(
            transcoders.kind, number, layer, compact, None if rows is None else rows[number]
        ):
            write_atomically(folder / name, lambda path, tensors=tensors: save_file(tensors, path))
    text = yaml.safe_dump(config, sort_keys=False)
    return write_atomically(folder / "config.yaml", lambda path: Path(path).write_text(text)).parent


def _kind_of(activation: Activation) -> tuple[Any, ...]:
    return type(activation), getattr(activation, "k", None), getattr(activation, "rectified", None)


def _key_of(table: dict[str, Any], value: Any) -> str:
    return next(key for key, known in table.items() if known == value)


def _layer_files(
    kind: Kind, number: int, layer: TranscoderLayer, compact: bool, rows: Tensor | None
) -> list[tuple[str, dict[str, Tensor]]]:
    def weights(name: str, matrix: Matrix | Slots, keep: Tensor | None = None) -> dict[str, Tensor]:
        if not compact:
            kept = isinstance(matrix, Matrix) and matrix.scale is None and matrix.rows is None
            plain = matrix.stored if isinstance(matrix, Matrix) and kept else matrix.dense(torch.float32)
            return {name: plain.contiguous()}
        if keep is None and isinstance(matrix, Matrix) and matrix.stored.dtype == torch.int8 and matrix.rows is None:
            assert matrix.scale is not None
            return {
                name: matrix.stored.contiguous(),
                name + SCALE: matrix.scale.contiguous(),
            }  # rounding twice moves bits
        values = matrix.dense(torch.float32) if keep is None else matrix.select(keep, torch.float32)
        scale = (values.abs().amax(-1) / 127).clamp_min(1e-12)
        return {name: (values / scale[..., None]).round().to(torch.int8).contiguous(), name + SCALE: scale.contiguous()}

    threshold = layer.activation.threshold if isinstance(layer.activation, JumpReLU) else None
    if kind == "cross-layer":
        encoder = weights(f"W_enc_{number}", layer.encoder) | {
            f"b_enc_{number}": layer.encoder_bias,
            f"b_dec_{number}": layer.decoder_bias,
        }
        if threshold is not None:
            encoder[f"threshold_{number}"] = threshold
        if layer.skip is not None:
            encoder |= weights(f"W_skip_{number}", layer.skip)
        return [
            (f"W_enc_{number}.safetensors", encoder),
            (f"W_dec_{number}.safetensors", weights(f"W_dec_{number}", layer.decoder)),
        ]
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
