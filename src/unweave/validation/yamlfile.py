"""YAML files that people write: read as text, lists and mappings, so that whatever is wrong can be named with its
line."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short  # aliases can make a small file stand for an endless text
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import UnweaveError

_UNFINISHED = object()


class _Refused(Exception):
    """YAML that such a file may not hold."""

    def __init__(self, node: yaml.Node, message: str):
        super().__init__(message)
        self.line = node.start_mark.line + 1


def read_yaml(path: Path, kind: str, key: str, error_type: type[UnweaveError]) -> tuple[yaml.Node, dict[str, Any]]:
    """A file's nodes, which know their lines, and their plain content, in which all scalars are text; no tag is obeyed.

    Args:
        kind: what the file is, for messages, such as `claims`.
        key: under which it must have a list.

    Raises:
        UnweaveError: of `error_type`; the file cannot be read or is no such YAML, with the number of the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
        data = None if root is None else _plain(root, {}, kind)
    except OSError as error:
        raise error_type(f"cannot read {kind} from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise error_type(f"{path} is not text in UTF-8") from error
    except RecursionError as error:
        raise error_type(f"{path} is nested too deeply for a {kind} file") from error
    except _Refused as error:
        raise error_type(f"{path}, line {error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise error_type(
            f"{path}, line {mark.line + 1 if mark else 1}: not YAML: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow, given with its place in the text
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1  # pyright: ignore[reportPossiblyUnboundVariable]
        raise error_type(f"{path}, line {line}: not YAML: {getattr(error, 'reason', error)}") from error
    if root is None or not isinstance(data, dict):
        raise error_type(f"{path}, line 1: a {kind} file is a mapping with a list under {key!r}")
    return root, data


def _plain(node: yaml.Node, made: dict[int, Any], kind: str) -> Any:
    """Texts, lists and mappings. All scalars stay text: YAML would read the id 12_345_5 as the number 123455."""
    if id(node) in made:
        if made[id(node)] is _UNFINISHED:
            raise _Refused(node, "a YAML alias stands inside what it repeats")
        return made[id(node)]
    if node.tag.rpartition(":")[2] not in ("str", "seq", "map"):
        raise _Refused(node, f"the tag {node.tag!r} has no place in a {kind} file")
    made[id(node)] = _UNFINISHED
    if isinstance(node, yaml.SequenceNode):
        content: Any = [_plain(part, made, kind) for part in node.value]
    elif isinstance(node, yaml.MappingNode):
        content = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(key, "a key is not plain text")
            if key.value in content:
                raise _Refused(key, f"{key.value!r} stands here twice")
            content[key.value] = _plain(value, made, kind)
    else:
        content = node.value
    made[id(node)] = content
    return content


def line_of(root: yaml.Node | None, place: Sequence[str | int]) -> int:
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


def first_error(
    error: ValidationError, root: yaml.Node | None, place: tuple[str | int, ...] = ()
) -> tuple[tuple[str | int, ...], Any]:
    """The error that stands first in the file, and its place there; `place` is where what was checked begins."""
    # a list all of whose members are wrong counts as too short, too
    found = [part for part in error.errors() if part["type"] != "too_short" or not part["input"]]
    first = min(found, key=lambda part: line_of(root, (*place, *part["loc"])))
    return (*place, *first["loc"]), first


def worded(error: Any, known: Sequence[str], *, whole: bool = False) -> str:
    """A validation error in words.

    Args:
        known: the keys that may stand where an unknown one does.
        whole: the error is about all of a mapping, so no key is named.
    """
    place, kind, value = error["loc"], error["type"], error["input"]
    key = next((part for part in reversed(place) if isinstance(part, str)), "")
    what = f"{key}: " if key else ""
    if kind == "missing":
        return f"{key!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown key {key!r}; known here: {', '.join(known)}"
    if kind == "value_error":
        return f"{'' if whole else what}{error['ctx']['error']}"
    known_kinds = {
        "float_parsing": "is not a number", "finite_number": "is not a finite number",
        "int_parsing": "is not a whole number",
        "bool_parsing": "is neither true nor false",
        "string_pattern_mismatch": "does not begin a sha256 (8 to 64 hexadecimal digits)",
    }  # fmt: skip
    if kind == "literal_error":
        return f"{what}{short(value)} is not one of {error['ctx']['expected'].replace(' or', ',')}"
    empty = {"string_too_short", "too_short"}
    wanted = {
        "tuple_type": "should be a list",
        "dict_type": "should be a mapping",
        "model_type": "should be a mapping",
        "string_type": "should be text",
    }
    return (
        f"{what}it is empty"
        if kind in empty
        else f"{what}{short(value)} {known_kinds.get(kind) or wanted.get(kind) or error['msg'].lower()}"
    )
