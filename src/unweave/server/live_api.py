"""Addresses that need the loaded model: tracing in the background, steering."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from ..base.progress import Progress
from ..errors import GraphError
from ..interventions.naming import check_graph
from ..page.template import to_bytes
from .answers import StrictRoute
from .graphs_api import PROBLEMS
from .jobs import Busy, LiveJob, Work, events
from .live import Live, SteerRequest, TraceRequest, name_of, steer, trace
from .state import Asked, Model, Server, Shared

router = APIRouter(prefix="/api", route_class=StrictRoute, responses=PROBLEMS)


@router.post("/trace")
def start_trace(server: Shared, live: Model, wanted: TraceRequest) -> dict[str, str]:
    """Trace a prompt in the background."""
    live.model.language_model.tokenize(wanted.question().prompt)  # refuses at once what cannot be run

    def work(report: Progress) -> dict[str, Any]:
        graph = trace(live, wanted, report)
        report(0.99, "saving")
        return {"slug": server.library.add(f"{name_of(wanted)}.graph.safetensors", graph.save)}

    asked = wanted.prompt if isinstance(wanted.prompt, str) else " ".join(map(str, wanted.prompt))
    return started(server, work, f"trace of \u201c{asked[:200]}\u201d")


def started(server: Server, work: Work, what: str) -> dict[str, str]:
    """Put work in line; 429 if the line is full."""
    try:
        return {"job": server.jobs.start(work, what).id}
    except Busy as error:
        raise HTTPException(429, str(error), {"Retry-After": "30"}) from error


@contextmanager
def waiting(live: Live) -> Iterator[None]:
    """A place among those who wait for the model; 429 if there is none."""
    if not live.places.acquire(blocking=False):
        raise HTTPException(
            429, "too many runs wait for the model already; wait until some are done", {"Retry-After": "5"}
        )
    try:
        yield
    finally:
        live.places.release()


def _job(server: Server, name: str) -> LiveJob:
    job = server.jobs.find(name)
    if job is None:
        raise HTTPException(404, f"no job {name!r}; it ended long ago, or the server was started anew")
    return job


@router.get("/jobs")
def list_jobs(server: Shared) -> Response:
    """Work that has not ended, in its order."""
    jobs = [{"job": job.id, "what": job.what, **job.facts} for job in server.jobs.unfinished()]
    return Response(to_bytes({"jobs": jobs}), media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/jobs/{job}/events", response_class=StreamingResponse)
def watch_job(server: Shared, job: str) -> Response:
    """How a job goes, as server-sent events."""
    return StreamingResponse(
        events(_job(server, job)), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@router.delete("/jobs/{job}")
def cancel_job(server: Shared, job: str) -> dict[str, str]:
    """Cancel a job."""
    return {"state": server.jobs.cancel(_job(server, job))}


@router.post("/graphs/{slug}/steer")
def steer_graph(server: Shared, live: Model, asked: Asked, wanted: SteerRequest) -> Response:
    """What the model says with features changed."""
    try:
        check_graph(asked.graph, asked.path.name, live.model)
    except GraphError as error:
        raise HTTPException(409, str(error)) from error
    with waiting(live):
        return Response(to_bytes(steer(live, asked.graph, wanted, server.labels)), media_type="application/json")
