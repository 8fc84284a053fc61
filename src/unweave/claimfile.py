"""The claims file: what it may hold, and reading it so that whatever is wrong is named with its line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short  # aliases can make a small file stand for an endless text
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from .edits import Feature
from .errors import ClaimError, UnweaveError
from .terminal import layer_range, target_of


class Bound(NamedTuple):
    """The range in which a number is wanted, ends included, and the words for it in the file."""

    low: float
    high: float
    text: str

    @staticmethod
    def parse(text: Any) -> "Bound":
        """A bound from `<= x`, `>= x` or `a..b`.

        >>> Bound.parse("0.5..2")
        Bound(low=0.5, high=2.0, text='0.5..2')
        """
        number = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
        match = re.fullmatch(rf"\s*(?:(<=|>=)\s*{number}|{number}\s*\.\.\s*{number})\s*", text) if isinstance(text, str) else None
        if not match:
            raise ValueError(f"{short(text)} is not a bound; write '<= 2', '>= -1.5' or '0.5..2'")
        sign, one, low, high = match.groups()
        low, high = (float("-inf") if sign == "<=" else float(one or low)), (float("inf") if sign == ">=" else float(one or high))
        if low > high:
            raise ValueError(f"{text!r} holds no number; the smaller end comes first")
        return Bound(low, high, text.strip())


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompt_of(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part.isdecimal() for part in value):
        raise ValueError("a prompt is text, or a list of token ids")
    return tuple(map(int, value))


def _layers_of(value: Any) -> Any:
    try:
        return layer_range(str(value))
    except UnweaveError as error:
        raise ValueError(str(error)) from error


def _token_of(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a token is text such as ' Paris', or '#7042' for an id")
    return target_of(value)


Text = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_several), Field(min_length=1)]
Numbers = Annotated[dict[str, FiniteFloat], Field(min_length=1)]
Limits = Annotated[Any, BeforeValidator(Bound.parse)]
PromptText = Annotated[Any, BeforeValidator(_prompt_of)]
Token = Annotated[Any, BeforeValidator(_token_of)]
OF_TOKEN = ("logit", "logit_change", "probability", "probability_change", "rank")
OF_FEATURE = ("activation", "activation_change")


class Expectation(BaseModel):
    """What is wanted of one token, one feature, the likeliest token, or the divergence; see `docs/claims.md`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    token: Token = None
    logit: Limits = None
    logit_change: Limits = None
    probability: Limits = None
    probability_change: Limits = None
    rank: Limits = None
    top: Token = None
    not_top: Token = None
    kl: Limits = None
    feature: Text | None = None
    activation: Limits = None
    activation_change: Limits = None

    @model_validator(mode="after")
    def _one_subject(self) -> "Expectation":
        given = self.model_fields_set
        subjects = [name for name in ("token", "top", "not_top", "kl", "feature") if name in given]
        if len(subjects) != 1:
            raise ValueError(f"an expectation is about one of token, top, not_top, kl or feature, not {' and '.join(subjects) or 'none of them'}")
        measures = {"token": OF_TOKEN, "feature": OF_FEATURE}.get(subjects[0], ())
        stray = sorted(given - {subjects[0], *measures})
        if stray:
            raise ValueError(f"{stray[0]} does not go with {subjects[0]}")
        if measures and not given & set(measures):
            raise ValueError(f"what of the {subjects[0]}? give {', '.join(measures[:-1])} or {measures[-1]}")
        return self


