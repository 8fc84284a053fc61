"""Text as blocks of tokens: tokenised in large pieces, held-out documents kept apart."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import OptionError, TextError
from ..models.chats import render
from ..models.language_model import LanguageModel
from .documents import Chat

AT_ONCE = 500_000
"""Characters handed to the tokenizer in one call."""


def token_blocks(
    model: LanguageModel,
    documents: Iterable[str | Chat],
    context: int,
    *,
    held_out: float = 0.0,
    part: Literal["train", "held-out", "all"] = "all",
    min_characters: int = 20,
    shorter: bool = False,
) -> Iterator[Int[Tensor, " context"]]:
    """Documents as int64 blocks of exactly `context` tokens, each begun by the model's leading token.

    Documents follow one another, a blank line between two texts and nothing beside a chat, and are cut where a block is
    full; what is left goes on in the next block, and what does not fill the last block is dropped. A block whose text
    begins with a special token gets no other one before it. A document belongs to the held-out part if the first 8
    bytes of its text's sha256, as a fraction of 1, are below `held_out`, whatever the other documents are.

    Args:
        part: which documents to take; the held-out part may give no block at all.
        min_characters: shorter documents are left out.
        shorter: a text that does not fill one block is a block of its own length.

    Raises:
        TextError: no document long enough, less text than one block, no tokenizer, or no chat template.
        OptionError: a context that is under 2 or over the model's, or a share of held-out text outside [0, 1).
    """
    _check(model, context, held_out)
    assert model.tokenizer is not None and model.leading_token is not None
    special = set(model.tokenizer.all_special_ids)
    blank_line = _encoded(model, ["\n\n"])[0]
    long_enough = chosen = tokens = blocks = 0

    def kept() -> Iterator[str | Chat]:
        nonlocal long_enough, chosen
        for document in documents:
            text = document if isinstance(document, str) else document.text
            if len(text) >= min_characters:
                long_enough += 1
                if part == "all" or is_held_out(text, held_out) == (part == "held-out"):
                    chosen += 1
                    yield document

    block: list[int] = []
    after_chat = False
    for document, ids in _tokenised(model, kept()):
        chat = isinstance(document, Chat)
        if block and not chat and not after_chat:
            block += blank_line
        after_chat, at, tokens = chat, 0, tokens + len(ids)
        while at < len(ids) or len(block) >= context:
            if len(block) >= context:
                blocks += 1
                yield torch.tensor(block[:context], dtype=torch.int64)
                block = []
                continue
            if not block and ids[at] not in special:
                block.append(model.leading_token)
            taken = ids[at : at + context - len(block)]
            block += taken
            at += len(taken)
    if shorter and not blocks and len(block) > 1:
        yield torch.tensor(block, dtype=torch.int64)
        return
    if blocks or part == "held-out":
        return
    if not long_enough:
        raise TextError(f"the text holds no document of at least {min_characters} characters")
    if not chosen:
        raise TextError(
            f"all {long_enough} documents fall into the held-out part; give more text or a smaller share than "
            f"{held_out:g}"
        )
    raise TextError(
        f"the text has {tokens} tokens, less than one block of {context}; give more text or a shorter context"
    )


def _check(model: LanguageModel, context: int, held_out: float) -> None:
    longest = _longest(model)
    if not 2 <= context <= longest:
        raise OptionError(f"context is {context}; {model.name} takes blocks of 2 to {longest} tokens")
    if not 0 <= held_out < 1:
        raise OptionError(f"held_out is {held_out}; give a share from 0 up to, but not, 1")
    if model.tokenizer is None or model.leading_token is None:
        raise TextError(
            f"{model.name} comes without a tokenizer that has a special token; text cannot be turned into blocks"
        )


def usual_context(model: LanguageModel, most: int = 128) -> int:
    """Tokens in a block where nothing else is asked for: `most`, or as many as the model takes."""
    return int(min(most, _longest(model)))


def _longest(model: LanguageModel) -> int | float:
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the held-out part, by the sha256 of its text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64 < share


def _tokenised(model: LanguageModel, documents: Iterator[str | Chat]) -> Iterator[tuple[str | Chat, list[int]]]:
    batch: list[str | Chat] = []
    texts: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        texts.append(document if isinstance(document, str) else _rendered(model, document))
        size += len(texts[-1])
        if size >= AT_ONCE:
            yield from zip(batch, _encoded(model, texts), strict=True)
            batch, texts, size = [], [], 0
    if batch:
        yield from zip(batch, _encoded(model, texts), strict=True)


def _encoded(model: LanguageModel, texts: list[str]) -> list[list[int]]:
    assert model.tokenizer is not None
    return model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _rendered(model: LanguageModel, chat: Chat) -> str:
    def complaint(reason: str | None) -> TextError:
        if reason is None:
            return TextError(
                f"{model.name} has no chat template, and the text holds conversations; give plain text or the chat "
                f"model"
            )
        roles = ", ".join(role for role, _ in chat.messages[:4])
        return TextError(f"the chat template of {model.name} refuses a conversation of roles {roles}: {reason}")

    return render(model, [{"role": role, "content": content} for role, content in chat.messages], complaint)
