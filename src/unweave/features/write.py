"""From a collection to pages: Parquet files, one pair a layer, and the text and vocabulary that they share."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch

from ..attribution.promoted import logit_effects
from ..base.files import write_atomically
from ..base.progress import Progress
from ..transcoders.replacement import ReplacementModel
from ..version import __version__
from .collect import Collection
from .label import Background, Evidence, Label, label
from .rules import Rule
from .tally import BEFORE, SAMPLED, STRONGEST, WINDOW, LayerTally
from .together import companions

FORMAT, VERSION = "unweave feature pages", 1
META = "pages.json"
PROMOTED, FIRING, COMPANIONS = 10, 16, 6
"""Tokens and features listed on a page."""
AT_ONCE = 256
"""Features whose effects on all logits are computed together."""
ROWS = 2048
"""Rows in a group of a Parquet file, the least that is read for one feature."""
PARQUET = f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19, ROW_GROUP_SIZE {ROWS}, USE_TMP_FILE false)"
"""Written to where it is told: DuckDB would take a temporary file of its own, which stays when it is killed."""


def write_pages(
    collection: Collection,
    model: ReplacementModel,
    folder: Path,
    *,
    strongest: int = STRONGEST,
    sampled: int = SAMPLED,
    report: Progress | None = None,
) -> Path:
    """Write the pages of a collection; `pages.json` comes last, so a folder without it is not finished.

    Args:
        strongest, sampled: examples kept of each feature.

    Raises:
        FileError: the folder cannot be written.
    """
    say = report or (lambda share, title: None)
    (folder / META).unlink(missing_ok=True)
    connection = duckdb.connect()
    language_model, reading = model.language_model, collection.reading
    vocabulary = [language_model.token_text(token) for token in range(len(collection.tokens))]
    words = np.array(vocabulary, dtype=object)
    save(
        connection,
        folder / "vocabulary.parquet",
        {"token": np.arange(len(words), dtype=np.int32), "text": words, "count": collection.tokens},
    )
    numbers = np.array(sorted(collection.kept), np.int32)
    blocks = np.stack([collection.kept[number] for number in numbers.tolist()])
    save(connection, folder / "blocks.parquet", {"block": numbers, "tokens": blocks})
    background = Background(vocabulary, collection.tokens, blocks)
    together = companions(
        [layer.arrays["sampled_place"] for layer in collection.layers],
        COMPANIONS,
        lambda share: say(0.3 * share, "co-firing"),
    )
    labels: list[tuple[int, int, Label]] = []
    n = len(collection.layers)
    for number, layer in enumerate(collection.layers):
        say(0.3 + 0.7 * number / n, f"writing pages of layer {number}")
        rows = _features(layer, number, model) | {
            "companion": together[number][0],
            "companion_share": together[number][1],
        }
        promoted = [tuple(vocabulary[token] for token in row if token >= 0) for row in rows["promoted"].tolist()]
        lookup = np.full(int(numbers[-1]) + 1, -1, np.int64)
        lookup[numbers] = np.arange(len(numbers))
        for index, evidence in _evidence(layer, lookup, blocks, promoted):
            found = label(evidence, background)
            if found is not None:
                labels.append((number, index, found))
        save(connection, folder / f"features_{number}.parquet", rows)
        save(connection, folder / f"contexts_{number}.parquet", _contexts(layer, reading.context, strongest, sampled))
    write_labels(folder, labels, "evidence")
    facts = {
        "format": FORMAT, "version": VERSION, "unweave": __version__, "model": reading.model,
        "transcoders": reading.transcoders,
        "sha256": reading.sha256, "kind": model.transcoders.kind, "widths": list(model.transcoders.widths),
        "text": list(reading.text),
        "context": reading.context, "held_out": reading.held_out, "tokens": collection.seen, "ended": collection.ended,
        "blocks": collection.n_blocks,
        "digest": collection.digest,
    }  # fmt: skip
    write_atomically(folder / META, lambda name: Path(name).write_text(json.dumps(facts, indent=1) + "\n"))
    say(1.0, "done")
    return folder


def save(connection: duckdb.DuckDBPyConnection, path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write columns to Parquet, those of two axes as lists; negative entries of integer lists, and NaN, are left out.

    Raises:
        FileError: it cannot be written.
    """
    flat: dict[str, Any] = {}
    chosen = []
    for name, column in columns.items():
        if column.ndim == 1:
            flat[name] = column
            chosen.append(
                f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
                if column.dtype.kind == "f"
                else f'"{name}"'
            )
            continue
        parts = [f"{name}_{place}" for place in range(column.shape[1])]
        flat |= {part: np.ascontiguousarray(column[:, place]) for place, part in enumerate(parts)}
        listed = f"[{', '.join(parts)}]"
        if column.dtype.kind == "f":
            listed = f"list_filter({listed}, lambda x: NOT isnan(x))"
        elif column.dtype.kind == "i":
            listed = f"list_filter({listed}, lambda x: x >= 0)"
        chosen.append(f"{listed} AS {name}")
    query = f"COPY (SELECT {', '.join(chosen)} FROM flat) TO '{{}}' {PARQUET}"
    connection.execute("SET enable_progress_bar = false")
    connection.register("flat", flat)
    write_atomically(path, lambda name: connection.execute(query.format(name.replace("'", "''"))))


