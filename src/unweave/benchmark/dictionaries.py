"""Small dictionaries trained on models with known circuits: whether they, and their graphs, keep the middle steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..models.language_model import Recording
from ..training.config import TrainConfig
from ..training.dictionary import start, to_transcoders
from ..training.statistics import measure
from ..training.step import optimizer_of, schedule, take_step
from ..transcoders.formats import read_transcoders
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import Matrix, Transcoders
from .data import KnownCircuit
from .feature_methods import CARRIES, KnownFeatures
from .known import SHIPPED, KnownModel

KINDS = ("per-layer", "skip", "cross-layer")
STEPS, BATCH, PROMPTS, FEATURES, ACTIVE = 600, 512, 512, 80, 12
"""Of a training: steps, tokens in each, prompts, features a layer and active features a token."""


@dataclass(frozen=True)
class MiddleFigures:
    """What became of the middle variables of one model in one dictionary."""

    task: str
    seed: int
    kind: str
    unexplained: float
    """Share of the variance of what MLPs write that the dictionary misses, the mean over layers."""
    held: float
    """Share of middle variables, over inputs, for which a feature that carries them is active where they are."""
    found: float
    """Share that the dictionary's attribution graph finds, as in the main table."""


def known_features(known: KnownModel, kind: str) -> tuple[KnownFeatures, float]:
    """A model's dictionary of a kind, the one that ships if there is one, else trained now; and the share of variance
    that it misses."""
    inputs, outputs = _recorded(known)
    folder = _folder(known, kind)
    made = read_transcoders(str(folder)) if folder.is_dir() else train_small(known, kind, inputs, outputs)
    return KnownFeatures(ReplacementModel(known.model, made), _alike(known, made, inputs)), _missed(
        known, made, inputs, outputs
    )


def shipped_kinds(known: KnownModel) -> tuple[str, ...]:
    """The kinds of dictionaries that ship for a model."""
    return tuple(kind for kind in KINDS if _folder(known, kind).is_dir())


def _folder(known: KnownModel, kind: str) -> Path:
    return SHIPPED / "dictionaries" / f"{known.name}-{known.seed}-{kind}"


def trained_dictionary(known: KnownModel, kind: str) -> Transcoders:
    """A model's dictionary of a kind, trained now."""
    return train_small(known, kind, *_recorded(known))


def middles_kept(
    circuit: KnownCircuit, kind: str, features: KnownFeatures, missed: float, rows: Sequence[Mapping[str, float]]
) -> MiddleFigures:
    """Whether middle variables have features in a dictionary, and whether an attribution graph ranks them (`rows`: its
    figures by input)."""
    held = []
    for one in circuit.inputs:
        graph = answer(features.model, Question(list(one.prompt), Difference(one.answer, one.rival)))
        nodes = graph.nodes[graph.nodes.features]
        on = {(int(node.layer), int(node.position), int(node.index)) for node in nodes}
        for names in one.mediators.values():
            places = [tuple(map(int, name.split("_"))) for name in names]
            held.append(
                any(
                    (layer, position, feature) in on
                    for layer, neuron, position in places
                    for feature in (features.alike[layer][:, neuron] >= CARRIES**2).nonzero().flatten().tolist()
                )
            )
    found = [row["mediators"] for row in rows if not math.isnan(row["mediators"])]
    shares = [sum(part) / len(part) if part else math.nan for part in (held, found)]
    return MiddleFigures(circuit.task, circuit.seed, kind, missed, *shares)


