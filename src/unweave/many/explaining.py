"""Explaining many prompts into a folder: a file each, an index, and the groups that come back in several."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base.files import locked, write_atomically
from ..base.hub import first_line
from ..base.kinds import typed
from ..base.progress import Progress
from ..base.words import slug_of
from ..errors import FileError, OptionError, PromptError, UnweaveError
from ..explanation.explaining import explain
from ..explanation.recurring import recurring
from ..explanation.stored import SUFFIX, read_explanation, write_explanation
from ..models.language_model import LanguageModel
from ..models.loading import load_model
from ..models.smollm2 import DEFAULT_MODEL
from .lines import jsonl_lines
from .work import Traced, fingerprint
from .workers import parse_workers, work

INDEX, GROUPS = "explanations.jsonl", "groups.json"
Ids = list[Annotated[int, Field(ge=0, lt=1 << 31)]]


@dataclass(frozen=True)
class ExplainOptions:
    """How prompts are explained, where their lines say nothing else; as in `explain`."""

    target: str | int | None = None
    groups: int | None = None
    baseline: str = "auto"


class _ExplainLine(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | None = None
    prompt: Annotated[str | Ids, Field(min_length=1)]
    instead: Annotated[str | Ids, Field(min_length=1)] | None = None
    target: str | Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    groups: Annotated[int, Field(ge=1)] | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class ExplainJob:
    """One prompt and what is asked about it, under the name that its file has."""

    id: str
    line: int
    prompt: str | list[int]
    instead: str | list[int] | None
    options: ExplainOptions
    digest: str
    """Of all this and the model."""


@dataclass(frozen=True)
class ExplainSource:
    """The model that explains, by name, so that every process can load it."""

    model: str
    dtype: str = "float32"
    device: str = "cpu"
    folder: str = ""
    """Where relative names are meant from."""
    threads: int | None = None

    def open(self) -> "ExplainTools":
        """Load it.

        Raises:
            UnweaveError: see `load_model`.
        """
        if self.folder and Path(self.folder).is_dir():
            os.chdir(self.folder)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model = load_model(self.model, dtype=self.dtype, device=self.device)
        return ExplainTools(model, {"model_sha256": fingerprint(model)})


class ExplainTools(NamedTuple):
    """A source, loaded."""

    model: LanguageModel
    identity: dict[str, str]

    def work(self, job: ExplainJob) -> Traced:
        """Explain one prompt; an error becomes a fact."""
        begin, asked = time.perf_counter(), job.options
        try:
            found = explain(
                self.model, job.prompt, asked.target, job.instead, groups=asked.groups, baseline=asked.baseline
            )
            facts = {**found.facts, "request": job.digest, **self.identity}
        except UnweaveError as error:
            facts = {"error": str(error)}
        except Exception as error:  # whatever it is, the other prompts go on
            facts = {"error": f"{type(error).__name__}: {first_line(error)}"}
        return Traced({**facts, "seconds": round(time.perf_counter() - begin, 3)}, None)


@dataclass(frozen=True)
class ExplainedMany:
    """What became of many prompts."""

    folder: Path
    rows: tuple[dict[str, Any], ...]
    """A row a prompt: `id`, `line`, `prompt`, `answer`, what it `hangs` on, `share` of the difference, what all groups
    carry together (`f`), `verdict`; or `error`."""
    groups: tuple[dict[str, Any], ...]
    """Groups that several prompts have; see `recurring`."""
    explained: int
    there: int
    """Explained by an earlier run."""
    seconds: float

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows with an error."""
        return [row for row in self.rows if row["error"] is not None]


@typed
def explain_many(
    prompts: str | Path | Sequence[str | Mapping[str, Any]],
    out: str | Path,
    model: str = DEFAULT_MODEL,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    workers: str | int = 1,
    options: ExplainOptions | None = None,
    progress: Progress | None = None,
) -> ExplainedMany:
    """Explain many prompts into a folder; run again, it goes on where it was stopped.

    Args:
        prompts: a JSONL file whose lines hold `prompt` and, if wanted, `id`, `instead`, `target`, `groups`, `baseline`;
            or a list of texts and mappings like these.
        out: the folder: `ID.explanation.json` for each, `explanations.jsonl` (a row each), `groups.json` (groups that
            several have).
        workers: processes on this machine, `ray`, or `ray:N`.
        options: what holds where a line says nothing.

    Raises:
        PromptError: a broken line, an empty file, an id that is taken; before anything is explained.
        OptionError: workers that cannot be had; the folder holds explanations of other weights.
        UnweaveError: the model cannot be loaded.
        FileError: another process writes there; the disk is full.

    >>> unweave.explain_many(["The capital of France is", "The capital of Spain is"], "why")    # doctest: +SKIP
    """
    begin, report, folder = time.perf_counter(), progress or (lambda share, title: None), Path(out).expanduser()
    parse_workers(workers)
    jobs = read_explain_jobs(prompts, options or ExplainOptions(), model, dtype)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out {folder} is a file; many prompts need a folder")
    source, kept = ExplainSource(model, dtype, device, str(Path.cwd())), dict[str, dict[str, Any]]()
    with locked(folder, FileError(f"another process is explaining into {folder}; wait, or use another --out folder")):
        for job in jobs:
            facts = _there(folder, job)
            if facts is not None:
                kept[job.id] = facts
        there, todo = len(kept), [job for job in jobs if job.id not in kept]

        def identify(identity: dict[str, str]) -> None:
            if any(facts.get("model_sha256") not in (None, *identity.values()) for facts in kept.values()):
                raise OptionError(f"{folder} holds explanations of other weights of {model}; use another --out folder")

        if todo:
            with closing(work(source, todo, workers, identify)) as found:
                for done, (job, worked) in enumerate(found, 1):
                    kept[job.id] = worked.facts
                    if worked.facts.get("error") is None:
                        write_explanation(worked.facts, folder / f"{job.id}{SUFFIX}")
                    report(done / len(todo), f"{done} of {len(todo)} prompts")
        rows = tuple(_row(job, kept[job.id]) for job in jobs)
        whole = [job for job in jobs if kept[job.id].get("error") is None]
        groups = recurring([kept[job.id] for job in whole])
        for group in groups:
            group["prompts"] = [whole[number].id for number in group.pop("explanations")]
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_atomically(folder / INDEX, lambda name: Path(name).write_text(lines, "utf-8"))
        text = json.dumps({"prompts": len(whole), "groups": groups}, indent=1, ensure_ascii=False)
        write_atomically(folder / GROUPS, lambda name: Path(name).write_text(text, "utf-8"))
    return ExplainedMany(
        folder, rows, tuple(groups), len(todo), there, round(time.perf_counter() - begin, 3)
    )  # fmt: skip


