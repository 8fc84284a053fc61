"""From the files of a Debian package to plain English paragraphs: one reader a format, each `folder -> documents as
lists of paragraphs`."""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

Paragraphs = list[str]

SKIPPED = set(
    "head info script style nav header footer form button select svg math noscript object template textarea audio "
    "video figure".split()
)
BLOCKS = set(
    """p div section article main aside h1 h2 h3 h4 h5 h6 li dt dd ul ol dl table tr td th blockquote pre center br
    hr body html address caption figcaption details summary title page item note steps terms para simpara
    formalpara chapter sect1 sect2 sect3 listitem itemizedlist orderedlist varlistentry term screen
    programlisting synopsis tip warning important caution example media""".split()
)
JOINED = dict.fromkeys("gui guimenu guisubmenu guimenuitem".split(), " › ") | dict.fromkeys(("key", "keycap"), "+")
"""What stands between neighbours in a sequence of menus or keys, which Mallard and DocBook leave to the style sheet."""
PREFORMATTED = {"pre", "screen", "programlisting", "synopsis"}
FURNITURE = re.compile(
    r"nav|navbar|nav-?(?:header|footer|side|links?|menu)|navigation|wy-nav-side|(?:[\w-]*-)?toc[\w-]*|(?:global|local)toc|footer|page-?footer|"
    r"side-?bar(?:-\w+)?|sphinxsidebar(?:wrapper)?|related|breadcrumbs?|menu(?:bar)?|headerlink|copyright|legalnotice|authorgroup|"
    r"pubdate|indexterm|idx|genindextable|document-actions|skip\w*|linenos?|(?:ns|r)?footnotes?|docnav|search(?:box)?|edition|revhistory|titlepage-?info|refnamediv-nav"
)
"""Words of a class, id or role that mark what is not text."""

MANUAL_LINKS = re.compile(
    r"(?:Next|Previous|Up): .*\[(?:Contents|Index)\]|Added in: v[\d., v]+$|Stability: "
    r"\d|\[(?:Prev|Next|Contents|Index)\]"
)


class Page(HTMLParser):
    """Paragraphs of an HTML, Mallard or DocBook file, without scripts, navigation or tables of short cells."""

    def __init__(self, skipped: frozenset[str] = frozenset()) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: Paragraphs = []
        self.buffer: list[str] = []
        self.skipped = SKIPPED | skipped
        self.inside: tuple[str, int] | None = None
        self.tables = self.preformatted = 0
        self.bullet = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.inside:
            if tag == self.inside[0]:
                self.inside = (tag, self.inside[1] + 1)
            return
        marks = " ".join(value or "" for key, value in attrs if key in ("class", "id", "role")).lower().split()
        named = tag in ("div", "span", "a", "ul", "ol", "table", "dl", "p", "section", "td") and any(
            map(FURNITURE.fullmatch, marks)
        )
        if tag in self.skipped or named:
            self.flush()
            self.inside = (tag, 1)
            return
        if tag in PREFORMATTED:
            self.flush()
            self.preformatted += 1
        elif tag in BLOCKS and not self.preformatted:
            self.flush()
            self.bullet = "- " if tag in ("li", "listitem", "item") else self.bullet if tag in ("p", "para") else ""
        elif tag == "br":
            self.buffer.append("\n")
        elif tag in JOINED and self.buffer and self.buffer[-1][-1:].isalnum():
            self.buffer.append(JOINED[tag])
        self.tables += tag == "table"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS and not self.inside and not self.preformatted:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if self.inside:
            if tag == self.inside[0]:
                self.inside = (tag, self.inside[1] - 1) if self.inside[1] > 1 else None
            return
        if tag in PREFORMATTED:
            self.flush()
            self.preformatted = max(0, self.preformatted - 1)
        elif tag in BLOCKS and not self.preformatted:
            self.flush()
        self.tables = max(0, self.tables - (tag == "table"))

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.buffer.append(data)

    def flush(self) -> None:
        raw, self.buffer = re.sub(r"[\u200b\xad¶]", "", "".join(self.buffer).replace("\xa0", " ")), []
        raw = re.sub(r"&([A-Za-z][\w.-]*);", r"\1", raw)  # entities of a DTD that is not read
        text = raw.expandtabs(4).strip("\n").rstrip() if self.preformatted else " ".join(raw.split())
        if text.strip() and (not self.tables or self.preformatted or len(text) >= 60) and not MANUAL_LINKS.match(text):
            self.paragraphs.append(text if self.preformatted else self.bullet + text)
            self.bullet = ""