def write_labels(folder: Path, labels: list[tuple[int, int, Label]], source: str) -> None:
    """Write labels that have not been scored.

    Raises:
        FileError: the folder cannot be written.
    """
    write_rows(
        folder,
        {
            (layer, index): {
                "label": found.text,
                "rule": found.rule.to_json(),
                "confidence": found.confidence,
                "source": source,
            }
            for layer, index, found in labels
        },
    )


def _features(layer: LayerTally, number: int, model: ReplacementModel) -> dict[str, np.ndarray]:
    """One row a feature: counts, histogram, tokens, decoder."""
    arrays, width = layer.arrays, layer.width
    histogram = arrays["histogram"]
    some = histogram.any(1)
    first = np.where(some, (histogram > 0).argmax(1), 0).astype(np.int16)
    last = np.where(some, histogram.shape[1] - (histogram[:, ::-1] > 0).argmax(1), 0)
    span = max(1, int((last - first).max()))
    at = first[:, None] + np.arange(span)
    bins = np.where(at < last[:, None], np.take_along_axis(histogram, np.minimum(at, histogram.shape[1] - 1), 1), -1)
    tokens, counts = np.full((width, FIRING), -1, np.int32), np.full((width, FIRING), -1, np.int32)
    for feature, token, count in layer.tokens():
        tokens[feature, : len(token[:FIRING])], counts[feature, : len(token[:FIRING])] = token[:FIRING], count[:FIRING]
    best = arrays["strongest_value"][:, 0]
    return {
        "index": np.arange(width, dtype=np.int32),
        "count": arrays["count"],
        "mean": (arrays["total"] / np.maximum(arrays["count"], 1)).astype(np.float32),
        "maximum": best,
        "first_bin": first,
        "histogram": bins.astype(np.int32),
        "token": tokens,
        "token_count": counts,
        **written(model, number),
    }


def written(model: ReplacementModel, number: int) -> dict[str, np.ndarray]:
    """What features of a layer write: norms of their decoders, tokens they promote and suppress."""
    transcoders, dtype = model.transcoders, model.language_model.engine_dtype
    every = torch.arange(transcoders.widths[number])
    norms = np.stack(
        [transcoders.decoder_rows(number, every, at, dtype).norm(dim=1).numpy() for at in transcoders.writes(number)], 1
    ).astype(np.float32)
    return {"norm": rounded(norms), **_effects(model, number, np.asarray(norms.any(1)))}


