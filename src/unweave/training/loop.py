"""Training: record a buffer of text, take steps on it, evaluate, keep checkpoints; stop and go on at any moment."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from ..base.files import locked
from ..base.kinds import typed
from ..errors import ModelError, TrainingError
from ..models.language_model import LanguageModel
from ..models.loading import load_model
from ..models.recorder import batches, record
from ..transcoders.formats import read_transcoders
from ..transcoders.transcoders import Transcoders
from . import parallel
from .checkpoint import TrainingProgress, check_same, path_of, read_checkpoint
from .config import TrainConfig
from .dictionary import TrainableTranscoders, start, to_transcoders
from .end_to_end import divergence_step
from .progress import held_out_figures
from .state import export, fitting, restore, restored, save_state
from .statistics import LayerStatistics, measure
from .step import Schedule, StepFigures, optimizer_of, precision_of, schedule, take_step
from .tokens import Blocks, prepare

RECORDED_AT_ONCE = 32
"""Sequences in one forward pass of the model."""


@runtime_checkable
class Watcher(Protocol):
    """Who is told how a training goes; see `display.py`."""

    def stage(self, title: str) -> None:
        """What is done now, before the first step."""

    def step(self, config: TrainConfig, progress: TrainingProgress, measured: StepFigures, rate: float) -> None:
        """After each step."""

    def evaluated(self, progress: TrainingProgress, figures: dict[str, Any]) -> None:
        """After each evaluation."""


class _Nobody(Watcher):
    """Who is not told."""


Evaluate = Callable[[LanguageModel, Transcoders, Int[Tensor, "sequence pos"]], dict[str, Any]]


@dataclass(frozen=True)
class Training:
    """All that changes, and all that it needs."""

    config: TrainConfig
    folder: Path
    model: LanguageModel
    processes: parallel.Processes
    blocks: Blocks
    dictionary: TrainableTranscoders
    optimizer: torch.optim.Adam
    silent: Tensor
    progress: TrainingProgress

    @property
    def sequences(self) -> int:
        """Sequences of a step, over all processes."""
        return max(1, self.config.batch // (self.config.context - 1))

    @property
    def done(self) -> float:
        """Share of the tokens trained on."""
        return min(1.0, self.progress.tokens / self.config.tokens)


@typed
def train(
    config: TrainConfig,
    folder: str | Path,
    watcher: Watcher | None = None,
    evaluate: Evaluate = held_out_figures,
    *,
    device: str = "cpu",
) -> Path:
    """Train a dictionary in a folder, or go on with the training that is there; returns the folder of the dictionary.

    Args:
        config: the model, the text, and how to train; as in `unweave train` and its TOML files.
        folder: for checkpoints, log and dictionary.
        watcher: who is told how it goes; None: nobody.
        evaluate: figures of the dictionary so far on held-out sequences of token ids.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        TrainingError: the folder holds a training of another config or is in use; or the loss is no longer finite.
        TextError, ModelError, OptionError, FileError: text, model or options cannot be used; the folder cannot be
            written.

    >>> import unweave                                                        # doctest: +SKIP
    >>> config = unweave.TrainConfig(model="smollm2", text=("notes/",), tokens=1_000_000)      # doctest: +SKIP
    >>> unweave.train(config, "training")                                     # doctest: +SKIP
    """
    folder, watcher = Path(folder).expanduser(), watcher or _Nobody()
    processes = parallel.join(device.startswith("cuda"))
    try:
        busy = TrainingError(f"another training is running in {folder}; stop it, or use another --out folder")
        with locked(folder if processes.first else folder / f".process-{processes.rank}", busy):
            training = _begin(config, folder, processes, watcher, device)
            return _run(training, watcher, evaluate)
    finally:
        parallel.leave(processes)


def _begin(config: TrainConfig, folder: Path, processes: parallel.Processes, watcher: Watcher, device: str) -> Training:
    path = path_of(folder, processes.rank if config.parallel == "layers" else 0)
    kept = read_checkpoint(path) if path.is_file() else None
    if kept is not None:
        check_same(path, kept.config, config)
    watcher.stage(f"loading {config.model}")
    model = load_model(config.model, device=device)
    if config.cross_layer and (model.architecture.mlp_post_norm is not None or model.residual_multiplier != 1):
        raise ModelError(
            f"{config.model} has a norm or a factor after its MLPs, which features that write at later layers do not "
            f"pass; train a per-layer kind"
        )
    model.module.set_attn_implementation("sdpa")
    config.check(model.n_layers)
    blocks = prepare(model, config, folder, watcher.stage) if processes.first else None
    parallel.wait(processes)
    blocks = blocks or prepare(model, config, folder, watcher.stage)
    layers = processes.share(model.n_layers) if config.parallel == "layers" else range(model.n_layers)
    if kept is None:
        watcher.stage("measuring inputs and outputs of the MLPs")
        statistics = _statistics(model, config, blocks, range(model.n_layers))
        init = read_transcoders(config.init) if config.init else None
        dictionary = start(config, statistics, init, model.device, layers)
    else:
        with fitting(path):
            dictionary = restored(kept, layers, model.device)
    optimizer = optimizer_of(dictionary)
    training = Training(
        config, folder, model, processes, blocks, dictionary, optimizer,
        silent=torch.zeros(model.n_layers, max(dictionary.widths), dtype=torch.int64, device=model.device),
        progress=TrainingProgress() if kept is None else kept.progress,
    )  # fmt: skip
    if kept is not None:
        with fitting(path):
            restore(kept, training.dictionary, optimizer, training.silent)
    return training


def _statistics(
    model: LanguageModel, config: TrainConfig, blocks: Blocks, layers: range
) -> tuple[LayerStatistics, ...]:
    some = blocks.train[blocks.order(config.seed, 0, max(1, config.statistics // config.context))]
    precision = precision_of(config, model.device)
    found = measure(
        (record(model, part, layers, precision=precision) for part in batches(some, RECORDED_AT_ONCE)),
        config.outlier,
        layers,
    )
    return tuple(found[layer] for layer in layers)


def _run(training: Training, watcher: Watcher, evaluate: Evaluate) -> Path:
    config, progress = training.config, training.progress
    saved, length = time.monotonic(), 0.0
    try:
        while progress.tokens < config.tokens:
            begin = time.monotonic()
            for measured in _buffer(training) if config.objective == "local" else _whole(training):
                if training.processes.first:
                    watcher.step(
                        config,
                        progress,
                        measured,
                        progress.tokens / max(progress.seconds + time.monotonic() - begin, 1e-9),
                    )
            length = time.monotonic() - begin
            progress.seconds += length
            due = (
                config.evaluate
                and progress.tokens - progress.evaluated >= config.evaluate
                and progress.tokens < config.tokens
            )
            if due:
                _evaluate(training, watcher, evaluate)
            if due or time.monotonic() - saved + length > 60 * config.checkpoint:
                _save(training)
                saved = time.monotonic()
    except KeyboardInterrupt as stop:
        raise TrainingError(
            f"stopped at {progress.tokens:,} tokens; the same command goes on from the last checkpoint in "
            f"{training.folder}"
        ) from stop
    _save(training)
    return _finish(training, watcher, evaluate)


def _buffer(training: Training) -> Iterator[StepFigures]:
    """Record the next sequences and take the steps they give."""
    config, model, processes = training.config, training.model, training.processes
    count = training.sequences * config.buffer
    chosen = training.blocks.train[training.blocks.order(config.seed, training.progress.blocks, count)]
    # Random numbers depend on the place in the text alone, so that a training that goes on draws the same ones.
    generator = torch.Generator().manual_seed(
        (config.seed * 1009 + processes.rank) * 1_000_003 + training.progress.blocks
    )
    shared = config.parallel == "data" and processes.count > 1
    mine = chosen[processes.rank :: processes.count] if shared else chosen
    layers = training.dictionary.layers
    inputs: list[list[Tensor]] = [[] for _ in layers]
    targets: list[list[Tensor]] = [[] for _ in layers]
    for part in batches(mine, RECORDED_AT_ONCE):
        # Replaced layers: for each sequence chosen, a share of its layers that is itself drawn at random.
        share = torch.rand(len(part), 1, generator=generator) * (
            torch.rand(len(part), 1, generator=generator) < config.on_policy
        )
        where = torch.rand(len(part), model.n_layers, generator=generator) < share
        xs, ys = record(
            model,
            part,
            layers,
            _stand_in(training.dictionary) if config.on_policy else None,
            where,
            precision_of(config, model.device),
        )
        for kept, new in ((inputs, xs), (targets, ys)):
            for at, tensor in enumerate(new):
                kept[at].append(tensor)
    whole_x, whole_y = [torch.cat(part) for part in inputs], [torch.cat(part) for part in targets]
    tokens = len(whole_x[0])
    size = -(-tokens // config.buffer)
    for _ in range(config.reuse):
        order = torch.randperm(tokens, generator=generator)
        for begin in range(0, tokens, size):
            at = order[begin : begin + size].to(model.device)
            yield _step(training, [x[at] for x in whole_x], [y[at] for y in whole_y])
    training.progress.blocks += count


def _whole(training: Training) -> Iterator[StepFigures]:
    """One step on the divergence of the replaced model's predictions from the model's."""
    chosen = training.blocks.train[
        training.blocks.order(training.config.seed, training.progress.blocks, training.sequences)
    ]
    mine = chosen[training.processes.rank :: training.processes.count].to(training.model.device)
    tokens = len(mine) * (mine.shape[1] - 1)

    def step(plan: Schedule, precision: torch.dtype) -> StepFigures:
        return divergence_step(
            training.model, training.dictionary, training.optimizer, mine, training.silent, plan, precision,
            training.processes,
        )  # fmt: skip

    measured = _guarded(training, step, tokens * training.processes.count)
    training.progress.blocks += training.sequences
    yield measured


def _stand_in(dictionary: TrainableTranscoders) -> Callable[[int, Tensor], Tensor]:
    earlier: dict[int, Tensor] = {}

    def replace(layer: int, x: Tensor) -> Tensor:
        activations, y = dictionary.predict_dense(layer, x, earlier)
        if dictionary.config.cross_layer:
            earlier[layer] = activations
        return y

    return replace


def _step(training: Training, inputs: list[Tensor], targets: list[Tensor]) -> StepFigures:
    group = training.processes if training.config.parallel == "data" else parallel.Processes()

    def step(plan: Schedule, precision: torch.dtype) -> StepFigures:
        return take_step(
            training.dictionary, training.optimizer, inputs, targets, training.silent, plan, precision, group
        )

    return _guarded(training, step, len(inputs[0]) * group.count)


def _guarded(training: Training, step: Callable[[Schedule, torch.dtype], StepFigures], tokens: int) -> StepFigures:
    """Take a step at its place in the schedule, say where the last good state is if it fails, and count it."""
    config, progress = training.config, training.progress
    plan = schedule(config, training.dictionary.widths, progress.step, training.done)
    try:
        measured = step(plan, precision_of(config, training.model.device))
    except TrainingError as error:
        where = (
            f"at step {progress.step + 1} ({progress.tokens:,} tokens); the last good state is in "
            f"{path_of(training.folder)}"
        )
        raise TrainingError(f"{error} {where}; try a smaller --lr") from error
    progress.step += 1
    progress.tokens += tokens
    return measured


def _save(training: Training) -> None:
    """Write the checkpoint; processes that train the same layers hold the same state, and the first one writes it."""
    own = training.config.parallel == "layers"
    if training.processes.first or own:
        path = path_of(training.folder, training.processes.rank if own else 0)
        save_state(path, training.config, training.progress, training.dictionary, training.optimizer, training.silent)


def _evaluate(training: Training, watcher: Watcher, evaluate: Evaluate) -> None:
    training.progress.evaluated = training.progress.tokens
    if (
        len(training.dictionary.layers) < training.model.n_layers
        or not training.processes.first
        or not len(training.blocks.held_out)
    ):
        return
    figures = evaluate(
        training.model, to_transcoders(training.dictionary, str(training.folder)), training.blocks.held_out
    )
    watcher.evaluated(training.progress, figures)


def _finish(training: Training, watcher: Watcher, evaluate: Evaluate) -> Path:
    parallel.wait(training.processes)
    out = training.folder / "dictionary"
    if training.processes.first:
        transcoders = export(training.folder, out)
        if len(training.blocks.held_out):
            watcher.evaluated(training.progress, evaluate(training.model, transcoders, training.blocks.held_out))
    parallel.wait(training.processes)
    return out
