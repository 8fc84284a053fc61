"""Which dictionary it is: one hash of its weights and of all that decides what they compute."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..base.files import cache_folder, write_atomically
from ..errors import FileError
from .transcoders import JumpReLU, TopK, TranscoderLayer


def identity(
    weights: str, kind: str, read: str, write: str, ignored: Sequence[int], layers: Sequence[TranscoderLayer]
) -> str:
    """The sha256 of a dictionary, from that of its files' bytes and from what its configuration means.

    The meaning, not the text: a comment, a model's name or the order of keys makes no other dictionary; another k, hook
    or normalisation does.
    """
    facts = [weights, kind, read, write, list(ignored), [_described(layer) for layer in layers]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _described(layer: TranscoderLayer) -> list[Any]:
    activation = layer.activation
    name: list[Any] = [type(activation).__name__]
    if isinstance(activation, TopK):
        name += [activation.k, activation.rectified, _digest(activation.shift)]
    elif isinstance(activation, JumpReLU):
        name.append(len(activation.threshold))
    matrices = [layer.encoder, *getattr(layer.decoder, "slots", (layer.decoder,)), layer.skip]
    scales = [None if matrix is None else _digest(matrix.scale) for matrix in matrices]
    bias = [_digest(part) for part in (layer.encoder_bias, layer.decoder_bias, *layer.more)]
    return [*name, scales, bias]


def _digest(tensor: Any) -> str | None:
    if tensor is None:
        return None
    return hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()


def sha256_of(files: Sequence[Path]) -> str:
    """One hash of all files' bytes, in order.

    Each file's is remembered by its path, inode, size and times of change; the time of the last change of the inode
    cannot be set back, so that a file changed in place with its other time restored is read again.
    """
    memory_file = cache_folder() / "sha256.json"
    try:
        memory = dict(json.loads(memory_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        memory = {}
    whole, fresh = hashlib.sha256(), {}
    for path in files:
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
        found = memory.get(key)
        if not (isinstance(found, str) and len(found) == 64):
            with path.open("rb") as file:
                memory[key] = fresh[key] = found = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(found.encode())
    if fresh:
        _remember(memory_file, memory)
    return whole.hexdigest()


def _remember(path: Path, memory: dict[str, Any]) -> None:
    """Keep hashes for next time; a cache that cannot be written costs only time."""
    with suppress(FileError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda name: Path(name).write_text(json.dumps(memory), encoding="utf-8"))
