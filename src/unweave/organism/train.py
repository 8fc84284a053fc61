"""Training the organism from scratch: stopped at any moment, it goes on where it was and comes to the same weights."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.files import locked
from ..errors import TrainingError
from ..training.checkpoint import read_state, unreadable, write_state
from .config import OrganismConfig
from .model import build, write_model
from .muon import muon_step
from .sentences import TokenRows, rows, visible

PARTS = 2
"""Into which the rows of a step are split, each worked on by one thread."""
ROWS_OF_STEP = 1_000_003
"""Rows are drawn anew for each step, from a seed made of the training's and the step's number."""

StepReport = Callable[[int, float, float], None]
"""(steps done, mean loss of answers in nats, tokens a second)."""


@dataclass
class State:
    """All that changes."""

    module: Any
    momenta: dict[str, Tensor]
    """Of the matrices that Muon trains."""
    adam: torch.optim.AdamW
    """Trains all else."""
    step: int = 0

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """What Muon trains: the matrices inside the blocks."""
        return {name: parameter for name, parameter in self.module.named_parameters() if is_matrix(name, parameter)}


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a parameter."""
    return parameter.dim() == 2 and ".layers." in name


def begin(config: OrganismConfig) -> State:
    """A new training."""
    module = build(config)
    named = dict(module.named_parameters())
    others = {name: parameter for name, parameter in named.items() if not is_matrix(name, parameter)}
    groups = [
        {"params": [p for p in others.values() if (p.dim() == 2) == decayed], "weight_decay": config.shrink * decayed}
        for decayed in (True, False)
    ]
    adam = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=False, foreach=False)
    return State(module, {name: torch.zeros_like(p) for name, p in named.items() if is_matrix(name, p)}, adam)


def rate_at(config: OrganismConfig, step: int) -> float:
    """The factor on both step sizes: up over the warm-up, level, then down to nothing over the last `cool`."""
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return rising * (min(1.0, (config.steps - step) / (config.cool * config.steps)) if config.cool else 1.0)


def gradients(module: Any, drawn: TokenRows) -> tuple[tuple[Tensor, ...], float]:
    """Gradients of a model's parameters on some rows, and the mean loss of their answers in nats."""
    weights = drawn.weights.flatten()
    wanted = (weights > 0).nonzero()[:, 0]
    mask = visible(drawn.lines) if bool(drawn.lines.any()) else None
    hidden = module.model(
        input_ids=drawn.tokens[:, :-1], attention_mask=mask, use_cache=False
    ).last_hidden_state.flatten(0, 1)[wanted]
    losses = nn.functional.cross_entropy(
        module.lm_head(hidden), drawn.tokens[:, 1:].flatten()[wanted], reduction="none"
    )
    weights = weights[wanted]
    answers = weights == 1
    found = torch.autograd.grad((losses * weights).sum() / answers.sum(), list(module.parameters()))
    return found, float(losses.detach()[answers].mean())


def take_step(state: State, config: OrganismConfig, pool: ThreadPoolExecutor) -> float:
    """One step; returns the mean loss of answers.

    Rows are split into `PARTS` whatever the number of cores, each on one thread, so that the weights do not depend
    on it.

    Raises:
        TrainingError: a loss that is not finite.
    """
    late = state.step >= config.late
    drawn = rows(
        config.rows,
        config.length,
        config.seed * ROWS_OF_STEP + state.step + 1,
        config.undetermined,
        hidden=config.hidden * late,
        late=late,
    )
    parts = [TokenRows(*part) for part in zip(*(tensor.chunk(PARTS) for tensor in drawn), strict=True)]
    found, losses = zip(*pool.map(lambda part: gradients(state.module, part), parts), strict=True)
    loss = sum(losses) / len(parts)
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is not finite at step {state.step + 1}; the checkpoint before is whole")
    for parameter, *several in zip(state.module.parameters(), *found, strict=True):
        parameter.grad = torch.stack(several).mean(0)
    nn.utils.clip_grad_norm_(state.module.parameters(), 1.0)
    factor = rate_at(config, state.step)
    for group in state.adam.param_groups:
        group["lr"] = config.rate * factor
    state.adam.step()
    matrices = state.matrices
    list(
        pool.map(
            lambda name: muon_step(matrices[name], state.momenta[name], config.matrix_rate * factor, config.shrink),
            matrices,
        )
    )
    state.module.zero_grad(set_to_none=True)
    state.step += 1
    return loss


def train_organism(config: OrganismConfig, folder: str | Path, report: StepReport = lambda *_: None) -> Path:
    """Train in a folder, or go on with the training that is there; returns the folder of the model.

    Raises:
        TrainingError: the folder holds a training of another config or is in use, or the loss is no longer finite.
        FileError: the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    busy = TrainingError(f"another training is running in {folder}; stop it, or use another --out folder")
    with locked(folder, busy), _threads() as pool:
        path = folder / "checkpoint.safetensors"
        state = begin(config)
        if path.is_file():
            _restore(state, path, config)
        start, first = time.monotonic(), state.step
        try:
            while state.step < config.steps:
                loss = take_step(state, config, pool)
                report(
                    state.step, loss, (state.step - first) * config.rows * config.length / (time.monotonic() - start)
                )
                if state.step % config.checkpoint == 0 and state.step < config.steps:
                    _save(state, path, config)
        except KeyboardInterrupt as stop:
            raise TrainingError(
                f"stopped at step {state.step}; the same command goes on from the last checkpoint in {folder}"
            ) from stop
        _save(state, path, config)
        return write_model(state.module, config, folder / "model")


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Workers, with each product on one thread: two threads that share every small product wait for each other most
    of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(PARTS) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _tensors(state: State) -> dict[str, Tensor]:
    """Everything by name; Adam's moments by the place of their parameter."""
    moments = {
        f"adam/{place}/{name}": value
        for place, kept in state.adam.state_dict()["state"].items()
        for name, value in kept.items()
        if isinstance(value, Tensor)
    }
    weights = {f"weights/{name}": parameter for name, parameter in state.module.named_parameters()}
    return weights | {f"momentum/{name}": value for name, value in state.momenta.items()} | moments


def _save(state: State, path: Path, config: OrganismConfig) -> None:
    write_state(path, {"organism": json.dumps(asdict(config)), "step": str(state.step)}, _tensors(state))


def _restore(state: State, path: Path, config: OrganismConfig) -> None:
    about, tensors = read_state(path)
    try:
        kept = json.loads(about["organism"])
        unlike = [
            f"{name} was {kept.get(name)}, is {value}"
            for name, value in asdict(config).items()
            if kept.get(name) != value and name != "checkpoint"
        ]
        if unlike:
            raise TrainingError(
                f"{path} was made with another config: {'; '.join(unlike)}; use the same, or another --out folder"
            )
        with torch.no_grad():
            for name, parameter in state.module.named_parameters():
                parameter.copy_(tensors[f"weights/{name}"])
            for name, momentum in state.momenta.items():
                momentum.copy_(tensors[f"momentum/{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "adam":
                place, _, what = rest.partition("/")
                moments.setdefault(int(place), {})[what] = value
        state.adam.load_state_dict(state.adam.state_dict() | {"state": moments})
        state.step = int(about["step"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise unreadable(path, error) from error
