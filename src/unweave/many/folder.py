"""The folder of many graphs: what was done is on disk whole or not at all, one process writes, and nothing is done
twice.

A graph is written first, then a line of the journal that says so; a process killed between the two leaves a graph of
its own that is written again. The index is made from the journal.
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from safetensors import SafetensorError, safe_open

from ..base.files import write_atomically
from ..errors import FileError, OptionError, PromptError
from .lines import PromptJob, TraceOptions
from .work import Traced

INDEX = "index.parquet"
SETTINGS, JOURNAL = ".settings.json", ".journal.jsonl"
SUFFIX = ".graph.safetensors"
INDEX_SECONDS = 60.0
"""The index is written anew so often while prompts are traced, and at the end."""
COLUMNS = {
    "id": "VARCHAR", "line": "INTEGER", "prompt": "VARCHAR", "tokens": "VARCHAR[]", "token_ids": "INTEGER[]",
    "position": "INTEGER",
    "targets": "STRUCT(token VARCHAR, id INTEGER, probability DOUBLE)[]", "replacement": "DOUBLE",
    "completeness": "DOUBLE", "logits_error": "DOUBLE",
    "residual": "DOUBLE", "unexplained": "DOUBLE", "active_features": "INTEGER", "features": "INTEGER",
    "edges": "BIGINT", "kept_nodes": "INTEGER",
    "kept_edges": "BIGINT",
    "strongest": "STRUCT(node VARCHAR, token VARCHAR, influence DOUBLE, activation DOUBLE, promotes VARCHAR[], label "
        "VARCHAR)[]",
    "seconds": "DOUBLE", "attribution_seconds": "DOUBLE", "file": "VARCHAR", "bytes": "BIGINT", "error": "VARCHAR",
    "error_kind": "VARCHAR",
    "created": "VARCHAR", "version": "VARCHAR", "digest": "VARCHAR",
}  # fmt: skip
"""Of the index, as DuckDB calls their types."""


@dataclass
class Store:
    """What a folder holds, for the one process that writes there."""

    folder: Path
    jobs: Sequence[PromptJob]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, the last line of the journal about it."""
    settings: dict[str, Any] = field(default_factory=dict)
    written: float = field(default_factory=time.monotonic)
    """When the index was written last."""

    @staticmethod
    def open(folder: Path, jobs: Sequence[PromptJob], options: TraceOptions) -> "Store":
        """Read what is there, clear away what a killed process left half-written.

        Raises:
            FileError: the folder cannot be read or written.
            OptionError: it was made with other options.
            PromptError: a prompt's id is taken there by another prompt.
        """
        store = Store(folder, jobs)
        store.settings = _settings(folder)
        kept, now = store.settings.get("options"), json.loads(json.dumps(asdict(options)))
        if kept is not None:
            store.check(_differences({**json.loads(json.dumps(asdict(TraceOptions()))), **kept}, now))
        store._read_journal()
        for job in jobs:
            record = store.records.get(job.id)
            if record is not None and record["digest"] != job.digest:
                raise PromptError(
                    f"{folder} has id {job.id!r} (line {job.line}) with another prompt or options; give it another "
                    f"id, or use another --out folder"
                )
        for name in (f"*{SUFFIX}", INDEX, SETTINGS, JOURNAL):
            for leftover in folder.glob(f".{name}.*"):
                leftover.unlink(missing_ok=True)
        store.settings |= {"options": now}
        return store

    def check(self, differences: Sequence[str]) -> None:
        """Refuse to mix graphs of two kinds.

        Raises:
            OptionError: naming what differs.
        """
        if differences:
            raise OptionError(
                f"{self.folder} was made with other options: {'; '.join(differences)}; use the same, or another --out "
                f"folder"
            )

    def identify(self, identity: dict[str, str]) -> None:
        """Take note of the model and the dictionary before the first graph, or compare them.

        Raises:
            OptionError: the folder holds graphs of others.
            FileError: it cannot be written.
        """
        known = self.settings.get("identity")
        if known is None:
            self.settings |= {"format": "unweave many prompts", "identity": identity}
            text = json.dumps(self.settings, indent=1)
            write_atomically(self.folder / SETTINGS, lambda name: Path(name).write_text(text))
            return
        found = [f"dtype {known['dtype']} (asked: {identity['dtype']})"] if known["dtype"] != identity["dtype"] else []
        for what, name in (("model", "model"), ("dictionary", "transcoders")):
            ours = (identity[f"{name}_sha256"], identity.get(f"{name}_weights_sha256"))  # the second: earlier versions
            if known[f"{name}_sha256"] not in ours:
                renamed = known[name] != identity[name]
                found.append(
                    f"{what} {known[name]} (asked: {identity[name]})"
                    if renamed
                    else f"the weights of {what} {known[name]} have changed"
                )
        self.check(found)

    def done(self, job: PromptJob) -> bool:
        """Whether a prompt's graph is there, whole; prompts that failed are tried again."""
        record = self.records.get(job.id)
        if record is None or record.get("error") is not None:
            return False
        with suppress(OSError):
            return (self.folder / record["file"]).stat().st_size == record["bytes"]
        return False

    def keep(self, job: PromptJob, traced: Traced) -> dict[str, Any]:
        """Write a graph and the journal's line about it; from time to time the index.

        Raises:
            FileError: the disk is full, or the folder has gone.
        """
        facts, path = traced.facts, self.folder / f"{job.id}{SUFFIX}"
        if traced.graph is not None and not self._ours(path, job):
            facts = {
                "error": f"{path} is there and no graph of this prompt; move it away, or give the prompt another id",
                "error_kind": "FileError",
            }
        elif traced.graph is not None:
            content = traced.graph
            write_atomically(path, lambda name: Path(name).write_bytes(content))
            facts = {**facts, "file": path.name}
        request = job.request
        prompt = (
            json.dumps([dict(zip(("role", "content"), message, strict=True)) for message in request.messages])
            if request.messages
            else request.text
        )
        whole = {
            "id": job.id,
            "line": job.line,
            "prompt": prompt,
            "token_ids": request.ids,
            **facts,
            "digest": job.digest,
        }
        record = json.loads(json.dumps(whole), parse_constant=lambda word: None)  # JSON knows no NaN
        self.records[job.id] = record
        self._append(record)
        if time.monotonic() - self.written > INDEX_SECONDS:
            self.write_index()
        return record

    def write_index(self) -> Path:
        """Write the index: the prompts of this run in their order, then those of earlier ones.

        Raises:
            FileError: it cannot be written.
        """
        order = {job.id: job for job in self.jobs}
        rows = [{**self.records[job.id], "line": job.line} for job in self.jobs if job.id in self.records]
        rows += [{**record, "line": None} for name, record in self.records.items() if name not in order]
        lines = "".join(f"{json.dumps({name: row.get(name) for name in COLUMNS})}\n" for row in rows)
        types = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
        connection = duckdb.connect()
        connection.execute("SET enable_progress_bar = false")
        try:
            with tempfile.NamedTemporaryFile(
                "w", suffix=".jsonl"
            ) as part:  # not in our folder, whose name might hold DuckDB's wildcards
                part.write(lines)
                part.flush()
                read = f"read_json({_quoted(part.name)}, format = 'newline_delimited', columns = {{{types}}})"
                copy = f"COPY (SELECT * FROM {read}) TO "
                path = write_atomically(
                    self.folder / INDEX,
                    lambda name: connection.execute(
                        f"{copy}{_quoted(name)} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
                    ),
                )
        except (duckdb.Error, OSError) as error:
            raise FileError(f"cannot write {self.folder / INDEX}: {str(error).splitlines()[0]}") from error
        self.written = time.monotonic()
        return path

    def _ours(self, path: Path, job: PromptJob) -> bool:
        """Whether a file may be written: nothing is there, or a graph of the same prompt (of a process that was
        killed)."""
        if self.records.get(job.id, {}).get("file") is not None or not path.exists():
            return True
        try:
            with safe_open(path, "pt") as file:
                return json.loads((file.metadata() or {})["provenance"])["extra"]["request"] == job.digest
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return False

    def _read_journal(self) -> None:
        path = self.folder / JOURNAL
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the last one, if a process was killed while it wrote
                record = json.loads(line)
                self.records[record["id"]] = {**record, "digest": record["digest"]}
        whole = "".join(f"{json.dumps(record)}\n" for record in self.records.values())
        if whole != text:
            write_atomically(path, lambda name: Path(name).write_text(whole))

    def _append(self, record: dict[str, Any]) -> None:
        try:
            with (self.folder / JOURNAL).open("a") as file:
                file.write(f"{json.dumps(record)}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"cannot write {self.folder / JOURNAL}: {error.strerror or error}") from error


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text())
        if settings["format"] != "unweave many prompts" or not isinstance(settings["options"], dict):
            raise ValueError("something else")
        return settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); remove it if the graphs there are of this model, dictionary and options"
        ) from error


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{name} {old[name]} (asked: {new[name]})" for name in new if old.get(name) != new[name]]


def _quoted(path: str | Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