def read_explain_jobs(
    source: str | Path | Sequence[str | Mapping[str, Any]], options: ExplainOptions, model: str, dtype: str
) -> list[ExplainJob]:
    """The prompts of a JSONL file, or of a list of texts and mappings as its lines hold.

    Raises:
        PromptError: no file, no prompt in it, or a broken line, with its number.
    """
    if isinstance(source, (str, Path)):
        place, lines = str(source), jsonl_lines(Path(source).expanduser())
    else:
        given = [{"prompt": line} if isinstance(line, str) else line for line in source]
        place, lines = "the prompts", enumerate(given, 1)
    found: dict[str, ExplainJob] = {}
    for number, content in lines:
        try:
            line = _ExplainLine.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"] if part in _ExplainLine.model_fields)
            raise PromptError(
                f"{place}, line {number}: {where or 'the line'}: {first['msg'].lower()}; a line may hold "
                f"{', '.join(_ExplainLine.model_fields)}"
            ) from error
        if line.baseline not in (None, "auto", "mean", "zero"):
            raise PromptError(f"{place}, line {number}: baseline {line.baseline!r} is none of auto, mean, zero")
        own = {name: value for name in asdict(options) if (value := getattr(line, name)) is not None}
        asked = ExplainOptions(**{**asdict(options), **own})
        whole = [model, dtype, line.prompt, line.instead, asdict(asked)]
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        name = line.prompt if isinstance(line.prompt, str) else " ".join(map(str, line.prompt))
        job = ExplainJob(
            line.id or f"{slug_of(name)}-{digest[:8]}", number, line.prompt, line.instead, asked, digest
        )  # fmt: skip
        first = found.setdefault(job.id.casefold(), job)
        if first.digest != digest or first.id != job.id:
            raise PromptError(f"{place}, line {number}: id {job.id!r} is taken by line {first.line}; give another")
    if not found:
        raise PromptError(
            f'{place} holds no prompt; write one a line, such as {{"prompt": "The capital of France is"}}'
        )
    return list(found.values())


def _there(folder: Path, job: ExplainJob) -> dict[str, Any] | None:
    """What an earlier run found; None where it is not there whole, or of another question.

    Raises:
        PromptError: a file of that name answers another question.
    """
    path = folder / f"{job.id}{SUFFIX}"
    try:
        facts = read_explanation(path.read_bytes(), path)
    except (OSError, FileError):
        return None
    if facts.get("request") != job.digest:
        raise PromptError(
            f"{folder} has id {job.id!r} (line {job.line}) with another prompt or options; give it another id, or use "
            f"another --out folder"
        )
    return facts


def _row(job: ExplainJob, facts: Mapping[str, Any]) -> dict[str, Any]:
    prompt = job.prompt if isinstance(job.prompt, str) else " ".join(map(str, job.prompt))
    error = facts.get("error")
    row = {"id": job.id, "line": job.line, "prompt": prompt, "error": error}
    if error is not None:
        return row | {"verdict": "failed"}
    hangs = [sentence for sentence in facts["sentences"] if sentence["kind"] == "hangs"]
    first = facts["groups"][hangs[0]["groups"][0]] if hangs else None
    necessary = first is not None and first["probability"] < facts["answer"]["probability"] / 2
    verdict = "nothing found" if not facts["found"] else "necessary" if necessary else "part of it"
    return row | {
        "answer": facts["answer"]["token"],
        "probability": facts["answer"]["probability"],
        "rival": facts["rival"]["token"],
        "instead": facts["baseline"]["instead"],
        "hangs": None if first is None else first["name"],
        "share": None if first is None else first["share"],
        "f": facts["together"]["share"],
        "sentences": len(facts["sentences"]),
        "seconds": facts.get("seconds"),
        "verdict": verdict,
    }
