"""Which features a text switches on, compared with background; and when one feature is on and off across a corpus."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.progress import Progress
from ..errors import OptionError
from ..models.passes import batches
from ..transcoders.replacement import ReplacementModel
from .collect import activations
from .pages import Pages
from .tally import AFTER, BEFORE
from .units import check_unit, n_units, units_of


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


def like(
    model: ReplacementModel,
    pages: Pages,
    texts: Sequence[str],
    *,
    limit: int = 20,
    among: Collection[tuple[int, int]] | None = None,
) -> list[Likeness]:
    """Features that texts switch on more than the pages' text does, the most telling first.

    The score is averaged over the texts, so that what fires in all of them comes before what fires often in one.

    Args:
        among: only these, as (layer, number of the page), such as `in_graph` finds; None: all.

    Raises:
        OptionError: no text, a limit below 1, or nothing to look among.
        PromptError: a text that is empty or too long.
    """
    if not texts or limit < 1:
        raise OptionError("give at least one text, and a limit of at least 1")
    if among is not None and not among:
        raise OptionError("the graph has no features of these pages; trace one with features")
    language_model = model.language_model
    units, widths = units_of(model, pages.levels if pages.of_neurons else ()), n_units(model.transcoders)
    density = pages.densities()
    shares = [np.zeros(width) for width in widths]
    scores = [np.zeros(width) for width in widths]
    within = [np.zeros(width, np.int64) for width in widths]
    best = [np.zeros(width) for width in widths]
    where = [np.zeros((width, 2), np.int64) for width in widths]
    all_ids = [language_model.tokenize(text) for text in texts]
    for number, ids in enumerate(all_ids):
        if len(ids) < 2:
            raise OptionError(f"text {number + 1} has no token besides the leading one; give more words")
        for layer, activation in activations(model, units, ids[None].to(language_model.device)):
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
            for layer, index in (_tops(scores, limit * 8) if among is None else among)
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


def as_rows(
    pages: Pages, found: Sequence[Likeness], nodes: Mapping[tuple[int, int], list[str]] | None = None
) -> list[dict[str, Any]]:
    """What was found as plain data, with labels; of neurons index and sign; in a graph the ids of its nodes."""
    labels = pages.labels([(one.layer, one.index) for one in found])
    rows = []
    for one in found:
        index, sign = pages.name(one.layer, one.index)
        more = {} if nodes is None else {"nodes": nodes[one.layer, one.index]}
        label = labels.get((one.layer, one.index), "")
        rows.append(asdict(one) | {"index": index, "sign": sign, "label": label} | more)
    return rows


def _tops(scores: Sequence[np.ndarray], count: int) -> list[tuple[int, int]]:
    """The best of each layer."""
    return [
        (layer, int(index))
        for layer, values in enumerate(scores)
        for index in np.argpartition(-values, min(count, len(values)) - 1)[:count]
    ]


def when(
    model: ReplacementModel,
    blocks: Iterator[Tensor],
    layer: int,
    index: int,
    *,
    tokens: int,
    count: int = 8,
    levels: Sequence[np.ndarray] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """When one feature is on and off across text: how often, its strongest contexts, and near misses; of neurons, whose
    pages say from what `levels` on they count, each sign is a feature.

    A near miss is a token on which the feature is on elsewhere in this text, and here is off.

    Returns:
        layer, index, tokens, firings, density, on and off: lists of contexts (tokens, activations, peak).

    Raises:
        InterventionError: the dictionary has no such feature.
        OptionError: no tokens are asked for.
    """
    check_unit(model.transcoders, layer, index)
    if tokens < 1:
        raise OptionError(f"tokens is {tokens}; give at least 1")
    language_model = model.language_model
    units = units_of(model, levels)
    rows: list[np.ndarray] = []
    values: list[np.ndarray] = []
    seen = 0
    while seen < tokens:
        some = list(islice(blocks, 16))
        if not some:
            break
        for ids in batches(torch.stack(some), language_model):
            found = next(part for number, part in activations(model, units, ids) if number == layer)
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