def read_text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace").replace("\r\n", "\n")


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())


def markup(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    for path in files(folder, pattern):
        yield markup_paragraphs(read_text(path))


def markup_paragraphs(text: str) -> Paragraphs:
    page = Page()
    page.feed(text)
    page.close()
    page.flush()
    return page.paragraphs


def reflowed(block: str) -> str:
    """A hard-wrapped paragraph on one line; verse, code and tables as they are."""
    lines = block.expandtabs(8).rstrip().split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines]
    even = len(set(indents[1:])) <= 1
    wide = len(lines) == 1 or sum(map(len, lines[:-1])) / (len(lines) - 1) - min(indents) >= 48
    ragged = any(re.search(r"\S {3,}\S", line) for line in lines)
    if even and wide and not ragged:
        return " ".join(line.strip() for line in lines)
    return "\n".join(line[min(indents) :].rstrip() for line in lines)


def blocks(text: str) -> Paragraphs:
    return [reflowed(block.strip("\n")) for block in re.split(r"\n[ \t]*\n", text) if block.strip()]


def plain(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    for path in files(folder, pattern):
        yield blocks(read_text(path))


def fortunes(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    for path in files(folder, pattern):
        if path.suffix in (".dat", ".u8") or "ascii-art" in path.name:
            continue
        for part in re.split(r"^%.*$", re.sub(r".\x08", "", read_text(path)), flags=re.MULTILINE):
            if part.strip() and not re.search(r"\{\{|\$cmd|<input>|^#", part, re.MULTILINE):
                yield ["\n".join(reflowed(block) for block in re.split(r"\n\s*\n", part.strip("\n").expandtabs(4)))]


def unwrapped(lines: list[str], starts: str) -> str:
    """Definition lines joined; one that matches `starts` begins a new line."""
    out: list[str] = []
    for line in filter(None, map(str.strip, lines)):
        if out and not re.match(starts, line):
            out[-1] += " " + line
        else:
            out.append(line)
    return "\n".join(out)


def gcide(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """Webster's 1913 dictionary: head words at the left margin, pronunciation between backslashes, source marks in
    brackets."""
    text = read_text(files(folder, pattern)[0])
    text = re.sub(
        r"\s*\[(?:1913 Webster|PJC|WordNet[^\]]*|Webster 1913[^\]]*|Century[^\]]*|[^\]\n]{0,30}\+PJC\]?)[^\]\n]*\]",
        "",
        text,
    )
    text = re.sub(r" \\[^\\\n]*(?:\n[^\\\n]*)?\\", "", text)
    for entry in re.split(r"\n(?=\S)", text):
        entry = re.sub(r"\{([^{}]*)\}", r"\1", entry)
        lines = entry.split("\n")
        yield [unwrapped(lines, r"\d+\. |Syn: |Note: |\([a-z]\) ")]


def wordnet(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    text = re.sub(r"\{([^{}]*)\}", lambda m: " ".join(m[1].split()), read_text(files(folder, pattern)[0]))
    for entry in re.split(r"\n(?=\S)", text):
        yield [unwrapped(entry.split("\n"), r"(?:(?:n|v|adj|adv) )?\d+: |(?:n|v|adj|adv) : ")]


def entries(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """Dictionaries whose entries start at the left margin and hold paragraphs."""
    text = re.sub(r"\{([^{}]*)\}", lambda m: " ".join(m[1].split()), read_text(files(folder, pattern)[0]))
    for entry in re.split(r"\n(?=\S)", text):
        parts = blocks(re.sub(r"\n\s*\(\d{4}-\d\d-\d\d\)\s*$", "", entry.rstrip()))
        if parts:
            yield ["\n".join(parts)]


def code(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    for path in files(folder, pattern):
        text = read_text(path)
        if "\ufffd" not in text and "\0" not in text:
            parts = text.split("\n\n")
            yield [
                part
                for place, part in enumerate(parts)
                if part.strip() and not (place < 3 and re.search("copyright|licen[cs]e", part, re.IGNORECASE))
            ]


def sword(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """A SWORD module's compressed blocks (a book or chapter each), verses joined to the paragraphs that milestones
    mark."""
    for index in files(folder, pattern):
        raw, places = index.with_suffix(f"{index.suffix[:-1]}z").read_bytes(), index.read_bytes()
        for at in range(0, len(places) - 11, 12):
            start, size, _ = struct.unpack("<III", places[at : at + 12])
            text = zlib.decompress(raw[start : start + size]).decode("utf-8", errors="replace").replace("\0", " ")
            text = re.sub(
                r"<(note|table)\b.*?</\1>|<(title|hi)\b[^>]*>(?:Verses? [^<]*|Chapter Outline)</\2>",
                " ",
                text,
                flags=re.DOTALL,
            )
            text = re.sub(
                r'<div [^>]*type="(?:x-p|paragraph|introduction)"[^>]*>|</?(?:title|chapter|lg|p|div)\b[^>]*>|<br */>',
                "\n\n",
                text,
            )
            text = unescape(re.sub(r"<[^>]*>", "", text))
            yield [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def r_strings(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """The lines of text in an R data base: zlib chunks of R's XDR, in which a string is a flag word of type 9, a
    length and bytes."""
    for path in files(folder, pattern):
        raw, at = path.read_bytes(), 0
        while (at := raw.find(b"x\x9c", at)) >= 0:
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(raw[at:])
            except zlib.error:
                at += 2
                continue
            at = len(raw) - len(inflate.unused_data) if inflate.eof else at + 2
            lines, place = [], 0
            while found := re.compile(rb"\0[\0\4\10][\0\x80]\x09(....)", re.DOTALL).search(data, place):
                size = int.from_bytes(found[1], "big")
                place = found.end() + size if size <= len(data) - found.end() else found.start() + 4
                lines.append(data[found.end() : place].decode("utf-8-sig", errors="replace"))
            yield blocks("\n".join(lines).replace("\r", ""))


STRING = re.compile(r'"((?:[^"\\]|\\.|"")*)"|`([^`]*)`|\[\[(.*?)\]\]', re.DOTALL)


def strings(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """What is said in a game's scripts: the quoted strings that are sentences, without those that have places to
    fill in."""
    for path in files(folder, pattern):
        found = []
        for match in STRING.finditer(read_text(path)):
            text = (
                next(part for part in match.groups() if part is not None)
                .replace('""', '"')
                .replace('\\"', '"')
                .replace("\\n", " ")
                .replace("\\\n", " ")
            )
            text = " ".join(
                re.sub(
                    r"<([^<>]*)>", lambda m: m[1] if re.fullmatch(r"[a-z]{4,}", m[1]) else "", text.replace('"_ "', "")
                ).split()
            )
            if (
                len(text) >= 40
                and text.count(" ") >= 7
                and re.search(r"[.!?]", text)
                and not re.search(r"[$%{}|=\\#;]{1}\S|_\w+_|--", text)
            ):
                found.append(text)
        yield found


def messages(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    """What is said in Crossfire's maps: the lines between `msg` and `endmsg`, without the words that a player must
    say."""
    for path in files(folder, pattern):
        found = re.findall(r"^msg\n(.*?)\nendmsg$", read_text(path), re.DOTALL | re.MULTILINE)
        found = [
            reflowed(re.sub(r"^@\w+.*\n?", "", part, flags=re.MULTILINE).strip("\n"))
            for part in found
            if "Created:" not in part
        ]
        yield list(dict.fromkeys(part for part in found if part.count(" ") > 6 and re.search(r"[.!?]", part)))


def pod(folder: Path, pattern: str) -> Iterator[Paragraphs]:
    for path in files(folder, pattern):
        found, skipped = [], False
        for block in re.split(r"\n[ \t]*\n", read_text(path)):
            block = block.strip("\n")
            if block.startswith(("=begin", "=end", "=cut", "=pod", "=for", "=encoding", "=over", "=back")):
                skipped = block.startswith("=begin") or (skipped and not block.startswith("=end"))
                continue
            if skipped or not block.strip():
                continue
            if not block[0].isspace():
                block = " ".join(re.sub(r"^=head\d +", "", re.sub(r"^=item +\*?\s*", "- ", block)).split())
                for _ in range(3):
                    block = re.sub(r"E<(\w+)>", lambda m: unescape(f"&{m[1]};"), block)
                    block = re.sub(
                        r"[XZ]<[^<>]*>|L<([^<>|]*)\|[^<>]*>|[BICFLS]<([^<>]+)>|[BICFLS]<<+ (.+?) >>+",
                        lambda m: next(filter(None, m.groups()), ""),
                        block,
                    )
            if block not in ("", "-"):
                found.append(block)
        yield found
