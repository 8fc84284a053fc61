"""Who traces: this process, several on this machine, or a Ray cluster. All give the same graphs."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch

from ..errors import ModelError, OptionError, UnweaveError
from .work import Traced

CPUS_OF_A_WORKER = 4
"""On a cluster, where no number of workers is given."""
RETRIES = 1
"""So often a cluster tries a prompt again whose worker was lost."""

Identify = Callable[[dict[str, str]], object]
"""Called with what each worker has loaded, before it is given a prompt; raises if that is something else than it
should be."""


@runtime_checkable
class AnyTools(Protocol):
    """A source, loaded: what it is, and the work on one prompt."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from others."""
        ...

    def work(self, job: Any) -> Traced:
        """Do it; an error becomes a fact."""
        ...


@runtime_checkable
class AnySource(Protocol):
    """A dataclass that says by name what every process loads."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def device(self) -> str:
        """Of torch."""
        ...

    def open(self) -> AnyTools:
        """Load it."""
        ...


Found = Generator[tuple[Any, Traced], None, None]


def parse_workers(text: str | int) -> tuple[bool, int | None]:
    """Whether on Ray, and how many: `4`, `ray`, `ray:4`.

    >>> parse_workers("ray:4"), parse_workers("ray"), parse_workers(2)
    ((True, 4), (True, None), (False, 2))

    Raises:
        OptionError: anything else.
    """
    kind, colon, number = str(text).partition(":")
    if kind == "ray" and not colon:
        return True, None
    count = number if kind == "ray" else str(text)
    if not count.isdecimal() or int(count) < 1:
        raise OptionError(f"workers {str(text)!r}: give a number of processes, ray, or ray:N")
    return kind == "ray", int(count)


def work(source: AnySource, jobs: Sequence[Any], workers: str | int, identify: Identify) -> Found:
    """Trace prompts, and yield what became of each as it is done.

    Raises:
        UnweaveError: the model cannot be loaded; Ray is not there.
    """
    ray, count = parse_workers(workers)
    if ray:
        yield from _on_ray(source, jobs, count, identify)
    elif count == 1 or len(jobs) < 2:
        tools = source.open()
        identify(tools.identity)
        for job in jobs:
            yield job, tools.work(job)
    else:
        yield from _in_processes(source, jobs, min(count or 1, len(jobs)), identify)


def lost(why: str) -> Traced:
    """What became of a prompt whose worker died."""
    return Traced(
        {
            "error": f"the worker died while it traced this prompt ({why}); was there too little memory?",
            "error_kind": "WorkerDied",
        },
        None,
    )


# -- processes on this machine


class _Worker(NamedTuple):
    number: int
    process: Any
    connection: Connection


def _in_processes(source: AnySource, jobs: Sequence[Any], count: int, identify: Identify) -> Found:
    waiting, busy = deque(jobs), dict[Connection, tuple[_Worker, Any | None]]()
    threads = max(1, torch.get_num_threads() // count)
    gpus = torch.cuda.device_count() if source.device == "cuda" else 0

    def start(number: int) -> None:
        worker = _start(
            number, replace(source, threads=threads, device=f"cuda:{number % gpus}" if gpus else source.device)
        )
        busy[worker.connection] = (worker, None)

    for number in range(count):
        start(number)
    try:
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, job = busy.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    why = _ending(worker.process.exitcode)
                    if job is None:
                        raise ModelError(
                            f"a worker died while it loaded the model ({why}); give fewer --workers, or none to see why"
                        ) from None
                    start(worker.number)
                    yield job, lost(why)
                    continue
                if isinstance(answer, UnweaveError):
                    raise answer
                if job is None:
                    identify(answer)
                if waiting:
                    busy[connection] = (worker, following := waiting.popleft())
                    connection.send(following)
                else:
                    connection.close()
                if job is not None:
                    yield job, answer
            if not waiting:  # those that were started anew and are not needed
                for connection in [connection for connection, (_, job) in busy.items() if job is None]:
                    _stop(busy.pop(connection)[0])
    finally:
        for worker, _ in busy.values():
            _stop(worker)


def _start(number: int, source: AnySource) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork after torch has run threads may hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(source, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _stop(worker: _Worker) -> None:
    worker.process.terminate()
    worker.process.join()
    worker.connection.close()


def _serve(source: AnySource, connection: Connection) -> None:
    """A worker's life: load, then trace what comes, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)
    try:
        tools = source.open()
    except UnweaveError as error:
        connection.send(type(error)(str(error)))
        return
    connection.send(tools.identity)
    with suppress(EOFError, OSError):
        while True:
            job: Any = connection.recv()
            connection.send(tools.work(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# -- a cluster


class _Actor:
    """A worker on a cluster; it may be started anew elsewhere, so it loads when it is first asked."""

    def __init__(self, source: AnySource):
        self.source, self.tools = source, None

    def _open(self) -> AnyTools:
        if self.tools is None:
            self.tools = self.source.open()
        return self.tools

    def identity(self) -> dict[str, str] | UnweaveError:
        try:
            return self._open().identity
        except UnweaveError as error:
            return type(error)(str(error))

    def trace(self, job: Any) -> Traced:
        return self._open().work(job)


def _on_ray(source: AnySource, jobs: Sequence[Any], count: int | None, identify: Identify) -> Found:
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise OptionError("--workers ray needs Ray; install it: pip install 'unweave[ray]'") from error
    begun = not ray.is_initialized()
    if begun:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises that very class where a node does not start in time
            raise OptionError(
                f"Ray cannot be started or reached: {str(error).splitlines()[0]}; see RAY_ADDRESS"
            ) from error
    actors: list[Any] = []
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        number, cpus, gpus = share(nodes, count, source.device.startswith("cuda"))
        number = max(1, min(number, len(jobs)))
        own = replace(source, threads=max(1, int(cpus)))
        kind: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)
        actors = [kind.remote(own) for _ in range(number)]
        waiting, busy = deque(jobs), dict[Any, tuple[Any, Any | None]]()
        for actor in actors:
            busy[actor.identity.remote()] = (actor, None)
        while busy:
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            actor, job = busy.pop(ready)
            try:
                answer = ray.get(ready)
            except ray.exceptions.RayError as error:
                if job is None:
                    raise ModelError(
                        f"a worker died while it loaded the model: {str(error).splitlines()[0]}"
                    ) from error
                answer = lost(type(error).__name__)
            if isinstance(answer, UnweaveError):
                raise answer
            if job is None:
                identify(answer)  # pyright: ignore[reportArgumentType]
            if waiting:
                following = waiting.popleft()
                busy[actor.trace.remote(following)] = (actor, following)
            if job is not None:
                yield job, answer
    finally:
        for actor in actors:
            ray.kill(actor)
        if begun:
            ray.shutdown()


def share(nodes: Sequence[dict[str, float]], count: int | None, on_gpu: bool) -> tuple[int, float, float]:
    """How many workers a cluster gets, and how many CPUs and GPUs each: one worker a GPU, or one for every few CPUs.

    >>> share([{"CPU": 16.0}, {"CPU": 2.0}], None, False)
    (9, 2.0, 0.0)
    >>> share([{"CPU": 16.0, "GPU": 4.0}], None, True)
    (4, 1.0, 1.0)
    >>> share([{"CPU": 2.0}], 4, False)
    (4, 0.5, 0.0)

    Raises:
        OptionError: GPUs are asked for, and there are none.
    """
    kind = "GPU" if on_gpu else "CPU"
    have = [node.get(kind, 0.0) for node in nodes if node.get(kind, 0.0) > 0]
    if not have:
        raise OptionError(
            f"the Ray cluster has no {kind}; give another --device" if on_gpu else "the Ray cluster has no CPU to spare"
        )
    if on_gpu:
        number = count or int(sum(have))
        return number, 1.0, min(1.0, sum(have) / number)
    if count is not None:
        each = sum(have) / count
        return count, float(int(each)) if each >= 1 else each, 0.0
    each = float(int(max(1, min(CPUS_OF_A_WORKER, *have))))
    return sum(int(cpus // each) for cpus in have), each, 0.0
