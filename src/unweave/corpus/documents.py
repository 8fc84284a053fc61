"""Documents: text files, folders, JSON lines, Parquet and Hugging Face datasets, one document after the other."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from ..base.hub import first_line
from ..errors import TextError

LONG, PIECE = 20_000, 8_000
"""A text file of more characters than `LONG` is cut into pieces of about `PIECE`."""


@dataclass(frozen=True)
class Chat:
    """A conversation, kept as (role, content) pairs until a model's chat template renders it."""

    messages: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """What was said, without roles: what is hashed and measured."""
        return "\n\n".join(content for _, content in self.messages)


def parse_source(spec: str) -> tuple[str, float]:
    """A source and its weight: `path=0.3` weighs 0.3, all else 1. What exists under the whole name is taken as it is.

    >>> parse_source("corpus.jsonl=0.3"), parse_source("notes/a=b.txt")
    (('corpus.jsonl', 0.3), ('notes/a=b.txt', 1.0))

    Raises:
        TextError: a weight that is not above 0 and finite.
    """
    source, sign, number = spec.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        return spec, 1.0
    if not sign or not source or os.path.exists(os.path.expanduser(spec)):
        return spec, 1.0
    if not (math.isfinite(weight) and weight > 0):
        raise TextError(f"the weight of {source} is {number}; give a number above 0")
    return source, weight


