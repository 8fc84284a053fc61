"""What a response graph explains: a difference of two tokens, a token, a direction, or one of its own kind of unit."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.targets import Difference, Direction, LogitTarget, TargetSpec, resolve_targets
from ..errors import TargetError
from ..models.language_model import LanguageModel
from ..models.recording import Recording

ResponseTargetSpec = TargetSpec | tuple[str | int, str | int] | tuple[int, int, int]
_UNIT = re.compile(r"(\d+)_(\d+)_(\d+)")


@dataclass(frozen=True)
class ResponseTarget:
    """A number that the model gives at one position, as the model gives it: soft caps count."""

    token: int
    label: str
    tokens: tuple[int, ...]
    weight: float
    direction: Float[Tensor, " d"]
    """Its gradient after the final norm."""
    value: float
    measure: Callable[[Float[Tensor, " d"], Float[Tensor, " vocab"]], Float[Tensor, ""]]
    """The same from what the final norm gives and from capped logits."""


def unit_of(target: object) -> tuple[int, int, int] | None:
    """The (layer, position, index) that a target names, if it names a unit: an id such as `12_345_5`, or a triple.

    >>> unit_of("12_345_5")
    (12, 5, 345)
    """
    if isinstance(target, tuple) and len(target) == 3:
        return target
    match = _UNIT.fullmatch(target) if isinstance(target, str) else None
    return None if match is None else (int(match[1]), int(match[3]), int(match[2]))


def response_target(
    model: LanguageModel,
    recording: Recording,
    normalized: Float[Tensor, " d"],
    target: ResponseTargetSpec | None,
    other: Float[Tensor, " vocab"] | None,
) -> ResponseTarget:
    """The target at a recording's last position.

    Args:
        target: None for the likeliest token less its rival: the other prompt's likeliest if that is another, else the
            second.
        other: the logits at the end of the prompt to contrast with, if there is one.

    Raises:
        TargetError: not one token, not in the vocabulary, or a difference of a token with itself.
    """
    raw = recording.logits[-1]
    if target is None:
        first, second = raw.topk(2).indices.tolist()
        rival = second if other is None or int(other.argmax()) == first else int(other.argmax())
        target = Difference(first, rival)
    elif isinstance(target, tuple) and len(target) == 2:
        target = Difference(*target)
    assert isinstance(target, TargetSpec)
    (found,) = resolve_targets(model, recording, [target], normalized=normalized)
    if len(found.tokens) == 2 and found.tokens[0] == found.tokens[1]:
        raise TargetError(
            f"the target is the difference of {found.label.split(' - ')[0]!r} with itself; name two tokens"
        )
    return _capped(model, raw, found, normalized)


def _capped(
    model: LanguageModel, raw: Float[Tensor, " vocab"], found: LogitTarget, normalized: Float[Tensor, " d"]
) -> ResponseTarget:
    direction, tokens, cap = found.direction, found.tokens, model.softcap
    if tokens and cap is not None:
        slope = 1 - torch.tanh(raw / cap).square()
        rows = model.unembedding
        direction = rows[tokens[0]].to(raw) * slope[tokens[0]]
        if len(tokens) == 2:
            direction = direction - rows[tokens[1]].to(raw) * slope[tokens[1]]
        else:
            direction = direction - (slope[None] @ rows.to(raw))[0] / len(raw)

    def measure(after_norm: Tensor, logits: Tensor) -> Tensor:
        match tokens:
            case ():
                return after_norm @ found.direction.to(after_norm) + found.bias
            case (token,):
                return logits[token] - logits.mean()
            case _:
                return logits[tokens[0]] - logits[tokens[1]]

    value = float(measure(normalized, model.capped(raw)))
    return ResponseTarget(found.token, found.label, tokens, 1.0, direction, value, measure)


__all__ = ["Direction", "ResponseTarget", "ResponseTargetSpec", "response_target", "unit_of"]
