"""Features of a graph, and their labels."""

from ..errors import TranscoderMismatch
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from .foreign import served
from .pages import Pages


def in_graph(graph: Graph, pages: Pages) -> dict[tuple[int, int], list[str]]:
    """Ids of a graph's feature nodes by (layer, number of the page) that tells of them.

    Raises:
        TranscoderMismatch: the graph is of another dictionary.
    """
    facts = graph.provenance
    if not served(pages).fits(facts):
        raise TranscoderMismatch(
            f"the graph is of {facts.transcoders or facts.units or 'another dictionary'}, and the pages in "
            f"{pages.folder} are of {pages.facts['transcoders']}; give --features of the graph's"
        )
    found: dict[tuple[int, int], list[str]] = {}
    for node in graph.nodes:
        if node.kind == NodeKind.FEATURE:
            unit = node.layer, pages.unit(node.layer, node.index, node.activation)
            found.setdefault(unit, []).append(node.id)
    return found


def with_labels(graph: Graph, pages: Pages) -> Graph:
    """The graph with its features' labels in its provenance, where the summary, exports and the page find them.

    Labels that the graph has already stay.
    """
    nodes = [node for node in graph.nodes if node.kind == NodeKind.FEATURE]
    units = {node.id: (node.layer, pages.unit(node.layer, node.index, node.activation)) for node in nodes}
    found = pages.labels(list(units.values()))
    labels = {node: found[unit] for node, unit in units.items() if unit in found}
    return graph.with_provenance(
        extra={**graph.provenance.extra, "labels": labels | graph.provenance.extra.get("labels", {})}
    )
