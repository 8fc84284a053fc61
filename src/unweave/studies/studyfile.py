"""The study file: what it may hold, and reading it so that whatever is wrong is named with its line."""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..base.kinds import typed
from ..errors import OptionError, StudyError
from ..organism.instances import instances
from ..validation.claimfile import Bound, Limits, Text, Words
from ..validation.yamlfile import first_error, line_of, read_yaml, worded
from .bench import Variant, fill
from .protocol import Options
from .protocols import PROTOCOLS

SHIPPED = Path(__file__).parents[1] / "data" / "studies"
WORDING = "wording"
"""The field that numbers a study's prompts, if it has several."""
MOST = 20_000


def _values_of(value: Any) -> Any:
    """A list, or whole numbers from the first to the last: `0..9`."""
    match = re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", value) if isinstance(value, str) else None
    if match is None:
        return value if isinstance(value, list) else [value]
    return [str(number) for number in range(int(match[1]), int(match[2]) + 1)]


Values = Annotated[tuple[str, ...], BeforeValidator(_values_of), Field(min_length=1)]


class _Step(BaseModel):
    """What any step may have beside its protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    note: str = ""
    where: dict[str, Values] = {}
    expect: dict[str, Limits] = {}


class _StudyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    title: Text
    question: Text
    source: str = ""
    meant_for: Words = ()
    chat: bool = False
    system: str | None = None
    variants_of: Text | None = None
    prompt: Words = ()
    rephrased: Words = ()
    answer: Text = "{answer}"
    foil: Text | None = None
    instances: Words = ()
    variants: Annotated[tuple[dict[str, str], ...], Field(min_length=1)] = ({},)
    grid: dict[str, Values] = {}
    seed: int = 0
    steps: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_variants(self) -> "_StudyFile":
        if not self.prompt:
            raise ValueError("give a 'prompt', or 'variants_of' (another study)")
        if self.instances and (self.grid or self.variants != ({},)):
            raise ValueError("give 'instances' (behaviours of the organism) or 'variants' and 'grid', not both")
        if not self.instances and not self.grid and self.variants == ({},):
            raise ValueError(
                "give 'variants' (a list of mappings), 'grid' (fields with their values), both, or 'instances' "
                "(behaviours of the organism)"
            )
        return self


@dataclass(frozen=True)
class Planned:
    """A step as the file has it."""

    name: str
    protocol: str
    note: str
    options: Options
    where: dict[str, tuple[str, ...]]
    expect: dict[str, Bound]


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    name: str
    path: Path
    title: str
    question: str
    source: str
    meant_for: tuple[str, ...]
    """Short names of models, see `unweave models`; the first is the default. Empty: any model."""
    chat: bool
    system: str | None
    seed: int
    rephrased: tuple[str, ...]
    """Other templates of the prompt, which say the same."""
    variants: tuple[Variant, ...]
    steps: tuple[Planned, ...]


def shipped() -> dict[str, Path]:
    """The study files that ship, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find_study(name: str) -> Path:
    """The file of a study: one that ships, or the user's own.

    Raises:
        StudyError: there is none.
    """
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    raise StudyError(f"no study {name!r}; there are: {', '.join(known)}; or give a study file of your own, NAME.yaml")


@typed
def read_study(path: str | Path) -> Study:
    """Read a study file; nothing is run, and no tag in it is obeyed.

    Raises:
        StudyError: it cannot be read, or something in it is wrong; with the number of the line.

    >>> import unweave
    >>> unweave.read_study("capitals.yaml").name                              # doctest: +SKIP
    'capitals'
    """
    path = Path(path).expanduser()
    file = _with_variants(_Source(path, *read_yaml(path, "study", "steps", StudyError)))
    content: _StudyFile = file.validated(_StudyFile, file.data)
    variants = _variants(file, content)
    fields = set.intersection(*(set(variant.fields) for variant in variants))
    steps: list[Planned] = []
    for number, given in enumerate(content.steps):
        steps.append(_step(file, ("steps", number), given, fields, [step.name for step in steps]))
    return Study(
        name=path.stem,
        path=path,
        title=content.title,
        question=content.question,
        source=content.source,
        meant_for=content.meant_for,
        chat=content.chat,
        system=content.system,
        seed=content.seed,
        rephrased=content.rephrased,
        variants=tuple(variants),
        steps=tuple(steps),
    )


ASKED = ("meant_for", "chat", "system", "prompt", "rephrased", "answer", "foil", "instances", "variants", "grid")
"""What a study takes from another whose variants it uses."""


def _with_variants(file: "_Source") -> "_Source":
    """A study's content with the variants of the study that it names, and how they are asked."""
    other = file.data.get("variants_of")
    if not isinstance(other, str):
        return file
    own = [key for key in ASKED[3:] if key in file.data and key != "rephrased"]
    if own:
        raise file.fail((own[0],), f"{own[0]!r} is given by {other!r} (variants_of); leave it out")
    try:
        path = find_study(other)
    except StudyError as error:
        raise file.fail(("variants_of",), str(error)) from error
    data = read_yaml(path, "study", "steps", StudyError)[1]
    if "variants_of" in data:
        raise file.fail(("variants_of",), f"{other!r} has no variants of its own; name {data['variants_of']!r}")
    return _Source(file.path, file.root, {key: data[key] for key in ASKED if key in data} | file.data)


