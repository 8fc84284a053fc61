"""How an edge of a response graph travels: by which heads and how, by norms, by the rest of each MLP."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import GraphError
from ..graphs.graph import Graph
from ..graphs.nodes import Node, NodeKind
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .asking import ask, target_start, target_unit
from .mixing import TangentMixer
from .setting import Setting
from .tangents import Starts
from .targets import ResponseTargetSpec
from .units import Units

WAYS = ("value", "key", "query")


@dataclass(frozen=True)
class Routes:
    """An edge's weight by the first part of the model that its signal enters; all add up to the edge.

    What enters a head may go on through anything that is no unit of the graph.
    """

    straight: float
    """From where the source writes to what the target reads, norms held."""
    norms: float
    """The same way, by the answer of the norms at its two ends."""
    heads: Float[Tensor, "layer head way"]
    """By a head's values, keys or queries."""
    rests: Float[Tensor, " layer"]
    """By the rest of each MLP."""
    mixers: Float[Tensor, " layer"]
    """By each layer whose mixing of tokens is not plain attention: a recurrence, a convolution, gated attention."""

    def __repr__(self) -> str:
        routes = ", ".join(f"{name} {weight:+.3g}" for name, weight in self.strongest(3))
        return f"Routes({self.total:+.3g} in all; most by {routes})"

    @property
    def total(self) -> float:
        """The edge's weight."""
        return self.straight + self.norms + float(self.heads.sum() + self.rests.sum() + self.mixers.sum())

    def strongest(self, most: int = 5) -> list[tuple[str, float]]:
        """The largest routes by name, such as `L12H3 value`."""
        found = [("straight", self.straight), ("norms", self.norms)]
        found += [(f"MLP {layer}", float(weight)) for layer, weight in enumerate(self.rests.tolist())]
        found += [(f"mixer {layer}", float(weight)) for layer, weight in enumerate(self.mixers.tolist())]
        for layer, head, way in self.heads.nonzero().tolist():
            found.append((f"L{layer}H{head} {WAYS[way]}", float(self.heads[layer, head, way])))
        return sorted((route for route in found if route[1]), key=lambda route: -abs(route[1]))[:most]


@dataclass(frozen=True)
class Router:
    """Takes edges of one graph apart; `routes` is its method on the graph."""

    setting: Setting

    def __call__(self, target: Node, source: Node) -> Routes:
        """The routes of the edge between two nodes.

        Raises:
            GraphError: the target has no incoming edges, or the source no outgoing ones.
        """
        setting = self.setting
        tangent, position = setting.asked.tangent, source.position
        start, held = self._start(target)
        depth, heads = len(tangent.layers), int(setting.asked.model.config.num_attention_heads)
        found = torch.zeros(depth, heads, len(WAYS), dtype=torch.float64)
        (rests, mixers), straight, norms = torch.zeros(2, depth, dtype=torch.float64), 0.0, 0.0
        entries = self._entries(source)
        if position >= int(start.position[0]) + 1:
            return Routes(0.0, 0.0, found, rests, mixers)
        for entry, plain, signal in entries:
            if position == int(start.position[0]) and entry < int(start.layer[0]):
                direct = float(held @ plain)
                straight += direct
                norms += float(start.vector[0] @ signal) - direct
        at = torch.tensor([position])
        for number, g, through in tangent.walk(start, setting.cut):
            live = [signal for entry, _, signal in entries if entry < number]
            if not live:
                continue
            signal = torch.stack(live).sum(0)
            layer = tangent.layers[number].attention
            if through is not None:
                rests[number] += float(through[0, position] @ signal)
            if isinstance(layer, TangentMixer):
                mixers[number] += float(layer.transpose(g, held=tangent.held)[0, position] @ signal)
                continue
            inner = layer.cut(g.shape[1]).inner(g, held=tangent.held)
            read = layer.before.forward(signal[None], at)
            groups = heads // layer.key.heads
            value = (read @ layer.value.T).view(-1, layer.values.shape[-1]).repeat_interleave(groups, 0)
            found[number, :, 0] += (inner.value[0, position] * value).sum(-1)
            if inner.key is not None and inner.query is not None:
                key = layer.key.forward(read, at)[0].repeat_interleave(groups, 0)
                found[number, :, 1] += (inner.key[0, position] * key).sum(-1)
                found[number, :, 2] += (inner.query[0, position] * layer.query.forward(read, at)[0]).sum(-1)
        return Routes(straight, norms, found, rests, mixers)

    def _start(self, target: Node) -> tuple[Starts, Float[Tensor, " d"]]:
        """Where the target's sweep begins, and the same with its norm held."""
        setting, asked = self.setting, self.setting.asked
        basis = asked.basis
        if target.kind == NodeKind.LOGIT:
            if asked.target is None:
                held = basis.reads(int(setting.start.layer[0]), target_unit(asked), norm_held=True)
            else:
                held = asked.tangent.final.held.transpose_at(asked.target.direction[None], setting.start.position)
            return setting.start, held[0]
        if target.kind != NodeKind.FEATURE:
            raise GraphError(f"{target.id} has no incoming edges; name a unit or the target")
        unit = setting.chosen.select(self._place(target))
        reads, held = (basis.reads(target.layer, unit, norm_held=word) for word in (False, True))
        return Starts(unit.layer, unit.position, reads), held[0]

    def _place(self, node: Node) -> Tensor:
        chosen = self.setting.chosen
        found = (chosen.layer == node.layer) & (chosen.position == node.position) & (chosen.index == node.index)
        return torch.nonzero(found).flatten()

    def _entries(self, source: Node) -> list[tuple[int, Tensor, Tensor]]:
        """Where the source enters the residual stream: after which layer, as what with norms held, and as what."""
        setting, basis = self.setting, self.setting.asked.basis
        match source.kind:
            case NodeKind.EMBEDDING:
                token = setting.tokens[source.position]
                return [(-1, token, token)]
            case NodeKind.ERROR:
                return [self._written(source.layer, source.position, setting.rests[source.layer, source.position])]
            case NodeKind.FEATURE:
                unit = setting.chosen.select(self._place(source))
                return [
                    self._written(at, source.position, vector[0] * unit.taken[0])
                    for at in basis.writes(source.layer)
                    for vector in [basis.vectors(source.layer, unit.position, unit.index, at)]
                ]
            case _:
                raise GraphError(f"{source.id} has no outgoing edges; name a unit, a token or the rest of an MLP")

    def _written(self, layer: int, position: int, vector: Tensor) -> tuple[int, Tensor, Tensor]:
        after, at = self.setting.asked.tangent.layers[layer].mlp.after, torch.tensor([position])
        if after is None or self.setting.asked.basis.residual:
            return layer, vector, vector
        return layer, after.held.forward(vector[None], at)[0], after.forward(vector[None], at)[0]


