"""Names of features from a file: a table, a list of records such as Neuronpedia's explanations, or an object."""

import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..base.jsontext import parse_json
from ..errors import FileError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
"""Of label files; each may end in .gz as well."""
MOST_BYTES = 1 << 30
_KEY = re.compile(r"[Ll]?(\d{1,9})[_/](\d{1,9})")
_LAYER = re.compile(r"[Ll]?(\d{1,9})(-.*)?")
_TEXTS = ("label", "description", "explanation", "name", "clerp")


def read_labels(path: Path) -> dict[tuple[int, int], str]:
    """Labels by layer and index; of several for one feature the first.

    A `.json` object names features `LAYER_INDEX` or `LAYER/INDEX`; a list, `.jsonl`, or the rows of a `.csv` or `.tsv`
    with a header have `layer` (`20` or `20-clt-hp`), `index` or `feature`, and `label` or `description`.

    Raises:
        FileError: the file cannot be read, or names no feature.
    """
    name = path.name.removesuffix(".gz")
    if not name.endswith(SUFFIXES):
        raise FileError(f"{path} is no file of labels; its name must end in one of {', '.join(SUFFIXES)}, or these .gz")
    try:
        body = path.read_bytes()
        if name != path.name:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as packed:
                body = packed.read(MOST_BYTES)
        text = body.decode("utf-8-sig")
        found: dict[tuple[int, int], str] = {}
        for key, label in _named(text, name):
            found.setdefault(key, label)
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise FileError(f"cannot read labels from {path} ({type(error).__name__}: {error})") from error
    if not found:
        raise FileError(f"{path} names no feature; give objects with layer, index and label, or LAYER_INDEX: label")
    return found


def _named(text: str, name: str) -> Iterator[tuple[tuple[int, int], str]]:
    if name.endswith(".json"):
        content = parse_json(text)
        if isinstance(content, dict):
            for key, label in content.items():
                match = _KEY.fullmatch(key)
                if match is None:
                    raise ValueError(f"{key!r} is no LAYER_INDEX")
                yield (int(match[1]), int(match[2])), str(label)
            return
        records: Iterable[Any] = content
    elif name.endswith(".jsonl"):
        records = (parse_json(line) for line in text.splitlines() if line.strip())
    else:
        records = csv.DictReader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ",")
    for record in records:
        layer = _LAYER.fullmatch(str(record["layer"]))
        if layer is None:
            raise ValueError(f"{record['layer']!r} is no layer")
        label = next((str(record[word]) for word in _TEXTS if record.get(word)), "")
        if label:
            yield (int(layer[1]), int(record["index"] if "index" in record else record["feature"])), label
