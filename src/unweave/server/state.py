"""What all requests share, and how a request finds it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from ..errors import FileError
from ..features.foreign import FeaturePages, Key, on_graph
from ..graphs.graph import Graph
from .answers import Kept
from .explanations import Explanations
from .jobs import Jobs
from .library import Library, Stamp
from .live import Live, decoder_details
from .security import new_token
from .setup import SetUp

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
    neuron_pages: FeaturePages | None = None
    token: str = field(default_factory=new_token)
    kept: Kept = field(default_factory=Kept)
    jobs: Jobs = field(default_factory=Jobs)
    explanations: Explanations = field(default_factory=Explanations)
    set_up: SetUp = field(default_factory=SetUp)

    def pages_of(self, graph: Graph) -> FeaturePages | None:
        """The feature pages of a graph's dictionary, or of its neurons, if there are any."""
        known = (pages for pages in (self.pages, self.neuron_pages) if pages is not None)
        return next((on_graph(pages, graph) for pages in known if pages.fits(graph.provenance)), None)

    def details(self, graph: Graph, features: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        """What is known of some features: their pages, else their decoders by the loaded model, else the names in the
        graph; those of which nothing is known are left out.

        Raises:
            FileError: a page is damaged.
            InterventionError: the dictionary has no such feature.
        """
        pages, named = self.pages_of(graph), graph.provenance.extra.get("promotes") or {}
        found = (
            {} if pages is None else {key: {"source": "page"} | page for key, page in pages.several(features).items()}
        )
        live = self.live is not None and self.live.fits(graph)
        for layer, index in features:
            words, page = named.get(f"{layer}_{index}"), found.get((layer, index))
            if page is not None and "promoted" in page:
                continue
            if self.live is not None and live:
                of_decoder = decoder_details(self.live, layer, index)
                found[layer, index] = (page or {}) | of_decoder | {"source": "decoder"}
            elif page is not None and words is not None:
                page["promoted"] = [[word, None] for word in words]
            elif words is not None:
                found[layer, index] = {"source": "graph", "promoted": [[word, None] for word in words]}
        return {key: NOTHING | {"layer": key[0], "index": key[1]} | page for key, page in found.items()}

    def why_nothing(self, graph: Graph) -> str:
        """Why nothing is known of a feature, and what would tell."""
        if self.pages_of(graph) is not None:
            return "the feature pages do not have this feature"
        if self.pages is not None and not self.pages.shipped:
            return "the feature pages given are of another dictionary than this graph"
        loaded = "" if self.live is None else f"{self.live.name} is loaded, and this graph is not of it; "
        return f"{loaded}give the folder of this dictionary's feature pages with --features"

    def labels(self, features: list[Key]) -> dict[Key, str]:
        """The labels that feature pages give to some features."""
        pages = {} if self.pages is None else self.pages.several(features)
        return {key: label for key, page in pages.items() if (label := page.get("label"))}


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
