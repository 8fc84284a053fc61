"""The attribution graph: nodes, weights, bias, where it came from; saved as safetensors with a JSON header."""

import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save, save_file
from torch import Tensor

from ..base.choices import PositionZero, choice
from ..base.files import write_atomically
from ..base.jsontext import parse_json
from ..base.kinds import typed
from ..errors import GraphError, OptionError
from .checks import check_counts, check_ids, check_sums, check_tensors, checksum, provenance_of
from .frames import DiGraph, Frames, to_networkx, to_pandas
from .graphfile import SCHEMA_VERSION, GraphSummary, open_graph_file
from .influence import Rows, Scores, influence, longest_path
from .interchange import read_json, write_json
from .nodes import COLUMNS, Node, NodeKind, NodeTable, same
from .provenance import Provenance


class Edge(NamedTuple):
    """The direct linear effect of `source` on `target`, and its share of all absolute input of the target."""

    source: Node
    target: Node
    weight: float
    share: float


@dataclass(frozen=True, eq=False)
class Graph:
    """An attribution graph: `rows` holds the direct effects, row = target, column = source.

    For every target row, `sum(weights) + bias + removed == preactivation`, where `removed` is what pruning took out
    (zero in an unpruned graph) and `removed_size` the same in absolute weight. Rows of errors and embeddings are empty.
    Graphs read from other tools' JSON know neither bias nor pre-activation: those are NaN.
    """

    nodes: NodeTable
    rows: Rows
    bias: Float[Tensor, " node"]
    preactivation: Float[Tensor, " node"]
    removed: Float[Tensor, " node"]
    removed_size: Float[Tensor, " node"]
    full_influence: Float[Tensor, " node"] | None
    """Influence of the nodes in the graph before pruning; None in an unpruned graph."""
    full_rank: Float[Tensor, " node"] | None
    """`influence_rank` of the nodes in the graph before pruning; None in an unpruned graph."""
    provenance: Provenance
    effect: Float[Tensor, " node"] | None = None
    """Of a response graph: the first-order change of the target when the node is taken away, by all paths."""
    router: Callable[[Node, Node], Any] | None = field(default=None, repr=False, compare=False)
    """Of a response graph just computed: how an edge travels; not in files."""

    def __post_init__(self) -> None:
        facts, nodes = self.provenance, self.nodes
        if (nodes.tokens, nodes.logit_labels) != (facts.tokens, facts.logit_labels):
            nodes = replace(nodes, tokens=facts.tokens, logit_labels=facts.logit_labels)
            object.__setattr__(self, "nodes", nodes)  # so that a node can say what it is at

    def __eq__(self, other: object) -> bool:
        """Whether nodes, edges, all values and provenance are the same."""
        if not isinstance(other, Graph):
            return NotImplemented
        values = [(getattr(self, name), getattr(other, name)) for name in (*_NODE_VALUES, *_FULL)]
        return (
            self.provenance == other.provenance
            and self.nodes == other.nodes
            and all(same(a, b) for a, b in [*zip(self.rows, other.rows, strict=True), *values])
        )

    def __hash__(self) -> int:
        return hash((self.provenance.model, self.tokens, self.n_edges))

    def __repr__(self) -> str:
        spans = (self.nodes.features, self.nodes.errors, self.nodes.embeddings, self.nodes.logits)
        counts = [span.stop - span.start for span in spans]
        return (
            f"Graph({self.provenance.prompt!r}: {counts[0]} features, {counts[1]} errors, {counts[2]} embeddings, "
            f"{counts[3]} logits, {self.n_edges} edges)"
        )

    @property
    def prompt(self) -> str | None:
        """The text the graph was computed on, if it was given as text."""
        return self.provenance.prompt

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens as text."""
        return self.provenance.tokens

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.rows.column)

    def dense(self) -> Float[Tensor, "target source"]:
        """The weights as one matrix, row = target; float32, or float64 for a float64 graph.

        Of a response graph: the change of the target when the source is taken away, the other units held, which is
        minus the weight of the edge.
        """
        matrix = torch.zeros(len(self.nodes), len(self.nodes), dtype=self.rows.value.dtype)
        matrix[self.rows.row_numbers(), self.rows.column.long()] = self.rows.value
        return -matrix if self.is_response else matrix

    @property
    def is_response(self) -> bool:
        """Whether it is a response graph."""
        return self.provenance.kind == "response"

    @property
    def agreement(self) -> float | None:
        """Largest difference between effects by paths and by one backward pass, relative to the largest effect."""
        return self.provenance.agreement

    @property
    def mediated(self) -> float | None:
        """Share of the units' effects on the target that passes through other units of the graph."""
        return self.provenance.mediated

    def routes(self, target: Node | str | tuple[int, int, int], source: Node | str | tuple[int, int, int]) -> Any:
        """How an edge of a response graph travels: straight, by heads, by norms, by the rest of each MLP.

        Raises:
            GraphError: not a response graph, or one from a file: `unweave.routes(model, graph, target, source)`.
        """
        if self.router is None:
            raise GraphError(
                "only a response graph that was just computed knows how its edges travel; for one from a file use "
                "unweave.routes(model, graph, target, source)"
            )
        return self.router(self.nodes.find(target), self.nodes.find(source))

    def residual(self) -> Float[Tensor, " node"]:
        """How far every target row is from exact: `|sum(weights) + bias - preactivation|`, relative to the
        pre-activation.

        Where the pre-activation all but cancels, relative to a hundredth of the row's absolute input instead. 0 for
        nodes without a row; NaN where the pre-activation is not known (graphs of other tools).
        """
        gap = self.rows.row_sums() + self.bias.double() + self.removed.double() - self.preactivation.double()
        scale = torch.maximum(self.preactivation.double().abs(), self.input_size / 100).clamp_min(1e-12)
        return torch.where(self._is_target, gap.abs() / scale, 0.0)

    @cached_property
    def _is_target(self) -> Tensor:
        return (self.nodes.kind == NodeKind.FEATURE) | (self.nodes.kind == NodeKind.LOGIT)

    @cached_property
    def depth(self) -> Int[Tensor, " node"]:
        """A number per node that grows along every edge: the layer, or the longest path in a foreign graph."""
        if self.provenance.origin == "unweave":
            return self.nodes.layer
        return longest_path(self.rows, len(self.nodes))

    @cached_property
    def logit_weight(self) -> Float[Tensor, " node"]:
        """What influence starts from: the probability of every logit node, 0 elsewhere."""
        return torch.where(self.nodes.kind == NodeKind.LOGIT, self.nodes.activation, 0.0)

    def influence(self) -> Float[Tensor, " node"]:
        """Every node's influence on the logits, as it was before pruning."""
        if self.full_influence is not None:
            return self.full_influence
        return self._influence

    def influence_rank(self) -> Float[Tensor, " node"]:
        """For every node the share of all influence held by it and the nodes above it; small means important."""
        if self.full_rank is not None:
            return self.full_rank
        ranked = torch.sort(self._influence, descending=True, stable=True)
        running = ranked.values.cumsum(0) / ranked.values.sum().clamp_min(1e-30)
        return torch.zeros_like(running).index_copy_(0, ranked.indices, running)

    @cached_property
    def _influence(self) -> Float[Tensor, " node"]:
        return influence(self.rows, self.depth, self.logit_weight, self.input_size)

    def scores(self, position_zero: PositionZero | None = None) -> Scores:
        """Replacement and completeness of this graph; what pruning removed counts as error.

        Args:
            position_zero: "drop" leaves the error nodes of position 0 out of the count, as the peer does; "error"
                counts them. Default: as the graph was computed.

        Raises:
            OptionError: another word, or "error" for a graph computed without those nodes.
        """
        mode = choice("position_zero", position_zero or self.provenance.position_zero, PositionZero)
        if mode == "error" and self.provenance.position_zero == "drop":
            raise OptionError(
                "this graph was computed with position_zero='drop' and has no errors at position 0 to count"
            )
        rows, received, total = self.rows, self._influence, self.input_size
        errors = self.nodes.kind == NodeKind.ERROR
        dropped = errors & (self.nodes.position == 0)
        if mode != self.provenance.position_zero and bool(dropped.any()):
            errors = errors & ~dropped
            counted = (~dropped).to(rows.value.dtype)
            total = (
                rows.row_sums(lambda entries: rows.value[entries].abs() * counted[rows.column[entries]])
                + self.removed_size.double()
            )
            received = influence(rows, self.depth, self.logit_weight, total).masked_fill(dropped, 0.0)
        to_error = (
            rows.row_sums(lambda entries: rows.value[entries].abs() * errors[rows.column[entries]])
            + self.removed_size.double()
        )
        error_share = to_error / total.clamp_min(1e-10)
        reached = received + self.logit_weight.double()
        tokens = received[self.nodes.embeddings].sum()
        lost = received[self.nodes.errors].sum() + (reached * self.removed_size / total.clamp_min(1e-10)).sum()
        return Scores(
            replacement=float(tokens / (tokens + lost).clamp_min(1e-30)),
            completeness=float(((1 - error_share) * reached).sum() / reached.sum().clamp_min(1e-30)),
        )

    @cached_property
    def input_size(self) -> Float[Tensor, " node"]:
        """All absolute input of every node, what pruning took out included."""
        return self.rows.row_sizes() + self.removed_size.double()

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor]:
        order = torch.argsort(self.rows.column, stable=True)
        counts = torch.bincount(self.rows.column.long(), minlength=len(self.nodes))
        return order, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])

    def _edges(self, entries: Tensor, sources: Tensor, targets: Tensor) -> list[Edge]:
        weights = self.rows.value[entries]
        order = torch.argsort(weights.abs(), descending=True, stable=True)
        return [
            Edge(self.nodes[int(s)], self.nodes[int(t)], float(w), float(w.abs() / self.input_size[t].clamp_min(1e-10)))
            for s, t, w in zip(sources[order], targets[order], weights[order], strict=True)
        ]

    def incoming(self, node: Node | str | tuple[int, int, int]) -> list[Edge]:
        """The edges into a node, the strongest first."""
        target = self.nodes.find(node).row
        entries = torch.arange(int(self.rows.start[target]), int(self.rows.start[target + 1]))
        return self._edges(entries, self.rows.column[entries].long(), torch.full_like(entries, target))

    def outgoing(self, node: Node | str | tuple[int, int, int]) -> list[Edge]:
        """The edges out of a node, the strongest first."""
        source = self.nodes.find(node).row
        order, start = self._by_column
        entries = torch.sort(order[int(start[source]) : int(start[source + 1])]).values
        targets = torch.searchsorted(self.rows.start, entries, right=True) - 1
        return self._edges(entries, torch.full_like(entries, source), targets)

    def label(self, node: Node | str | tuple[int, int, int] | int) -> str:
        """What a node is called: a feature's label, if its dictionary has feature pages or the graph came with one; the
        token of an embedding or logit; nothing for an error.

        Raises:
            GraphError: no such node.
        """
        found = self.nodes[node]
        given = (self.provenance.extra.get("labels") or {}).get(found.id)
        if given:
            return str(given)
        return found.token if found.kind in (NodeKind.EMBEDDING, NodeKind.LOGIT) else ""

    def to_pandas(self) -> Frames:
        """The graph as two pandas tables, `nodes` (by id: kind, layer, position, index, activation, token, label,
        influence) and `edges` (source, target, weight, share of the target's absolute input).

        Raises:
            OptionError: pandas is not installed.
        """
        return to_pandas(self.nodes, self.rows, self.input_size, self._facts())

    def to_networkx(self) -> DiGraph:
        """The graph as a `networkx.DiGraph`: nodes by id, edges from source to target, with the columns of `to_pandas`
        as attributes.

        Raises:
            OptionError: networkx is not installed.
        """
        return to_networkx(self.nodes, self.rows, self.input_size, self._facts())

    def _facts(self) -> dict[str, list[Any]]:
        return {"label": [self.label(node) for node in self.nodes], "influence": self.influence().tolist()}

    @typed
    def save(self, path: str | Path) -> Path:
        """Write the graph to one file, whole or not at all: safetensors, or, if the name ends in `.json`, the JSON that
        Anthropic's page, circuit-tracer and Neuronpedia read (prune first: every edge becomes an object there; it is
        listed in `graph-metadata.json` beside it, as circuit-tracer's server expects).

        Raises:
            FileError: the folder is missing or not writable, or the disk is full; nothing is left behind.
        """
        if Path(path).suffix == ".json":
            return write_json(self, path)
        tensors, header = self._stored()
        return write_atomically(path, lambda temporary: save_file(tensors, temporary, header))

    def to_bytes(self) -> bytes:
        """What `save` writes to a file."""
        return save(*self._stored())

    def _stored(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors = {f"nodes.{name}": getattr(self.nodes, name) for name in COLUMNS}
        tensors |= {f"rows.{name}": value for name, value in self.rows._asdict().items()}
        tensors |= {name: getattr(self, name).clone() for name in _NODE_VALUES}  # safetensors refuses shared memory
        tensors |= {name: value for name in _FULL if (value := getattr(self, name)) is not None}
        header = {
            "format": "unweave graph",
            "schema_version": str(SCHEMA_VERSION),
            "provenance": json.dumps(asdict(self.provenance)),
        }
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        sums = {name: checksum(value) for name, value in tensors.items()}
        header["checksums"] = json.dumps(sums | {"provenance": zlib.crc32(header["provenance"].encode())})
        return tensors, header

    @staticmethod
    @typed
    def load(path: str | Path) -> "Graph":
        """Read a graph: a file that `save` wrote, or, if its name ends in `.json`, one of Anthropic's page,
        circuit-tracer or Neuronpedia, which knows neither bias nor pre-activation.

        Raises:
            GraphError: not there, not a graph, truncated, changed since it was written, or of a newer version.
        """
        path = Path(path).expanduser()
        if path.suffix == ".json":
            return Graph(**read_json(path))
        if not path.is_file():
            raise GraphError(f"no graph file at {path}")
        with open_graph_file(path) as (file, known):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            told = check_sums(path, file.metadata(), tensors)
            provenance = provenance_of(known)
            check_tensors(path, tensors)
            graph = Graph(
                nodes=NodeTable(**{name: tensors[f"nodes.{name}"] for name in COLUMNS}),
                rows=Rows(*(tensors[f"rows.{name}"] for name in Rows._fields)),
                **{name: tensors[name] for name in _NODE_VALUES},
                full_influence=tensors.get("full_influence"),
                full_rank=tensors.get("full_rank"),
                effect=tensors.get("effect"),
                provenance=provenance,
            )
        check_counts(path, provenance, graph.nodes.logits.stop - graph.nodes.logits.start)
        check_ids(path, graph.nodes.ids)
        if not told and (worst := graph.damage()) is not None:
            logging.getLogger(__name__).warning(
                "%s: the weights into %s do not add up; the file was changed since it was written", path, worst.id
            )
        return graph

    @staticmethod
    def peek(path: str | Path, *, parse: Callable[[str], Any] = parse_json) -> "GraphSummary":
        """What a graph file says of itself, from its header and one column: a graph of a gigabyte at once.

        Args:
            parse: reads the provenance's JSON.

        Raises:
            GraphError: as `load`, as far as what is read tells.
        """
        with open_graph_file(Path(path).expanduser(), parse) as (file, known):
            return GraphSummary(known, file.get_tensor("nodes.kind"), file.get_slice("rows.column").get_shape()[0])

    def damage(self) -> Node | None:
        """The target whose weights are furthest from adding up, if that is more than rounding and the engine explain.

        None for graphs of other tools, which do not say what weights should add up to, and for response graphs.
        """
        facts = self.provenance
        if facts.origin != "unweave" or facts.kind != "attribution" or not len(self.nodes):
            return None
        residual = self.residual()
        worst = int(residual.argmax())
        return self.nodes[worst] if float(residual[worst]) > max(1e-3, 30 * (facts.residual or 0.0)) else None

    def with_provenance(self, **changes: Any) -> "Graph":
        """The same graph with some facts of its provenance replaced."""
        return replace(self, provenance=replace(self.provenance, **changes))


_NODE_VALUES = ("bias", "preactivation", "removed", "removed_size")
_FULL = ("full_influence", "full_rank", "effect")
