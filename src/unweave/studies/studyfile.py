"""The study file: what it may hold, and reading it so that whatever is wrong is named with its line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

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
    prompt: Words
    answer: Text = "{answer}"
    foil: Text | None = None
    instances: Words = ()
    variants: Annotated[tuple[dict[str, str], ...], Field(min_length=1)] = ({},)
    grid: dict[str, Values] = {}
    seed: int = 0
    steps: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_variants(self) -> "_StudyFile":
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


def read_study(path: str | Path) -> Study:
    """Read a study file; nothing is run, and no tag in it is obeyed.

    Raises:
        StudyError: it cannot be read, or something in it is wrong; with the number of the line.
    """
    path = Path(path).expanduser()
    root, data = read_yaml(path, "study", "steps", StudyError)

    def fail(place: Sequence[str | int], message: str) -> StudyError:
        return StudyError(f"{path}, line {line_of(root, place)}: {message}")

    def validated(model: type[BaseModel], content: Any, place: tuple[str | int, ...] = ()) -> Any:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            at, first = first_error(error, root, place)
            raise fail(at, worded(first, list(model.model_fields), whole=not first["loc"])) from error

    content: _StudyFile = validated(_StudyFile, data)
    try:
        rows, at_row = _rows(content)
    except OptionError as error:
        raise fail(("instances",), str(error)) from error
    if len(rows) * len(content.prompt) > MOST:
        raise fail(("grid",), f"{len(rows) * len(content.prompt)} variants are too many; at most {MOST}")
    variants = []
    for row, place in zip(rows, at_row, strict=True):
        for number, template in enumerate(content.prompt, 1):
            fields = row if len(content.prompt) == 1 else {**row, WORDING: str(number)}
            try:
                made = Variant(
                    fields,
                    template,
                    fill(content.answer, fields),
                    None if content.foil is None else fill(content.foil, fields),
                )
                assert made.prompt
            except ValueError as error:
                raise fail(place, str(error)) from error
            if not made.prompt or not made.answer:
                raise fail(place, f"the {'prompt' if not made.prompt else 'answer'} of a variant is empty")
            variants.append(made)
    steps: list[Planned] = []
    for number, step in enumerate(content.steps):
        place = ("steps", number)
        kinds = [key for key in step if key in PROTOCOLS]
        if len(kinds) != 1:
            unknown = next((key for key in step if key not in PROTOCOLS and key not in _Step.model_fields), None)
            what = (
                f"unknown key {unknown!r}"
                if unknown
                else f"a step is one protocol, not {' and '.join(kinds) or 'none'}"
            )
            raise fail((*place, unknown) if unknown else place, f"{what}; there are: {', '.join(PROTOCOLS)}")
        kind = kinds[0]
        protocol = PROTOCOLS[kind]
        common: _Step = validated(_Step, {key: value for key, value in step.items() if key != kind}, place)
        options = validated(protocol.options, step[kind] or {}, (*place, kind))
        wrong = next((name for name in common.expect if name not in protocol.figures), None)
        if wrong is not None:
            raise fail(
                (*place, "expect", wrong), f"{kind} gives no figure {wrong!r}; it gives: {', '.join(protocol.figures)}"
            )
        known = set.intersection(*(set(variant.fields) for variant in variants))
        for key, named in [
            *((("where", name), name) for name in common.where),
            *((((kind, key), name)) for key, name in _named(options, "field")),
        ]:
            if named not in known:
                raise fail((*place, *key), f"no field {named!r}; all variants have: {', '.join(sorted(known))}")
        for key, named in _named(options, "step"):
            if named not in [earlier.name for earlier in steps]:
                raise fail(
                    (*place, kind, key),
                    f"no earlier step {named!r}; there are: {', '.join(earlier.name for earlier in steps) or 'none'}",
                )
        name = common.name or kind
        if name in [earlier.name for earlier in steps]:
            raise fail(place, f"two steps are called {name!r}; give one of them another 'name'")
        steps.append(Planned(name, kind, common.note, options, common.where, common.expect))
    head = (
        content.title,
        content.question,
        content.source,
        content.meant_for,
        content.chat,
        content.system,
        content.seed,
    )
    return Study(path.stem, path, *head, tuple(variants), tuple(steps))


def _rows(content: _StudyFile) -> tuple[list[dict[str, str]], list[tuple[str | int, ...]]]:
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
