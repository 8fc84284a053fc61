"""Tracing many prompts into a folder: what is there already stays, what fails is noted, the rest goes on."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.files import locked
from ..base.kinds import typed
from ..base.parsing import parse_bytes
from ..base.progress import Progress
from ..errors import FileError, OptionError, UnweaveError
from ..models.smollm2 import DEFAULT_MODEL
from .folder import INDEX, Store
from .lines import TraceOptions, read_prompts
from .work import Source
from .workers import parse_workers, work


@dataclass(frozen=True)
class Run:
    """What became of many prompts."""

    folder: Path
    index: Path
    """A Parquet file with a row for every prompt that was ever traced into the folder."""
    prompts: int
    """Different ones asked for."""
    traced: int
    there: int
    """Traced by an earlier run."""
    failed: tuple[dict[str, Any], ...]
    """`id`, `line`, `error` of those that could not be traced."""
    seconds: float


@typed
def trace_many(
    prompts: str | Path | Sequence[str | Mapping[str, Any]],
    out: str | Path,
    model: str = DEFAULT_MODEL,
    transcoders: str | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    features: str | Path | None = None,
    workers: str | int = 1,
    max_memory: str | int | None = None,
    options: TraceOptions | None = None,
    progress: Progress | None = None,
) -> Run:
    """Trace many prompts: one pruned graph a prompt, and an index of all. Run again, it goes on where it was.

    Equal prompts (with equal options) are traced once. A folder takes graphs of one model, dictionary and set of
    options.

    Args:
        prompts: a JSONL file (`docs/many.md`), or a list of texts or of mappings as its lines hold.
        out: the folder for the graphs and `index.parquet`.
        model, transcoders, dtype, device: as in `load`; every worker loads them.
        features: folder of feature pages for labels; None: those that ship, if of this dictionary.
        max_memory: of each process, in bytes or as `2GB`; a prompt that does not fit fails, the edges of others are
            the same.
        workers: processes on this machine (in a script, below `if __name__ == "__main__":`), `ray`, or `ray:N`.
        options: what holds where a line says nothing.

    Raises:
        PromptError: a broken line, an empty file, an id that is taken; before anything is traced.
        OptionError: the folder was made with other options; workers that cannot be had.
        UnweaveError: the model or the dictionary cannot be loaded.
        FileError: another process traces into the folder; the disk is full.

    >>> unweave.trace_many("prompts.jsonl", "graphs/facts", workers=4)         # doctest: +SKIP
    """
    begin, report, folder = time.perf_counter(), progress or (lambda share, title: None), Path(out).expanduser()
    parse_workers(workers)
    if max_memory is not None:
        parse_bytes(max_memory)
    options = options or TraceOptions()
    jobs = read_prompts(prompts, options)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out {folder} is a file; many prompts need a folder")
    busy = FileError(f"another process is tracing into {folder}; wait for it, or use another --out folder")
    source = Source(
        model,
        transcoders,
        dtype,
        device,
        None if features is None else str(features),
        str(Path.cwd()),
        max_memory=max_memory,
    )
    failed, done = [], 0
    with locked(folder, busy):
        store = Store.open(folder, jobs, options)
        todo = [job for job in jobs if not store.done(job)]
        try:
            with closing(work(source, todo, workers, store.identify)) as found:
                for job, traced in found:
                    record, done = store.keep(job, traced), done + 1
                    if record.get("error") is not None:
                        failed.append({"id": job.id, "line": job.line, "error": record["error"]})
                    report(
                        done / len(todo),
                        f"{done} of {len(todo)} prompts" + (f", {len(failed)} failed" if failed else ""),
                    )
        except BaseException as error:
            if store.settings.get("identity") is not None and not isinstance(error, FileError):
                with suppress(UnweaveError):
                    store.write_index()
            raise
        store.write_index()
    failed.sort(key=lambda one: one["line"])
    return Run(
        folder,
        folder / INDEX,
        len(jobs),
        done - len(failed),
        len(jobs) - len(todo),
        tuple(failed),
        round(time.perf_counter() - begin, 3),
    )