def _effects(model: ReplacementModel, number: int, alive: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens that features promote and suppress most, and by how much (relative to the mean token)."""
    width, vocabulary = len(alive), model.language_model.unembedding.shape[0]
    count = min(PROMOTED, vocabulary)
    tokens = {name: np.full((width, count), -1, np.int32) for name in ("promoted", "suppressed")}
    logits = {name: np.full((width, count), np.nan, np.float32) for name in tokens}
    for part in torch.from_numpy(np.flatnonzero(alive)).split(AT_ONCE):
        effects = logit_effects(model, number, part)
        for name, largest in (("promoted", True), ("suppressed", False)):
            found = effects.topk(count, largest=largest)
            tokens[name][part.numpy()] = found.indices.cpu().numpy()
            logits[name][part.numpy()] = rounded(found.values.float().cpu().numpy())
    return tokens | {f"{name}_logit": values for name, values in logits.items()}


def _contexts(layer: LayerTally, context: int, strongest: int, sampled: int) -> dict[str, np.ndarray]:
    """One row an example, the strongest first, then the even sample by activation."""
    parts: list[dict[str, np.ndarray]] = []
    for name, size in (("strongest", strongest), ("sampled", sampled)):
        arrays = {field: layer.arrays[f"{name}_{field}"][:, :size] for field in ("place", "value", "scale", "window")}
        feature, slot = np.nonzero(arrays["place"] >= 0)
        found = {field: array[feature, slot] for field, array in arrays.items()}
        parts.append({"index": feature, "sampled": np.full(len(feature), name == "sampled"), **found})
    whole = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
    order = np.lexsort((-whole["value"], whole["sampled"], whole["index"]))
    whole = {field: array[order] for field, array in whole.items()}
    block, position = np.divmod(whole["place"], context)
    return {
        "index": whole["index"].astype(np.int32), "sampled": whole["sampled"], "block": block.astype(np.int32),
        "position": position.astype(np.int16),
        "value": rounded(whole["value"]), "scale": rounded(whole["scale"]), "activation": whole["window"],
    }  # fmt: skip


def _evidence(
    layer: LayerTally, lookup: np.ndarray, blocks: np.ndarray, promoted: list[tuple[str, ...]]
) -> list[tuple[int, Evidence]]:
    """What labels are made from, for every feature that fired."""
    found = []
    context = blocks.shape[1]
    for feature, tokens, counts in layer.tokens():
        places = layer.arrays["sampled_place"][feature]
        places = places[places >= 0]
        around = tokens_around(places, context, lookup, blocks)
        found.append(
            (
                feature,
                Evidence(
                    int(layer.arrays["count"][feature]), tokens, counts, around, places % context, promoted[feature]
                ),
            )
        )
    return found


def tokens_around(places: np.ndarray, context: int, lookup: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Tokens around positions, [place, window]; -1 outside the block and for its leading token. `lookup` gives a
    block's row in `blocks`."""
    block, position = np.divmod(places, context)
    at = position[:, None] - BEFORE + np.arange(WINDOW)
    inside = (at >= 1) & (at < context)
    return np.where(inside, blocks[lookup[block][:, None], np.clip(at, 0, context - 1)], -1)


def rounded(values: np.ndarray) -> np.ndarray:
    """Numbers to about three digits, which halves the files."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    kept = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), kept, values).astype(np.float32)


def relabel(folder: Path, labels: dict[tuple[int, int], tuple[str, dict[str, float] | None]], source: str) -> None:
    """Put other labels in place of some, with their scores; rules stay, so they can still be checked.

    Raises:
        FileError: the folder cannot be written.
    """
    rows = label_rows(folder)
    for (layer, index), (text, score) in labels.items():
        row = rows.setdefault((layer, index), {"rule": Rule("token", ()).to_json(), "confidence": 0.0})
        row |= {"label": text, "source": source} | (score or {"precision": None, "recall": None, "f1": None})
    write_rows(folder, rows)


def rescore(folder: Path, scores: dict[tuple[int, int], tuple[float, float, float]]) -> None:
    """Put the precision, recall and F1 of some labels beside them.

    Raises:
        FileError: the folder cannot be written.
    """
    rows = label_rows(folder)
    for place, score in scores.items():
        if place in rows:
            rows[place] |= dict(zip(("precision", "recall", "f1"), score, strict=True))
    write_rows(folder, rows)


def label_rows(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """All labels with their rules and scores, by (layer, index)."""
    result = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [str(folder / "labels.parquet")])
    names = [column[0] for column in result.description or ()]
    found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return {(row["layer"], row["index"]): row for row in found}


def write_rows(folder: Path, rows: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Write what `label_rows` gives.

    Raises:
        FileError: the folder cannot be written.
    """
    places = sorted(rows)
    columns = {
        "layer": np.array([layer for layer, _ in places], np.int16),
        "index": np.array([index for _, index in places], np.int32),
        **{
            name: np.array([rows[place][name] for place in places], dtype=object)
            for name in ("label", "rule", "source")
        },
        **{
            name: np.array([rows[place].get(name) for place in places], np.float32)
            for name in ("confidence", "precision", "recall", "f1")
        },
    }
    save(duckdb.connect(), folder / "labels.parquet", columns)
