"""Text to evaluate on: named kinds, cut into blocks, some of them set aside for fitting the baselines."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ..base.catalogue import shipped_beside
from ..errors import OptionError, TextError
from ..models.language_model import LanguageModel
from .documents import documents
from .text import token_blocks

BUNDLED = Path(__file__).parents[1] / "data" / "held-out"
"""Text that ships with the package, one file a kind; no shipped dictionary was trained on it."""
SHORT = BUNDLED.with_name("held-out-short") / "short.jsonl"
"""Short texts about the world, such as people trace, held out by entity (docs/training-data.md)."""
FIT_PER_DIMENSION = 20
"""Tokens to fit affine maps to, for each dimension of their input."""
READ_AHEAD = 4
"""Blocks are drawn from the first so many times as many as are needed."""


def named_sources(specs: Sequence[str], model: str = "") -> dict[str, str]:
    """Sources by the name of their kind: `NAME=SOURCE`, or a source that is called as its file is. None given: the
    bundled text.

    Args:
        model: one that ships with text of its own is judged on that.

    >>> named_sources(["chat=talk.jsonl", "notes/prose.txt"])
    {'chat': 'talk.jsonl', 'prose': 'notes/prose.txt'}

    Raises:
        OptionError: an empty name or source, or one name twice.
        TextError: nothing given, and no bundled text.
    """
    if not specs:
        beside = shipped_beside(model)
        folder = BUNDLED if beside is None else beside / "held-out"
        found = sorted(folder.glob("*.jsonl"))
        if not found:
            raise TextError(f"no held-out text is bundled ({folder} holds no .jsonl file); give --text NAME=FILE")
        return {path.stem: str(path) for path in found}
    sources: dict[str, str] = {}
    for spec in specs:
        name, sign, source = spec.partition("=")
        if not sign or Path(spec).expanduser().exists():
            name, source = Path(spec).stem or spec, spec
        if not name or not source:
            raise OptionError(f"--text {spec!r} is not NAME=SOURCE, nor a source alone")
        if name in sources:
            raise OptionError(f"two texts are called {name!r}; name them apart: --text NAME=SOURCE")
        sources[name] = source
    return sources


def read_texts(
    model: LanguageModel, sources: dict[str, str], *, tokens: int, context: int, held_out: float = 0.0, seed: int = 0
) -> tuple[dict[str, Int[Tensor, "_ pos"]], Int[Tensor, "sequence pos"]]:
    """Blocks to evaluate on, by kind, and blocks of the same sources to fit the baselines to, one kind after another
    in turn.

    Each kind gets the same share of `tokens`. Where a source is too short for both purposes, they share it alike.

    Args:
        held_out: only documents that a training with this `held_out` has not seen; 0: all.
        seed: decides which blocks are taken.

    Raises:
        TextError: a source that cannot be read or has less than two blocks.
        OptionError: fewer tokens than one block, a context out of range.
    """
    length = max(context, 1)  # a context out of range is refused where blocks are made
    share = tokens // len(sources) // length
    if not share:
        raise OptionError(
            f"--tokens {tokens} gives none of {len(sources)} kinds of text a block of {context}; give at least "
            f"{len(sources) * context}"
        )
    fit_share = max(share, FIT_PER_DIMENSION * model.d_model // len(sources) // length)
    texts, fits = {}, []
    for name, source in sources.items():
        found = token_blocks(
            model, documents(source), context, held_out=held_out, part="held-out" if held_out else "all"
        )
        blocks = list(islice(found, READ_AHEAD * (share + fit_share)))
        if len(blocks) < 2:
            raise TextError(
                f"{source} has {len(blocks)} blocks of {context} tokens; at least 2 are needed; give more text or a "
                f"shorter --context"
            )
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
        mixed = torch.stack(blocks)[order]
        taken = min(share, len(blocks) // 2)
        texts[name] = mixed[:taken]
        fits.append(mixed[taken : taken + fit_share])
    turns = [blocks[turn] for turn in range(max(map(len, fits))) for blocks in fits if turn < len(blocks)]
    return texts, torch.stack(turns)
