"""Graphs in notebooks: the page in a frame, everything inside it, so that no port and no network is needed."""

import html
from dataclasses import dataclass

from ..base.kinds import typed
from ..graphs.graph import Graph
from .html import to_html
from .view import MOST_EDGES


@dataclass(frozen=True)
class Shown:
    """A page that notebooks show in a frame."""

    document: str
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.document)}" sandbox="allow-scripts allow-downloads" '
            f'title="Attribution graph" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Shown({len(self.document):,} characters; the last value of a notebook cell is displayed)"


@typed
def show(graph: Graph, height: int = 900, edges: int | None = None) -> Shown:
    """A graph in a notebook: the page of `unweave serve` in a frame, without a server; nothing is saved from there.

    Args:
        height: of the frame, in pixels.
        edges: at most so many edges, the strongest; None: as in the page.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> unweave.show(graph)  # in a notebook: the page                        # doctest: +ELLIPSIS
    Shown(... characters; the last value of a notebook cell is displayed)
    """
    return Shown(to_html(graph, edges=MOST_EDGES if edges is None else edges).decode(), int(height))
