"""Addresses of response graphs that need the model: how an edge travels, and why heads looked where they did."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from ..errors import GraphError
from ..interventions.naming import check_graph, check_model
from ..page.template import to_bytes
from ..response.attending import Looked, attend
from ..version import __version__
from .answers import StrictRoute, answer, tag_of
from .graphs_api import PROBLEMS, Place
from .live import Live
from .live_api import waiting
from .state import Asked, Model, Opened, Shared

ROUTES, SOURCES = 8, 6
"""Routes of an edge, and sources of each side of a head, that are told."""
router = APIRouter(prefix="/api/graphs/{slug}", route_class=StrictRoute, responses=PROBLEMS)


@router.get("/routes")
def show_routes(request: Request, server: Shared, live: Model, asked: Asked, target: Place, source: Place) -> Response:
    """How the edge between two nodes of a response graph travels, the largest routes first."""
    _check(live, asked)
    size = len(asked.graph.nodes)
    if max(target, source) >= size:
        raise HTTPException(404, f"no node {max(target, source)} in this graph of {size} nodes")
    with waiting(live), live.lock:
        graph = server.set_up.of(asked.path, asked.stamp, asked.graph, live)
        found = graph.routes(graph.nodes[target], graph.nodes[source])
    return answer(request, to_bytes({"weight": found.total, "routes": found.strongest(ROUTES)}))


@router.get("/heads")
def show_heads(
    request: Request, server: Shared, live: Model, asked: Asked, most: Annotated[int, Query(ge=1, le=50)] = 6
) -> Response:
    """The heads that carry most to a response graph's target, and which nodes made them look where they did."""
    _check(live, asked)

    def made() -> bytes:
        with waiting(live), live.lock:
            graph = server.set_up.of(asked.path, asked.stamp, asked.graph, live)
            model = live.model if graph.provenance.units == "features" else live.model.language_model
            return to_bytes({"heads": [_told(looked) for looked in attend(model, graph, most)]})

    return server.kept.answer(request, tag_of(__version__, "heads", asked.slug, asked.stamp, most), made)


def _told(looked: Looked) -> dict[str, Any]:
    sides = {}
    for side in ("by_query", "by_key"):
        effects = getattr(looked, side)
        rows = [int(row) for row in effects.abs().argsort(descending=True)[:SOURCES] if float(effects[row])]
        sides[side] = [[row, float(effects[row])] for row in rows]
    return {
        "layer": looked.layer, "head": looked.head, "query": looked.query, "key": looked.key,
        "pattern": looked.pattern, "carried": looked.carried, **sides,
    }  # fmt: skip


def _check(live: Live, asked: Opened) -> None:
    facts = asked.graph.provenance
    if not asked.graph.is_response:
        raise HTTPException(409, "this is an attribution graph; edges of response graphs alone travel by routes")
    try:
        if facts.units == "features":
            check_graph(asked.graph, asked.path.name, live.model)
        else:
            check_model(asked.graph, asked.path.name, live.model.language_model)
    except GraphError as error:
        raise HTTPException(409, str(error)) from error
