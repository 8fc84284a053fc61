"""What is known of features, as plain data: one, or many in a few queries."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import numpy as np

from ..errors import FileError
from .pages import Pages
from .tally import BEFORE, bin_edges

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def feature_page(pages: Pages, layer: int, index: int) -> dict[str, Any]:
    """All that is known of one feature, as plain data.

    Returns:
        layer, index, sign, label, density, promoted and suppressed ([token, logit] pairs), histogram (edges, counts)
        or None, quantiles or None, contexts (tokens, activations, peak, quantile: "strongest" or the part of its
        firings such as "60–80%"), source "page"; and count, mean, maximum, tokens ([token, firings, of how many]),
        companions ([layer, index, share], of neurons also the sign), norms ([layer, norm of what is written there]),
        confidence, score. A neuron has two pages: `sign` is "+" or "-" (empty for features), and the negative one goes
        by its index and the layer's number of neurons added (`Pages.unit`).

    Raises:
        InterventionError: no such feature.
        FileError: the pages are damaged.

    >>> import unweave
    >>> pages = unweave.open_pages()  # those of the default model           # doctest: +SKIP
    >>> unweave.feature_page(pages, 12, 1261)["label"]                        # doctest: +SKIP
    """
    return feature_pages(pages, [(layer, index)])[layer, index]


def feature_pages(pages: Pages, features: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The same of many features, by (layer, index), with two queries a layer: each costs more than what it reads.

    Raises:
        InterventionError: no such feature.
        FileError: the pages are damaged.
    """
    wanted: dict[int, set[int]] = defaultdict(set)
    for layer, index in features:
        pages.check_feature(layer, index)
        wanted[layer].add(index)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    contexts: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for layer, indices in wanted.items():
        listed = ", ".join(map(str, sorted(indices)))
        for row in pages.query(
            f"SELECT f.*, l.label, l.confidence, l.precision, l.recall, l.f1 FROM "
            f"{pages.file(f'features_{layer}.parquet')} f LEFT JOIN "
            f"(SELECT * FROM {pages.file('labels.parquet')} WHERE layer = ?) l USING (index) "
            f"WHERE f.index IN ({listed})",
            [layer],
        ):
            rows[layer, row["index"]] = row
        for context in pages.query(
            f"SELECT * FROM {pages.file(f'contexts_{layer}.parquet')} WHERE index IN ({listed}) "
            f"ORDER BY index, sampled, value DESC"
        ):
            contexts[layer, context["index"]].append(context)
        for index in sorted(indices - {at for where, at in rows if where == layer}):
            raise FileError(
                f"the feature pages in {pages.folder} lack feature {index} of layer {layer}; build them anew"
            )
    blocks = pages.blocks({context["block"] for several in contexts.values() for context in several})
    return {key: _page(pages, key, row, contexts[key], blocks) for key, row in rows.items()}


def _page(
    pages: Pages,
    key: tuple[int, int],
    row: dict[str, Any],
    contexts: list[dict[str, Any]],
    blocks: dict[int, list[int]],
) -> dict[str, Any]:
    layer, index = key
    spans = [_span(context, blocks) for context in contexts]
    words, times = pages.vocabulary
    counts = np.array(row["histogram"], dtype=np.int64)
    edges = bin_edges(row["first_bin"] + np.arange(len(counts) + 1)) if len(counts) else np.zeros(0)
    names = [_band(context["value"], edges, counts) if context["sampled"] else "strongest" for context in contexts]

    number, sign = pages.name(layer, index)
    return {
        "layer": layer,
        "index": number,
        "sign": sign,
        "label": row["label"] or "",
        "density": row["count"] / max(1, pages.seen),
        "promoted": [[words[token], value] for token, value in zip_longest(row["promoted"], row["promoted_logit"])],
        "suppressed": [
            [words[token], value] for token, value in zip_longest(row["suppressed"], row["suppressed_logit"])
        ],
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()} if len(counts) else None,
        "quantiles": [round(_quantile(share, edges, counts), 4) for share in QUANTILES] if counts.sum() else None,
        "contexts": [
            {"tokens": [words[token] for token in tokens], "activations": values, "peak": peak, "quantile": name}
            for (tokens, values, peak), name in zip(spans, names, strict=True)
        ],
        "source": "page",
        "count": row["count"],
        "mean": row["mean"],
        "maximum": row["maximum"],
        "tokens": [
            [words[token], count, times[token]] for token, count in zip(row["token"], row["token_count"], strict=True)
        ],
        "companions": [
            [at, *_named(pages, at, unit, share)]
            for (at, unit), share in zip(map(pages.place, row["companion"]), row["companion_share"], strict=True)
        ],
        "norms": [[layer + at, norm] for at, norm in enumerate(row["norm"])],
        "confidence": row["confidence"],
        "score": None if row["f1"] is None else {name: row[name] for name in ("precision", "recall", "f1")},
    }


def _named(pages: Pages, layer: int, unit: int, share: float) -> list[Any]:
    """Index and share of a companion, and of a neuron its sign."""
    index, sign = pages.name(layer, unit)
    return [index, share, sign] if sign else [index, share]


def _span(context: dict[str, Any], blocks: dict[int, list[int]]) -> tuple[list[int], list[float], int]:
    """Tokens and activations of an example within its block, and the place of the firing among them."""
    block = blocks.get(context["block"], [])
    begin, end = (
        max(0, BEFORE - context["position"]),
        min(len(context["activation"]), BEFORE - context["position"] + len(block)),
    )
    tokens = block[context["position"] - BEFORE + begin : context["position"] - BEFORE + end]
    values = [round(value / 255 * context["scale"], 4) for value in context["activation"][begin:end]]
    peak = BEFORE - begin
    if peak < len(values):
        values[peak] = context["value"]
    return tokens, values, peak


def _quantile(share: float, edges: np.ndarray, counts: np.ndarray) -> float:
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return float(np.interp(share, below, edges))


def _band(value: float, edges: np.ndarray, counts: np.ndarray) -> str:
    """In which fifth of the firings an activation lies."""
    below = np.concatenate([[0], np.cumsum(counts)]) / max(1, counts.sum())
    fifth = min(4, int(np.interp(value, edges, below) * 5))
    return f"{20 * fifth}–{20 * fifth + 20}%"
