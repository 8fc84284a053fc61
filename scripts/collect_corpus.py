"""Collect an English corpus out of Debian packages, without a network other than apt and without root.

    python scripts/collect_corpus.py OUT [--packages NAME ...] [--held-out 0.005]

Writes OUT/train/{prose,code}.jsonl and OUT/held-out/{prose,code}.jsonl, one `{"text", "source"}` a line in the order
of the text's sha256 (any prefix is a fair mixture), and OUT/sources.json. Packages are kept under OUT/debs;
OUT/files is where they are unpacked.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from corpus_readers import (
    Paragraphs,
    code,
    entries,
    fortunes,
    gcide,
    markup,
    messages,
    plain,
    pod,
    r_strings,
    strings,
    sword,
    wordnet,
)

LEAST, GROUP, MOST = 200, 1500, 8000
"""Characters of a document: at least, what short neighbours are grouped up to, at most."""
REPEATED = 5
"""A paragraph found in more than this many files of a package is furniture (navigation, a licence) and left out."""
ENGLISH = re.compile(
    r"\b(?:the|of|and|to|a|in|is|that|for|it|with|as|be|or|on|by|not|this|are|an|his|he|you|from|at|which|have|was|i)\b",
    re.IGNORECASE,
)


class Row(NamedTuple):
    package: str
    kind: str
    read: Callable[[Path, str], Iterator[Paragraphs]]
    pattern: str
    cap: float = 8e6
    """Characters taken at most, by hash."""


DOC = "usr/share/doc"
ROWS = (
    # stories, novels, verse
    Row("r-cran-janeaustenr", "prose", r_strings, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"),
    Row("r-cran-tokenizers", "prose", r_strings, "usr/lib/R/site-library/tokenizers/data/Rdata.rdb"),
    Row("golang-1.19-src", "prose", plain, "usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt"),
    Row("endless-sky-data", "prose", strings, "usr/share/games/endless-sky/data/**/*.txt"),
    *(Row(f"wesnoth-1.16-{name}", "prose", strings, "usr/share/games/wesnoth/**/*.cfg")
      for name in "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs".split()),
    Row("crossfire-maps", "prose", messages, "usr/share/games/crossfire/maps/**/*"),
    Row("crawl-common", "prose", fortunes, "usr/share/crawl/dat/descript/*.txt"),
    Row("freeciv-data", "prose", strings, "usr/share/games/freeciv/**/*.ruleset"),
    Row("fortunes", "prose", fortunes, "usr/share/games/fortunes/*"),
    Row("fortunes-min", "prose", fortunes, "usr/share/games/fortunes/*"),
    Row("fortune-anarchism", "prose", fortunes, "usr/share/games/fortunes/*"),
    # encyclopedias and dictionaries
    Row("dict-gcide", "prose", gcide, "usr/share/dictd/gcide.dict.dz", 12e6),
    Row("dict-wn", "prose", wordnet, "usr/share/dictd/wn.dict.dz", 6e6),
    Row("dict-foldoc", "prose", entries, "usr/share/dictd/foldoc.dict.dz"),
    Row("dict-jargon", "prose", entries, "usr/share/dictd/jargon.dict.dz"),
    Row("dict-devil", "prose", plain, "usr/share/dictd/devil.dict.dz"),
    Row("kstars-data", "prose", markup, f"{DOC}/HTML/en/kstars/*.docbook"),
    # argument, religion, society
    Row("anarchism", "prose", markup, f"{DOC}/anarchism/**/*.html", 7e6),
    Row("cfi-en", "prose", markup, f"{DOC}/cfi-en/html/*.htm*"),
    Row("sword-comm-mhcc", "prose", sword, "usr/share/sword/modules/**/*.bzs"),
    Row("sword-comm-tdavid", "prose", sword, "usr/share/sword/modules/**/*.czs", 5e6),
    Row("sword-text-web", "prose", sword, "usr/share/sword/modules/**/*.bzs"),
    Row("display-dhammapada", "prose", plain, "usr/share/display-dhammapada/dhammapada-[ea]*.txt"),
    # handbooks, guides, questions and answers
    Row("debian-handbook", "prose", markup, f"{DOC}/debian-handbook/html/en-US/*.html"),
    Row("installation-guide-amd64", "prose", markup, f"{DOC}/installation-guide-amd64/en/*.html"),
    Row("debian-faq", "prose", markup, f"{DOC}/debian/FAQ/**/*.html"),
    Row("debian-reference-en", "prose", markup, "usr/share/debian-reference/**/*.html"),
    Row("debian-kernel-handbook", "prose", markup, f"{DOC}/debian-kernel-handbook/**/*.html"),
    Row("debian-edu-doc-en", "prose", markup, f"{DOC}/debian-edu-doc-en/*bookworm*.html"),
    Row("developers-reference", "prose", markup, "usr/share/developers-reference/*.html"),
    Row("debian-policy", "prose", markup, f"{DOC}/debian-policy/policy.html/*.html"),
    Row("maint-guide", "prose", markup, f"{DOC}/maint-guide/**/*.html"),
    Row("harden-doc", "prose", markup, f"{DOC}/harden-doc/html/en-US/*.html"),
    Row("aptitude-doc-en", "prose", markup, f"{DOC}/aptitude/html/en/*.html"),
    Row("live-manual-html", "prose", markup, f"{DOC}/live-manual/html/**/*.en.html"),
    Row("gnome-user-docs", "prose", markup, "usr/share/help/C/**/*.page"),
    Row("evolution-common", "prose", markup, "usr/share/help/C/**/*.page"),
    Row("mate-user-guide", "prose", markup, "usr/share/help/C/**/*.*"),
    Row("gnumeric-doc", "prose", markup, "usr/share/help/C/**/*.xml"),
    Row("libreoffice-help-en-us", "prose", markup, "usr/share/libreoffice/help/en-US/text/**/*.html", 4e6),
    Row("gimp-help-en", "prose", markup, "usr/share/gimp/**/*.html"),
    Row("lilypond-doc-html", "prose", markup, f"{DOC}/lilypond/html/**/*[!.][!.][!.].html", 3e6),
    Row("abs-guide", "prose", markup, f"{DOC}/abs-guide/html/*.html"),
    Row("mh-book", "prose", markup, f"{DOC}/mh-book/html/**/*.html"),
    Row("git-annex", "prose", markup, f"{DOC}/git-annex/html/**/*.html"),
    Row("ikiwiki", "prose", markup, f"{DOC}/ikiwiki/html/**/*.html"),
    Row("exim4-doc-html", "prose", markup, f"{DOC}/exim4*/**/*.html"),
    Row("postfix-doc", "prose", markup, f"{DOC}/postfix/html/*README.html"),
    Row("mutt", "prose", markup, f"{DOC}/mutt/html/*.html"),
    Row("apache2-doc", "prose", markup, f"{DOC}/apache2-doc/manual/en/**/*.html", 3e6),
    # programming
    Row("perl-doc", "prose", pod, "usr/share/perl/**/*.pod", 6e6),
    Row("python3.11-doc", "prose", markup, f"{DOC}/python3.11/html/[!g]*/**/*.html", 6e6),
    Row("python-django-doc", "prose", markup, f"{DOC}/python-django-doc/html/[!_]*/**/*.html", 4e6),
    Row("python-sklearn-doc", "prose", markup, f"{DOC}/python-sklearn-doc/**/modules/[!g]*.html", 3e6),
    *(Row("rust-doc", "prose", markup, f"{DOC}/rust-doc/html/{book}/**/*.html", 2e6)
      for book in "book reference nomicon rust-by-example cargo edition-guide".split()),
    Row("sqlite3-doc", "prose", markup, f"{DOC}/sqlite3/*.html", 5e6),
    Row("postgresql-doc-15", "prose", markup, f"{DOC}/**/*.html", 5e6),
    Row("git-doc", "prose", markup, f"{DOC}/git-doc/**/*.html"),
    Row("llvm-14-doc", "prose", markup, f"{DOC}/llvm-14-doc/html/**/*.html", 3e6),
    Row("linux-doc-6.1", "prose", markup, f"{DOC}/linux-doc-6.1/html/[!s]*/**/[!a]*.html", 5e6),
    Row("racket-doc", "prose", markup, f"{DOC}/racket/guide/*.html", 2e6),
    Row("r-doc-html", "prose", markup, "usr/share/R/doc/manual/*.html"),
    Row("octave-doc", "prose", markup, f"{DOC}/octave/octave.html/*.html", 2e6),
    Row("nodejs-doc", "prose", markup, f"{DOC}/nodejs/api/*.html", 2e6),
    # code
    Row("libpython3.11-stdlib", "code", code, "usr/lib/python3*/**/*.py", 6e6),
    Row("perl-modules-5.36", "code", code, "usr/share/perl/**/*.pm", 4e6),
    Row("libruby3.1", "code", code, "usr/lib/ruby/3.1.0/**/*.rb", 4e6),
    Row("golang-1.19-src", "code", code, "usr/share/go-1.19/src/[!c]*/**/[!z]*.go", 4e6),
    Row("npm", "code", code, "usr/share/nodejs/npm/**/*.js", 3e6),
    Row("libstb-dev", "code", code, "usr/include/stb/*.h", 2e6),
    Row("libeigen3-dev", "code", code, "usr/include/eigen3/**/*.h", 2e6),
    Row("librust-regex-dev", "code", code, "usr/share/cargo/registry/**/*.rs", 2e6),
    Row("librust-serde-dev", "code", code, "usr/share/cargo/registry/**/*.rs", 1e6),
    Row("librust-clap-dev", "code", code, "usr/share/cargo/registry/**/*.rs", 1e6),
)  # fmt: skip


def documents(paragraphs: Paragraphs) -> Iterator[str]:
    """Consecutive paragraphs in pieces of at most `MOST` characters, cut at paragraphs; a longer paragraph is left
    out."""
    piece: list[str] = []
    size = 0
    for paragraph in paragraphs:
        if len(paragraph) > MOST - 2:
            continue
        if piece and size + len(paragraph) + 2 > MOST:
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph)
        size += len(paragraph) + 2
    if piece:
        yield "\n\n".join(piece)


def grouped(parts: Iterator[str]) -> Iterator[str]:
    """Neighbours shorter than a document put together."""
    held = ""
    for part in parts:
        if len(part) >= GROUP:
            if held:
                yield held
            held = ""
            yield part
        else:
            held = f"{held}\n\n{part}" if held else part
            if len(held) >= GROUP:
                yield held
                held = ""
    if held:
        yield held


def readable(text: str, kind: str) -> bool:
    if not LEAST <= len(text) <= MOST + GROUP:
        return False
    if kind == "code":
        return text.isascii() and len(text.split()) > 20
    words = re.findall(r"[^\W\d_]+", text)
    letters = sum(map(len, words))
    return (
        bool(words) and letters / len("".join(text.split())) > 0.72 and len(ENGLISH.findall(text)) / len(words) > 0.14
    )


def texts(row: Row, folder: Path) -> list[str]:
    """A package's documents, each once, at most `cap` characters of them."""
    found = [paragraphs for paragraphs in row.read(folder, row.pattern) if paragraphs]
    if row.kind == "prose":
        count = Counter(paragraph for paragraphs in found for paragraph in set(paragraphs))
        found = [[paragraph for paragraph in paragraphs if count[paragraph] <= REPEATED] for paragraphs in found]
        pieces = grouped(piece for paragraphs in found for piece in documents(paragraphs))
    else:
        pieces = (piece for paragraphs in found for piece in documents(paragraphs))
    # A cap must not favour the hashes that are held out or come first in the output, so it goes by the digest's other
    # end.
    kept = sorted(
        {piece.strip("\n") for piece in pieces if readable(piece, row.kind)}, key=lambda text: digest(text)[::-1]
    )
    size, out = 0, []
    for text in kept:
        size += len(text)
        if size > row.cap:
            break
        out.append(text)
    return out


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


