"""Small dictionaries trained on models with known circuits: whether they, and their graphs, keep the middle steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import Matrix, Transcoders
from .data import KnownCircuit
from .known import KnownModel

KINDS = ("per-layer", "skip", "cross-layer")
STEPS, BATCH, PROMPTS, FEATURES, ACTIVE = 600, 512, 512, 80, 12
"""Of a training: steps, tokens in each, prompts, features a layer and active features a token."""
CARRIES = 0.8
"""Correlation of a feature with a neuron, over prompts and positions, from which on it carries its variable."""


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
    """Share for which such a feature is also among the strongest of the attribution graph, as many as the circuit has
    neurons."""


def middles_kept(known: KnownModel, circuit: KnownCircuit, kind: str) -> MiddleFigures:
    """Train a dictionary of one kind and see whether middle variables have features, and whether graphs rank them."""
    inputs, outputs = _recorded(known)
    transcoders, missed = train_small(known, kind, inputs, outputs)
    model = ReplacementModel(known.model, transcoders)
    carriers = _carriers(known, transcoders, inputs)
    held, found = [], []
    for one in circuit.inputs:
        graph = answer(model, Question(list(one.prompt), Difference(one.answer, one.rival)))
        nodes, rank = graph.nodes, graph.influence()
        rows = range(nodes.features.start, nodes.features.stop)
        strongest = set(sorted(rows, key=lambda row: -float(rank[row]))[: len(one.nodes)])
        for names in one.mediators.values():
            places = [tuple(map(int, name.split("_"))) for name in names]
            mine = {
                row
                for row in rows
                for layer, neuron, position in places
                if (int(nodes.layer[row]), int(nodes.position[row])) == (layer, position)
                and (layer, int(nodes.index[row]), neuron) in carriers
            }
            held.append(bool(mine))
            found.append(bool(mine & strongest))
    shares = [sum(part) / len(part) if part else math.nan for part in (held, found)]
    return MiddleFigures(circuit.task, circuit.seed, kind, missed, *shares)


def train_small(
    known: KnownModel, kind: str, inputs: list[Float[Tensor, "token d"]], outputs: list[Float[Tensor, "token d"]]
) -> tuple[Transcoders, float]:
    """A dictionary of a compiled model, trained in seconds, and the share of variance that it misses.

    The direction that sets the norms is taken out of what encoders read: constant and hundreds of times as large as all
    else, it would be all that they learn.
    """
    config = TrainConfig(
        model=known.task.name, self_sample=1.0, kind=kind, width=str(FEATURES), k=str(ACTIVE),
        tokens=STEPS * BATCH, batch=BATCH,
        seed=known.seed, dead_after=20 * BATCH, lr=3e-3, warmup=20, precision="float32",
    )  # fmt: skip
    loud = _loud(inputs)
    quiet = [x - (x @ loud)[:, None] * loud for x in inputs]
    layers = range(len(inputs))
    facts = measure([(quiet, outputs)], config.outlier, layers)
    dictionary = start(config, tuple(facts[layer] for layer in layers), None, torch.device("cpu"), layers)
    optimizer, silent = optimizer_of(dictionary), torch.zeros(len(inputs), FEATURES, dtype=torch.int64)
    draw = torch.Generator().manual_seed(known.seed)
    missed = []
    for step in range(STEPS):
        some = torch.randint(len(quiet[0]), (BATCH,), generator=draw)
        seen = take_step(
            dictionary, optimizer, [x[some] for x in quiet], [y[some] for y in outputs], silent,
            schedule(config, dictionary.widths, step, step / STEPS), torch.float32,
        )  # fmt: skip
        missed.append(float(seen.fvu.mean()))
    made = to_transcoders(dictionary, f"{known.task.name}-{known.seed}-{kind}")
    return _deaf(made, loud), sum(missed[-20:]) / 20


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
    random = Random(f"training {known.task.name} {known.seed}")
    seen: list[Recording] = [
        known.model.record(torch.tensor(known.ids(known.task.draw(random)))) for _ in range(PROMPTS)
    ]
    layers = range(known.model.n_layers)
    return (
        [torch.cat([one.mlp_inputs[layer][1:] for one in seen]).float() for layer in layers],
        [torch.cat([one.mlp_outputs[layer][1:] for one in seen]).float() for layer in layers],
    )


def _carriers(
    known: KnownModel, transcoders: Transcoders, inputs: Sequence[Float[Tensor, "token d"]]
) -> set[tuple[int, int, int]]:
    """(layer, feature, neuron) of features that carry a neuron of the program."""
    found = set()
    for layer, x in enumerate(inputs):
        features = _centred(transcoders.layers[layer].encode(x)[1])
        mlp = known.model.blocks[layer].get_submodule(known.model.architecture.mlp)
        own = _centred(mlp.act(mlp.c_fc(x.to(known.model.dtype))).float())
        related = ((features.T @ own) >= CARRIES).nonzero()
        program = {index for at, index in known.compiled.places.neurons if at == layer}
        found |= {(layer, feature, neuron) for feature, neuron in related.tolist() if neuron in program}
    return found


def _centred(values: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
    values = values - values.mean(0)
    return values / values.norm(dim=0).clamp_min(1e-9)
