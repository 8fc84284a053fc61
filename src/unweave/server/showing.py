"""What is shown of a graph: its view, with what the loaded model and feature pages add to it."""

from typing import Any

from ..attribution.promoted import with_promoted
from ..errors import FileError
from ..features.foreign import FeaturePages
from ..graphs.graph import Graph
from ..page import view as views
from .library import study_file_of, validation_of
from .state import Opened, Server

NAMED_IN_VIEW = 1024
"""Features that the loaded model names where the file does not."""


def view_of(server: Server, asked: Opened, edges: int) -> dict[str, Any]:
    """The view of a graph, its features named by the loaded model if the file does not name them."""
    graph, live = asked.graph, server.live is not None and server.live.fits(asked.graph)
    if server.live is not None and live and not graph.provenance.extra.get("promotes"):
        graph = with_promoted(graph, server.live.model, NAMED_IN_VIEW)
    shown = views.view(graph, asked.slug, edges=edges, validation=validation_of(asked.path)[0], live=live)
    shown["has_study"] = study_file_of(asked.path) is not None
    shown["loaded"] = None if server.live is None else server.live.name
    pages = server.pages_of(graph)
    if pages is not None:
        _add_briefs(shown["nodes"], pages, graph)
    return shown


def _add_briefs(columns: dict[str, Any], pages: FeaturePages, graph: Graph) -> None:
    """Put into a view's columns what feature pages say: how often each feature is active, and a label where there is
    none."""
    nodes = graph.nodes
    ranked = graph.influence_rank()[nodes.features].argsort(stable=True).tolist()
    keys = {row: (int(nodes.layer[row]), int(nodes.index[row])) for row in ranked}
    try:
        known = pages.briefs(list(keys.values()))
    except FileError:  # said when a feature's own page is opened
        known = {}
    densities: list[float | None] = [None] * len(nodes)
    for row, key in keys.items():
        label, densities[row] = known.get(key, ("", None))
        columns["label"][row] = columns["label"][row] or label
    columns["density"] = densities
