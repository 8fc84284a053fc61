"""Addresses that say why: an explanation that is stored, one to be made, and what would be said without its groups."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ..base.progress import Progress
from ..errors import GraphError
from ..explanation.explaining import explain
from ..explanation.off import Instead, without_groups
from ..explanation.stored import SUFFIX, write_explanation
from ..interventions.naming import check_model
from ..page.template import to_bytes
from .answers import StrictRoute, answer
from .explanations import read_off_groups
from .graphs_api import PROBLEMS
from .library import beside
from .live import Live, PromptText, Token
from .live_api import started, waiting
from .state import Asked, Model, Opened, Shared

router = APIRouter(prefix="/api/graphs/{slug}", route_class=StrictRoute, responses=PROBLEMS)
Number = Annotated[int, Field(ge=0, lt=1000)]


class ExplainRequest(BaseModel):
    """How a graph's prompt is to be explained."""

    model_config = ConfigDict(strict=True)
    instead: PromptText | None = None
    target: Token | None = None
    groups: Annotated[int, Field(ge=1, le=100)] | None = None


class OffRequest(BaseModel):
    """Which groups are to be put to other values."""

    model_config = ConfigDict(strict=True)
    groups: Annotated[list[Number], Field(min_length=1, max_length=100)]
    to: Instead = "contrast"


@router.get("/explanation")
def show_explanation(request: Request, server: Shared, asked: Asked) -> Response:
    """Why the model says what it says, if that was explained; else null, or what is wrong with the file, and rows of
    groups that are read off the graph."""
    found = server.explanations.of(server.library, asked.path, asked.graph)
    live = server.live is not None and _fits(server.live, asked)
    groups = [] if found.facts is not None else read_off_groups(asked.path, asked.graph)
    told = {"explanation": found.facts, "error": found.error, "live": live, "groups": groups}
    return answer(request, to_bytes(told))


@router.post("/explain")
def start_explaining(server: Shared, live: Model, asked: Asked, wanted: ExplainRequest) -> dict[str, str]:
    """Explain a graph's prompt in the background; the explanation is stored beside the graph."""
    _check(live, asked)
    ids = list(asked.graph.provenance.input_ids)
    if wanted.instead is not None:
        live.model.language_model.tokenize(wanted.instead)  # refuses at once what cannot be run

    def work(report: Progress) -> dict[str, Any]:
        with live.lock:
            found = explain(
                live.model, ids, wanted.target, wanted.instead, groups=wanted.groups,
                progress=lambda share, what: report(0.98 * share, what),
            )  # fmt: skip
        write_explanation(found.facts, beside(asked.path, SUFFIX))
        return {"slug": asked.slug}

    return started(server, work, f"explanation of \u201c{(asked.graph.provenance.prompt or asked.slug)[:200]}\u201d")


@router.post("/explanation/off")
def switch_off(server: Shared, live: Model, asked: Asked, wanted: OffRequest) -> Response:
    """What the model says with groups of the explanation put to other values, everything live."""
    _check(live, asked)
    found = server.explanations.of(server.library, asked.path, asked.graph)
    if found.facts is None:
        raise HTTPException(404, found.error or f"{asked.slug} is not explained yet")
    with waiting(live), live.lock:
        told = without_groups(live.model.language_model, found.facts, wanted.groups, wanted.to)
    return Response(to_bytes(told), media_type="application/json")


def _check(live: Live, asked: Opened) -> None:
    try:
        check_model(asked.graph, asked.path.name, live.model.language_model)
    except GraphError as error:
        raise HTTPException(409, str(error)) from error
    if asked.graph.provenance.origin != "unweave" or not asked.graph.provenance.input_ids:
        raise HTTPException(409, "this graph came from another tool; trace its prompt here, and explain that")


def _fits(live: Live, asked: Opened) -> bool:
    try:
        _check(live, asked)
    except HTTPException:
        return False
    return True
