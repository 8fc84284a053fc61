"""Options made from the fields of a dataclass: a command and what it asks for cannot drift apart."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any

import typer

OF_QUESTION = {
    "position": "The position whose next token is explained; negative counts from the end.",
    "max_logits": "Without --target: explain at most this many of the likeliest tokens.",
    "logit_mass": "Without --target: no more tokens than together have this probability.",
    "max_features": "Keep at most this many features, the most influential; the others count as error.",
    "position_zero": "error: the first position's MLP outputs are error nodes; drop: constants.",
    "precision": "exact, or fast (bfloat16 products).",
    "max_memory": "Use at most this much memory, such as 2GB.",
}
"""What help says of the fields of a `Question`; the prompt and targets are written in other words on a command line,
and its device is the model's."""
_KINDS: dict[str, Any] = {"max_features": int | None, "max_memory": str | None}
"""Types that the default does not tell."""
_METAVARS = {"max_memory": "SIZE"}


def option(name: str, kind: Any, default: Any, *declarations: str, **more: Any) -> inspect.Parameter:
    """An option of a command."""
    annotation = Annotated[kind, typer.Option(*declarations, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def question_options(question: type) -> list[inspect.Parameter]:
    """The fields of a `Question` as options, with its defaults."""
    return [
        option(
            field.name, _KINDS.get(field.name, type(field.default)), field.default, help=OF_QUESTION[field.name],
            metavar=_METAVARS.get(field.name),
        )
        for field in fields(question) if field.name in OF_QUESTION
    ]  # fmt: skip


def taking(options: Sequence[inspect.Parameter], before: str | None = None) -> Callable[[Callable], Callable]:
    """Let a command that takes `**given` take these options in its place; help lists them before another one, or
    last."""

    def make(command: Callable) -> Callable:
        found: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            if name == before:
                found += options
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        found += [] if before else options
        command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in found}
        return command

    return make
