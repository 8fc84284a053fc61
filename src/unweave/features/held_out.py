"""Text that pages were not made from."""

from collections.abc import Sequence
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from ..corpus.blocks import named_sources
from ..corpus.documents import documents
from ..corpus.text import token_blocks
from ..errors import OptionError, TextError
from ..models.language_model import LanguageModel
from .pages import Pages


def held_out_blocks(
    model: LanguageModel, pages: Pages, text: Sequence[str] | None, tokens: int, context: int
) -> Int[Tensor, "sequence pos"]:
    """Blocks of several sources in equal parts, of the documents that a build with the pages' `held_out` left out.

    Pages that were built without holding anything out know no documents of their own, so all of the text is taken, and
    it is for the caller to give other text.

    Args:
        text: sources; None: the held-out text that ships with the package.

    Raises:
        OptionError: no tokens.
        TextError: less text than one block.
    """
    if tokens < 1:
        raise OptionError(f"--tokens is {tokens}; give at least 1")
    share = float(pages.facts.get("held_out") or 0.0)
    sources = list(text) if text else list(named_sources([]).values())
    each = max(1, tokens // len(sources) // max(1, context - 1))
    found = []
    for source in sources:
        found += islice(
            token_blocks(model, documents(source), context, held_out=share, part="held-out" if share else "all"), each
        )
    if not found:
        raise TextError(
            f"the text has no block of {context} tokens in documents that the pages left out; give other text"
        )
    return torch.stack(found)
