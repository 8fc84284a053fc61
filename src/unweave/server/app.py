"""The application: pages and addresses behind their checks; every refusal in one line."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..errors import UnweaveError
from ..page.template import served_page, static_file
from ..version import __version__
from . import graphs_api, live_api, notes_api
from .answers import answer, refusal
from .security import App, guarded
from .state import Server, Shared

logger = logging.getLogger(__name__)


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
    for router in (graphs_api.router, notes_api.router, live_api.router):
        app.include_router(router)
    # routes are else made at the first request, by several threads that trip over each other's warning filters
    app.openapi()
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
