"""Labels of features in a graph."""

from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from .pages import Pages


def with_labels(graph: Graph, pages: Pages) -> Graph:
    """The graph with its features' labels in its provenance, where the summary, exports and the page find them.

    Labels that the graph has already stay.
    """
    nodes = [node for node in graph.nodes if node.kind == NodeKind.FEATURE]
    found = pages.labels([(node.layer, node.index) for node in nodes])
    labels = {node.id: found[node.layer, node.index] for node in nodes if (node.layer, node.index) in found}
    return graph.with_provenance(
        extra={**graph.provenance.extra, "labels": labels | graph.provenance.extra.get("labels", {})}
    )
