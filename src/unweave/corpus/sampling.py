"""Text that a model writes itself: exactly on its own distribution, and made without a network."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ModelError
from ..models.language_model import LanguageModel

LENGTH = 256
"""Tokens a document, its opening included."""
MARK = "unweave0marks0the0place"


def self_sampled(
    model: LanguageModel, *, seed: int = 0, batch: int = 64, length: int = LENGTH, start: int = 0
) -> Iterator[tuple[str, str]]:
    """Endless (kind, text) pairs sampled from the model: chats, where it has a chat template, and free text.

    A chat opens with the template up to the user's message, and the model writes both sides (Xu et al. 2024, Magpie).
    Free text opens with a random capitalised word of the vocabulary. Batch number i depends on (`seed`, i) alone, so
    `start` goes on where an earlier run stopped. Temperature 0.8.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ModelError(f"{model.name} comes without a tokenizer, so it cannot write text")
    chat, words = _chat_opening(model), _capitalised(model)
    lead = [] if model.leading_token is None else [model.leading_token]
    number = start
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        kind = "chat" if chat is not None and number % 2 == 0 else "self"
        if kind == "chat" and chat is not None:
            openings = torch.tensor([chat] * batch)
        else:
            first = words[torch.randint(len(words), (batch,), generator=generator)]
            openings = torch.cat([torch.tensor(lead, dtype=torch.int64).expand(batch, -1), first[:, None]], 1)
        ids = _continued(model, openings, length, int(torch.randint(2**31, (), generator=generator)))
        for row in ids.tolist():
            tokens = row if kind == "chat" else row[len(lead) :]
            yield kind, model.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        number += 1


def _continued(
    model: LanguageModel, openings: Int[Tensor, "batch opening"], length: int, seed: int
) -> Int[Tensor, "batch length"]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.module.generate(
            input_ids=openings.to(model.device), attention_mask=torch.ones_like(openings).to(model.device),
            max_new_tokens=length - openings.shape[1],
            do_sample=True, temperature=0.8, top_k=0, eos_token_id=-1, pad_token_id=0,
        )  # fmt: skip


def _chat_opening(model: LanguageModel) -> list[int] | None:
    """Tokens of the chat template up to the first words of the user; None without a template."""
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return None
    text = tokenizer.apply_chat_template([{"role": "user", "content": MARK}], tokenize=False)
    return list(tokenizer(text[: text.index(MARK)], add_special_tokens=False)["input_ids"])


def _capitalised(model: LanguageModel) -> Int[Tensor, " word"]:
    """Tokens that can open a text: a capital and two small letters or more."""
    texts = model.tokenizer.batch_decode([[i] for i in range(len(model.tokenizer))])  # type: ignore[union-attr]
    words = [
        i
        for i, text in enumerate(texts)
        if len(text) > 2 and text.isalpha() and text[0].isupper() and text[1:].islower()
    ]
    if not words:
        raise ModelError(f"{model.name}: no token of its vocabulary can open a text")
    return torch.tensor(words)
