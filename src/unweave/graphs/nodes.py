"""The nodes of an attribution graph: the one place where their order and ids exist."""

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import GraphError


class NodeKind(IntEnum):
    """The four kinds of node, numbered in the order in which a graph lists them."""

    FEATURE = 0
    ERROR = 1
    EMBEDDING = 2
    LOGIT = 3


@dataclass(frozen=True)
class Node:
    """One node: a view of a row of a `NodeTable`.

    `index` is the feature number, the token id (embeddings and logits) or -1 (errors); `row` is the
    node's place in the table.
    """

    kind: NodeKind
    layer: int
    position: int
    index: int
    activation: float
    row: int
    token: str = field(default="", compare=False)
    """The text of the token at its position; of a logit, what it is the logit of."""

    def __repr__(self) -> str:
        kind = self.kind.name.lower()
        place = f"{kind} {self.token!r}" if self.kind == NodeKind.LOGIT else f"{kind} at {self.token!r}"
        amount = {NodeKind.FEATURE: "activation", NodeKind.LOGIT: "probability"}.get(self.kind, "norm")
        return f"Node({self.id!r}: {place}, {amount} {self.activation:.4g})"

    @property
    def id(self) -> str:
        """The name used in files and on the command line, such as `12_345_5`."""
        return _node_id(self.kind, self.layer, self.position, self.index)


NodeRef = Node | str | tuple[int, int, int]
"""A node, its id, or a triple (layer, position, feature)."""
COLUMNS = ("kind", "layer", "position", "index", "activation")
"""What a table holds of every node."""


