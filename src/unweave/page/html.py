"""A graph as one HTML file: the page, its styles and all data inside; opens from disk, offline."""

from typing import Any

from ..graphs.graph import Graph
from .template import to_bytes, whole_page
from .view import MOST_EDGES, view


def html_document(
    view: dict[str, Any],
    annotations: dict[str, Any],
    features: dict[str, Any],
    explanation: dict[str, Any] | None = None,
) -> bytes:
    """The document of a view, annotations, feature details by `LAYER_INDEX`, and why, see docs/server.md."""
    data = {"view": view, "annotations": annotations, "features": features, "explanation": explanation}
    return whole_page(f"{view['title']} · unweave", to_bytes(data))


def to_html(
    graph: Graph,
    slug: str = "graph",
    *,
    annotations: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
    edges: int = MOST_EDGES,
) -> bytes:
    """The graph as one HTML document in UTF-8.

    Args:
        edges: at most so many edges, the strongest by share, beside the 8 strongest into every node.
    """
    return html_document(view(graph, slug, edges=edges), annotations or {}, features or {})
