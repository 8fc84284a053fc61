"""The application: which address does what."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..errors import GraphError, UnweaveError
from ..version import __version__
from . import view as views
from .answers import Kept, answer, refusal, tag_of, to_bytes
from .library import Library, validation_of
from .page import served_page, static_file
from .security import App, guarded, new_token


@dataclass(frozen=True)
class Server:
    """What all requests share."""

    library: Library
    token: str = field(default_factory=new_token)
    kept: Kept = field(default_factory=Kept)


def _server(request: Request) -> Server:
    return request.app.state.server


Shared = Annotated[Server, Depends(_server)]


def create_app(server: Server) -> App:
    """The whole application behind its checks."""
    app = FastAPI(title="unweave", version=__version__, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UnweaveError, _user_error)
    app.get("/", include_in_schema=False)(index)
    app.get("/static/{name}", include_in_schema=False)(static)
    app.get("/api/graphs")(list_graphs)
    app.get("/api/graphs/{slug}")(show_graph)
    app.get("/api/graphs/{slug}/edges")(show_edges)
    return guarded(app, server.token)


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return refusal(400, f"{place}: {first['msg']}" if place else str(first["msg"]))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail))


def _user_error(request: Request, error: Exception) -> Response:
    return refusal(404 if isinstance(error, GraphError) and str(error).startswith("no ") else 422, str(error))


def index(request: Request, server: Shared) -> Response:
    """The page."""
    return answer(request, served_page(server.token), "text/html")


def static(request: Request, name: str) -> Response:
    """A file of the page."""
    found = static_file(name)
    return refusal(404, f"no file {name!r}") if found is None else answer(request, *found)


def list_graphs(request: Request, server: Shared) -> Response:
    """All graphs, the newest first."""
    graphs = [server.library.summary(slug) for slug in server.library.paths()]
    return answer(request, to_bytes({"graphs": graphs, "live": False, "model": None, "transcoders": None}))


def show_graph(request: Request, server: Shared, slug: str, edges: Annotated[int, Query(ge=0, le=20_000_000)] = views.MOST_EDGES) -> Response:
    """A graph's view."""
    graph, stamp = server.library.graph(slug)
    validation, validated = validation_of(server.library.path(slug))
    tag = tag_of(__version__, slug, stamp, validated, edges)
    return server.kept.answer(request, tag, lambda: to_bytes(views.view(graph, slug, edges=edges, validation=validation)))


def show_edges(
    request: Request,
    server: Shared,
    slug: str,
    node: Annotated[int, Query(ge=0, lt=1 << 31)],
    direction: Literal["in", "out"] = "in",
    limit: Annotated[int, Query(ge=0, le=100_000)] = 300,
    offset: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
) -> Response:
    """The edges of one node, the strongest first."""
    graph, _ = server.library.graph(slug)
    return answer(request, to_bytes(views.node_edges(graph, node, direction, limit, offset)))
