"""The claims file: what it may hold, and reading it so that whatever is wrong is named with its line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short  # aliases can make a small file stand for an endless text
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ..base.kinds import typed
from ..base.parsing import layer_range, target_of
from ..errors import ClaimError, UnweaveError
from ..interventions.edits import Feature
from .yamlfile import first_error, line_of, read_yaml, worded


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
        match = (
            re.fullmatch(rf"\s*(?:(<=|>=)\s*{number}|{number}\s*\.\.\s*{number})\s*", text)
            if isinstance(text, str)
            else None
        )
        if not match:
            raise ValueError(f"{short(text)} is not a bound; write '<= 2', '>= -1.5' or '0.5..2'")
        sign, one, low, high = match.groups()
        low, high = (
            (float("-inf") if sign == "<=" else float(one or low)),
            (float("inf") if sign == ">=" else float(one or high)),
        )
        if low > high:
            raise ValueError(f"{text!r} holds no number; the smaller end comes first")
        return Bound(low, high, text.strip())


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompt_of(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(part, str) and part.isdecimal() for part in value)
    ):
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
OF_DIFFERENCE = ("logit", "logit_change")
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
    minus: Token = None
    parts: Annotated[tuple[Text, ...], BeforeValidator(_several)] = ()
    moved: Limits = None

    @model_validator(mode="after")
    def _one_subject(self) -> "Expectation":
        given = self.model_fields_set
        subjects = [name for name in ("token", "top", "not_top", "kl", "feature", "parts") if name in given]
        if len(subjects) != 1:
            raise ValueError(
                f"an expectation is about one of token, top, not_top, kl, feature or parts, not "
                f"{' and '.join(subjects) or 'none of them'}"
            )
        measures = {"token": OF_TOKEN, "feature": OF_FEATURE, "parts": ("moved",)}.get(subjects[0], ())
        if subjects[0] == "token" and "minus" in given:
            measures = OF_DIFFERENCE
        stray = sorted(given - {subjects[0], *measures} - ({"minus"} if subjects[0] == "token" else set()))
        if stray:
            raise ValueError(f"{stray[0]} does not go with {subjects[0]}")
        if measures and not given & set(measures):
            wanted = f"{', '.join(measures[:-1])} or {measures[-1]}" if len(measures) > 1 else measures[0]
            raise ValueError(f"what of the {subjects[0]}? give {wanted}")
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
    swap_parts: Words = ()
    hold_parts: Words = ()
    mode: Literal["frozen_attention", "open", "frozen"] = "frozen_attention"
    layers: Annotated[Any, BeforeValidator(_layers_of)] = None
    expect: Annotated[tuple[Expectation, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _changes_something(self) -> "Claim":
        if not (self.ablate or self.scale or self.set or self.add or self.swap_from):
            raise ValueError("nothing is changed; give ablate, scale, set, add or swap_from")
        stray = sorted(self.model_fields_set & {"swap_only", "swap_at", "swap_factor", "swap_parts"})
        if stray and not self.swap_from:
            raise ValueError(f"{stray[0]} needs swap_from")
        if "hold_parts" in self.model_fields_set and not self.swap_parts:
            raise ValueError("hold_parts needs swap_parts")
        others = self.model_fields_set & {"ablate", "scale", "set", "add", "layers", *stray} - {"swap_parts"}
        if self.swap_parts and others:
            raise ValueError(f"{min(others)} does not go with swap_parts")
        if self.swap_parts and self.mode != "open":
            raise ValueError("with swap_parts everything is live; write mode: open")
        for wanted in self.expect:
            if wanted.feature and self.swap_parts:
                raise ValueError("with swap_parts expect parts, not a feature")
            if wanted.parts and not self.swap_parts:
                raise ValueError("parts are expected of swap_parts alone")
        return self

    @property
    def named(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Each word for features, behind the place where it stands in the claim."""
        groups = (
            ("ablate", self.ablate),
            ("scale", self.scale),
            ("set", self.set),
            ("add", self.add),
            ("swap_only", self.swap_only),
        )
        named: list[tuple[tuple[str | int, ...], str]] = [
            ((key, word), word) for key, words in groups for word in words
        ]
        return named + [
            (("expect", at, "feature"), wanted.feature) for at, wanted in enumerate(self.expect) if wanted.feature
        ]


class _ClaimFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Text | None = None
    transcoders: Text | None = None
    transcoders_sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    graph: Text | None = None
    supernodes: dict[str, Words] = {}
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]


@dataclass(frozen=True)
class ClaimsFile:
    """The content of a claims file. `lines` says where each claim begins, and under "graph" and "transcoders_sha256"
    where those stand."""

    path: Path
    model: str | None
    transcoders: str | None
    transcoders_sha256: str | None
    graph: Path | None
    supernodes: dict[str, tuple[Feature, ...]]
    claims: tuple[Claim, ...]
    lines: dict[int | str, int]


@typed
def read_claims(path: str | Path) -> ClaimsFile:
    """Read a claims file; nothing is run, and no tag in it is obeyed.

    Raises:
        ClaimError: it cannot be read, or something in it is wrong; with the number of the line.

    >>> import unweave
    >>> file = unweave.read_claims("claims.yaml")                             # doctest: +SKIP
    """
    path = Path(path).expanduser()
    root, data = read_yaml(path, "claims", "claims", ClaimError)

    def fail(place: Sequence[str | int], message: str) -> ClaimError:
        return ClaimError(f"{path}, line {line_of(root, place)}: {_whose(data, place)}{message}")

    try:
        content = _ClaimFile.model_validate(data)
    except ValidationError as error:
        place, first = first_error(error, root)
        known = {1: _ClaimFile, 3: Claim}.get(len(place), Expectation).model_fields
        raise fail(place, worded(first, list(known), whole=len(place) in (2, 4)).removeprefix("claims: ")) from error
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
    lines: dict[int | str, int] = {number: line_of(root, ("claims", number)) for number in range(len(content.claims))}
    lines |= {key: line_of(root, (key,)) for key in ("graph", "transcoders_sha256")}
    graph = None if content.graph is None else path.parent / Path(content.graph).expanduser()
    return ClaimsFile(
        path, content.model, content.transcoders, content.transcoders_sha256, graph, supernodes, content.claims, lines
    )


def _unknown(word: str, supernodes: dict[str, tuple[Feature, ...]]) -> str | None:
    """What is wrong with a word that is no supernode; None if it is a feature's id."""
    try:
        Feature.parse(word)
    except UnweaveError as error:
        known = f"the file has: {', '.join(supernodes)}" if supernodes else "the file names none"
        return (
            str(error)
            if re.match(r"\d+_|E_", word)
            else f"{word!r} is neither a feature's id (such as '12_345_5') nor a supernode; {known}"
        )
    return None


def _whose(data: dict, place: Sequence[str | int]) -> str:
    if len(place) < 2 or place[0] != "claims":
        return ""
    claim = data["claims"][place[1]]
    name = claim.get("name") if isinstance(claim, dict) else None
    return f"claim {name!r}: " if isinstance(name, str) else f"claim {int(place[1]) + 1}: "