class Claim(BaseModel):
    """One statement: features changed on a prompt, and what is to come of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Text
    prompt: PromptText = None
    ablate: Words = ()
    scale: Numbers = {}
    set: Numbers = {}
    add: Numbers = {}
    swap_from: PromptText = None
    swap_only: Words = ()
    swap_at: Annotated[tuple[int, ...], Field(min_length=1)] = ()
    swap_factor: FiniteFloat = 1.0
    mode: Literal["frozen_attention", "open", "frozen"] = "frozen_attention"
    layers: Annotated[Any, BeforeValidator(_layers_of)] = None
    expect: Annotated[tuple[Expectation, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _changes_something(self) -> "Claim":
        if not (self.ablate or self.scale or self.set or self.add or self.swap_from):
            raise ValueError("nothing is changed; give ablate, scale, set, add or swap_from")
        stray = sorted(self.model_fields_set & {"swap_only", "swap_at", "swap_factor"})
        if stray and not self.swap_from:
            raise ValueError(f"{stray[0]} needs swap_from")
        return self

    @property
    def named(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Each word for features, behind the place where it stands in the claim."""
        groups = (("ablate", self.ablate), ("scale", self.scale), ("set", self.set), ("add", self.add), ("swap_only", self.swap_only))
        named: list[tuple[tuple[str | int, ...], str]] = [((key, word), word) for key, words in groups for word in words]
        return named + [(("expect", at, "feature"), wanted.feature) for at, wanted in enumerate(self.expect) if wanted.feature]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Text | None = None
    transcoders: Text | None = None
    transcoders_sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    graph: Text | None = None
    supernodes: dict[str, Words] = {}
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ClaimsFile:
    """The content of a claims file. `lines` says where each claim begins, and under "graph" and "transcoders_sha256" where those stand."""

    path: Path
    model: str | None
    transcoders: str | None
    transcoders_sha256: str | None
    graph: Path | None
    supernodes: dict[str, tuple[Feature, ...]]
    claims: tuple[Claim, ...]
    lines: dict[int | str, int]


def read_claims(path: str | Path) -> ClaimsFile:
    """Read a claims file; nothing is run, and no tag in it is obeyed.

    Raises:
        ClaimError: it cannot be read, or something in it is wrong; with the number of the line.
    """
    path = Path(path).expanduser()
    root, data = _read(path)

    def fail(place: Sequence[str | int], message: str) -> ClaimError:
        return ClaimError(f"{path}, line {_line(root, place)}: {_whose(data, place)}{message}")

    try:
        content = _File.model_validate(data)
    except ValidationError as error:
        # a list all of whose members are wrong counts as too short, too
        found = [part for part in error.errors() if part["type"] != "too_short" or not part["input"]]
        first = min(found, key=lambda part: _line(root, part["loc"]))
        raise fail(first["loc"], _worded(first)) from error
    supernodes: dict[str, tuple[Feature, ...]] = {}
    for name, members in content.supernodes.items():
        for member in members:
            try:
                supernodes[name] = (*supernodes.get(name, ()), Feature.parse(member))
            except UnweaveError as error:
                raise fail(("supernodes", name, member), f"supernode {name!r}: {error}") from error
    for number, claim in enumerate(content.claims):
        if claim.prompt is None and content.graph is None:
            raise fail(("claims", number), "'prompt' is missing (only a file with a graph has a default)")
        for place, word in claim.named:
            wrong = None if word in supernodes else _unknown(word, supernodes)
            if wrong is not None:
                raise fail(("claims", number, *place), f"{place[0] if place[0] != 'expect' else 'feature'}: {wrong}")
    lines: dict[int | str, int] = {number: _line(root, ("claims", number)) for number in range(len(content.claims))}
    lines |= {key: _line(root, (key,)) for key in ("graph", "transcoders_sha256")}
    graph = None if content.graph is None else path.parent / Path(content.graph).expanduser()
    return ClaimsFile(path, content.model, content.transcoders, content.transcoders_sha256, graph, supernodes, content.claims, lines)


