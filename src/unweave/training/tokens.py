"""The text of a training as blocks of tokens, made once and kept in its folder."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..base.files import write_atomically
from ..corpus.documents import Chat, mixed, parse_source
from ..corpus.sampling import LENGTH, self_sampled
from ..corpus.text import token_blocks
from ..errors import FileError, TextError
from ..models.language_model import LanguageModel
from .config import TrainConfig

HELD_OUT_BLOCKS = 64
SAMPLED_AT_ONCE = 64


@dataclass(frozen=True)
class Blocks:
    """Blocks to train on and blocks of other documents, [block, context] each."""

    train: Int[Tensor, "block context"]
    held_out: Int[Tensor, "other context"]

    def order(self, seed: int, begin: int, count: int) -> Int[Tensor, " count"]:
        """Which blocks come at places `begin` to `begin + count`; every epoch has its own order."""
        n = len(self.train)
        places: list[Tensor] = []
        while count > 0:
            epoch, at = divmod(begin, n)
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            part = torch.randperm(n, generator=generator)[at : at + count]
            places.append(part)
            begin, count = begin + len(part), count - len(part)
        return torch.cat(places)


def prepare(model: LanguageModel, config: TrainConfig, folder: Path, report: Callable[[str], None]) -> Blocks:
    """The blocks of a training: read from its folder if they are there, else made from its text.

    Text the model writes itself is kept line by line as it comes, so a stopped run goes on with it.

    Raises:
        TextError: no text, or too little of it.
        FileError: the folder cannot be written.
    """
    path = folder / "tokens.safetensors"
    wanted = {name: getattr(config, name) for name in ("model", "text", "self_sample", "held_out", "context", "seed")}
    count = math.ceil(config.tokens / config.reuse / (config.context - 1))
    key = hashlib.sha256(json.dumps([wanted, count], sort_keys=True).encode()).hexdigest()
    kept = _read(path, key)
    if kept is not None:
        return kept
    own = math.ceil(count * config.self_sample)
    train: list[Tensor] = []
    held: list[Tensor] = []
    parts: list[tuple[int, str, Callable[[], Iterable[str | Chat]]]] = []
    if count > own:
        sources = [parse_source(spec) for spec in config.text]
        parts.append((count - own, "reading text", lambda: mixed(sources)))
    if own:
        parts.append((own, "writing own text", lambda: _own_text(model, config, folder, own)))
    for share, title, texts in parts:
        report(title)
        room = min(HELD_OUT_BLOCKS // len(parts), max(share // 4, 1)) if config.held_out else 0
        held += (
            islice(token_blocks(model, texts(), config.context, held_out=config.held_out, part="held-out"), room)
            if room
            else []
        )
        train += islice(token_blocks(model, texts(), config.context, held_out=config.held_out, part="train"), share)
    if not train:
        raise TextError(f"{', '.join(config.text)}: less text than one block of {config.context} tokens")
    if not held and config.held_out:
        report("no document fell into the held-out part, so there will be no evaluations; give a larger --held-out")
    empty = torch.empty(0, config.context, dtype=torch.int64)
    blocks = Blocks(torch.stack(train), torch.stack(held) if held else empty)
    tensors = {"train": blocks.train.int(), "held_out": blocks.held_out.int()}
    write_atomically(path, lambda name: save_file(tensors, name, {"key": key}))
    return blocks


def _read(path: Path, key: str) -> Blocks | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return Blocks(file.get_tensor("train").long(), file.get_tensor("held_out").long())
    except (SafetensorError, OSError) as error:
        raise FileError(f"cannot read {path}: {error}; remove it and it is made again") from error


def _own_text(model: LanguageModel, config: TrainConfig, folder: Path, blocks: int) -> Iterator[str]:
    """Enough documents of the model's own, from the folder's file first; at least half as much again as needed."""
    path = folder / "own-text.jsonl"
    needed = math.ceil(1.1 * blocks * config.context / LENGTH / (1 - config.held_out or 1)) + SAMPLED_AT_ONCE
    lines = path.read_text().splitlines() if path.is_file() else []
    whole = len(lines) // SAMPLED_AT_ONCE * SAMPLED_AT_ONCE
    texts = [json.loads(line)["text"] for line in lines[:whole]]
    yield from texts[:needed]
    if len(texts) >= needed:
        return
    with path.open("w" if not whole else "r+") as file:
        file.writelines(line + "\n" for line in lines[:whole])
        file.truncate()
        for kind, text in self_sampled(model, seed=config.seed, batch=SAMPLED_AT_ONCE, start=whole // SAMPLED_AT_ONCE):
            file.write(json.dumps({"kind": kind, "text": text}) + "\n")
            file.flush()
            texts.append(text)
            yield text
            if len(texts) >= needed and len(texts) % SAMPLED_AT_ONCE == 0:
                return
