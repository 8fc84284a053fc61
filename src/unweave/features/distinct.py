"""Which examples of a feature are shown: none that says what another says."""

import numpy as np

from .tally import AFTER, BEFORE, WINDOW

NEAR = slice(BEFORE - 8, BEFORE + 5)
"""The part of a window that two examples are compared in."""
ALIKE = 0.6
"""Two examples are alike if so much of it, as far as both texts go, is the same tokens at the same places."""
AT_ONCE = 256
"""Features compared together."""


def tokens_around(places: np.ndarray, context: int, lookup: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Tokens around positions, [place..., window]; -1 outside the block, for its leading token, and for no place (a
    negative one). `lookup` gives a block's row in `blocks`."""
    block, position = np.divmod(places, context)
    at = position[..., None] - BEFORE + np.arange(WINDOW)
    inside = (at >= 1) & (at < context) & (places[..., None] >= 0)
    return np.where(inside, blocks[lookup[block][..., None], np.clip(at, 0, context - 1)], -1)


def alike(windows: np.ndarray) -> np.ndarray:
    """Which examples of each feature are alike, [feature, example, example], from tokens around them
    [feature, example, window]."""
    near = windows[..., NEAR]
    both = ((near[:, :, None] >= 0) & (near[:, None] >= 0)).sum(-1)
    same = ((near[:, :, None] == near[:, None]) & (near[:, None] >= 0)).sum(-1)
    return same >= ALIKE * np.maximum(both, 1)


def chosen(
    places: np.ndarray,
    is_sample: np.ndarray,
    context: int,
    lookup: np.ndarray,
    blocks: np.ndarray,
    most: tuple[int, int],
) -> np.ndarray:
    """Which examples of each feature are shown, [feature, example]: in order, at most so many of the strongest and of
    the even sample, none alike to one before, or at nearly its place.

    Args:
        places: positions, [feature, example], -1 where there is none.
        is_sample: which of the examples are of the even sample, [example].
    """
    kept = np.zeros(places.shape, bool)
    for begin in range(0, len(places), AT_ONCE):
        part = places[begin : begin + AT_ONCE]
        twice = alike(tokens_around(part, context, lookup, blocks))
        apart = np.abs(part[:, :, None] - part[:, None])
        twice |= (part[:, :, None] // context == part[:, None] // context) & (apart <= AFTER)
        mine, left = kept[begin : begin + AT_ONCE], np.tile(most, (len(part), 1))
        for place, kind in enumerate(is_sample.astype(int)):
            new = (part[:, place] >= 0) & (left[:, kind] > 0) & ~(twice[:, place] & mine).any(1)
            mine[:, place] = new
            left[:, kind] -= new
    return kept
