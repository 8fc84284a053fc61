"""The application: pages and addresses behind their checks; every refusal in one line."""

import itertools
import logging
import re

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ..errors import UnweaveError
from ..page.template import served_page, static_file
from ..version import __version__
from . import explain_api, graphs_api, live_api, notes_api, routes_api
from .answers import answer, refusal
from .security import App, guarded
from .state import Server, Shared

logger = logging.getLogger(__name__)
ROUTERS = (graphs_api.router, notes_api.router, live_api.router, explain_api.router, routes_api.router)


def create_app(server: Server) -> App:
    """The whole application behind its checks."""
    app = FastAPI(
        title="unweave",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UnweaveError, _user_error)
    app.add_exception_handler(Exception, _our_error)
    app.get("/", include_in_schema=False)(index)
    app.get("/static/{name}", include_in_schema=False)(static)
    for router in ROUTERS:
        app.include_router(router)
    # routes are else made at the first request, by several threads that trip over each other's warning filters
    app.openapi()
    return guarded(app, server.token)


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    first = next(
        (one for one in errors if not one["type"].endswith("_type")), errors[0]
    )  # of a choice, what comes near
    place = ".".join(str(part) for part in first["loc"][1:] if re.fullmatch(r"\w+", str(part)))
    return refusal(400, f"{place}: {first['msg']}" if place else str(first["msg"]))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {"Allow": _methods_of(request)} if error.status_code == 405 else error.headers
    return refusal(error.status_code, str(error.detail), headers)


def _methods_of(request: Request) -> str:
    """The methods that an address takes, of all its routes: each knows of its own alone."""
    methods: set[str] = set()
    for route in itertools.chain(request.app.routes, *(router.routes for router in ROUTERS)):
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


def _user_error(request: Request, error: Exception) -> Response:
    return refusal(422, str(error))


def _our_error(request: Request, error: Exception) -> Response:
    return refusal(500, "this failed for a reason that is no fault of yours; the server's output says more")


def index(request: Request, server: Shared) -> Response:
    """The page."""
    return answer(request, served_page(server.token), "text/html")


def static(request: Request, name: str) -> Response:
    """A file of the page."""
    found = static_file(name)
    return refusal(404, f"no file {name!r}") if found is None else answer(request, *found)