@dataclass(frozen=True, eq=False)
class NodeTable:
    """All nodes of a graph, as columns.

    Order: features by (layer, position, index), errors by (layer, position), embeddings by position, logits
    in the order of the targets. Embeddings have layer -1; logits have layer `n_layers + 1`, as in the field's
    node ids (`27_22605_7` for a model of 26 layers). `activation` is the feature's activation, the norm of an
    error or embedding vector, the probability of a logit.

    >>> nodes = NodeTable.build(
    ...     n_layers=2, features=torch.tensor([[0, 1, 7]]), activations=torch.tensor([2.0]),
    ...     errors=torch.tensor([[0, 0], [0, 1]]), embeddings=torch.tensor([5, 6]), logits=torch.tensor([[9, 1]]))
    >>> [node.id for node in nodes]
    ['0_7_1', '0_error_mlp_0', '0_error_mlp_1', 'E_5_0', 'E_6_1', '3_9_1']
    >>> nodes.errors
    slice(1, 3, None)
    >>> nodes["0_7_1"], nodes[-1], len(nodes[nodes.embeddings])
    (Node('0_7_1': feature at '', activation 2), Node('3_9_1': logit '', probability 0), 2)
    >>> nodes
    NodeTable(1 feature, 2 errors, 2 embeddings, 1 logit)
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    position: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    tokens: tuple[str, ...] = ()
    """The prompt's tokens as text, if they are known."""
    logit_labels: tuple[str, ...] = ()
    """What the logits are of, if that is known."""

    @staticmethod
    def build(
        *,
        n_layers: int,
        features: Int[Tensor, "feature 3"],
        activations: Float[Tensor, " feature"],
        errors: Int[Tensor, "error 2"],
        embeddings: Int[Tensor, " position"],
        logits: Int[Tensor, "logit 2"],
        error_norms: Float[Tensor, " error"] | None = None,
        embedding_norms: Float[Tensor, " position"] | None = None,
        probabilities: Float[Tensor, " logit"] | None = None,
    ) -> "NodeTable":
        """Put the four kinds together: features as (layer, position, index), errors as (layer, position),
        embeddings as token ids, logits as (token id, position)."""
        sizes = [len(features), len(errors), len(embeddings), len(logits)]

        def filled(n: int, value: int) -> Tensor:
            return torch.full((n,), value, dtype=torch.int64)

        norms = [
            values if values is not None else torch.zeros(n)
            for n, values in zip(sizes[1:], (error_norms, embedding_norms, probabilities), strict=True)
        ]
        return NodeTable(
            kind=torch.repeat_interleave(torch.arange(4), torch.tensor(sizes)),
            layer=torch.cat([features[:, 0], errors[:, 0], filled(sizes[2], -1), filled(sizes[3], n_layers + 1)]),
            position=torch.cat([features[:, 1], errors[:, 1], torch.arange(sizes[2]), logits[:, 1]]),
            index=torch.cat([features[:, 2], filled(sizes[1], -1), embeddings, logits[:, 0]]),
            activation=torch.cat([activations.float(), *(values.float() for values in norms)]),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[Node]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        counts = torch.bincount(self.kind, minlength=len(NodeKind)).tolist()
        pairs = zip((kind.name.lower() for kind in NodeKind), counts, strict=True)
        named = (f"{count} {name}{'s' * (count != 1)}" for name, count in pairs)
        return f"NodeTable({', '.join(named)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeTable):
            return NotImplemented
        return all(same(getattr(self, name), getattr(other, name)) for name in COLUMNS)

    def __hash__(self) -> int:
        return hash((len(self), *self.index[:8].tolist()))

    @overload
    def __getitem__(self, which: "int | str | tuple[int, int, int] | Node") -> Node: ...
    @overload
    def __getitem__(self, which: slice) -> list[Node]: ...
    def __getitem__(self, which: "int | str | tuple[int, int, int] | Node | slice") -> Node | list[Node]:
        """A node by its row, its id or a (layer, position, feature) triple; several by a slice.

        Raises:
            IndexError: no such row.
            GraphError: no node has that id.
        """
        if isinstance(which, slice):
            return [self[row] for row in range(*which.indices(len(self)))]
        if isinstance(which, (str, tuple, Node)):
            return self.find(which)
        if not hasattr(which, "__index__"):
            raise GraphError(
                f"{which!r} is not a node; give its row, an id such as '12_345_5', or (layer, position, feature)"
            )
        row = operator.index(which)
        if not -len(self) <= row < len(self):
            raise IndexError(f"node {row} of {len(self)}")
        row %= len(self)
        kind, position = NodeKind(int(self.kind[row])), int(self.position[row])
        words, place = self.tokens, position
        if kind == NodeKind.LOGIT:
            words, place = self.logit_labels, row - self.logits.start
        return Node(
            kind=kind,
            layer=int(self.layer[row]),
            position=position,
            index=int(self.index[row]),
            activation=float(self.activation[row]),
            row=row,
            token=words[place] if 0 <= place < len(words) else "",
        )

    def _span(self, kind: NodeKind) -> slice:
        start = int((self.kind < kind).sum())
        return slice(start, start + int((self.kind == kind).sum()))

    @cached_property
    def features(self) -> slice:
        """Rows of the transcoder features."""
        return self._span(NodeKind.FEATURE)

    @cached_property
    def errors(self) -> slice:
        """Rows of the error nodes."""
        return self._span(NodeKind.ERROR)

    @cached_property
    def embeddings(self) -> slice:
        """Rows of the embedding nodes."""
        return self._span(NodeKind.EMBEDDING)

    @cached_property
    def logits(self) -> slice:
        """Rows of the logit nodes."""
        return self._span(NodeKind.LOGIT)

    @cached_property
    def ids(self) -> list[str]:
        """The id of every node."""
        return list(map(_node_id, self.kind.tolist(), self.layer.tolist(), self.position.tolist(), self.index.tolist()))

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of every node by its id."""
        return {name: row for row, name in enumerate(self.ids)}

    def select(self, keep: Tensor) -> "NodeTable":
        """The table of the rows that `keep` (a mask or row numbers in ascending order) picks."""
        columns: dict[str, Tensor] = {name: getattr(self, name)[keep] for name in COLUMNS}
        return NodeTable(**columns, tokens=self.tokens, logit_labels=self.logit_labels)

    def find(self, name: str | tuple[int, int, int] | Node) -> Node:
        """The node of an id, a (layer, position, feature) triple or another graph's node.

        Reads our ids and the peer's, whose error ids are `0_{layer}_{position}` or `{layer}_-1_{position}`.

        Raises:
            GraphError: no node has that id.
        """
        node_id = name.id if isinstance(name, Node) else name
        if isinstance(node_id, tuple) and len(node_id) == 3:
            layer, position, feature = node_id
            node_id = f"{layer}_{feature}_{position}"
        if not isinstance(node_id, str):
            raise GraphError(f"{name!r} is not a node; give an id such as '12_345_5', or (layer, position, feature)")
        row = self.rows.get(node_id)
        if row is None:
            row = self.rows.get(_peer_error_id(node_id) or node_id)
        if row is None:
            raise GraphError(
                f"no node {node_id!r} in this graph of {len(self)} nodes; ids look like '12_345_5' "
                f"(layer_feature_position)"
            )
        return self[row]


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two columns hold the same numbers; NaN equals NaN."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _node_id(kind: int, layer: int, position: int, index: int) -> str:
    match kind:
        case NodeKind.ERROR:
            return f"{layer}_error_mlp_{position}"
        case NodeKind.EMBEDDING:
            return f"E_{index}_{position}"
        case _:
            return f"{layer}_{index}_{position}"


def _peer_error_id(node_id: str) -> str | None:
    """Our id of the error node that the peer writes as `{layer}_-1_{position}` or, earlier, `0_{layer}_{position}`.

    The earlier form is also the id of a feature of layer 0; `find` asks for the feature first.
    """
    match = re.fullmatch(r"(?:0_(\d+)|(\d+)_-1)_(\d+)", node_id)
    return f"{match[1] or match[2]}_error_mlp_{match[3]}" if match else None
