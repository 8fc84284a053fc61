"""Which features a text switches on, compared with background; and when one feature is on and off across a corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.progress import Progress
from ..errors import OptionError
from ..interventions.edits import Feature, check_feature
from ..models.passes import batches
from ..transcoders.dense import DenseTranscoders
from ..transcoders.replacement import ReplacementModel
from .collect import activations
from .pages import Pages
from .tally import AFTER, BEFORE


@dataclass(frozen=True)
class Likeness:
    """A feature, and how much more it is on in some texts than elsewhere."""

    layer: int
    index: int
    score: float
    """Nats by which its firings tell these texts from background: KL of share from density, for features that fire
    more."""
    share: float
    """Share of the texts' tokens at which it fires."""
    density: float
    """Share of the background's tokens."""
    texts: int
    """In how many of the texts it fires."""
    strongest: float
    token: str
    """Where it fires most strongly."""


def like(model: ReplacementModel, pages: Pages, texts: Sequence[str], *, limit: int = 20) -> list[Likeness]:
    """Features that texts switch on more than the pages' text does, the most telling first.

    The score is averaged over the texts, so that what fires in all of them comes before what fires often in one.

    Raises:
        OptionError: no text, or a limit below 1.
        PromptError: a text that is empty or too long.
    """
    if not texts or limit < 1:
        raise OptionError("give at least one text, and a limit of at least 1")
    language_model = model.language_model
    dictionary = DenseTranscoders.load(model.transcoders, language_model.engine_dtype, language_model.device)
    density = pages.densities()
    shares = [np.zeros(width) for width in model.transcoders.widths]
    scores = [np.zeros(width) for width in model.transcoders.widths]
    within = [np.zeros(width, np.int64) for width in model.transcoders.widths]
    best = [np.zeros(width) for width in model.transcoders.widths]
    where = [np.zeros((width, 2), np.int64) for width in model.transcoders.widths]
    all_ids = [language_model.tokenize(text) for text in texts]
    for number, ids in enumerate(all_ids):
        if len(ids) < 2:
            raise OptionError(f"text {number + 1} has no token besides the leading one; give more words")
        for layer, activation in activations(model, dictionary, ids[None].to(language_model.device)):
            found = activation[0].float().cpu().numpy()
            n, share = len(found), (found > 0).mean(0)
            shares[layer] += share / len(texts)
            floor = np.clip(density[layer], 0.5 / max(2, pages.seen), 1 - 1e-6)
            smooth = (share * n + floor) / (n + 1)
            gain = smooth * np.log(smooth / floor) + (1 - smooth) * np.log(np.maximum(1 - smooth, 1e-6) / (1 - floor))
            scores[layer] += np.where(smooth > floor, gain, 0.0) / len(texts)
            within[layer] += (found > 0).any(0)
            peak = found.max(0)
            better = peak > best[layer]
            best[layer] = np.where(better, peak, best[layer])
            where[layer][better] = np.stack([np.full(better.sum(), number), found.argmax(0)[better] + 1], 1)
    order = sorted(
        (
            (scores[layer][index] * within[layer][index] / len(texts), layer, int(index))
            for layer in range(len(scores))
            for index in _top(scores[layer], limit * 8)
        ),
        key=lambda entry: (-entry[0], entry[1:]),
    )
    chosen = [entry for entry in order if entry[0] > 0][:limit]
    return [
        Likeness(
            layer, index, float(score), float(shares[layer][index]), float(density[layer][index]),
            int(within[layer][index]), float(best[layer][index]),
            language_model.token_text(int(all_ids[where[layer][index, 0]][where[layer][index, 1]])),
        )
        for score, layer, index in chosen
    ]  # fmt: skip


def _top(values: np.ndarray, count: int) -> np.ndarray:
    return np.argpartition(-values, min(count, len(values)) - 1)[:count]


def when(
    model: ReplacementModel,
    blocks: Iterator[Tensor],
    layer: int,
    index: int,
    *,
    tokens: int,
    count: int = 8,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """When one feature is on and off across text: how often, its strongest contexts, and near misses.

    A near miss is a token on which the feature is on elsewhere in this text, and here is off.

    Returns:
        layer, index, tokens, firings, density, on and off: lists of contexts (tokens, activations, peak).

    Raises:
        InterventionError: the dictionary has no such feature.
        OptionError: no tokens are asked for.
    """
    check_feature(Feature(layer, 0, index), model.transcoders)
    if tokens < 1:
        raise OptionError(f"tokens is {tokens}; give at least 1")
    language_model = model.language_model
    dictionary = DenseTranscoders.load(model.transcoders, language_model.engine_dtype, language_model.device)
    rows: list[np.ndarray] = []
    values: list[np.ndarray] = []
    seen = 0
    while seen < tokens:
        some = list(islice(blocks, 16))
        if not some:
            break
        for ids in batches(torch.stack(some), language_model):
            found = next(part for number, part in activations(model, dictionary, ids) if number == layer)
            rows.append(ids.cpu().numpy())
            values.append(np.pad(found[..., index].float().cpu().numpy(), ((0, 0), (1, 0))))
            seen += ids.shape[0] * (ids.shape[1] - 1)
            if progress is not None:
                progress(min(1.0, seen / tokens))
            if seen >= tokens:
                break
    ids, value = np.concatenate(rows), np.concatenate(values)
    firing = value != 0
    own, times = np.unique(ids[firing], return_counts=True)
    common = own[np.argsort(-times, kind="stable")[:5]]
    misses = np.isin(ids, common) & ~firing
    misses[:, 0] = False
    strongest = np.argsort(-np.where(firing, value, -np.inf).max(1), kind="stable")[:count]
    on = [(int(row), int(value[row].argmax())) for row in strongest if firing[row].any()]
    missed = np.flatnonzero(misses.any(1))[:count]
    off = [(int(row), int(misses[row].argmax())) for row in missed]

    def context(row: int, at: int) -> dict[str, Any]:
        span = slice(max(0, at - BEFORE), at + AFTER + 1)
        return {
            "tokens": [language_model.token_text(int(token)) for token in ids[row, span]],
            "activations": [round(float(max(0.0, x)), 4) for x in value[row, span]],
            "peak": at - span.start,
        }

    return {
        "layer": layer, "index": index, "tokens": seen, "firings": int(firing.sum()),
        "density": float(firing.sum() / seen),
        "on": [context(*place) for place in on], "off": [context(*place) for place in off],
    }  # fmt: skip
