"""Addresses that read graphs, and the one that takes a new one."""

import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from ..base.files import write_atomically
from ..errors import GraphError
from ..explanation.recurring import side_by_side
from ..graphs.comparison import compare
from ..page import view as views
from ..page.template import to_bytes
from ..version import __version__
from .answers import StrictRoute, answer, tag_of
from .library import GRAPH_SUFFIXES, study_file_of, validation_of, whole
from .sharing import shared_html, shared_json
from .showing import view_of
from .state import NOTHING, Asked, Opened, Server, Shared, opened, raw_body
from .study import study_of

_ERROR = {"schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}
_FILE = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}},
}
_REASONS = {
    400: "not what the address takes", 403: "another host or origin, or no token", 404: "no such thing",
    409: "an old revision, or no model that fits",
    413: "too large", 422: "understood, but cannot be done", 428: "no If-Match", 429: "too much is asked for at once",
}  # fmt: skip
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, "content": {"application/json": _ERROR}} for status, reason in _REASONS.items()
}
router = APIRouter(prefix="/api", route_class=StrictRoute, responses=PROBLEMS)

MOMENT = 0.8
"""Seconds after which a list that does not wait reads no more files."""
Place = Annotated[int, Query(ge=0, lt=1 << 31)]


@router.get("/graphs")
def list_graphs(request: Request, server: Shared, wait: bool = True) -> Response:
    """All graphs, the newest first; with `wait=false` what takes longer than a moment to read is `pending`."""
    until = math.inf if wait else time.monotonic() + MOMENT
    graphs = server.library.summaries(until)
    live = server.live
    facts = {"live": live is not None, "model": live and live.name, "transcoders": live and live.model.transcoders.name}
    return answer(request, to_bytes({"graphs": graphs, **facts}))


@router.post("/graphs", openapi_extra={"requestBody": _FILE})
def upload(
    server: Shared, name: Annotated[str, Query(max_length=200)], body: Annotated[bytes, Depends(raw_body)]
) -> dict[str, str]:
    """Take a graph file, ours or JSON, if it is one."""
    if not name.endswith(GRAPH_SUFFIXES):
        raise HTTPException(422, f"cannot tell what {name!r} is; a graph's name ends in .graph.safetensors or .json")
    return {"slug": server.library.add(name, lambda path: _store(path, body))}


def _store(path: Path, body: bytes) -> None:
    """Write a file if a graph can be read from it, under a hidden name until then."""

    def write(temporary: str) -> None:
        hidden = Path(temporary + path.suffix)  # the suffix says how it is read
        try:
            hidden.write_bytes(body)
            whole(hidden)
            hidden.replace(temporary)
        except GraphError as error:
            raise GraphError(str(error).replace(str(hidden), path.name)) from error
        finally:
            hidden.unlink(missing_ok=True)

    write_atomically(path, write)


@router.get("/graphs/{slug}")
def show_graph(
    request: Request, server: Shared, asked: Asked, edges: Annotated[int, Query(ge=0, le=20_000_000)] = views.MOST_EDGES
) -> Response:
    """A graph's view."""
    return server.kept.answer(request, _tag(server, asked, edges), lambda: to_bytes(view_of(server, asked, edges)))


def _tag(server: Server, asked: Opened, edges: int) -> str:
    live, pages = server.live, server.pages_of(asked.graph)
    model = None if live is None else (live.name, live.fits(asked.graph))
    # a folder of another tool says nothing that would tell it apart
    of = None if pages is None else (pages.sha256, id(server.pages), id(server.neuron_pages))
    beside = validation_of(asked.path)[1], study_file_of(asked.path)
    return tag_of(__version__, asked.slug, asked.stamp, *beside, model, of, edges)


@router.get("/graphs/{slug}/study")
def show_study(request: Request, server: Shared, asked: Asked) -> Response:
    """The study that a graph is of: its verdict, steps, graphs and report; 404 if it is of none."""
    found = study_of(server.library, asked.path)
    if found is None:
        raise HTTPException(404, f"{asked.slug} is not the graph of a study")
    return answer(request, to_bytes(found))


@router.get("/graphs/{slug}/edges")
def show_edges(
    request: Request,
    asked: Asked,
    node: Place,
    direction: Literal["in", "out"] = "in",
    limit: Annotated[int, Query(ge=0, le=100_000)] = 300,
    offset: Place = 0,
) -> Response:
    """The edges of one node, from the whole graph, the strongest first."""
    if node >= len(asked.graph.nodes):
        raise HTTPException(404, f"no node {node} in this graph of {len(asked.graph.nodes)} nodes")
    return answer(request, to_bytes(views.node_edges(asked.graph, node, direction, limit, offset)))


@router.get("/graphs/{slug}/features/{layer}/{index}")
def show_feature(request: Request, server: Shared, asked: Asked, layer: int, index: int) -> Response:
    """What is known of a feature; of one of which nothing is known, that, since a page asks for every node it shows."""
    known = 0 <= layer < 1 << 31 and 0 <= index < 1 << 31
    found = server.details(asked.graph, [(layer, index)]).get((layer, index)) if known else None
    nothing = {**NOTHING, "layer": layer, "index": index, "why": server.why_nothing(asked.graph)}
    return answer(request, to_bytes(found or nothing))


@router.get("/graphs/{slug}/neuronpedia.json")
def neuronpedia(request: Request, asked: Asked) -> Response:
    """The graph with its annotations, as JSON that Neuronpedia accepts."""
    return answer(request, shared_json(asked.path, asked.graph, asked.slug), **_download(f"{asked.slug}.json"))


@router.get("/graphs/{slug}/export.html", response_class=HTMLResponse)
def export_html(
    request: Request, server: Shared, asked: Asked, edges: Annotated[int, Query(ge=0, le=20_000_000)] = views.MOST_EDGES
) -> Response:
    """The graph with its annotations, as one HTML file that needs no server."""
    document = shared_html(server, asked.path, asked.graph, view_of(server, asked, edges))
    return answer(request, document, "text/html", **_download(f"{asked.slug}.html"))


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


@router.get("/compare")
def compare_graphs(request: Request, server: Shared, a: str, b: str) -> Response:
    """Which nodes two graphs share, and which groups their explanations do."""
    first, second = opened(server, a), opened(server, b)
    told = [server.explanations.of(server.library, one.path, one.graph).facts for one in (first, second)]
    known = [facts for facts in told if facts is not None]
    groups = side_by_side(known[0], known[1]) if len(known) == 2 else None
    return answer(request, to_bytes(compare(first.graph, second.graph) | {"explanations": groups}))