def _read(path: Path) -> tuple[yaml.Node, dict[str, Any]]:
    """A file's nodes, which know their lines, and their plain content."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
        data = None if root is None else _plain(root, {})
    except OSError as error:
        raise ClaimError(f"cannot read claims from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ClaimError(f"{path} is not text in UTF-8") from error
    except RecursionError as error:
        raise ClaimError(f"{path} is nested too deeply for a claims file") from error
    except _Refused as error:
        raise ClaimError(f"{path}, line {error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ClaimError(f"{path}, line {mark.line + 1 if mark else 1}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow, given with its place in the text
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1  # pyright: ignore[reportPossiblyUnboundVariable]
        raise ClaimError(f"{path}, line {line}: not YAML: {getattr(error, 'reason', error)}") from error
    if root is None or not isinstance(data, dict):
        raise ClaimError(f"{path}, line 1: a claims file is a mapping with a list under 'claims'")
    return root, data


def _unknown(word: str, supernodes: dict[str, tuple[Feature, ...]]) -> str | None:
    """What is wrong with a word that is no supernode; None if it is a feature's id."""
    try:
        Feature.parse(word)
    except UnweaveError as error:
        known = f"the file has: {', '.join(supernodes)}" if supernodes else "the file names none"
        return str(error) if re.match(r"\d+_|E_", word) else f"{word!r} is neither a feature's id (such as '12_345_5') nor a supernode; {known}"
    return None


_UNFINISHED = object()


class _Refused(Exception):
    """YAML that a claims file may not hold."""

    def __init__(self, node: yaml.Node, message: str):
        super().__init__(message)
        self.line = node.start_mark.line + 1


def _plain(node: yaml.Node, made: dict[int, Any]) -> Any:
    """Texts, lists and mappings. All scalars stay text: YAML would read the id 12_345_5 as the number 123455."""
    if id(node) in made:
        if made[id(node)] is _UNFINISHED:
            raise _Refused(node, "a YAML alias stands inside what it repeats")
        return made[id(node)]
    if node.tag.rpartition(":")[2] not in ("str", "seq", "map"):
        raise _Refused(node, f"the tag {node.tag!r} has no place in a claims file")
    made[id(node)] = _UNFINISHED
    if isinstance(node, yaml.SequenceNode):
        content: Any = [_plain(part, made) for part in node.value]
    elif isinstance(node, yaml.MappingNode):
        content = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(key, "a key is not plain text")
            if key.value in content:
                raise _Refused(key, f"{key.value!r} stands here twice")
            content[key.value] = _plain(value, made)
    else:
        content = node.value
    made[id(node)] = content
    return content


def _line(root: yaml.Node | None, place: Sequence[str | int]) -> int:
    """The line of a place such as ("claims", 0, "expect"), as far as the file has it."""
    node, line = root, 1 if root is None else root.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
        elif isinstance(node, yaml.SequenceNode):
            found = next(((item, item) for number, item in enumerate(node.value) if part in (number, item.value)), None)
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _whose(data: dict, place: Sequence[str | int]) -> str:
    if len(place) < 2 or place[0] != "claims":
        return ""
    claim = data["claims"][place[1]]
    name = claim.get("name") if isinstance(claim, dict) else None
    return f"claim {name!r}: " if isinstance(name, str) else f"claim {int(place[1]) + 1}: "


def _worded(error: Any) -> str:
    place, kind, value = error["loc"], error["type"], error["input"]
    key = next((part for part in reversed(place) if isinstance(part, str)), "")
    what = f"{key}: " if key and key != "claims" else ""
    if kind == "missing":
        return f"{key!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown key {key!r}; known here: {', '.join({1: _File, 3: Claim}.get(len(place), Expectation).model_fields)}"
    if kind == "value_error":
        return f"{'' if len(place) in (2, 4) else what}{error['ctx']['error']}"
    known = {
        "float_parsing": "is not a number", "finite_number": "is not a finite number", "int_parsing": "is not a whole number",
        "string_pattern_mismatch": "does not begin a sha256 (8 to 64 hexadecimal digits)",
    }  # fmt: skip
    if kind == "literal_error":
        return f"{what}{short(value)} is not one of {error['ctx']['expected'].replace(' or', ',')}"
    empty = {"string_too_short", "too_short"}
    wanted = {"tuple_type": "should be a list", "dict_type": "should be a mapping", "model_type": "should be a mapping", "string_type": "should be text"}
    return f"{what}it is empty" if kind in empty else f"{what}{short(value)} {known.get(kind) or wanted.get(kind) or error['msg'].lower()}"
