"""What of a graph goes into JSON, so that the graph itself can read and write it."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from .influence import Rows
from .nodes import NodeTable
from .provenance import Provenance


@runtime_checkable
class Drawn(Protocol):
    """What of a graph goes into JSON."""

    @property
    def nodes(self) -> NodeTable:
        """Its nodes."""
        ...

    @property
    def rows(self) -> Rows:
        """Its edges."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where it came from."""
        ...

    @property
    def effect(self) -> Tensor | None:
        """Of a response graph: by node, what taking it away does."""
        ...

    @property
    def is_response(self) -> bool:
        """Whether it is a response graph."""
        ...

    def influence_rank(self) -> Tensor:
        """By node, the share of all influence held by it and the nodes above it."""
        ...
