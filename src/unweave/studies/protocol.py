"""What a protocol is: options that a study file may give, the figures it promises, and a function that runs it."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from .bench import Bench
from .results import Result

FieldName = Annotated[str, "field"]
"""An option that names a field of the variants; the reader of study files checks it."""
StepName = Annotated[str, "step"]
"""An option that names an earlier step."""


class Options(BaseModel):
    """Base of what a study file may say to a protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(NamedTuple):
    """A kind of step."""

    what: str
    """In one line."""
    options: type[Options]
    figures: dict[str, str]
    """What each figure means, by the name under which a study file can `expect` something of it."""
    run: Callable[[Bench, Any], Result]
