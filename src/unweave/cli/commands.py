"""What all commands have in common as commands: help that is not cut, hints for words that are no command, and values
checked before anything is loaded."""

import functools
import math
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..base.fetching import ASK_ABOVE, ask_above, in_words
from ..errors import OptionError

HINTS = {
    "diff": "explanations are compared by: unweave compare; graphs in the browser: unweave serve",
    "generate": "the model writes on, default and steered, with: unweave steer PROMPT --generate 20",
    "claims": "a claims file is checked by: unweave validate --claims FILE",
    "evaluate": "a dictionary is judged by: unweave eval; a graph is tested by: unweave validate GRAPH",
    "attribute": "a prompt is traced by: unweave trace PROMPT",
    "graph": "a prompt is traced by: unweave trace PROMPT; a graph file is shown by: unweave info FILE",
    "intervene": "features are changed by: unweave steer PROMPT",
    "ablate": "features are switched off by: unweave steer PROMPT --ablate NODE",
    "show": "a graph file is shown by: unweave info FILE, in the browser by: unweave serve",
    "view": "graphs are shown in the browser by: unweave serve",
    "open": "graphs are shown in the browser by: unweave serve",
    "summary": "a graph file is shown by: unweave info FILE",
    "prune": "a graph file is pruned by: unweave convert GRAPH OUT --node-threshold 0.8 --edge-threshold 0.98",
    "label": "features are labelled by: unweave features label",
    "list": "known models are listed by: unweave models",
    "help": "unweave --help, and unweave COMMAND --help",
    "version": "unweave --version",
}
"""Words that people type, and what they mean here."""
METAVARS = {"str": "TEXT", "int": "N", "float": "NUMBER", "Path": "PATH"}
"""What help calls the type of an option's value."""
MOST_NUMBER = 1 << 63
AT_LEAST = {
    "--max-features": 1, "--max-logits": 1, "--generate": 1, "--seed": 0, "--temperature": 0, "--contexts": 0,
    "--tokens": 1, "--edges": 0, "--count": 1, "--limit": 0, "--documents": 1,
}  # fmt: skip
"""Least values of options, which mean the same in every command that has them."""
SHARES = ("--node-threshold", "--edge-threshold")
"""Options that are shares: above 0, at most 1."""


class Group(TyperGroup):
    """Commands whose summaries are wrapped rather than cut."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the whole first sentence of their help."""
        rows = [
            (name, command.get_short_help_str(10_000)) for name, command in self.commands.items() if not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of a word.

        Raises:
            OptionError: there is none, but a hint.
        """
        if ctx.parent is None and args[0] not in self.commands and args[0] in HINTS:
            raise OptionError(f"there is no command {args[0]!r}; {HINTS[args[0]]}")
        return super().resolve_command(ctx, args)


def command_of(app: typer.Typer) -> Any:
    """The whole tree of commands, their values checked and their help in words."""
    command = typer.main.get_command(app)
    _tidy(command)
    return command


def _tidy(command: Any) -> None:
    for parameter in command.params:
        flag = getattr(parameter, "is_flag", False)
        if parameter.param_type_name == "option" and parameter.metavar is None and not flag:
            parameter.metavar = METAVARS.get(_kind(parameter), "VALUE")
        elif hasattr(parameter, "display_type"):
            parameter.display_type = lambda ctx: ""  # of an argument, whose help says what it takes
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            _tidy(inner)
    elif command.callback is not None:
        command.callback = _checked(command.callback, {p.name: _spelling(p) for p in command.params})
        if any(parameter.name in ("model", "transcoders") for parameter in command.params):
            command.params.append(_yes())


def _yes() -> Any:
    """The option of all commands that may fetch."""
    app = typer.Typer()

    def agreed(value: bool) -> bool:
        ask_above(None if value else ASK_ABOVE)
        return value

    said = f"Download from the hub without asking, even more than {in_words(ASK_ABOVE)}."

    @app.command()
    def fetches(yes: Annotated[bool, typer.Option("--yes", callback=agreed, help=said)] = False) -> None:
        """Stand in for any command."""

    option = next(p for p in typer.main.get_command(app).params if p.name == "yes")
    option.expose_value = False
    return option


def _kind(parameter: Any) -> str:
    described = getattr(parameter, "type_descriptor", None)
    if described is None:  # typer before 0.20, over click's own types
        return {"text": "str", "integer": "int", "float": "float", "path": "Path"}.get(parameter.type.name, "")
    return parameter.bare_type().removeprefix("list[").removesuffix("]")


def _spelling(parameter: Any) -> str:
    return next((name for name in parameter.opts if name.startswith("--")), parameter.name.upper())


def _checked(call: Callable[..., Any], names: dict[str, str]) -> Callable[..., Any]:
    @functools.wraps(call)
    def checked(**values: Any) -> Any:
        return call(**{name: _value(names.get(name, name), value) for name, value in values.items()})

    return checked


def _value(name: str, value: Any) -> Any:
    """A value as commands may rely on it: text that can be encoded, numbers that machines can hold.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, list | tuple):
        return type(value)(_value(name, part) for part in value)
    if isinstance(value, str):
        return _text(name, value)
    if isinstance(value, int) and abs(value) >= MOST_NUMBER:
        raise OptionError(f"{name} is a number of {len(str(abs(value)))} digits; give one below 2^63")
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{name} is {value}; give a finite number")
    if isinstance(value, int | float) and value < AT_LEAST.get(name, -math.inf):
        raise OptionError(f"{name} is {value}; it must be at least {AT_LEAST[name]}")
    if name in SHARES and not 0 < value <= 1:
        raise OptionError(f"{name} is {value}; it must lie above 0 and at most at 1")
    return value


def _text(name: str, value: str) -> str:
    """Text given in bytes that are not of the locale's encoding arrives as surrogates; UTF-8 is taken all the same."""
    try:
        value.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeError as error:
            raise OptionError(f"{name} holds bytes that are not UTF-8: {value.encode('utf-8', 'replace')!r}") from error
    return value
