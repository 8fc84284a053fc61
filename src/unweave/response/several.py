"""Effects averaged over several prompts: which units do the same for one kind of answer, wherever they stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.choices import Attention, Baseline, UnitKind
from ..base.jsontext import parse_json
from ..base.progress import Progress
from ..errors import OptionError, PromptError
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .asking import Prompt, ask, target_start
from .ranking import strengths
from .targets import ResponseTargetSpec


@dataclass(frozen=True)
class ContrastPair:
    """A prompt, the prompt it is contrasted with, and what is explained; None as in `response_graph`."""

    prompt: Prompt
    instead: Prompt | None = None
    target: ResponseTargetSpec | None = None


@dataclass(frozen=True)
class MeanEffect:
    """One unit at all positions together."""

    layer: int
    index: int
    effect: float
    """The mean over prompts of the target's first-order change when it is taken away at every position."""
    error: float
    """The mean's standard error; NaN for one prompt."""
    same_sign: int
    """On how many prompts the effect has the mean's sign."""


@dataclass(frozen=True)
class MeanEffects:
    """The units whose effects are largest on average over several prompts."""

    units: UnitKind
    targets: tuple[str, ...]
    """What was explained, prompt by prompt."""
    strongest: tuple[MeanEffect, ...]

    def __repr__(self) -> str:
        return f"MeanEffects({len(self.strongest)} {self.units} over {len(self.targets)} prompts)"


def mean_effects(
    model: ReplacementModel | LanguageModel,
    pairs: Sequence[ContrastPair],
    units: UnitKind = "neurons",
    baseline: Baseline = "auto",
    most: int = 50,
    attention: Attention = "live",
    *,
    progress: Progress | None = None,
) -> MeanEffects:
    """The first-order effects of all units on several prompts' targets, averaged; one transposed sweep a prompt.

    Effects of one unit at several positions are added up, so that prompts may differ in length.

    Args:
        pairs: from `read_pairs`, or made.
        most: how many units, those of the largest mean effects.

    Raises:
        OptionError: no prompts, or `most` under 1.
        PromptError, TargetError, TranscoderError: as in `response_graph`, naming the prompt by its number.

    Source: attribution patching over a set of prompts (Nanda 2023; Marks et al. 2024).

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> unweave.mean_effects(model, unweave.read_pairs("pairs.jsonl"))        # doctest: +SKIP
    """
    if not pairs:
        raise OptionError("there are no prompts to average over; give at least one")
    if most < 1:
        raise OptionError(f"most is {most}; it must be at least 1")
    sums: list[Tensor] = []
    targets = []
    for number, pair in enumerate(pairs):
        try:
            asked = ask(model, pair.prompt, pair.target, pair.instead, units, baseline, attention, -1)
        except (PromptError, OptionError) as error:
            raise type(error)(f"prompt {number + 1}: {error}") from error
        if asked.target is None:
            raise OptionError(f"prompt {number + 1}: a unit is no target here; name tokens")
        start = target_start(asked)
        candidates = asked.basis.all_units(asked.firing, asked.reference, asked.silent, len(asked.ids) - 1)
        found = strengths(asked, start, candidates, "gradient")
        depth = len(candidates)
        if asked.transcoders is None:
            widths = [layer.mlp.width for layer in asked.tangent.layers]
        else:
            widths = list(asked.transcoders.widths)
        one = torch.zeros(depth, max(widths), dtype=torch.float64)
        for layer, (part, strength) in enumerate(zip(candidates, found, strict=True)):
            one[layer].index_add_(0, part.index, -strength.double())
        sums.append(one)
        targets.append(asked.target.label)
        if progress is not None:
            progress((number + 1) / len(pairs))
    return MeanEffects(units, tuple(targets), _strongest(torch.stack(sums), most))


def _strongest(effects: Tensor, most: int) -> tuple[MeanEffect, ...]:
    n, _, width = effects.shape
    mean = effects.mean(0)
    error = effects.std(0) / math.sqrt(n) if n > 1 else torch.full_like(mean, math.nan)
    same = (effects.sign() == mean.sign()).sum(0)
    places = mean.flatten().abs().argsort(descending=True, stable=True)[:most].tolist()
    return tuple(
        MeanEffect(
            place // width, place % width, float(mean.flatten()[place]), float(error.flatten()[place]),
            int(same.flatten()[place]),
        )
        for place in places
        if float(mean.flatten()[place])
    )  # fmt: skip


def read_pairs(path: str | Path) -> list[ContrastPair]:
    """Prompts from a JSONL file, one object a line: `prompt`, and if wanted `instead`, `target` and `minus`.

    Raises:
        PromptError: the file cannot be read, or a line is something else; the message names it.

    >>> import unweave
    >>> unweave.read_pairs("pairs.jsonl")[0].instead                         # doctest: +SKIP
    'The capital of Germany is'
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read prompts from {path}: {error}") from error
    found = [_pair(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise PromptError(f"{path} holds no prompt; write one JSON object on each line")
    return found


def _pair(line: str, where: str) -> ContrastPair:
    example = '{"prompt": "The capital of France is", "instead": "The capital of Spain is"}'
    try:
        facts: Any = parse_json(line)
    except ValueError as error:
        raise PromptError(f"{where} is not JSON ({error}); a line looks like {example}") from error
    known = {"prompt", "instead", "target", "minus"}
    if not isinstance(facts, dict) or "prompt" not in facts:
        raise PromptError(f"{where} has no prompt; a line looks like {example}")
    if not facts.keys() <= known or not all(isinstance(value, str) for value in facts.values()):
        raise PromptError(f"{where} holds something else than texts for {', '.join(sorted(known))}")
    target, minus = facts.get("target"), facts.get("minus")
    if minus is not None and target is None:
        raise PromptError(f"{where} has minus without target; name both tokens")
    wanted = (target, minus) if target is not None and minus is not None else target
    return ContrastPair(facts["prompt"], facts.get("instead"), wanted)
