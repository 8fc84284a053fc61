"""What is asked of a model: a prompt, what of its prediction to explain, and how. Checked once, whoever asks; needs no
torch, so that the command line can say its defaults at once."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.choices import PositionZero, Precision, choice
from ..base.parsing import checked_prompt, parse_bytes
from ..errors import OptionError, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .targets import TargetSpec

    Prompt = str | Sequence[int] | Tensor
    Targets = TargetSpec | Sequence[TargetSpec] | None
else:
    Prompt = Targets = Any


@dataclass(frozen=True)
class Question:
    """A prompt and what is asked about it, as `attribute` and `estimate` take it.

    Raises:
        PromptError: the prompt is empty, or neither text nor whole numbers.
        TargetError: a target that is none, or an empty list of them.
        OptionError: a value of the wrong type or outside its range.

    >>> Question("The capital of France is", " Paris").max_logits
    10
    >>> Question([1, 504, 3575], logit_mass=1.5)
    Traceback (most recent call last):
    unweave.errors.OptionError: logit_mass is 1.5; it must lie above 0 and at most at 1
    """

    prompt: Prompt
    """Text, or token ids."""
    targets: Targets = None
    """Tokens as text or ids, a `Difference`, a `Direction`, or several of them; None: the most likely next tokens."""
    position: int = -1
    """Where in the prompt the prediction is made; negative counts from the end. Later tokens are cut off."""
    max_logits: int = 10
    """Without targets: at most so many tokens, the likeliest."""
    logit_mass: float = 0.95
    """Without targets: no more tokens than together have this probability."""
    max_features: int | None = None
    """At most so many features become nodes, the most influential; the others are folded into the error node of their
    layer and position. None: all."""
    position_zero: PositionZero = "error"
    """"error" keeps the first position's MLP outputs as error nodes, "drop" makes them constants."""
    precision: Precision = "exact"
    """"exact", or "fast": operands of the large products rounded to bfloat16, sums in float32."""
    device: str | None = None
    """Where rows are computed; None: where the model is."""
    max_memory: int | str | None = None
    """Of this process at its peak, in bytes or as `2GB`: smaller passes, and rows in files; edges are the same."""

    def __post_init__(self) -> None:
        _set(self, "prompt", checked_prompt(self.prompt))
        _set(self, "targets", _targets_of(self.targets))
        _set(self, "position", _whole("position", self.position))
        _set(self, "max_logits", _whole("max_logits", self.max_logits, 1))
        mass = self.logit_mass
        if isinstance(mass, bool) or not isinstance(mass, (int, float)):
            raise OptionError(f"logit_mass is {mass!r}, which is not a number")
        if not 0 < mass <= 1:
            raise OptionError(f"logit_mass is {mass:g}; it must lie above 0 and at most at 1")
        if self.max_features is not None:
            _set(self, "max_features", _whole("max_features", self.max_features, 1))
        choice("position_zero", self.position_zero, PositionZero)
        choice("precision", self.precision, Precision)
        if self.device is not None and not isinstance(self.device, str):
            raise OptionError(f"device is {self.device!r}; give a name such as 'cpu' or 'cuda'")
        _ = self.memory_limit

    @property
    def memory_limit(self) -> int | None:
        """`max_memory` in bytes."""
        return None if self.max_memory is None else parse_bytes(self.max_memory)


def _set(question: Question, name: str, value: Any) -> None:
    object.__setattr__(question, name, value)  # as dataclasses do it in frozen ones


def _whole(name: str, value: Any, least: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise OptionError(f"{name} is {value!r}, which is not a whole number")
    if least is not None and number < least:
        raise OptionError(f"{name} is {number}; it must be at least {least}")
    return number


def _targets_of(given: Any) -> Any:
    """None, or a tuple of targets."""
    if given is None:
        return None
    several: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not several:
        raise TargetError("the list of targets is empty; give at least one, or None for the most likely tokens")
    for target in several:
        if isinstance(target, bool) or not isinstance(target, (str, int)):
            from .targets import Difference, Direction

            if not isinstance(target, (Difference, Direction)):
                raise TargetError(f"target {target!r} is none; give a token as text or id, a Difference or a Direction")
    return several
