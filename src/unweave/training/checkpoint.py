"""The state of a training on disk: whole or not at all, one process a folder, refused for another config."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..base.files import write_atomically
from ..errors import FileError, TrainingError
from .config import TrainConfig, config_from, differences

FORMAT = 1


@dataclass
class TrainingProgress:
    """How far a training is."""

    step: int = 0
    tokens: int = 0
    """Trained on, repeats counted, over all processes."""
    blocks: int = 0
    """Blocks taken from the text."""
    seconds: float = 0.0
    evaluated: int = 0
    """Tokens at the last evaluation."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    config: TrainConfig
    progress: TrainingProgress
    tensors: dict[str, Tensor]


def path_of(folder: Path, rank: int = 0) -> Path:
    """One file; where processes train layers of their own, one each."""
    return folder / ("checkpoint.safetensors" if rank == 0 else f"checkpoint-{rank}.safetensors")


def write_state(path: Path, about: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Replace a training's state; on any failure the old one stays.

    Raises:
        FileError: the disk is full or the folder cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, lambda name: save_file(whole, name, about | {"format": str(FORMAT)}))
    except FileError as error:
        raise FileError(
            f"{error}; the training stops, "
            f"{'the checkpoint before this one is whole' if path.is_file() else 'nothing was saved yet'}"
        ) from error


def read_state(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What `write_state` wrote.

    Raises:
        TrainingError: not a checkpoint, damaged, or of another version.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != str(FORMAT):
                raise TrainingError(f"{path} is not a training checkpoint of format {FORMAT}")
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> TrainingError:
    """What to say of a checkpoint that cannot be read."""
    return TrainingError(f"cannot read the checkpoint {path}: {error}; remove it to start afresh")


def write_checkpoint(path: Path, config: TrainConfig, progress: TrainingProgress, tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint of a dictionary's training.

    Raises:
        FileError: see `write_state`.
    """
    write_state(path, {"config": json.dumps(asdict(config)), "progress": json.dumps(asdict(progress))}, tensors)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint of a dictionary's training.

    Raises:
        TrainingError: not a checkpoint, damaged, or of another version.
    """
    about, tensors = read_state(path)
    try:
        return Checkpoint(
            config_from(json.loads(about["config"]), str(path)),
            TrainingProgress(**json.loads(about["progress"])),
            tensors,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(path, error) from error


def check_same(path: Path, old: TrainConfig, new: TrainConfig) -> None:
    """Refuse to go on from a checkpoint of another config.

    Raises:
        TrainingError: naming the fields that differ.
    """
    lines = differences(old, new)
    if lines:
        raise TrainingError(
            f"{path} was made with another config: {'; '.join(lines)}; use the same, or another --out folder"
        )
