"""The state of a training as tensors: what a checkpoint holds, and the dictionary that is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.hub import first_line
from ..errors import TrainingError
from ..transcoders.formats import write_transcoders
from ..transcoders.transcoders import Transcoders
from .checkpoint import Checkpoint, TrainingProgress, path_of, read_checkpoint, unreadable, write_checkpoint
from .config import TrainConfig
from .dictionary import TrainableTranscoders, learns, to_transcoders
from .statistics import LayerStatistics

ADAM = ("step", "exp_avg", "exp_avg_sq")


def save_state(
    path: Path,
    config: TrainConfig,
    progress: TrainingProgress,
    dictionary: TrainableTranscoders,
    optimizer: torch.optim.Adam,
    silent: Tensor,
) -> None:
    """Write a checkpoint.

    Raises:
        FileError: it cannot be written; the one before stays.
    """
    tensors = {f"parameter.{name}": value for name, value in dictionary.parameters.items()}
    for name, parameter in dictionary.parameters.items():
        tensors |= {f"adam.{key}.{name}": value for key, value in optimizer.state[parameter].items()}
    if config.objective == "end-to-end":  # one group a parameter, in their order
        for name, group in zip(dictionary.parameters, optimizer.param_groups, strict=True):
            tensors[f"adam.scale.{name}"] = torch.tensor(group["scale"], dtype=torch.float64)
    tensors |= {"thresholds": dictionary.thresholds, "silent": silent}
    for layer, facts in enumerate(dictionary.statistics):
        for key, value in asdict(facts).items():
            tensors[f"statistics.{layer}.{key}"] = (
                torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
            )
    write_checkpoint(path, config, progress, tensors)


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what tensors cause that do not fit their config into one line.

    Raises:
        TrainingError: such a checkpoint.
    """
    try:
        yield
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        reason = f"its tensors do not fit its config ({type(error).__name__}: {first_line(error)})"
        raise unreadable(path, ValueError(reason)) from error


def restored(kept: Checkpoint, layers: range | None, device: torch.device) -> TrainableTranscoders:
    """The dictionary of a checkpoint; `layers` None: those the model has."""
    tensors = kept.tensors
    n = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("statistics."))
    statistics = []
    for layer in range(n):
        found = {key: tensors[f"statistics.{layer}.{key}"] for key in LayerStatistics.__dataclass_fields__}
        values: dict[str, Any] = {
            key: float(value) if value.dim() == 0 else value.to(device) for key, value in found.items()
        }
        statistics.append(LayerStatistics(**values))
    parameters = {
        name: tensors[f"parameter.{name}"].to(device).requires_grad_(learns(kept.config, name))
        for name in (key.removeprefix("parameter.") for key in tensors if key.startswith("parameter."))
    }
    return TrainableTranscoders(
        kept.config,
        tuple(statistics),
        parameters,
        tensors["thresholds"].to(device),
        layers or range(n),
        kept.config.widths(n),
    )


def restore(kept: Checkpoint, dictionary: TrainableTranscoders, optimizer: torch.optim.Adam, silent: Tensor) -> None:
    """Put a checkpoint's moments and counts where they belong."""
    for name, parameter in dictionary.parameters.items():
        if f"adam.step.{name}" in kept.tensors:
            optimizer.state[parameter] = {
                key: kept.tensors[f"adam.{key}.{name}"].to(parameter.device if key != "step" else "cpu") for key in ADAM
            }
    if kept.config.objective == "end-to-end":
        for name, group in zip(dictionary.parameters, optimizer.param_groups, strict=True):
            group["scale"] = float(kept.tensors[f"adam.scale.{name}"])
    silent.copy_(kept.tensors["silent"])


def export(folder: str | Path, out: str | Path, *, compact: bool = False) -> Transcoders:
    """Write the dictionary of a training's checkpoint, finished or not, as a folder that `trace` and the peer read.

    Raises:
        TrainingError: no checkpoint, or one that cannot be read.
        FileError: `out` cannot be written.
    """
    folder = Path(folder).expanduser()
    if not path_of(folder).is_file():
        raise TrainingError(f"{folder} holds no checkpoint")
    kept = read_checkpoint(path_of(folder))
    tensors, rank = dict(kept.tensors), 1
    while kept.config.parallel == "layers" and path_of(folder, rank).is_file():
        part = read_checkpoint(path_of(folder, rank)).tensors
        tensors |= {name: value for name, value in part.items() if name.startswith("parameter.")}
        tensors["thresholds"] = torch.maximum(tensors["thresholds"], part["thresholds"])
        rank += 1
    with fitting(path_of(folder)):
        whole = restored(Checkpoint(kept.config, kept.progress, tensors), None, torch.device("cpu"))
    missing = next((layer for layer in whole.layers if f"encoder.{layer}" not in whole.parameters), None)
    if missing is not None:
        raise TrainingError(f"{folder} lacks the checkpoint of the process that trained layer {missing}")
    with fitting(path_of(folder)):
        transcoders = to_transcoders(whole, str(out))
    write_transcoders(transcoders, out, compact=compact)
    return transcoders