def download(packages: list[str], folder: Path) -> None:
    """What is not in the folder yet, in one call of apt, or one by one if apt does not know them all."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not archive(package, folder)]
    if missing and subprocess.run(["apt-get", "download", "-qq", *missing], cwd=folder, capture_output=True).returncode:
        for package in missing:
            run = subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, capture_output=True, text=True)
            if run.returncode:
                reason = next(
                    (line for line in run.stderr.splitlines() if line.startswith("E:")), "apt-get download failed"
                )
                print(f"warning: {package} skipped: {reason}", file=sys.stderr)


def archive(package: str, folder: Path) -> Path | None:
    return max(folder.glob(f"{package}_*.deb"), default=None)


def unpack(deb: Path, folder: Path) -> bool:
    if folder.is_dir():
        return True
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if subprocess.run(["dpkg", "-x", str(deb), str(partial)], capture_output=True).returncode:
        print(
            f"warning: {folder.name} skipped: {deb.name} cannot be unpacked; delete it and try again", file=sys.stderr
        )
        return False
    partial.rename(folder)
    return True


Lines = dict[tuple[str, str], list[tuple[bytes, str]]]
"""By part and kind: hashes of texts, and their lines."""
Table = dict[tuple[str, str], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", nargs="+", metavar="NAME", help="only these of the table's packages")
    parser.add_argument("--held-out", type=float, default=0.005, metavar="SHARE")
    options = parser.parse_args()
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            fail(f"{tool} is not here; this script needs Debian or one of its children")
    unknown = set(options.packages or ()) - {row.package for row in ROWS}
    if unknown:
        fail(f"no rule for package {sorted(unknown)[0]}; the table at the top of this script names those there are")
    rows = [row for row in ROWS if not options.packages or row.package in options.packages]
    out = options.out.expanduser()
    packages = list(dict.fromkeys(row.package for row in rows))
    try:
        download(packages, out / "debs")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")
    debs = {
        package: deb
        for package in packages
        if (deb := archive(package, out / "debs")) and unpack(deb, out / "files" / package)
    }
    rows = [row for row in rows if row.package in debs]
    if not rows:
        fail("none of the packages could be had; run `apt-get update` first, or check apt's sources")
    lines, table = gather(rows, debs, out, options.held_out)
    for entry in table.values():
        print("{package:26} {version:28} {kind:5} {documents:7,} documents {characters:11,} characters".format(**entry))
    sums = write_parts(lines, out)
    write(
        out / "sources.json", (json.dumps({"packages": list(table.values()), "files": sums}, indent=1) + "\n").encode()
    )


def gather(rows: list[Row], debs: dict[str, Path], out: Path, held_out: float) -> tuple[Lines, Table]:
    """Each text once, as JSON under its part and kind, and how much there is of each package."""
    seen: set[bytes] = set()
    lines: Lines = {(part, kind): [] for part in ("train", "held-out") for kind in ("prose", "code")}
    table: Table = {}
    with ProcessPoolExecutor(2) as pool:
        for row, found in zip(rows, pool.map(texts, rows, [out / "files" / row.package for row in rows]), strict=True):
            version = debs[row.package].name.split("_")[1].replace("%3a", ":")
            entry = table.setdefault(
                (row.package, row.kind),
                {"package": row.package, "version": version, "kind": row.kind, "documents": 0, "characters": 0},
            )
            for text in found:
                key = digest(text)
                if key in seen:
                    continue
                seen.add(key)
                part = "held-out" if int.from_bytes(key[:8], "big") / 2**64 < held_out else "train"
                lines[part, row.kind].append(
                    (key, json.dumps({"text": text, "source": row.package}, ensure_ascii=False))
                )
                entry["documents"] += 1
                entry["characters"] += len(text)
    return lines, table


def write_parts(lines: Lines, out: Path) -> dict[str, dict[str, str | int]]:
    """One file a part and kind, in the order of hashes; what each holds."""
    sums = {}
    for (part, kind), found in lines.items():
        path = out / part / f"{kind}.jsonl"
        path.parent.mkdir(exist_ok=True)
        data = "".join(line + "\n" for _, line in sorted(found)).encode()
        write(path, data)
        sums[f"{part}/{kind}.jsonl"] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "documents": len(found),
            "bytes": len(data),
        }
        print(f"{path}: {len(found):,} documents, {len(data) / 1e6:.1f} MB")
    return sums


def write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


if __name__ == "__main__":
    main()
