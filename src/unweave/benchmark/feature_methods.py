"""Graphs of features, judged by the neurons that their features go with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..response.response import response_graph
from ..transcoders.replacement import ReplacementModel
from .data import TARGET
from .question import BenchmarkQuestion, Method, pairs, unit
from .score import CircuitScores

CARRIES = 0.8
"""Correlation of a feature with a neuron, over prompts and positions, from which on it carries its variable."""


@dataclass(frozen=True)
class KnownFeatures:
    """A dictionary of a model with a known circuit."""

    model: ReplacementModel
    alike: tuple[Float[Tensor, "feature neuron"], ...]
    """By layer, the correlation of activations over prompts and positions, negative ones as 0, squared: how far a
    feature goes with a neuron."""


def feature_methods(kind: str, features: KnownFeatures) -> dict[str, Method]:
    """The graphs of a dictionary as methods: a neuron has the score of a feature of its layer and position, times how
    far it goes with the neuron, the largest of all; an edge likewise at both ends."""

    def attributed(asked: BenchmarkQuestion) -> CircuitScores:
        return _scores(asked, _attribution(features, asked), features)

    def responded(asked: BenchmarkQuestion) -> CircuitScores:
        return _scores(asked, _response(features, asked), features)

    return {f"attribution, {kind}": attributed, f"response, {kind}": responded}


Judged = tuple[Graph, Float[Tensor, " node"], Float[Tensor, "target source"]]
"""A graph with the size of nodes and of edges."""


def _attribution(features: KnownFeatures, asked: BenchmarkQuestion) -> Judged:
    graph = answer(features.model, Question(list(asked.prompt), Difference(asked.answer, asked.rival)))
    return graph, graph.influence().double(), influence_of_edges(graph)


def influence_of_edges(graph: Graph) -> Float[Tensor, "target source"]:
    """Of every edge of an attribution graph, the part of the influence that goes through it."""
    share = (graph.influence().double() + graph.logit_weight) / graph.input_size.clamp_min(1e-10)
    return graph.dense().double().abs() * share[:, None]


def _response(features: KnownFeatures, asked: BenchmarkQuestion) -> Judged:
    both = torch.stack([_activations(features.model, prompt) for prompt in (asked.prompt, asked.instead)])
    most, target = int((both[0] != both[1]).sum()), (asked.answer, asked.rival)
    graph = response_graph(features.model, asked.prompt, target, asked.instead, "features", most=most)
    assert graph.effect is not None
    return graph, graph.effect.double(), passed_on(graph)


def _activations(model: ReplacementModel, prompt: tuple[int, ...]) -> Float[Tensor, "layer pos feature"]:
    """All features of a prompt, those of the first position as 0, to within rounding."""
    recording = model.language_model.record(torch.tensor(list(prompt)))
    layers = enumerate(recording.mlp_inputs)
    found = torch.stack([model.transcoders.encode(layer, x)[1] for layer, x in layers])
    return found.index_fill(1, torch.tensor([0]), 0.0).mul(1e6).round()


def passed_on(graph: Graph) -> Float[Tensor, "target source"]:
    """Of every edge of a response graph, the part of the effect on the target that goes through it."""
    assert graph.effect is not None
    effect, taken = graph.effect.double(), graph.preactivation.double()
    passed = torch.where(taken != 0, -effect / taken.where(taken != 0, torch.inf), 0.0)
    passed[-1] = 1.0
    return graph.dense().double() * passed[:, None]


def _scores(asked: BenchmarkQuestion, judged: Judged, features: KnownFeatures) -> CircuitScores:
    graph, sizes, edges = judged
    nodes, names = graph.nodes, (*asked.sources, *asked.neurons, TARGET)
    goes = torch.zeros(len(nodes), len(names), dtype=torch.float64)
    for column, name in enumerate(names):
        if name == TARGET:
            goes[nodes.kind == NodeKind.LOGIT, column] = 1.0
            continue
        layer, position, index = unit(name)
        here = (nodes.position == position) & (
            nodes.kind == NodeKind.EMBEDDING if layer < 0 else (nodes.kind == NodeKind.FEATURE) & (nodes.layer == layer)
        )
        goes[here, column] = 1.0 if layer < 0 else features.alike[layer][nodes.index[here], index].double()
    found = (sizes.abs()[:, None] * goes).amax(0).tolist()
    into = _largest(goes.T, edges.abs())
    between = _largest(into, goes)
    row = {name: number for number, name in enumerate(names)}
    order = sorted(range(nodes.features.start, nodes.features.stop), key=lambda node: -abs(float(sizes[node])))
    carried = [frozenset(name for name in asked.neurons if goes[node, row[name]] >= CARRIES**2) for node in order]
    return CircuitScores(
        {name: found[row[name]] for name in asked.neurons},
        {(a, b): float(between[row[b], row[a]]) for a, b in pairs(asked)},
        carried=carried,
    )


def _largest(first: Float[Tensor, "a b"], second: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    """Like a product of matrices, with the largest term in place of the sum."""
    return torch.stack([(row[:, None] * second).amax(0) if bool(row.any()) else second.new_zeros(second.shape[1])
                        for row in first])  # fmt: skip
