"""Whether what is said of a prompt also holds with other text before it."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import UnweaveError
from ..graphs.comparison import aligned
from .maps import Contrast, with_prompt
from .say import CheckedSentence, elsewhere, run_tests

BEGINNINGS = ("Another example:\n", "This is what I read there.\n")
"""Text put before the prompt; it ends a line, so that the prompt's own tokens stay as they are."""
HERE_ALONE = "It does not hold with other text before the prompt."


def with_wordings(
    contrast: Contrast, sentences: Sequence[CheckedSentence], beginnings: Sequence[str | Sequence[int]] = BEGINNINGS
) -> tuple[CheckedSentence, ...]:
    """Sentences with how many of some other beginnings they hold on; one that does not hold on all says so.

    Where none holds on any, texts are left as they are (`nowhere` tells). Nothing is tried without another prompt, and
    where the model cannot read the beginnings.
    """
    model, other = contrast.model, contrast.other_ids
    if other is None or not sentences:
        return tuple(sentences)
    try:
        before = [model.tokenize(beginning) for beginning in beginnings]
    except UnweaveError:  # no tokenizer, or words that it does not know
        return tuple(sentences)
    special = model.tokenizer is not None and int(contrast.ids[0]) in model.tokenizer.all_special_ids
    held = [0] * len(sentences)
    for beginning in before:
        ids, there = (torch.cat([beginning, line[special:]]) for line in (contrast.ids, other))
        moved = with_prompt(model, ids, there, contrast.question)
        places = aligned(contrast.ids.tolist(), ids.tolist())
        if moved.whole * contrast.whole > 0:
            tests = [elsewhere(sentence.test, places) for sentence in sentences]
            values = run_tests(moved, tests)
            held = [n + test.holds(value) for n, test, value in zip(held, tests, values, strict=True)]
    anywhere, tried = any(held), len(before)
    return tuple(
        replace(
            sentence,
            wordings=(n, tried),
            text=f"{sentence.text} {HERE_ALONE}" if anywhere and n < tried else sentence.text,
        )
        for sentence, n in zip(sentences, held, strict=True)
    )


def nowhere(sentences: Sequence[CheckedSentence]) -> bool:
    """Whether all were tried with other text before the prompt, and none held."""
    return bool(sentences) and all(s.wordings is not None and s.wordings[0] == 0 for s in sentences)
