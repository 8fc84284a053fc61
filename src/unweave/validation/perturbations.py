"""Does a disturbance travel through the replacement model as it does through the real one? Attention is held in
both."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.choices import Mode
from ..base.progress import Progress
from ..interventions.edits import SteeringVector, add_direction
from ..interventions.patching import patched
from ..interventions.plans import frozen_parts, prompt_edits
from ..models.language_model import LanguageModel, Recording
from ..models.recording import WatchPoint, watching
from ..transcoders.replacement import LocalReplacement
from .measured import Measurements, Row
from .sample import JudgedGraph

KINDS = ("feature", "encoder", "random")
"""An active feature removed; a push along an encoder that raises that feature's activation by a tenth; a random
direction as long as what was removed."""
STARTS = 6
"""Layers where disturbances begin, evenly spread over the model."""


class Travelled(NamedTuple):
    """One disturbance: by layer, from the one where it began, how alike its effects in the two models are."""

    kind: str
    start: int
    cosine: tuple[float, ...]
    """Between the changes of the residual stream after each layer, all positions together."""
    error: tuple[float, ...]
    """Squared difference of the two changes over the square of the real one."""


def measure_perturbations(
    question: JudgedGraph, count: int, seed: int, measured: Measurements, name: str, progress: Progress
) -> list[Travelled]:
    """About `count` disturbances of each kind, spread over the layers."""
    local = question.model.localize(question.recording.input_ids)
    layers = [layer for layer in range(local.n_layers - 1) if _busy(local, layer) and _busy(local, layer + 1)]
    starts = (
        sorted({layers[round(step * (len(layers) - 1) / (STARTS - 1))] for step in range(STARTS)}) if layers else []
    )
    each = -(-count // max(1, len(starts)))
    piece = each * len(KINDS)

    def run(part: range) -> list[Row]:
        start = starts[part.start // piece]
        pushes = _disturbances(local, start, each, seed + start)
        real, replaced = (_changes(question, pushes, mode, start) for mode in ("frozen_attention", "replacement"))
        rows = []
        for number in range(len(pushes)):
            true, made = real[:, number].flatten(1).double(), replaced[:, number].flatten(1).double()
            cosine = torch.cosine_similarity(true, made, dim=-1)
            error = (made - true).square().sum(-1) / true.square().sum(-1).clamp_min(1e-300)
            rows.append([float(number // each), float(start), *cosine.tolist(), *error.tolist()])
        return rows

    rows = measured.fill(f"{name}: disturbances", piece * len(starts), piece, run, progress)
    return [Travelled(KINDS[int(row[0])], int(row[1]), *_halves(row[2:])) for row in rows]


def _halves(values: Row) -> tuple[tuple[float, ...], tuple[float, ...]]:
    middle = len(values) // 2
    return tuple(values[:middle]), tuple(values[middle:])


def _busy(local: LocalReplacement, layer: int) -> bool:
    span = local.layer_slice(layer)
    return span.stop > span.start


def _disturbances(local: LocalReplacement, start: int, each: int, seed: int) -> list[SteeringVector]:
    """`each` of every kind, kind by kind, at positions where features are on."""
    generator = torch.Generator().manual_seed(seed)
    active, transcoders = local.features, local.transcoders

    def draw(layer: int) -> Tensor:
        span = local.layer_slice(layer)
        return span.start + torch.randint(span.stop - span.start, (each,), generator=generator)

    here, later = draw(start), draw(start + 1)
    written = (
        transcoders.decoder_rows(start, active.index[here], start, local.errors.dtype) * active.activation[here, None]
    )
    noise = torch.randn(written.shape, generator=generator).to(written)
    noise = noise * (written.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    positions, later_positions = active.position[here].tolist(), active.position[later].tolist()
    pushes = [
        add_direction(-vector, start, position, "mlp_out") for vector, position in zip(written, positions, strict=True)
    ]
    for feature, position in zip(later.tolist(), later_positions, strict=True):
        encoder = transcoders.layers[start + 1].encoder.select(active.index[feature : feature + 1], local.errors.dtype)
        slope = local.frozen.layers[start + 1].read_transpose(encoder, position)[0]
        pushes.append(
            add_direction(
                0.1 * active.activation[feature] * slope / slope.square().sum().clamp_min(1e-30), start, position
            )
        )
    return pushes + [
        add_direction(vector, start, position, "mlp_out") for vector, position in zip(noise, positions, strict=True)
    ]


def _changes(
    question: JudgedGraph, pushes: list[SteeringVector], mode: Mode, start: int
) -> Float[Tensor, "layer push pos d"]:
    """How the residual stream after each layer from `start` on differs from the unchanged one."""
    model, recording = question.model.language_model, question.recording
    plan = prompt_edits(question.model, recording, [[push] for push in pushes])
    ids = recording.input_ids[None].expand(len(pushes), -1).to(model.device)
    with (
        patched(question.model, plan, recording, frozen_parts(mode, None, model.n_layers)),
        _residuals(model) as seen,
        torch.no_grad(),
    ):
        model.module(input_ids=ids, use_cache=False)
    return torch.stack([seen[layer] - _clean(recording, layer) for layer in range(start, model.n_layers)])


def _clean(recording: Recording, layer: int) -> Float[Tensor, "pos d"]:
    return recording.final if layer + 1 == len(recording.attention_inputs) else recording.attention_inputs[layer + 1]


def _residuals(model: LanguageModel) -> AbstractContextManager[dict[int, Float[Tensor, "push pos d"]]]:
    """What leaves every layer while this lasts."""
    points = [WatchPoint(layer, block, "out") for layer, block in enumerate(model.blocks)]
    return watching(points, lambda x: x.to("cpu", model.engine_dtype))
