"""Explanations in files beside graphs, `X.explanation.json`: written whole or not at all, and checked when read."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ..base.files import write_atomically
from ..base.jsontext import parse_json
from ..errors import FileError
from ..graphs.graph import Graph
from .result import Explanation

FORMAT, FORMAT_VERSION = "unweave explanation", 1
SUFFIX = ".explanation.json"
MOST_BYTES = 32 << 20

Place = Annotated[int, Field(ge=0, lt=1 << 31)]
Span = Annotated[list[Place], Field(min_length=2, max_length=2)]


class _Facts(BaseModel):
    """What is relied on; other keys are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Answer(_Facts):
    token: str
    id: Place
    probability: FiniteFloat


class _Rival(_Facts):
    token: str
    id: Place


class _Baseline(_Facts):
    kind: Literal["instead", "mean", "zero"]
    instead: str | None = None
    ids: list[Place] | None = None


class _Sentence(_Facts):
    text: str
    kind: str
    value: FiniteFloat
    control: FiniteFloat
    groups: list[Place] = []


class _Group(_Facts):
    name: str
    place: str
    kind: str
    position: Place
    layers: Span
    evidence: str
    against: bool
    parts: list[str]
    share: FiniteFloat
    direct: FiniteFloat
    probability: FiniteFloat
    random: FiniteFloat


class _Arrow(_Facts):
    source: Place
    target: Place | Literal["answer"]
    moved: FiniteFloat
    carried: FiniteFloat
    random: FiniteFloat
    passed: bool
    heads: list[str] = []
    by_heads: FiniteFloat | None = None


class _Together(_Facts):
    share: FiniteFloat
    kept: FiniteFloat


class ExplanationFacts(_Facts):
    """An explanation as plain data: `Explanation.facts`, as far as others rely on it."""

    headline: str
    prompt: str
    tokens: Annotated[list[str], Field(min_length=1)]
    ids: Annotated[list[Place], Field(min_length=1)]
    model: str
    answer: _Answer
    rival: _Rival
    baseline: _Baseline
    found: bool
    sentences: list[_Sentence]
    groups: list[_Group]
    arrows: list[_Arrow]
    together: _Together

    def problem(self) -> str | None:
        """What one part says of another that is not so."""
        last = len(self.groups) - 1
        named = [number for sentence in self.sentences for number in sentence.groups]
        named += [end for arrow in self.arrows for end in (arrow.source, arrow.target) if end != "answer"]
        if any(number > last for number in named):
            return f"it has {last + 1} groups and names group {max(named)}"
        if any(group.position >= len(self.tokens) for group in self.groups) or len(self.ids) != len(self.tokens):
            return "it names a token that the prompt does not have"
        if self.baseline.kind == "instead" and len(self.baseline.ids or ()) != len(self.ids):
            return "its other prompt has another length"
        return None


def write_explanation(facts: dict[str, Any], path: str | Path) -> Path:
    """Write `Explanation.facts` to a file.

    Raises:
        FileError: the file cannot be written.
    """
    import orjson

    content = {"format": FORMAT, "version": FORMAT_VERSION, "explanation": facts}
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2)
    return write_atomically(path, lambda name: Path(name).write_bytes(body))


def read_explanation(body: bytes, path: Path) -> dict[str, Any]:
    """The facts in the content of a file; `path` names it in messages.

    Raises:
        FileError: it is damaged, no explanation, or from a newer version.
    """
    try:
        if len(body) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
        content = parse_json(body)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("it is no explanation")
        if content.get("version") != FORMAT_VERSION:
            raise FileError(
                f"{path} has version {content.get('version')!r} of its format, not {FORMAT_VERSION}; upgrade unweave, "
                f"or explain the prompt again"
            )
        facts = ExplanationFacts.model_validate(content.get("explanation"))
        if problem := facts.problem():
            raise ValueError(problem)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise FileError(f"{path} is damaged ({said}); explain the prompt again") from error
    except ValueError as error:
        raise FileError(
            f"{path} is damaged ({' '.join(str(error).split())[:200]}); explain the prompt again"
        ) from error
    return facts.model_dump()


def graph_of(explanation: Explanation) -> Graph:
    """The response graph of an explanation's own question: why this answer rather than its rival, by the same contrast.

    Raises:
        UnweaveError: this model or prompt has none.
    """
    from ..response.response import response_graph

    contrast = explanation.contrast
    other = None if contrast.other_ids is None else contrast.other_ids.tolist()
    graph = response_graph(
        contrast.model,
        contrast.ids.tolist(),
        (contrast.question.answer, contrast.question.rival),
        other,
        baseline="zero" if contrast.kind == "zero" else "auto",
    )
    texts = {"prompt": explanation.prompt, "instead": contrast.instead}
    return graph.with_provenance(**texts if contrast.model.tokenizer is not None else {})