Place = tuple[str | int, ...]
"""Where in a file something stands: keys and numbers from the top down."""


class _Source(NamedTuple):
    """A file that is being read, to say in which line something is wrong."""

    path: Path
    root: Any
    data: Any

    def fail(self, place: Place, message: str) -> StudyError:
        return StudyError(f"{self.path}, line {line_of(self.root, place)}: {message}")

    def validated(self, model: type[BaseModel], content: Any, place: Place = ()) -> Any:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            at, first = first_error(error, self.root, place)
            raise self.fail(at, worded(first, list(model.model_fields), whole=not first["loc"])) from error


def _variants(file: _Source, content: _StudyFile) -> list[Variant]:
    """Every row of fields in every wording of the prompt."""
    try:
        rows, places = _rows(content)
    except OptionError as error:
        raise file.fail(("instances",), str(error)) from error
    count = len(rows) * len(content.prompt)
    if count > MOST:
        raise file.fail(("grid",), f"{count} variants are too many; at most {MOST}")
    return [
        _variant(file, place, content, template, row if len(content.prompt) == 1 else {**row, WORDING: str(number)})
        for row, place in zip(rows, places, strict=True)
        for number, template in enumerate(content.prompt, 1)
    ]


def _variant(file: _Source, place: Place, content: _StudyFile, template: str, fields: dict[str, str]) -> Variant:
    try:
        foil = None if content.foil is None else fill(content.foil, fields)
        made = Variant(fields, template, fill(content.answer, fields), foil)
        prompt = made.prompt
    except ValueError as error:
        raise file.fail(place, str(error)) from error
    for what, text in (("prompt", prompt), ("answer", made.answer)):
        if not text:
            raise file.fail(place, f"the {what} of a variant is empty")
    return made


def _step(file: _Source, place: Place, given: dict[str, Any], fields: set[str], earlier: list[str]) -> Planned:
    """One step, everything it names being there: its protocol, figures, fields of the variants, earlier steps."""
    kind = _protocol_of(file, place, given)
    protocol = PROTOCOLS[kind]
    common: _Step = file.validated(_Step, {key: value for key, value in given.items() if key != kind}, place)
    options = file.validated(protocol.options, given[kind] or {}, (*place, kind))
    in_options = {what: [((kind, key), name) for key, name in _named(options, what)] for what in ("field", "step")}
    figures = ", ".join(protocol.figures)
    for key, name, known, complaint in [
        *((("expect", name), name, protocol.figures, f"{kind} gives no figure {{}}; it gives: {figures}")
          for name in common.expect),
        *((key, name, fields, f"no field {{}}; all variants have: {', '.join(sorted(fields))}")
          for key, name in [*((("where", name), name) for name in common.where), *in_options["field"]]),
        *((key, name, earlier, f"no earlier step {{}}; there are: {', '.join(earlier) or 'none'}")
          for key, name in in_options["step"]),
    ]:  # fmt: skip
        if name not in known:
            raise file.fail((*place, *key), complaint.replace("{}", repr(name), 1))
    name = common.name or kind
    if name in earlier:
        raise file.fail(place, f"two steps are called {name!r}; give one of them another 'name'")
    return Planned(name, kind, common.note, options, common.where, common.expect)


def _protocol_of(file: _Source, place: Place, given: dict[str, Any]) -> str:
    kinds = [key for key in given if key in PROTOCOLS]
    if len(kinds) == 1:
        return kinds[0]
    known = ", ".join(PROTOCOLS)
    for key in given:
        if key not in PROTOCOLS and key not in _Step.model_fields:
            raise file.fail((*place, key), f"unknown key {key!r}; there are: {known}")
    raise file.fail(place, f"a step is one protocol, not {' and '.join(kinds) or 'none'}; there are: {known}")


def _rows(content: _StudyFile) -> tuple[list[dict[str, str]], list[Place]]:
    """Each variant's fields, and where in the file it comes from.

    Raises:
        OptionError: the organism has no such behaviour.
    """
    if content.instances:
        found = [one for behaviour in content.instances for one in instances(behaviour)]
        facts = [
            {
                "text": one.prompt,
                "answer": one.answer,
                "behaviour": one.behaviour,
                "held_out": "yes" if one.held_out else "no",
            }
            for one in found
        ]
        return [one.latent | fact for one, fact in zip(found, facts, strict=True)], [("instances",)] * len(found)
    cells = [dict(zip(content.grid, values, strict=True)) for values in product(*content.grid.values())]
    rows = [
        ({**row, **cell}, ("variants", number) if row else ("grid",))
        for number, row in enumerate(content.variants)
        for cell in cells
    ]
    return [row for row, _ in rows], [place for _, place in rows]


def _named(options: Options, what: str) -> list[tuple[str, str]]:
    """The options that name a field or a step, as (option, name)."""
    found = []
    for key, info in type(options).model_fields.items():
        marks = [
            *info.metadata,
            *(mark for part in getattr(info.annotation, "__args__", ()) for mark in getattr(part, "__metadata__", ())),
        ]
        value = getattr(options, key)
        if what in marks and value is not None:
            found += [(key, name) for name in ([value] if isinstance(value, str) else value)]
    return found
