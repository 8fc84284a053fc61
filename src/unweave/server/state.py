"""What all requests share, and how a request finds it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from ..errors import FileError
from ..features.foreign import FeaturePages
from ..graphs.graph import Graph
from .answers import Kept
from .explanations import Explanations
from .jobs import Jobs
from .library import Library, Stamp
from .live import Live, decoder_details
from .security import new_token

NOTHING: dict[str, Any] = {
    "layer": None, "index": None, "source": "none", "label": "", "density": None, "promoted": [], "suppressed": [],
    "histogram": None, "quantiles": None, "contexts": [],
}  # fmt: skip
"""The details of a feature of which nothing is known."""


@dataclass(frozen=True)
class Server:
    """What all requests share."""

    library: Library
    live: Live | None = None
    pages: FeaturePages | None = None
    token: str = field(default_factory=new_token)
    kept: Kept = field(default_factory=Kept)
    jobs: Jobs = field(default_factory=Jobs)
    explanations: Explanations = field(default_factory=Explanations)

    def details(self, graph: Graph, layer: int, index: int) -> dict[str, Any] | None:
        """What is known of a feature: its page, else its decoder by the loaded model, else the names in the graph;
        None if nothing.

        Raises:
            FileError: its page is damaged.
            InterventionError: the dictionary has no such feature.
        """
        found: dict[str, Any] = {**NOTHING, "layer": layer, "index": index, "source": "page"}
        neurons = graph.provenance.units == "neurons"  # pages are of a dictionary's features
        page = None if self.pages is None or neurons else self.pages(layer, index)
        if page is not None:
            return found | page
        if self.live is not None and self.live.fits(graph):
            return found | {"source": "decoder"} | decoder_details(self.live, layer, index)
        words = (graph.provenance.extra.get("promotes") or {}).get(f"{layer}_{index}")
        return None if words is None else found | {"source": "graph", "promoted": [[word, None] for word in words]}

    def labels(self, features: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """The labels that feature pages give to some (layer, index)."""
        pages = {} if self.pages is None else {key: self.pages(*key) for key in features}
        return {key: label for key, page in pages.items() if page is not None and (label := page.get("label"))}


@dataclass(frozen=True)
class Opened:
    """A graph that a request names."""

    slug: str
    path: Path
    graph: Graph
    stamp: Stamp


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    return request.app.state.server


Shared = Annotated[Server, Depends(server_of)]


def opened(server: Shared, slug: str) -> Opened:
    """The graph of a slug; 404 if there is none."""
    path = server.library.path(slug)
    if path is None:
        raise HTTPException(404, f"no graph {slug!r} here")
    return Opened(slug, path, *server.library.graph(path))


Asked = Annotated[Opened, Depends(opened)]


def live_of(server: Shared) -> Live:
    """The loaded model; 409 if there is none."""
    if server.live is None:
        raise HTTPException(409, "no model is loaded; start with: unweave serve --model smollm2")
    return server.live


Model = Annotated[Live, Depends(live_of)]


async def raw_body(request: Request) -> bytes:
    """The body as it came."""
    body = await request.body()
    if not body:
        raise FileError("the file is empty")
    return body
