"""Which features fire together, from the even samples of their firings."""

from collections.abc import Callable, Sequence

import duckdb
import numpy as np

from .tally import priority

CANDIDATES = 24
"""Features that share most sampled positions with one, among which the closest are found."""


def companions(
    connection: duckdb.DuckDBPyConnection, places: Sequence[np.ndarray], count: int, report: Callable[[float], object] = lambda share: None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer the features of all layers that fire together with each of its own, closest first, and how closely.

    Features are numbered through all layers. Closeness is the share of positions at which both fire among those at which
    either does (Jaccard), estimated at the positions whose priority is high enough to be in both samples.

    Args:
        places: by layer, the sampled positions of each feature, [feature, example], -1 where there are fewer.
        count: companions of each feature.

    Returns:
        By layer ([feature, count] numbers, -1 where there are fewer, [feature, count] shares, NaN there).
    """
    offsets = np.cumsum([0, *(len(layer) for layer in places)])
    table = np.full((int(offsets[-1]), max(layer.shape[1] for layer in places)), -1, np.int64)
    for begin, layer in zip(offsets[:-1], places, strict=True):
        table[begin : begin + len(layer), : layer.shape[1]] = layer
    feature, slot = np.nonzero(table >= 0)
    connection.register("listed", {"feature": feature.astype(np.int32), "place": table[feature, slot]})
    connection.execute("CREATE OR REPLACE TEMP TABLE firing AS SELECT * FROM listed")
    keys = np.where(table >= 0, priority(np.maximum(table, 0)), -1)
    full = (table >= 0).all(1)
    floor = np.where(full, keys.min(1), 0)
    found = []
    for number, layer in enumerate(places):
        report(number / len(places))
        rows = connection.execute(
            "SELECT a, unnest(max_by(b, shared * 1000000000 - b, ?)) b FROM (SELECT x.feature a, y.feature b, count(*) shared FROM firing x "
            "JOIN firing y ON x.place = y.place AND x.feature <> y.feature WHERE x.feature >= ? AND x.feature < ? GROUP BY 1, 2 HAVING shared > 1) GROUP BY a",
            [CANDIDATES, int(offsets[number]), int(offsets[number + 1])],
        ).fetchnumpy()
        found.append(_closest(np.asarray(rows["a"], np.int64), np.asarray(rows["b"], np.int64), int(offsets[number]), len(layer), keys, floor, count))
    connection.execute("DROP TABLE firing")
    return found


def _closest(a: np.ndarray, b: np.ndarray, begin: int, width: int, keys: np.ndarray, floor: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
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
