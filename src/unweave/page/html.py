"""A graph as one HTML file: the page, its styles and all data inside; opens from disk, offline."""

from collections.abc import Sequence
from typing import Any

from ..explanation.read_off import groups_of
from ..graphs.graph import Graph
from .template import to_bytes, whole_page
from .view import MOST_EDGES, view


def html_document(
    view: dict[str, Any],
    annotations: dict[str, Any],
    features: dict[str, Any],
    explanation: dict[str, Any] | None = None,
    groups: Sequence[dict[str, Any]] = (),
) -> bytes:
    """The document of a view, annotations, feature details by `LAYER_INDEX`, and why: an explanation, or groups
    (rows, effect) that were read off the graph; see docs/server.md."""
    data = {
        "view": view, "annotations": annotations, "features": features, "explanation": explanation, "groups": groups,
    }  # fmt: skip
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
    groups = [group.facts for group in groups_of(graph)]
    return html_document(view(graph, slug, edges=edges), annotations or {}, features or {}, groups=groups)
