"""What takes the place of a prompt's inner values: another prompt, given or found, or means over text."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attribution.targets import resolve_targets
from ..errors import OptionError, PromptError
from ..interventions.live import Inside, TokenPair, look, next_logits
from ..models.language_model import LanguageModel
from ..models.places import PLACES, Place
from ..response.means import over_texts
from .maps import Contrast, with_prompt, with_values

BASELINES = ("auto", "mean", "zero")
NEAR = 10
"""Other tokens tried in the place of one."""
ROWS = 4000
"""Prompts tried for a contrast, times tokens."""
CHANGED = 0.5
"""A found contrast leaves the answer at most this share of its probability."""


def contrast_of(
    model: LanguageModel,
    prompt: str | Sequence[int],
    target: str | int | None = None,
    instead: str | Sequence[int] | None = None,
    baseline: str = "auto",
) -> Contrast:
    """The contrast that an explanation is about.

    Raises:
        PromptError: a prompt that cannot be run; `instead` of another length, the same, or with the same answer.
        TargetError: a target that is not one token.
        OptionError: another baseline, or two tokens that are one.
    """
    if baseline not in BASELINES:
        raise OptionError(f"baseline {baseline!r} is none of {', '.join(BASELINES)}")
    ids = model.tokenize(prompt)
    here = look(model, ids)
    if not bool(here.logits.isfinite().all()):
        raise PromptError(f"{model.name} gives logits that are not finite on this prompt; nothing can be explained")
    said = int(here.logits.argmax())
    answer = said if target is None else token_of(model, ids, target)
    if instead is not None:
        return _given(model, ids, here, answer, said, model.tokenize(instead))
    if baseline == "auto":
        found = propose(model, ids, here, answer, None if answer == said else said)
        if found is not None:
            other, rival = found
            return with_prompt(model, ids, other, TokenPair(answer, rival), proposed=True, here=here)
    rival = said if answer != said else int(here.logits.topk(2).indices[1])
    kind = "zero" if baseline == "zero" else "mean"
    return with_values(model, ids, _values(model, here, kind), TokenPair(answer, rival), kind, here)


def token_of(model: LanguageModel, ids: Int[Tensor, " pos"], target: str | int) -> int:
    """The id of a target token.

    Raises:
        TargetError: not one token, or not in the vocabulary.
    """
    recording = model.record(ids)
    (found,) = resolve_targets(model, recording, [target], normalized=recording.final[-1])
    return found.tokens[0]


def _check_other(ids: Int[Tensor, " pos"], other: Int[Tensor, " other"]) -> None:
    if len(other) != len(ids):
        raise PromptError(
            f"the prompt has {len(ids)} tokens, the one to contrast it with (instead) {len(other)}; give one of equal "
            f"length, so that each token has its counterpart"
        )
    if torch.equal(ids, other):
        raise PromptError("the prompt to contrast with (instead) is the same prompt; give one with another answer")


def _given(
    model: LanguageModel, ids: Tensor, here: Inside, answer: int, said: int, other: Int[Tensor, " pos"]
) -> Contrast:
    _check_other(ids, other)
    there = look(model, other)
    rival = int(there.logits.argmax())
    if answer != said and rival != said:
        rival = said
    if rival == answer and answer != said:  # why not: the other prompt does say it
        rival = said
    if rival == answer:
        raise PromptError(
            f"the prompt to contrast with (instead) has the same answer, {model.token_text(answer)!r}; give one that "
            f"changes it"
        )
    return with_prompt(model, ids, other, TokenPair(answer, rival), here=here)


def same_question(known: Contrast, prompt: str | Sequence[int], instead: str | Sequence[int] | None = None) -> Contrast:
    """The question of a contrast on another prompt: the same answer and the same rival.

    Raises:
        PromptError: as in `contrast_of`, but the answers may be any.
    """
    model, ids = known.model, known.model.tokenize(prompt)
    if instead is None:
        found = contrast_of(
            model, prompt, known.question.answer, baseline="auto" if known.kind == "instead" else known.kind
        )
        if found.other_ids is None:
            return with_values(
                model, ids, _values(model, found.here, found.kind), known.question, found.kind, found.here
            )
        return with_prompt(model, ids, found.other_ids, known.question, proposed=True, here=found.here)
    other = model.tokenize(instead)
    _check_other(ids, other)
    return with_prompt(model, ids, other, known.question)


def propose(
    model: LanguageModel, ids: Int[Tensor, " pos"], here: Inside, answer: int, said: int | None = None
) -> tuple[Int[Tensor, " pos"], int] | None:
    """A prompt with one token exchanged for another of its kind that changes the answer, and its own answer.

    Kinds are told by the embedding: the nearest tokens that are written alike (a space before, a capital, digits). The
    other answer should be of the answer's kind as well, so that the two differ in what the prompt is about.

    Args:
        said: where `answer` is not what the model says, what it says: then a prompt is wanted on which it does say it.
    """
    embedding = model.module.get_input_embeddings().weight.detach().cpu().float()
    rows = torch.nn.functional.normalize(embedding, dim=1)
    tried: list[tuple[int, int, float]] = []
    places = range(1, len(ids))
    each = max(1, min(NEAR, ROWS // (len(ids) * max(1, len(places)))))
    for position in places:
        token = int(ids[position])
        form = _form(model.token_text(token))
        if form is None:
            continue
        near = (rows @ rows[token]).topk(min(len(rows), 60))
        alike = [
            (position, other, value)
            for value, other in zip(near.values.tolist(), near.indices.tolist(), strict=True)
            if other != token and _form(model.token_text(other)) == form and not _same(model, token, other)
        ]
        tried += alike[:each]
    if not tried:
        return None
    prompts = ids.repeat(len(tried), 1)
    for row, (position, other, _) in enumerate(tried):
        prompts[row, position] = other
    chances = next_logits(model, prompts).softmax(-1)
    own = float(here.logits.softmax(-1)[answer])
    best: tuple[float, int, int] | None = None
    for row, (_, _, near_to) in enumerate(tried):
        top = int(chances[row].argmax())
        left = float(chances[row, answer])
        if said is None:
            if top == answer or left > CHANGED * own:
                continue
            kin = float(rows[top] @ rows[answer])
            score = float(chances[row, top]) * (1 - left / own) * max(kin, 0.01) ** 2 * max(near_to, 0.01)
            rival = top
        else:
            if top != answer:
                continue
            score, rival = left * max(near_to, 0.01), said
        if best is None or score > best[0]:
            best = (score, row, rival)
    return None if best is None else (prompts[best[1]], best[2])


def _form(text: str) -> tuple[bool, str] | None:
    """How a token is written; None for what is no word or number."""
    word = text.strip()
    if not word or not (word.isalpha() or word.isdigit()) or word.lower() in _SMALL:
        return None
    shape = "digit" if word.isdigit() else "Capital" if word[0].isupper() else "small"
    return text[:1].isspace(), shape


_SMALL = frozenset(
    "a an the of in on at to is are was were be and or not it this that as for by with from has have had do does did "
    "i you he she they we".split()
)


def _same(model: LanguageModel, a: int, b: int) -> bool:
    """Whether two tokens are one word, or one with an ending."""
    first, second = (model.token_text(token).strip().lower() for token in (a, b))
    short, long = sorted((first, second), key=len)
    return long.startswith(short) and len(long) - len(short) <= 2 and len(short) > 2


def _values(model: LanguageModel, here: Inside, kind: str) -> Mapping[Place, Sequence[Float[Tensor, " width"]]]:
    return _zeros(here) if kind == "zero" else text_means(model)


def _zeros(here: Inside) -> Mapping[Place, Sequence[Float[Tensor, " width"]]]:
    return _by_place({key: torch.zeros_like(value[0]) for key, value in here.at.items()})


def text_means(model: LanguageModel) -> Mapping[Place, Sequence[Float[Tensor, " width"]]]:
    """Means of all inner values over a little of the bundled text, first positions left out.

    Raises:
        OptionError: the model has no tokenizer.
    """
    return _by_place(
        over_texts(model, lambda ids: {key: x[1:].double().sum(0) for key, x in look(model, ids).at.items()})
    )


def _by_place(values: dict[tuple[Place, int], Tensor]) -> Mapping[Place, Sequence[Tensor]]:
    return {place: [values[key] for key in sorted(key for key in values if key[0] == place)] for place in PLACES}