def documents(source: str) -> Iterator[str | Chat]:
    """The documents of one source, always in the same order, read as they are asked for.

    A source is a text file (one document; one of more than 20,000 characters is cut at paragraphs into pieces of about
    8,000), JSON lines (`.jsonl`, `.json`) or Parquet with a key `text` or `messages` (a list of {role, content}), a
    folder (all files beneath it by path, but hidden ones and those that are not text), or a Hugging Face dataset
    `org/name[:split][@revision]` (split `train` unless given; needs the `datasets` library).

    Raises:
        TextError: not found, not readable, not UTF-8, a record without text, or no text at all.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        files = [file for file in files if file.suffix.lower() == ".parquet" or _looks_like_text(file)]
        if not files:
            raise TextError(f"folder {path} holds no file of text")
        found = chain.from_iterable(map(_file, files))
    elif path.exists():
        found = _file(path)
    elif (
        source.count("/") == 1
        and source[0] not in "./~"
        and path.suffix.lower() not in (".txt", ".md", ".json", ".jsonl", ".parquet")
    ):
        found = _dataset(source)
    else:
        raise TextError(f"no text at {source}: there is no such file or folder")
    some = False
    for document in found:
        if (document if isinstance(document, str) else document.text).strip():
            some = True
            yield document
    if not some:
        raise TextError(f"{source} holds no text")


def mixed(sources: Sequence[tuple[str, float]], *, repeat: bool = False) -> Iterator[str | Chat]:
    """Documents of several sources, in characters by their weights; always in the same order.

    The next document comes from the source that has given the fewest characters for its weight (the first of equals).
    A source at its end drops out, or starts again with `repeat`, and then this never ends.

    Raises:
        TextError: as `documents`, or no source at all.
    """
    if not sources:
        raise TextError("no source of text was given")
    streams = {place: documents(source) for place, (source, _) in enumerate(sources)}
    given = [0] * len(sources)
    while streams:
        place = min(streams, key=lambda i: given[i] / sources[i][1])
        document = next(streams[place], None)
        if document is not None:
            given[place] += len(document if isinstance(document, str) else document.text)
            yield document
        elif repeat:
            streams[place] = documents(sources[place][0])
        else:
            del streams[place]


def _file(path: Path) -> Iterator[str | Chat]:
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".json"):
            yield from _json_lines(path)
        elif suffix == ".parquet":
            yield from _parquet(path)
        else:
            yield from _text_file(path)
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text ({error.reason}); convert it, or leave it out") from error
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from error


def _looks_like_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 and len(start) == 4096  # a character cut in two
    return b"\0" not in start


def _text_file(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(LONG + 1)
        if len(head) <= LONG:
            yield head
            return
        file.seek(0)
        piece: list[str] = []
        size = 0
        for line in file:
            if (size >= PIECE and not line.strip()) or size >= LONG:
                yield "".join(piece).strip("\n")
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        yield "".join(piece).strip("\n")


def _json_lines(path: Path) -> Iterator[str | Chat]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TextError(
                    f"{path}, line {number}: not a line of JSON ({first_line(error)}); write one object a line"
                ) from error
            yield _document(record, f"{path}, line {number}")


def _parquet(path: Path) -> Iterator[str | Chat]:
    """Rows by batches, through pyarrow or else duckdb: neither is needed for anything else."""
    place = 0
    for names, rows in _parquet_batches(path):
        for row in rows:
            place += 1
            yield _document(dict(zip(names, row, strict=True)), f"{path}, row {place}")


def _parquet_batches(path: Path) -> Iterator[tuple[list[str], Iterable[Sequence[Any]]]]:
    library = _first_library("pyarrow.parquet", "duckdb")
    if library is None:
        raise TextError(f"{path} is a Parquet file; install pyarrow (or duckdb) to read it: pip install pyarrow")
    try:
        if library.__name__ == "duckdb":
            connection = library.connect()
            columns = [
                row[0] for row in connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            ]
            name = _key(columns, str(path))
            rows = connection.execute(f"SELECT {name} FROM read_parquet(?)", [str(path)])
            while batch := rows.fetchmany(1024):
                yield [name], batch
        else:
            with library.ParquetFile(path) as file:
                name = _key(file.schema_arrow.names, str(path))
                for batch in file.iter_batches(1024, columns=[name]):
                    yield [name], [[value] for value in batch.column(0).to_pylist()]
    except TextError:
        raise
    except Exception as error:  # each library has errors of its own
        raise TextError(f"cannot read {path}: {first_line(error)}") from error


def _dataset(source: str) -> Iterator[str | Chat]:
    library = _first_library("datasets")
    if library is None:
        raise TextError(
            f"no file or folder {source}; to read it as a Hugging Face dataset, install the datasets library: pip "
            f"install datasets"
        )
    rest, _, revision = source.partition("@")
    name, _, split = rest.partition(":")
    try:
        for place, record in enumerate(
            library.load_dataset(name, split=split or "train", revision=revision or None, streaming=True), 1
        ):
            yield _document(record, f"{source}, record {place}")
    except TextError:
        raise
    except Exception as error:  # offline, gated, not found, no such split: the library's own words say which
        raise TextError(
            f"no file or folder {source}, and as a Hugging Face dataset it cannot be read: {first_line(error)}"
        ) from error


def _first_library(*names: str) -> Any | None:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def _key(names: Iterable[str], where: str) -> str:
    names = list(names)
    for key in ("text", "messages"):
        if key in names:
            return key
    raise TextError(
        f"{where}: neither 'text' nor 'messages' in it; it has {', '.join(map(repr, names[:8])) or 'no keys'}"
    )


def _document(record: Any, where: str) -> str | Chat:
    if not isinstance(record, dict):
        raise TextError(f"{where}: {type(record).__name__} instead of an object with 'text' or 'messages'")
    key = _key(record, where)
    value: Any = record[key]
    if key == "text":
        if not isinstance(value, str):
            raise TextError(f"{where}: 'text' is {value!r:.40}, not a string")
        return _encodable(value)
    messages: list[Any] = list(value) if isinstance(value, list | tuple) else [None]
    if not all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    ):
        raise TextError(f"{where}: 'messages' must be a list of objects with the strings 'role' and 'content'")
    return Chat(tuple((message["role"], _encodable(message["content"])) for message in messages))


def _encodable(text: str) -> str:
    """JSON may hold halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
