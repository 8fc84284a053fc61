"""Addresses of response graphs that need the model: how an edge travels, and why heads looked where they did."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException
from torch import Tensor

from ..errors import GraphError
from ..interventions.naming import check_graph, check_model
from ..page.template import to_bytes
from ..response.attending import Looked, attend, looked_at
from ..response.pairs import most_looked_at, terms_of
from ..response.routes import setting_of
from ..version import __version__
from .answers import StrictRoute, answer, tag_of
from .graphs_api import PROBLEMS, Place
from .live import Live
from .live_api import waiting
from .state import Asked, Model, Opened, Shared

ROUTES, SOURCES, PAIRS = 8, 6, 12
"""Routes of an edge, sources of each side of a head, and pairs of them, that are told."""
LOOKED_THROUGH = 3
"""So many times the heads wanted are found: those that hang on no node of the graph come last."""
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
            heads = sorted(attend(model, graph, LOOKED_THROUGH * most), key=lambda head: not bool(head.effect.any()))
            return to_bytes({"heads": [_told(looked) for looked in heads[:most]]})

    return server.kept.answer(request, tag_of(__version__, "heads", asked.slug, asked.stamp, most), made)


@router.get("/heads/{layer}/{head}")
def show_head(
    request: Request, server: Shared, live: Model, asked: Asked, layer: int, head: int, query: Place,
    key: Place | None = None,
) -> Response:  # fmt: skip
    """Why one head looked from a token at another (or at the one it looks at most beside the first): its row of the
    pattern, which pairs of nodes made the score, and which nodes made it on either side."""
    _check(live, asked)

    def made() -> bytes:
        with waiting(live), live.lock:
            graph = server.set_up.of(asked.path, asked.stamp, asked.graph, live)
            setting = setting_of(live.model.language_model, graph)
            at = most_looked_at(setting, layer, head, query) if key is None else key
            terms = terms_of(setting, layer, head, query, at)
            return to_bytes(_told(looked_at(setting, layer, head, query, at)) | {"pairs": _pairs(terms)})

    return server.kept.answer(request, tag_of(__version__, asked.slug, asked.stamp, layer, head, query, key), made)


def _pairs(terms: Tensor) -> list[list[int | float]]:
    """The largest entries, as [query's node, key's node, what they add to the score]."""
    flat = terms.flatten()
    top = flat.abs().topk(min(PAIRS, len(flat))).indices.tolist()
    return [[place // len(terms), place % len(terms), float(flat[place])] for place in top if float(flat[place])]


def _told(looked: Looked) -> dict[str, Any]:
    sides = {}
    for side in ("by_query", "by_key"):
        effects = getattr(looked, side)
        rows = [int(row) for row in effects.abs().argsort(descending=True)[:SOURCES] if float(effects[row])]
        sides[side] = [[row, float(effects[row])] for row in rows]
    return {
        "layer": looked.layer, "head": looked.head, "query": looked.query, "key": looked.key,
        "pattern": looked.pattern, "carried": looked.carried, "row": looked.row.tolist(), **sides,
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
