"""Long work in the background: one job at a time, with progress that any number of tabs can watch, and cancelling."""

import asyncio
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from ..base.progress import Progress
from ..errors import UnweaveError

logger = logging.getLogger(__name__)

Work = Callable[[Progress], dict[str, Any]]

ENDS = frozenset({"done", "failed", "cancelled"})
JOBS_KEPT = 100
"""Jobs that have ended, to be asked about."""
JOBS_IN_LINE = 100
"""Jobs that have not: more are refused, since what is accepted is done."""
POLL_SECONDS, HEARTBEAT_SECONDS = 0.05, 10.0


class Cancelled(Exception):
    """Raised inside work that is to stop."""


class Busy(UnweaveError):
    """Raised where too much work waits already."""


@dataclass
class LiveJob:
    """One piece of work; `event` and `facts` are its present state, `version` grows with every change."""

    id: str
    event: str = "progress"
    facts: dict[str, Any] = field(default_factory=lambda: {"share": 0.0, "title": "waiting"})
    version: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    what: str = ""
    """What it is about, for people."""

    def change(self, event: str, facts: dict[str, Any]) -> None:
        """Go to another state, unless the work has ended."""
        if self.event not in ENDS:
            self.facts, self.event = facts, event
            self.version += 1

    def report(self, share: float, title: str) -> None:
        """Say how far the work is.

        Raises:
            Cancelled: it is to stop.
        """
        if self.stop.is_set():
            raise Cancelled
        self.change("progress", {"share": round(min(1.0, max(0.0, float(share))), 4), "title": title})


@dataclass(frozen=True)
class Jobs:
    """All jobs of a server: those in line, and the last hundred that have ended."""

    _jobs: OrderedDict[str, LiveJob] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "unweave-job"))

    def start(self, work: Work, what: str = "") -> LiveJob:
        """Put work in line; `what` says what it is about.

        Raises:
            Busy: the line is full.
        """
        job = LiveJob(token_hex(8), what=what)
        with self._lock:
            ended = [name for name, other in self._jobs.items() if other.event in ENDS]
            if len(self._jobs) - len(ended) >= JOBS_IN_LINE:
                raise Busy(f"{JOBS_IN_LINE} traces are in line already; wait until some are done, or cancel some")
            for name in ended[: max(0, len(ended) - JOBS_KEPT + 1)]:
                del self._jobs[name]
            self._jobs[job.id] = job
        self._pool.submit(_run, job, work)
        return job

    def unfinished(self) -> list[LiveJob]:
        """Those that have not ended, in their order."""
        return [job for job in list(self._jobs.values()) if job.event not in ENDS]

    def find(self, name: str) -> LiveJob | None:
        """A job by its id."""
        return self._jobs.get(name)

    def cancel(self, job: LiveJob) -> str:
        """Ask a job to stop, and say how it stands; one that waits stops at once."""
        job.stop.set()
        if job.event == "progress" and job.facts.get("title") == "waiting":
            job.change("cancelled", {})
        return "cancelling" if job.event not in ENDS else job.event

    def close(self) -> None:
        """Stop everything."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _run(job: LiveJob, work: Work) -> None:
    try:
        job.report(0.0, "starting")
        job.change("done", work(job.report))
    except Cancelled:
        job.change("cancelled", {})
    except UnweaveError as error:
        job.change("failed", {"error": " ".join(str(error).split())})
    except MemoryError:
        job.change("failed", {"error": "not enough memory; try a shorter prompt or fewer features"})
    except Exception:
        logger.exception("a job failed")
        job.change(
            "failed", {"error": "the work failed for a reason that is no fault of yours; the server's output says more"}
        )


async def events(job: LiveJob) -> AsyncIterator[bytes]:
    """The job's state now and after each change, as server-sent events, until it ends; a comment now and then keeps
    the line open."""
    seen, silent = -1, 0.0
    while True:
        if job.version != seen:
            seen, event, facts, silent = job.version, job.event, job.facts, 0.0
            yield f"event: {event}\ndata: {json.dumps(facts)}\n\n".encode()
            if event in ENDS:
                return
        elif silent > HEARTBEAT_SECONDS:
            silent = 0.0
            yield b": still working\n\n"
        await asyncio.sleep(POLL_SECONDS)
        silent += POLL_SECONDS
