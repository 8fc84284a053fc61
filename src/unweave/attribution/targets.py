"""What to attribute: the likely next tokens, named ones, a difference of two, or any direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TargetError
from ..models.language_model import LanguageModel, Recording


@dataclass(frozen=True)
class Direction:
    """Any linear read-out of the residual stream after the final norm, as a target.

    >>> Direction(torch.ones(4), "sum of all channels").weight
    1.0
    """

    vector: Float[Tensor, " d"]
    label: str
    bias: float = 0.0
    weight: float = 1.0
    """What influence starts from at this target, in place of a probability."""


@dataclass(frozen=True)
class Difference:
    """The logit of one token minus that of another, as one target; tokens as text or ids.

    >>> Difference(" Paris", " Berlin")
    Difference(plus=' Paris', minus=' Berlin')
    """

    plus: str | int
    minus: str | int


TargetSpec = str | int | Direction | Difference


@dataclass(frozen=True)
class LogitTarget:
    """A resolved target: a direction after the final norm at one position.

    `token` is a token id or, for directions, the vocabulary size plus the target's place in the list.
    """

    token: int
    position: int
    label: str
    weight: float
    direction: Float[Tensor, " d"]
    bias: float
    value: float
    """What the real model gives here: the logit minus the mean of all logits, or the direction's read-out."""
    tokens: tuple[int, ...] = ()
    """The token, the two of a difference, or nothing for any other direction."""


def resolve_position(n_positions: int, position: int) -> int:
    """A position counted from the start; negative ones count from the end.

    Raises:
        TargetError: outside the prompt.
    """
    if not -n_positions <= position < n_positions:
        raise TargetError(
            f"position {position} is outside the prompt of {n_positions} tokens (0 to {n_positions - 1}, or -1 to "
            f"-{n_positions})"
        )
    return position % n_positions


def resolve_targets(
    model: LanguageModel,
    recording: Recording,
    targets: Sequence[TargetSpec],
    *,
    normalized: Float[Tensor, " d"],
) -> list[LogitTarget]:
    """The targets at the recording's last position.

    Args:
        targets: tokens as text or ids, `Difference`s, `Direction`s.
        normalized: the residual stream at the last position after the final norm.

    Raises:
        TargetError: text that is not exactly one token, an id outside the vocabulary, a vector of another width.
    """
    raw = recording.logits[-1]
    probabilities = model.capped(raw).softmax(-1)
    position, vocab = len(recording.input_ids) - 1, len(raw)
    resolved = []
    for number, spec in enumerate(targets):
        match spec:
            case Direction():
                if spec.vector.shape != normalized.shape:
                    raise TargetError(
                        f"direction {spec.label!r} has shape {list(spec.vector.shape)}, the model's d_model is "
                        f"{len(normalized)}"
                    )
                vector = spec.vector.to(normalized)
                value = float(vector @ normalized) + spec.bias
                resolved.append(
                    LogitTarget(vocab + number, position, spec.label, spec.weight, vector, spec.bias, value)
                )
            case Difference():
                plus, minus = _token(model, spec.plus), _token(model, spec.minus)
                if plus == minus:
                    raise TargetError(f"a difference of {model.token_text(plus)!r} and itself is always zero")
                label = f"{model.token_text(plus)} - {model.token_text(minus)}"
                vector, bias = (
                    _unembedding(model, plus) - _unembedding(model, minus),
                    _bias(model, plus) - _bias(model, minus),
                )
                resolved.append(
                    LogitTarget(
                        vocab + number, position, label, 1.0, vector, bias, float(raw[plus] - raw[minus]), (plus, minus)
                    )
                )
            case _:
                token = _token(model, spec)
                vector = _unembedding(model, token) - model.unembedding_mean
                bias = _bias(model, token) - _mean_bias(model)
                value = float(raw[token] - raw.mean())
                resolved.append(
                    LogitTarget(
                        token,
                        position,
                        model.token_text(token),
                        float(probabilities[token]),
                        vector,
                        bias,
                        value,
                        (token,),
                    )
                )
    names = [target.tokens or (id(target),) for target in resolved]
    twice = next((n for n, name in enumerate(names) if name in names[:n]), None)
    if twice is not None:
        raise TargetError(f"target {resolved[twice].label!r} is given twice; each target makes one node")
    return resolved


def salient_tokens(model: LanguageModel, recording: Recording, most: int, mass: float) -> list[int]:
    """The fewest tokens that hold `mass` of the next token's probability, at most `most`, the likeliest first."""
    probabilities = model.capped(recording.logits[-1]).softmax(-1)
    top = probabilities.topk(min(most, len(probabilities)))
    enough = int(torch.searchsorted(top.values.cumsum(0), mass)) + 1
    return top.indices[:enough].tolist()


def _token(model: LanguageModel, spec: str | int) -> int:
    vocab = model.unembedding.shape[0]
    if isinstance(spec, int):
        if not 0 <= spec < vocab:
            raise TargetError(f"token id {spec} is outside the model's vocabulary of {vocab}")
        return spec
    if model.tokenizer is None:
        raise TargetError(f"{model.name} comes without a tokenizer; give targets as token ids")
    ids = model.tokens_called(spec)
    if ids == [getattr(model.tokenizer, "unk_token_id", None)] and spec != model.tokenizer.unk_token:
        raise TargetError(
            f"target {spec!r} is no word of {model.name}'s vocabulary; give one that is, or an id as '#7'"
        )
    if len(ids) != 1:
        pieces = " + ".join(repr(model.token_text(i)) for i in ids) or "nothing"
        raise TargetError(f"target {spec!r} is {len(ids)} tokens ({pieces}); a target must be exactly one")
    return int(ids[0])


def _unembedding(model: LanguageModel, token: int) -> Float[Tensor, " d"]:
    return model.unembedding[token].to(model.engine_dtype)


def _bias(model: LanguageModel, token: int) -> float:
    return 0.0 if model.unembedding_bias is None else float(model.unembedding_bias[token])


def _mean_bias(model: LanguageModel) -> float:
    return 0.0 if model.unembedding_bias is None else float(model.unembedding_bias.double().mean())
