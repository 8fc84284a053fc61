"""Methods that are judged: each takes a question and says how much every neuron, edge and head matters."""

from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..graphs.totals import total_effects
from ..response.response import response_graph
from .data import TARGET, Edge2
from .feature_methods import influence_of_edges, passed_on
from .gradient_methods import attribution_patching, integrated_gradients, relp
from .known import patch_effects
from .passes import BatchPass, GivenValues, direct_effects, head_mask, run, run_put
from .question import BenchmarkQuestion, Method, pairs, unit
from .score import CircuitScores


def random_scores(asked: BenchmarkQuestion) -> CircuitScores:
    """Chance."""
    draw = Random(repr((asked.prompt, asked.instead)))
    edges = {pair: draw.gauss() for pair in pairs(asked)}
    return CircuitScores(
        {name: draw.gauss() for name in asked.neurons}, edges, {name: draw.gauss() for name in asked.heads}, True
    )


def activation_patching(asked: BenchmarkQuestion) -> CircuitScores:
    """The slow truth: each neuron, each edge and each head by itself takes its value in the other prompt.

    An edge: what the source does to its target at once, the rest live from there on.
    """
    model, tokens = asked.model.language_model, (asked.answer, asked.rival)
    base, other = run(model, [asked.prompt]), run(model, [asked.instead])
    units = [unit(name) for name in asked.neurons]
    nodes = patch_effects(model, asked.prompt, base, other, units, tokens).tolist()
    edges, heads = _patched_edges(asked, base, other), _patched_heads(asked, base, other)
    return CircuitScores(dict(zip(asked.neurons, nodes, strict=True)), edges, heads, True)


def _patched_edges(asked: BenchmarkQuestion, base: BatchPass, other: BatchPass) -> dict[Edge2, float]:
    model, units = asked.model.language_model, {name: unit(name) for name in (*asked.sources, *asked.neurons)}
    direct = direct_effects(model, asked.prompt, base, other, list(units.values()))
    row = {name: number for number, name in enumerate(units)}
    to_target = (direct.logits[:, asked.answer] - direct.logits[:, asked.rival]).tolist()
    edges = {(name, TARGET): to_target[row[name]] for name in units}
    between = [(a, b) for a, b in pairs(asked) if b != TARGET and float(direct.neurons[row[a]][units[b]]) != 0]
    for begin in range(0, len(between), 2048):
        some = between[begin : begin + 2048]
        mask = torch.zeros(len(some), *base.neurons.shape[1:], dtype=torch.bool)
        values = base.neurons.repeat(len(some), 1, 1, 1)
        for number, (source, target) in enumerate(some):
            mask[number][units[target]] = True
            values[number][units[target]] += direct.neurons[row[source]][units[target]]
        made = run_put(model, torch.tensor([asked.prompt]).repeat(len(some), 1), GivenValues(neurons=(mask, values)))
        edges |= dict(zip(some, _change(asked, made, base), strict=True))
    return edges


def _patched_heads(asked: BenchmarkQuestion, base: BatchPass, other: BatchPass) -> dict[str, float]:
    model, count = asked.model.language_model, len(asked.heads)
    mask = head_mask(model, [unit(name[1:]) for name in asked.heads], base)
    ids = torch.tensor([asked.prompt]).repeat(count, 1)
    made = run_put(model, ids, GivenValues(heads=(mask, other.heads.repeat(count, 1, 1, 1))))
    return dict(zip(asked.heads, _change(asked, made, base), strict=True))


def _change(asked: BenchmarkQuestion, made: BatchPass, base: BatchPass) -> list[float]:
    change = made.logits - base.logits
    return (change[:, asked.answer] - change[:, asked.rival]).tolist()


def response(asked: BenchmarkQuestion) -> CircuitScores:
    """A response graph of neurons with the other prompt as contrast."""
    return _response(asked, asked.instead)


def response_alone(asked: BenchmarkQuestion) -> CircuitScores:
    """A response graph of neurons on the prompt alone, taken away to zero."""
    return _response(asked, None)


def _response(asked: BenchmarkQuestion, instead: tuple[int, ...] | None) -> CircuitScores:
    model = asked.model.language_model
    seen = run(model, [asked.prompt]).neurons
    units = (len(asked.prompt) - 1) * seen.shape[1] * seen.shape[3]
    graph = response_graph(model, asked.prompt, (asked.answer, asked.rival), instead, most=units)
    assert graph.effect is not None
    return CircuitScores(_nodes(graph, graph.effect.double()), _edges(graph, passed_on(graph)), None, True)


def attribution(asked: BenchmarkQuestion) -> CircuitScores:
    """An attribution graph of neurons, ranked by influence as pruning ranks: the prompt alone, patterns frozen."""
    graph = _attributed(asked)
    return CircuitScores(_nodes(graph, graph.influence().double()), _edges(graph, influence_of_edges(graph)))


def attribution_contrast(asked: BenchmarkQuestion) -> CircuitScores:
    """The same graph's total effects, each times the share of its node's activation that the other prompt changes."""
    graph = _attributed(asked)
    nodes, other = graph.nodes, run(asked.model.language_model, [asked.instead]).neurons[0]
    target = nodes[nodes.logits][0]
    effect = total_effects(graph, target).double()
    size = graph.preactivation.double()
    features = torch.nonzero(nodes.kind == NodeKind.FEATURE).flatten()
    there = other[nodes.layer[features], nodes.position[features], nodes.index[features]]
    share = torch.zeros(len(nodes), dtype=torch.float64)
    share[features] = 1 - there / nodes.activation[features].double()
    for row in torch.nonzero(nodes.kind == NodeKind.EMBEDDING).flatten().tolist():
        share[row] = float(asked.prompt[int(nodes.position[row])] != asked.instead[int(nodes.position[row])])
    passed = torch.where(size != 0, effect / size.where(size != 0, torch.inf), 0.0)
    passed[target.row] = 1.0
    return CircuitScores(
        _nodes(graph, -effect * share), _edges(graph, -graph.dense().double() * passed[:, None] * share), None, True
    )


def _attributed(asked: BenchmarkQuestion) -> Graph:
    return answer(asked.model, Question(list(asked.prompt), Difference(asked.answer, asked.rival)))


def _nodes(graph: Graph, values: Float[Tensor, " node"]) -> dict[str, float]:
    rows = graph.nodes.features
    return {node.id: value for node, value in zip(graph.nodes[rows], values[rows].tolist(), strict=True)}


def _edges(graph: Graph, values: Float[Tensor, "target source"]) -> dict[Edge2, float]:
    names = [TARGET if node.kind == NodeKind.LOGIT else node.id for node in graph.nodes]
    targets, sources = values.nonzero(as_tuple=True)
    found = zip(targets.tolist(), sources.tolist(), values[targets, sources].tolist(), strict=True)
    return {(names[source], names[target]): value for target, source, value in found}


METHODS: dict[str, Method] = {
    "activation-patching": activation_patching,
    "integrated-gradients": integrated_gradients,
    "response": response,
    "attribution-patching": attribution_patching,
    "relp": relp,
    "attribution-contrast": attribution_contrast,
    "response-alone": response_alone,
    "attribution": attribution,
    "random": random_scores,
}
"""All methods by name."""
