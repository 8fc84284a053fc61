"""A graph with its annotations for others: one HTML file, or JSON for Neuronpedia; the same from the command line
and the page."""

from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..errors import OptionError
from ..features.foreign import open_pages, shipped_neuron_pages, shipped_pages
from ..graphs.graph import Graph
from ..graphs.interchange import to_json, with_annotations
from ..page.html import html_document
from ..page.template import to_bytes
from . import annotations as notes
from .explanations import read_off_groups
from .library import Library, open_library, stem_of
from .showing import view_of
from .state import Opened, Server

MOST_DETAILS = 300
"""Features whose details go into an HTML file: those pinned or grouped, then the most influential."""
MOST_NEURONPEDIA = 100 << 20
"""Bytes that Neuronpedia takes."""
LEAST_LINK = 50
"""Bytes that a link takes at least."""


def shared_html(server: Server, path: Path, graph: Graph, shown: dict[str, Any]) -> bytes:
    """A view with annotations, what is known of the features that matter most, and why, as one document."""
    saved = notes.read(path, graph).annotations
    keys = notes.mentioned(graph, saved, MOST_DETAILS)
    details = {f"{layer}_{index}": found for (layer, index), found in server.details(graph, keys).items()}
    why = server.explanations.of(server.library, path, graph).facts
    groups = [] if why is not None else read_off_groups(path, graph)
    return html_document({**shown, "live": False}, saved, details, why, groups)


def shared_json(path: Path, graph: Graph, slug: str, scan: str | None = None) -> bytes:
    """A graph with annotations as JSON that Neuronpedia accepts.

    Raises:
        OptionError: it is larger than Neuronpedia takes.
    """
    if graph.n_edges * LEAST_LINK > MOST_NEURONPEDIA:  # it is not even made: for 16 million links that takes gigabytes
        raise _too_large(graph.n_edges * LEAST_LINK)
    document = to_bytes(with_annotations(to_json(graph, slug, scan), notes.read(path, graph).annotations))
    if len(document) > MOST_NEURONPEDIA:
        raise _too_large(len(document))
    return document


def _too_large(size: int) -> OptionError:
    return OptionError(
        f"this graph is {size >> 20} MiB as JSON, and Neuronpedia takes 100; prune it: unweave convert "
        f"--edge-threshold 0.9"
    )


def write_shared(
    path: Path,
    *,
    html: Path | None = None,
    neuronpedia: Path | None = None,
    edges: int,
    pages: Path | None = None,
    scan: str | None = None,
) -> list[Path]:
    """Write a graph file in either form; the files written.

    Raises:
        UnweaveError: the graph cannot be read, or a file not be written.
    """
    library: Library = open_library([path])
    file = library.roots[0]
    server = Server(library, None, shipped_pages() if pages is None else open_pages(pages), shipped_neuron_pages())
    asked = Opened(stem_of(file), file, *library.graph(file))
    written = []
    if html is not None:
        document = shared_html(server, file, asked.graph, view_of(server, asked, edges))
        written.append(write_atomically(html, lambda name: Path(name).write_bytes(document)))
    if neuronpedia is not None:
        text = shared_json(file, asked.graph, neuronpedia.stem, scan)
        written.append(write_atomically(neuronpedia, lambda name: Path(name).write_bytes(text)))
    return written
