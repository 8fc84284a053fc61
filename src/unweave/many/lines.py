"""Prompts in a JSONL file: checked before anything runs, each with what is asked about it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..attribution.question import Prompt, Question
from ..attribution.targets import Difference, TargetSpec
from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD, PositionZero, Precision
from ..base.jsontext import unique_keys
from ..base.words import slug_of
from ..errors import PromptError, UnweaveError

Token = str | Annotated[int, Field(ge=0, lt=1 << 31)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class TraceOptions:
    """How prompts are traced, where their lines say nothing else; as in `attribute` and `prune`."""

    position: int = Question.position
    max_logits: int = Question.max_logits
    logit_mass: float = Question.logit_mass
    max_features: int | None = Question.max_features
    position_zero: PositionZero = Question.position_zero
    precision: Precision = Question.precision
    node_threshold: float = NODE_THRESHOLD
    edge_threshold: float = EDGE_THRESHOLD
    targets: tuple[str | int, ...] = ()
    minus: str | int | None = None
    chat: bool = False
    system: str | None = None

    def question(self, prompt: Prompt, max_memory: str | int | None = None) -> Question:
        """What these options ask about a prompt.

        Raises:
            PromptError, TargetError, OptionError: it cannot be asked like this.
        """
        targets: tuple[TargetSpec, ...] = self.targets
        if self.minus is not None:
            targets = (Difference(self.targets[0], self.minus),)
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name in _ASKED}
        return Question(prompt, **shared | {"targets": targets or None, "max_memory": max_memory})


_ASKED = {field.name for field in fields(Question)}


@dataclass(frozen=True)
class Request:
    """One prompt and what is asked about it: either `text`, or `ids`, or a conversation."""

    options: TraceOptions
    text: str | None = None
    ids: tuple[int, ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    """(role, content)."""

    def digest(self) -> str:
        """The same for the same prompt with the same options, and for no other."""
        options = {
            name: value for name, value in asdict(self.options).items() if value != getattr(TraceOptions, name)
        }  # later versions may know more
        return hashlib.sha256(json.dumps({**asdict(self), "options": options}, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PromptJob:
    """A request under the name that its graph has."""

    id: str
    line: int
    request: Request
    digest: str


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    role: str
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | Annotated[int, Field(ge=0)] | None = None
    prompt: str | list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = None
    messages: Annotated[list[_Message], Field(min_length=1)] | None = None
    position: int | None = None
    max_logits: int | None = None
    logit_mass: float | None = None
    max_features: int | None = None
    position_zero: PositionZero | None = None
    precision: Precision | None = None
    node_threshold: Share | None = None
    edge_threshold: Share | None = None
    targets: list[Token] | None = None
    minus: Token | None = None
    chat: bool | None = None
    system: str | None = None


def read_prompts(source: str | Path | Sequence[str | Mapping[str, Any]], options: TraceOptions) -> list[PromptJob]:
    """The prompts of a JSONL file, or of a list of texts and mappings as its lines hold; equal ones once.

    Raises:
        PromptError: no file, no prompt in it, or a broken line, with its number.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        place, lines = str(path), jsonl_lines(path)
    else:
        place, lines = (
            "the prompts",
            ((number, {"prompt": line} if isinstance(line, str) else line) for number, line in enumerate(source, 1)),
        )
    found: dict[str, PromptJob] = {}
    for number, content in lines:
        try:
            job = _job(number, content, options)
        except ValueError as error:  # pydantic's ValidationError is one
            raise PromptError(f"{place}, line {number}: {_reason(error)}") from error
        except UnweaveError as error:
            raise PromptError(f"{place}, line {number}: {error}") from error
        first = found.setdefault(job.id.casefold(), job)  # files of some systems do not tell case
        if first.digest != job.digest or first.id != job.id:
            raise PromptError(
                f"{place}, line {number}: id {job.id!r} is taken by line {first.line}; give each prompt an id of its "
                f"own, or none"
            )
    if not found:
        raise PromptError(
            f'{place} holds no prompt; write one a line, such as {{"prompt": "The capital of France is"}}'
        )
    return list(found.values())


def jsonl_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a JSONL file, each with its number.

    Raises:
        PromptError: it cannot be read, or a line is no JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}, line {line}: not UTF-8 text") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{path}, line {number}: not JSON as it is wanted here: {error}") from error


def _job(number: int, content: Any, options: TraceOptions) -> PromptJob:
    line = _Line.model_validate(content)
    if (line.prompt is None) == (line.messages is None):
        raise ValueError("give either prompt or messages")
    own = {field.name: value for field in fields(TraceOptions) if (value := getattr(line, field.name)) is not None}
    if line.targets is not None:
        own |= {"targets": tuple(line.targets), "minus": line.minus}
    asked = replace(options, **own)
    if asked.minus is not None and len(asked.targets) != 1:
        raise ValueError("minus needs exactly one target")
    asked.question(line.prompt or "of a conversation")
    framed = isinstance(line.prompt, str) and (asked.chat or asked.system is not None)
    if not isinstance(line.prompt, str) and (line.chat or line.system is not None):
        raise ValueError("chat and system are for a prompt that is text")
    plain = replace(asked, chat=framed, system=asked.system if framed else None)
    if line.messages is not None:
        request = Request(plain, messages=tuple((message.role, message.content) for message in line.messages))
        name = line.messages[-1].content
    elif isinstance(line.prompt, str):
        request, name = Request(plain, text=line.prompt), line.prompt
    else:
        request, name = Request(plain, ids=tuple(line.prompt or ())), " ".join(map(str, line.prompt or ()))
    json.dumps(asdict(request), ensure_ascii=False).encode()  # half a surrogate pair is no text
    digest = request.digest()
    return PromptJob(f"{slug_of(name)}-{digest[:8]}" if line.id is None else str(line.id), number, request, digest)


def _reason(error: ValueError) -> str:
    """What is wrong with a line, in a few words."""
    if isinstance(error, UnicodeEncodeError):
        return "holds half a surrogate pair (\\ud800 to \\udfff), which is no text"
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(
        str(part)
        for part in first["loc"]
        if isinstance(part, int) or part in {**_Line.model_fields, **_Message.model_fields}
    )
    if first["type"] == "extra_forbidden":
        return f"{str(first['loc'][-1])!r} is unknown; a line may hold {', '.join(_Line.model_fields)}"
    if first["type"] in ("model_type", "dict_type"):
        return 'not an object such as {"prompt": "The capital of France is"}'
    if first["type"] == "string_pattern_mismatch":
        return f"id {first['input']!r} cannot name a file; give letters, digits, '.', '_' and '-', at most 100"
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
