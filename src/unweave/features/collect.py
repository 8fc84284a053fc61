"""Streaming text through model and dictionary once, with checkpoints from which a stopped run goes on."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..base.files import write_atomically
from ..base.progress import Progress
from ..corpus.documents import mixed, parse_source
from ..corpus.text import token_blocks
from ..errors import FileError, TextError
from ..models.language_model import LanguageModel
from ..models.passes import TOKENS_PER_BATCH, batches
from ..models.recording import WritePoint
from ..transcoders.replacement import ReplacementModel
from .tally import LayerTally
from .units import SignedNeurons, Units, activations_of, n_units, units_of

STATE = "collecting.safetensors"
SAVE_EVERY = 180.0
"""Seconds between checkpoints."""
AT_ONCE = 2 * TOKENS_PER_BATCH
"""Tokens counted together on a CPU: there are no logits, and counting in large steps is cheaper."""
LEVELS = 64
"""Blocks from which the levels of neurons are taken, the first."""


@dataclass(frozen=True)
class Reading:
    """Which text is read, and how; a collection goes on only with the same."""

    model: str
    transcoders: str
    sha256: str
    text: tuple[str, ...]
    context: int
    held_out: float = 0.0
    """Documents left out: their sha256, as a fraction, is below this share, as in training."""

    def blocks(self, model: LanguageModel) -> Iterator[Tensor]:
        """Blocks of tokens, always the same ones."""
        documents = mixed([parse_source(spec) for spec in self.text])
        return token_blocks(
            model, documents, self.context, held_out=self.held_out, part="train" if self.held_out else "all"
        )


class Collection:
    """Everything known of the text read so far."""

    def __init__(self, reading: Reading, widths: tuple[int, ...], vocabulary: int):
        self.reading = reading
        self.layers = [LayerTally(width, vocabulary) for width in widths]
        self.tokens = np.zeros(vocabulary, np.int64)
        """How often each token was seen."""
        self.n_blocks = 0
        self.digest = hashlib.sha256().hexdigest()
        """Of all tokens read, in order."""
        self.levels: tuple[np.ndarray, ...] = ()
        """Of neurons, by layer what each sign of each must be above to count."""
        self.ended = False
        """Whether there is no more text."""
        self.kept: dict[int, np.ndarray] = {}
        """Blocks that hold examples, and some that did."""

    @property
    def seen(self) -> int:
        """Number of positions counted: all but the first of each block."""
        return int(self.tokens.sum())

    def note(self, ids: np.ndarray) -> None:
        """Count the tokens of one batch [sequence, pos]."""
        self.tokens += np.bincount(ids[:, 1:].reshape(-1), minlength=len(self.tokens))
        self.kept |= {self.n_blocks + place: row for place, row in enumerate(ids.astype(np.int32))}
        self.digest = _digest(self.digest, ids)
        self.n_blocks += len(ids)

    def compact(self) -> None:
        """Forget blocks that hold no example any more."""
        used = {int(block) for layer in self.layers for block in np.unique(layer.places() // self.reading.context)}
        self.kept = {block: row for block, row in self.kept.items() if block in used}

    def save(self, path: Path) -> None:
        """Write everything to one file, as a whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        self.compact()
        tensors = {"tokens": self.tokens, "block_numbers": np.array(list(self.kept), np.int64)}
        tensors["blocks"] = (
            np.stack(list(self.kept.values())) if self.kept else np.zeros((0, self.reading.context), np.int32)
        )
        tensors |= {f"{number}.level": level for number, level in enumerate(self.levels)}
        for number, layer in enumerate(self.layers):
            layer.count_tokens()
            tensors |= {f"{number}.{name}": array for name, array in layer.arrays.items()}
        facts = {"reading": asdict(self.reading), "n_blocks": self.n_blocks, "digest": self.digest}
        write_atomically(path, lambda name: save_file(tensors, name, {"facts": json.dumps(facts)}))

    def restore(self, path: Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            FileError: it is damaged, or of another text, model or dictionary.
        """
        try:
            with safe_open(path, "np") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                found = Reading(**facts["reading"] | {"text": tuple(facts["reading"]["text"])})
                if found != self.reading:
                    other = next(name for name in asdict(found) if getattr(found, name) != getattr(self.reading, name))
                    there, here = getattr(found, other), getattr(self.reading, other)
                    raise FileError(
                        f"{path} was begun with {other} {there!r}, not {here!r}; give the same again, or another --out"
                    )
                self.tokens = file.get_tensor("tokens")
                numbers, blocks = file.get_tensor("block_numbers"), file.get_tensor("blocks")
                for number, layer in enumerate(self.layers):
                    layer.arrays = {name: file.get_tensor(f"{number}.{name}") for name in layer.arrays}
                if "0.level" in file.keys():  # noqa: SIM118 (no mapping)
                    self.levels = tuple(file.get_tensor(f"{number}.level") for number in range(len(self.layers)))
            self.kept = {int(number): row for number, row in zip(numbers, blocks, strict=True)}
            self.n_blocks, self.digest = facts["n_blocks"], facts["digest"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"cannot read {path} ({error}); remove it to begin anew") from error


@dataclass(frozen=True)
class Wanted:
    """Pages that are to be made: of which dictionary, from what text, and where."""

    model: ReplacementModel
    reading: Reading
    folder: Path

    @property
    def path(self) -> Path:
        """What a stopped run goes on from."""
        return self.folder / STATE


def collect(
    model: ReplacementModel, reading: Reading, folder: Path, *, tokens: int, report: Progress | None = None
) -> Collection:
    """`collect_together` for one dictionary."""
    return collect_together([Wanted(model, reading, folder)], tokens=tokens, report=report)[0]


def collect_together(wanted: Sequence[Wanted], *, tokens: int, report: Progress | None = None) -> list[Collection]:
    """Read text until `tokens` are counted or it ends, once for several dictionaries of one model; each goes on where
    an earlier run in its folder was stopped.

    Raises:
        TextError: no text, too little for one block, or not the text that an earlier run read.
        FileError: a folder cannot be written, or holds a collection of something else.
        TranscoderError: a dictionary holds weights that are not finite.
    """
    reading, model = wanted[0].reading, wanted[0].model.language_model
    say = report or (lambda share, title: None)
    found = [_begun(part, say) for part in wanted]
    units = [_units(part, collection) for part, collection in zip(wanted, found, strict=True)]
    at, first = min(part.n_blocks for part in found), min(part.seen for part in found)
    n_wanted, each = max(at, math.ceil(tokens / (reading.context - 1))), reading.context - 1
    blocks = islice(reading.blocks(model), at, n_wanted)
    begin = saved = time.monotonic()
    while some := list(islice(blocks, min([64, *(part.n_blocks - at for part in found if part.n_blocks > at)]))):
        behind = [number for number, part in enumerate(found) if part.n_blocks == at]
        mine, theirs = [found[number] for number in behind], [units[number] for number in behind]
        for ids in batches(torch.stack(some), model, AT_ONCE):
            add_batch(mine, model, wanted[0].model.transcoders.write, theirs, ids)
            at += len(ids)
            _say(say, at * each, first, tokens, time.monotonic() - begin)
            if time.monotonic() - saved > SAVE_EVERY:
                _save(found, wanted)
                saved = time.monotonic()
    if not at:
        raise TextError(f"the text gives no block of {reading.context} tokens; give more text or a shorter --context")
    for collection in found:
        collection.ended = collection.n_blocks < n_wanted
    _save(found, wanted)
    return found


def _begun(wanted: Wanted, report: Progress) -> Collection:
    """A collection as an earlier run left it, or an empty one."""
    model, transcoders = wanted.model.language_model, wanted.model.transcoders
    collection = Collection(wanted.reading, n_units(transcoders), model.unembedding.shape[0])
    if wanted.path.is_file():
        collection.restore(wanted.path)
        _skip(wanted.reading.blocks(model), collection, report)
    return collection


def _units(wanted: Wanted, collection: Collection) -> Units:
    """What is counted; the levels of neurons come from the beginning of the text."""
    model = wanted.model.language_model
    if wanted.model.transcoders.of_neurons and not collection.levels:
        some = list(islice(wanted.reading.blocks(model), LEVELS))  # `blocks` raises where there are none
        collection.levels = tuple(level.numpy() for level in SignedNeurons.from_blocks(model, torch.stack(some)).levels)
    return units_of(wanted.model, collection.levels)


def _save(found: Sequence[Collection], wanted: Sequence[Wanted]) -> None:
    for collection, part in zip(found, wanted, strict=True):
        collection.save(part.path)


def discard(folder: Path) -> None:
    """Remove what a stopped run would go on from, once the pages are written."""
    (folder / STATE).unlink(missing_ok=True)


def add_batch(
    found: Sequence[Collection], model: LanguageModel, write: WritePoint, units: Sequence[Units], ids: Tensor
) -> None:
    """Run one batch of blocks [sequence, pos] once and count it for every collection."""
    numbers, firsts = ids.cpu().numpy(), [part.n_blocks for part in found]
    for number, layer, activation, shown in activations_of(model, write, units, ids):
        found[number].layers[layer].add(activation, numbers, firsts[number], shown)
    for collection in found:
        collection.note(numbers)


def activations(
    model: ReplacementModel, units: Units, ids: Tensor
) -> Iterator[tuple[int, Float[Tensor, "sequence pos feature"]]]:
    """(layer, activations from position 1 on) of a batch of blocks [sequence, pos], layer by layer."""
    for _, layer, activation, _ in activations_of(model.language_model, model.transcoders.write, [units], ids):
        yield layer, activation


def _skip(blocks: Iterator[Tensor], collection: Collection, report: Progress) -> None:
    """Pass over the blocks that were read before.

    Raises:
        TextError: they are not the same.
    """
    digest, left = hashlib.sha256().hexdigest(), collection.n_blocks
    report(0.0, "finding the place in the text")
    while left:
        some = list(islice(blocks, min(left, 64)))
        if not some:
            raise TextError("the text is shorter than what was read of it before; give the same text, or another --out")
        for row in some:
            digest = _digest(digest, row.numpy()[None])
        left -= len(some)
    if digest != collection.digest:
        raise TextError("the text is not the one that was read before; give the same text, or another --out")


def _digest(so_far: str, ids: np.ndarray) -> str:
    """A hash of all tokens, extended row by row, so it does not depend on how blocks were batched."""
    for row in ids:
        so_far = hashlib.sha256(so_far.encode() + row.astype(np.int32).tobytes()).hexdigest()
    return so_far


def _say(report: Progress, seen: int, first: int, tokens: int, seconds: float) -> None:
    speed = (seen - first) / max(seconds, 1e-9)
    left = max(0.0, tokens - seen) / max(speed, 1e-9)
    clock = f"{left / 60:.0f} min" if left >= 100 else f"{left:.0f} s"
    report(seen / tokens, f"{min(seen, tokens):,} of {tokens:,} tokens, {speed:,.0f}/s, {clock} left")
