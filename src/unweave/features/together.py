"""Which features fire together, from the even samples of their firings."""

from collections.abc import Sequence

import numpy as np

from ..base.progress import Progress
from .tally import priority

CANDIDATES = 24
"""Features that share most sampled positions with one, among which the closest are found."""


def companions(
    places: Sequence[np.ndarray], count: int, report: Progress = lambda share: None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer the features of all layers that fire together with each of its own, closest first, and how
    closely.

    Features are numbered through all layers. Closeness is the share of positions at which both fire among those at
    which either does (Jaccard), estimated at the positions whose priority is high enough to be in both samples.

    Args:
        places: by layer, the sampled positions of each feature, [feature, example], -1 where there are fewer.
        count: companions of each feature.

    Returns:
        By layer ([feature, count] numbers, -1 where there are fewer, [feature, count] shares, NaN there).
    """
    offsets = np.cumsum([0, *(len(layer) for layer in places)])
    table = np.concatenate(places)
    feature, slot = np.nonzero(table >= 0)
    distinct, group = np.unique(table[feature, slot], return_inverse=True)
    rows = np.full(table.shape, -1, np.int64)
    rows[feature, slot] = group
    firing = np.split(
        feature[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group, minlength=len(distinct)))[:-1]
    )
    keys = np.where(table >= 0, priority(np.maximum(table, 0)), -1)
    floor = np.where((table >= 0).all(1), keys.min(1), 0)
    found = []
    for number, layer in enumerate(places):
        report(number / len(places))
        pairs = [
            _candidates(own, rows[own], firing, len(table))
            for own in range(int(offsets[number]), int(offsets[number + 1]))
        ]
        a = np.repeat(np.arange(int(offsets[number]), int(offsets[number + 1])), [len(part) for part in pairs])
        b = np.concatenate([np.zeros(0, np.int64), *pairs])
        found.append(_closest(a, b, int(offsets[number]), len(layer), keys, floor, count))
    return found


def _candidates(own: int, rows: np.ndarray, firing: list[np.ndarray], features: int) -> np.ndarray:
    """The features that share most sampled positions with one."""
    inside = rows[rows >= 0]
    if not len(inside):
        return np.zeros(0, np.int64)
    shared = np.bincount(np.concatenate([firing[row] for row in inside]), minlength=features)
    shared[own] = 0
    several = np.flatnonzero(shared > 1)
    return several[np.argsort(-shared[several], kind="stable")[:CANDIDATES]]


def _closest(
    a: np.ndarray, b: np.ndarray, begin: int, width: int, keys: np.ndarray, floor: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    numbers, shares = np.full((width, count), -1, np.int32), np.full((width, count), np.nan, np.float32)
    if not len(a):
        return numbers, shares
    least = np.maximum(floor[a], floor[b])[:, None]
    mine, theirs = np.where(keys[a] >= least, keys[a], -1), np.where(keys[b] >= least, keys[b], -2)
    both = (mine[:, :, None] == theirs[:, None, :]).any(2).sum(1)
    either = (mine >= 0).sum(1) + (theirs >= 0).sum(1) - both
    share = both / np.maximum(either, 1)
    order = np.lexsort((b, -share, a))
    order = order[share[order] > 0]
    rank = np.arange(len(order)) - np.searchsorted(a[order], a[order])
    order, rank = order[rank < count], rank[rank < count]
    numbers[a[order] - begin, rank], shares[a[order] - begin, rank] = b[order], np.round(share[order], 2)
    return numbers, shares
