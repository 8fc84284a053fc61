"""What would be said without some groups of an explanation: the real model, everything live."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from ..errors import OptionError
from ..interventions.live import heads_of, run, run_logits
from ..interventions.parts import Part
from ..models.language_model import LanguageModel
from .contrast import contrast_of
from .maps import Contrast

Instead = Literal["contrast", "mean", "zero"]
SHOWN = 6
"""Tokens shown, the likeliest before and after."""


def without_groups(
    model: LanguageModel, facts: Mapping[str, Any], groups: Sequence[int], to: Instead = "contrast"
) -> dict[str, Any]:
    """Run an explained prompt with groups put to other values: as in the contrast, to their mean over text, or to zero.

    Args:
        facts: `Explanation.facts`.
        groups: by number.

    Returns:
        Plain data: the answer's probability before and after, `tokens` with both for the likeliest tokens, and `moved`:
        how far each group went to its values in the contrast, as it would be if nothing were put there.

    Raises:
        OptionError: no such group, or none.
        PromptError, InterventionError: the model cannot run the prompt, or lacks a part.
    """
    count = len(facts["groups"])
    wrong = next((number for number in groups if not 0 <= number < count), None)
    if wrong is not None or not groups:
        raise OptionError(f"no group {wrong} in this explanation of {count}" if groups else "give one group or more")
    contrast = _contrast(model, facts)
    values = contrast.there if to == "contrast" else _contrast(model, facts, to).there
    parts = [Part.parse(group["parts"]) for group in facts["groups"]]
    for part in parts:
        part.check(model, len(contrast.ids))
    heads = heads_of(model)
    variant = [put for number in groups for put in parts[number].put(values, heads)]
    gauges = [part.gauge(contrast.here, contrast.there, heads) for part in parts]
    ran = run(model, contrast.ids, contrast.question, [variant], gauges=gauges)
    before = contrast.here.logits.softmax(-1)
    after = run_logits(model, contrast.ids[None], [variant])[0].softmax(-1)
    shown = dict.fromkeys(
        [contrast.question.answer, contrast.question.rival]
        + [token for chances in (after, before) for token in chances.topk(min(SHOWN, len(chances))).indices.tolist()]
    )
    told = [
        {"token": model.token_text(token), "id": token, "before": float(before[token]), "after": float(after[token])}
        for token in list(shown)[: SHOWN + 2]
    ]
    return {
        "groups": list(groups), "to": to, "answer": told[0], "rival": told[1],
        "top": model.token_text(int(after.argmax())),
        "tokens": sorted(told, key=lambda item: -max(item["before"], item["after"])),
        "moved": [None if number in groups else float(ran.gauges[0, number]) for number in range(count)],
    }  # fmt: skip


def _contrast(model: LanguageModel, facts: Mapping[str, Any], to: str | None = None) -> Contrast:
    baseline = facts["baseline"]
    ids = torch.tensor(facts["ids"]).tolist()
    if to is None and baseline["kind"] == "instead":
        return contrast_of(model, ids, facts["answer"]["id"], baseline["ids"])
    return contrast_of(model, ids, facts["answer"]["id"], baseline=to or baseline["kind"])
