"""The nodes of an attribution graph: the one place where their order and ids exist."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

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

    @property
    def id(self) -> str:
        """The name used in files and on the command line, such as `12_345_5`."""
        return _node_id(self.kind, self.layer, self.position, self.index)


@dataclass(frozen=True)
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
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    position: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]

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

    def __getitem__(self, row: int) -> Node:
        if not -len(self) <= row < len(self):
            raise IndexError(f"node {row} of {len(self)}")
        return Node(
            kind=NodeKind(int(self.kind[row])),
            layer=int(self.layer[row]),
            position=int(self.position[row]),
            index=int(self.index[row]),
            activation=float(self.activation[row]),
            row=row % len(self),
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
        return NodeTable(
            self.kind[keep], self.layer[keep], self.position[keep], self.index[keep], self.activation[keep]
        )

    def find(self, name: str | tuple[int, int, int] | Node) -> Node:
        """The node of an id, a (layer, position, feature) triple or another graph's node.

        Reads our ids and the peer's, whose error ids are `0_{layer}_{position}` or `{layer}_-1_{position}`.

        Raises:
            GraphError: no node has that id.
        """
        node_id = name.id if isinstance(name, Node) else name
        if isinstance(node_id, tuple):
            layer, position, feature = node_id
            node_id = f"{layer}_{feature}_{position}"
        row = self.rows.get(node_id)
        if row is None:
            row = self.rows.get(_peer_error_id(node_id) or node_id)
        if row is None:
            raise GraphError(
                f"no node {node_id!r} in this graph of {len(self)} nodes; ids look like '12_345_5' "
                f"(layer_feature_position)"
            )
        return self[row]


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