def routes(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    target: Node | str | tuple[int, int, int],
    source: Node | str | tuple[int, int, int],
) -> Routes:
    """How an edge of a response graph from a file travels; `graph.routes` on one that was just computed.

    Raises:
        GraphError: not a response graph, a pruned one, one of another model, or of a target that is a direction.

    >>> import unweave
    >>> model = unweave.load_model("organism")
    >>> graph = unweave.response_graph(model, "the capital of Texas is", most=20)
    >>> answer, unit = graph.nodes[graph.nodes.logits.start], graph.nodes[0]
    >>> routes = unweave.routes(model, graph, answer, unit)
    >>> taken_away = float(graph.dense()[answer.row, unit.row])  # what is lost without the unit
    >>> abs(routes.total + taken_away) < 1e-4
    True
    """
    return Router(setting_of(model, graph))(graph.nodes.find(target), graph.nodes.find(source))


def setting_of(model: ReplacementModel | LanguageModel, graph: Graph) -> Setting:
    """The computation behind a response graph, set up again.

    Raises:
        GraphError: as in `routes`.
    """
    facts = graph.provenance
    if not graph.is_response:
        raise GraphError("this is an attribution graph; a response graph is needed (unweave trace --response)")
    name = model.language_model.name if isinstance(model, ReplacementModel) else model.name
    if facts.model != name:
        raise GraphError(f"the graph is of {facts.model}, the model is {name}")
    if facts.pruning is not None:
        raise GraphError("the graph is pruned, and its edges need the units that are gone; give the whole graph")
    if isinstance(graph.router, Router):
        return graph.router.setting
    tokens = facts.target_tokens[0]
    target: ResponseTargetSpec = facts.target_unit
    if len(tokens) == 1:
        target = tokens[0]
    elif len(tokens) == 2:
        target = (tokens[0], tokens[1])
    elif not target:
        raise GraphError("the graph's target is a direction, which its file does not hold; compute it again")
    instead = list(facts.instead_ids) or None
    words: dict[str, Any] = {"units": facts.units, "attention": facts.attention}
    words["baseline"] = facts.baseline if instead is None else "zero"
    asked = ask(model, list(facts.input_ids), target, instead, position=-1, **words)
    nodes, rows = graph.nodes, graph.nodes.features
    chosen = Units(
        nodes.layer[rows], nodes.position[rows], nodes.index[rows], nodes.activation[rows].to(graph.preactivation),
        graph.preactivation[rows],
    )  # fmt: skip
    return Setting.of(asked, chosen, target_start(asked))