def train_small(
    known: KnownModel, kind: str, inputs: list[Float[Tensor, "token d"]], outputs: list[Float[Tensor, "token d"]]
) -> Transcoders:
    """A dictionary of a small model, trained in seconds.

    The direction that sets a compiled model's norms is taken out of what encoders read: constant and hundreds of times
    as large as all else, it would be all that they learn.
    """
    config = TrainConfig(
        model=known.task.name, self_sample=1.0, kind=kind, width=str(FEATURES), k=str(ACTIVE),
        tokens=STEPS * BATCH, batch=BATCH,
        seed=known.seed, dead_after=20 * BATCH, lr=3e-3, warmup=20, precision="float32",
    )  # fmt: skip
    loud = torch.zeros_like(inputs[0][0]) if known.trained else _loud(inputs)
    quiet = [x - (x @ loud)[:, None] * loud for x in inputs]
    layers = range(len(inputs))
    facts = measure([(quiet, outputs)], config.outlier, layers)
    dictionary = start(config, tuple(facts[layer] for layer in layers), None, torch.device("cpu"), layers)
    optimizer, silent = optimizer_of(dictionary), torch.zeros(len(inputs), FEATURES, dtype=torch.int64)
    draw = torch.Generator().manual_seed(known.seed)
    for step in range(STEPS):
        some = torch.randint(len(quiet[0]), (BATCH,), generator=draw)
        take_step(
            dictionary, optimizer, [x[some] for x in quiet], [y[some] for y in outputs], silent,
            schedule(config, dictionary.widths, step, step / STEPS), torch.float32,
        )  # fmt: skip
    return _deaf(to_transcoders(dictionary, f"{known.name}-{known.seed}-{kind}"), loud)


def _missed(
    known: KnownModel,
    transcoders: Transcoders,
    inputs: Sequence[Float[Tensor, "token d"]],
    outputs: Sequence[Float[Tensor, "token d"]],
) -> float:
    """The share of the variance of what MLPs write that a dictionary misses, the mean over layers."""
    shares = []
    active = [layer.encode(x)[1] for layer, x in zip(transcoders.layers, inputs, strict=True)]
    for at, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        made = transcoders.layers[at].decoder_bias.expand(len(x), -1)
        for source in transcoders.sources(at):
            every = torch.arange(transcoders.widths[source])
            made = made + active[source] @ transcoders.decoder_rows(source, every, at, torch.float32)
        skip = transcoders.layers[at].skip
        made = made if skip is None else made + x @ skip.dense(torch.float32).T
        shares.append(float((y - made).square().sum() / (y - y.mean(0)).square().sum()))
    return sum(shares) / len(shares)


def _deaf(transcoders: Transcoders, loud: Float[Tensor, " d"]) -> Transcoders:
    """The same, reading nothing along a direction."""
    layers = []
    for layer in transcoders.layers:
        rows = layer.encoder.dense(torch.float32)
        skip = None if layer.skip is None else layer.skip.dense(torch.float32)
        layers.append(
            replace(
                layer,
                encoder=Matrix(rows - (rows @ loud)[:, None] * loud),
                skip=None if skip is None else Matrix(skip - (skip @ loud)[:, None] * loud),
            )
        )
    return replace(transcoders, layers=tuple(layers))


def _loud(inputs: Sequence[Float[Tensor, "token d"]]) -> Float[Tensor, " d"]:
    mean = inputs[0].mean(0)
    return mean / mean.norm()


def _recorded(known: KnownModel) -> tuple[list[Float[Tensor, "token d"]], list[Float[Tensor, "token d"]]]:
    """What MLPs read and write on drawn prompts, by layer, at all positions but the first."""
    random = Random(f"training {known.name} {known.seed}")
    seen: list[Recording] = [
        known.model.record(torch.tensor(known.ids(known.task.draw(random)))) for _ in range(PROMPTS)
    ]
    layers = range(known.model.n_layers)
    return (
        [torch.cat([one.mlp_inputs[layer][1:] for one in seen]).float() for layer in layers],
        [torch.cat([one.mlp_outputs[layer][1:] for one in seen]).float() for layer in layers],
    )


def _alike(
    known: KnownModel, transcoders: Transcoders, inputs: Sequence[Float[Tensor, "token d"]]
) -> tuple[Float[Tensor, "feature neuron"], ...]:
    """By layer, how far features go with neurons."""
    found = []
    for layer, x in enumerate(inputs):
        features = _centred(transcoders.layers[layer].encode(x)[1])
        mlp = known.model.blocks[layer].get_submodule(known.model.architecture.mlp)
        own = _centred(mlp.act(mlp.c_fc(x.to(known.model.dtype))).float())
        found.append((features.T @ own).clamp_min(0).square())
    return tuple(found)


def _centred(values: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
    values = values - values.mean(0)
    return values / values.norm(dim=0).clamp_min(1e-9)
