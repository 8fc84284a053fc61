"""What is kept of one layer's features while text streams by: counts and a bounded number of examples of each.

Memory depends on the dictionary alone: of every feature the strongest examples (one a block at most), an even sample
    of its
firings, a histogram, and its commonest tokens. An even sample: positions have random priorities, the same for all
features, and of each feature the firings at the highest ones are kept (bottom-k sketch, Cohen & Kaplan 2007), so
that two features' samples also say how often they fire together.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from torch import Tensor

STRONGEST, SAMPLED = 8, 32
"""Examples kept of each feature: the strongest, and an even sample of all its firings."""
BEFORE, AFTER = 19, 12
"""Positions kept of an example before and after the firing."""
WINDOW = BEFORE + 1 + AFTER
TOKENS = 64
"""Tokens counted for each feature; rarer ones are dropped now and then, so counts of the last of them may be too
low."""
BINS, FIRST_BIN, PER_OCTAVE = 128, -16, 4
"""Bins of activations: the first holds all up to 2^-16, each octave has four."""
AT_ONCE = 1 << 18
"""Firings of a layer whose tokens are counted together."""
NEVER = -(1 << 62)


def priority(place: np.ndarray) -> np.ndarray:
    """A random number in [0, 2^62) for every position of the text, always the same (splitmix64)."""
    x = place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)


def bin_edges(bins: np.ndarray) -> np.ndarray:
    """Lower edges of histogram bins, linear between powers of two."""
    octave, step = np.divmod(np.asarray(bins, dtype=np.int64), PER_OCTAVE)
    return np.ldexp(1 + step / PER_OCTAVE, octave + FIRST_BIN)


class LayerTally:
    """Counts and examples of the features of one layer; arrays have one row a feature."""

    def __init__(self, width: int, vocabulary: int):
        self.width, self.vocabulary = width, vocabulary
        self.arrays: dict[str, np.ndarray] = {
            "count": np.zeros(width, np.int64),
            "total": np.zeros(width, np.float64),
            "histogram": np.zeros((width, BINS), np.int32),
            "token_key": np.zeros(0, np.int64),
            "token_count": np.zeros(0, np.int32),
        }
        for name, size in (("strongest", STRONGEST), ("sampled", SAMPLED)):
            self.arrays[f"{name}_key"] = np.full((width, size), NEVER, np.int64)
            self.arrays[f"{name}_place"] = np.full((width, size), -1, np.int64)
            self.arrays[f"{name}_value"] = np.zeros((width, size), np.float32)
            self.arrays[f"{name}_scale"] = np.zeros((width, size), np.float32)
            self.arrays[f"{name}_window"] = np.zeros((width, size, WINDOW), np.uint8)
        self._waiting: list[np.ndarray] = []

    def add(
        self,
        activation: Float[Tensor, "sequence pos feature"],
        ids: np.ndarray,
        first_block: int,
        shown: Float[Tensor, "sequence pos feature"] | None = None,
    ) -> None:
        """Count one batch: activations from position 1 on, its tokens [sequence, pos + 1], and the number of its
        first block; examples show `shown`, where it is given, around what is counted."""
        _, length, width = activation.shape
        shown = activation if shown is None else shown
        flat = activation.reshape(-1, width)
        where = flat.nonzero()
        if not len(where):
            return
        value = flat[where[:, 0], where[:, 1]].float().cpu().numpy()
        row, feature = where.cpu().numpy().T
        self._count(feature, value)
        self._waiting.append(feature * self.vocabulary + ids[:, 1:].reshape(-1)[row])
        if sum(map(len, self._waiting)) >= AT_ONCE:
            self.count_tokens()
        block, at = np.divmod(row, length)
        place = (first_block + block) * (length + 1) + at + 1
        strength = _ordered(value)
        chosen = np.flatnonzero(strength > self.arrays["strongest_key"][feature, -1])
        chosen = chosen[_best_of_each(block[chosen] * width + feature[chosen], strength[chosen])]
        self._keep("strongest", feature[chosen], strength[chosen], place[chosen], value[chosen], shown, first_block)
        rank = priority(place)
        chosen = np.flatnonzero(rank > self.arrays["sampled_key"][feature, -1])
        self._keep("sampled", feature[chosen], rank[chosen], place[chosen], value[chosen], shown, first_block)

    def _count(self, feature: np.ndarray, value: np.ndarray) -> None:
        bits = value.view(np.int32) >> 21
        bins = np.where(value > 0, np.clip(bits - (127 + FIRST_BIN) * PER_OCTAVE, 0, BINS - 1), 0)
        added = np.bincount(feature * BINS + bins, minlength=self.width * BINS).reshape(self.width, BINS)
        self.arrays["histogram"] += added.astype(np.int32)
        self.arrays["count"] += added.sum(1)
        self.arrays["total"] += np.bincount(feature, value, self.width)

    def _keep(
        self,
        name: str,
        feature: np.ndarray,
        key: np.ndarray,
        place: np.ndarray,
        value: np.ndarray,
        activation: Tensor,
        first_block: int,
    ) -> None:
        """Let candidates compete with the examples that are kept."""
        if not len(feature):
            return
        kept = self.arrays[f"{name}_key"]
        size = kept.shape[1]
        touched, group = np.unique(feature, return_inverse=True)
        keys = np.concatenate([kept[touched].reshape(-1), key])
        groups = np.concatenate([np.repeat(np.arange(len(touched)), size), group])
        order = np.lexsort((-keys, groups))
        starts = np.searchsorted(groups[order], np.arange(len(touched)))
        order = order[(starts[:, None] + np.arange(size)).reshape(-1)]
        new = np.flatnonzero(order >= len(touched) * size)
        source = order[new] - len(touched) * size
        scale, window = _windows(activation, feature[source], place[source] - first_block * (activation.shape[1] + 1))
        rows = {"key": key[source], "place": place[source], "value": value[source], "scale": scale, "window": window}
        for field, found in rows.items():
            array = self.arrays[f"{name}_{field}"]
            old = array[touched].reshape(-1, *array.shape[2:])
            merged = old[np.minimum(order, len(old) - 1)]
            merged[new] = found
            array[touched] = merged.reshape(len(touched), size, *array.shape[2:])

    def count_tokens(self) -> None:
        """Merge the firings that wait into the counts of tokens, and drop each feature's rarest beyond `TOKENS`."""
        if not self._waiting:
            return
        key, count = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting = []
        key = np.concatenate([self.arrays["token_key"], key])
        count = np.concatenate([self.arrays["token_count"], count.astype(np.int32)])
        order = np.argsort(key, kind="stable")
        key, count = key[order], count[order]
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        key, count = key[starts], np.add.reduceat(count, starts)
        feature = key // self.vocabulary
        order = np.lexsort((key, -count, feature))
        rank = np.arange(len(order)) - np.searchsorted(feature[order], feature[order])
        kept = np.sort(order[rank < TOKENS])
        self.arrays["token_key"], self.arrays["token_count"] = key[kept], count[kept].astype(np.int32)

    def places(self) -> np.ndarray:
        """Positions of all examples kept."""
        found = np.concatenate([self.arrays[f"{name}_place"].reshape(-1) for name in ("strongest", "sampled")])
        return found[found >= 0]

    def tokens(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(feature, tokens, counts) of every feature that fired, the commonest token first."""
        self.count_tokens()
        key, count = self.arrays["token_key"], self.arrays["token_count"]
        feature, token = np.divmod(key, self.vocabulary)
        for part in np.split(np.arange(len(key)), np.flatnonzero(np.diff(feature)) + 1):
            if len(part):
                order = part[np.lexsort((token[part], -count[part]))]
                yield int(feature[part[0]]), token[order], count[order]


def _ordered(value: np.ndarray) -> np.ndarray:
    """Integers in the order of float32 numbers."""
    bits = value.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _best_of_each(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The place of the highest key in each group, the first of equals."""
    order = np.lexsort((np.arange(len(key))[::-1], key, group))
    return order[np.flatnonzero(np.diff(group[order], append=-1))]


def _windows(
    activation: Float[Tensor, "sequence pos feature"], feature: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Activations around places in a batch, in 255ths of the largest there (negative ones as 0); what lies outside
    the block is 0."""
    _, length, width = activation.shape
    block, at = np.divmod(place, length + 1)
    at = at[:, None] - 1 + np.arange(-BEFORE, AFTER + 1)
    inside = (at >= 0) & (at < length)
    flat = block[:, None] * length + np.clip(at, 0, length - 1)
    found = activation.reshape(-1).cpu().numpy()[flat * width + feature[:, None]]
    found = np.where(inside, np.maximum(found, 0), 0).astype(np.float32)
    scale = found.max(1)
    return scale, np.rint(found / np.maximum(scale, 1e-30)[:, None] * 255).astype(np.uint8)
