"""From a collection to pages: Parquet files, one pair a layer, and the text and vocabulary that they share."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ..base.files import write_atomically
from ..base.progress import Progress
from ..transcoders.replacement import ReplacementModel
from ..version import __version__
from .collect import Collection
from .distinct import chosen, tokens_around
from .label import Background, Evidence, Label, label
from .readout import Readout, rounded, written
from .rules import Rule
from .tally import SAMPLED, STRONGEST, LayerTally
from .together import companions
from .units import n_units

FORMAT, VERSION = "unweave feature pages", 1
META, WORDS = "pages.json", "vocabulary.parquet"
FIRING, COMPANIONS = 16, 6
"""Tokens and features listed on a page."""
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
    readout: Readout | None = None,
    report: Progress | None = None,
) -> Path:
    """Write the pages of a collection; `pages.json` comes last, so a folder without it is not finished.

    Args:
        strongest, sampled: examples kept of each feature, at most: none is shown that is like another.
        readout: what promoted tokens are read off with; None: the decoder and the unembedding alone.

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
        folder / WORDS,
        {"token": np.arange(len(words), dtype=np.int32), "text": words, "count": collection.tokens},
    )
    numbers = np.array(sorted(collection.kept), np.int32)
    blocks = np.stack([collection.kept[number] for number in numbers.tolist()])
    background = Background(vocabulary, collection.tokens, blocks)
    together = companions(
        [layer.arrays["sampled_place"] for layer in collection.layers],
        COMPANIONS,
        lambda share: say(0.3 * share, "co-firing"),
    )
    labels: list[tuple[int, int, Label]] = []
    used: list[np.ndarray] = []
    n = len(collection.layers)
    lookup = np.full(int(numbers[-1]) + 1, -1, np.int64)
    lookup[numbers] = np.arange(len(numbers))
    for number, layer in enumerate(collection.layers):
        say(0.3 + 0.7 * number / n, f"writing pages of layer {number}")
        rows = _features(layer) | written(model, number, readout) | {
            "companion": together[number][0],
            "companion_share": together[number][1],
        }  # fmt: skip
        if collection.levels:
            rows["level"] = collection.levels[number]
        promoted = [tuple(vocabulary[token] for token in row if token >= 0) for row in rows["promoted"].tolist()]
        for index, evidence in _evidence(layer, lookup, blocks, promoted):
            found = label(evidence, background)
            if found is not None:
                labels.append((number, index, found))
        save(connection, folder / f"features_{number}.parquet", rows)
        examples = _contexts(layer, reading.context, lookup, blocks, (strongest, sampled))
        used.append(np.unique(examples["block"]))
        save(connection, folder / f"contexts_{number}.parquet", examples)
    write_labels(folder, labels, "evidence")
    shown = np.unique(np.concatenate(used))
    save(connection, folder / "blocks.parquet", {"block": shown.astype(np.int32), "tokens": blocks[lookup[shown]]})
    facts = {
        "format": FORMAT, "version": VERSION, "unweave": __version__, "model": reading.model,
        "transcoders": reading.transcoders,
        "sha256": reading.sha256, "kind": model.transcoders.kind, "widths": list(n_units(model.transcoders)),
        "neurons": model.transcoders.of_neurons, "promoted": "direct" if readout is None else "causal",
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


def _features(layer: LayerTally) -> dict[str, np.ndarray]:
    """One row a feature: counts, histogram, tokens."""
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
    }


def _contexts(
    layer: LayerTally, context: int, lookup: np.ndarray, blocks: np.ndarray, most: tuple[int, int]
) -> dict[str, np.ndarray]:
    """One row an example, none like another of its feature: at most so many of the strongest, then of the even sample
    by activation."""
    whole = {
        field: np.concatenate([layer.arrays[f"{name}_{field}"] for name in ("strongest", "sampled")], 1)
        for field in ("place", "value", "scale", "window")
    }
    is_sample = np.arange(STRONGEST + SAMPLED) >= STRONGEST
    kept = chosen(whole["place"], is_sample, context, lookup, blocks, most)
    feature, slot = np.nonzero(kept)
    found = {"index": feature, "sampled": is_sample[slot]} | {
        field: array[feature, slot] for field, array in whole.items()
    }
    order = np.lexsort((-found["value"], found["sampled"], found["index"]))
    found = {field: array[order] for field, array in found.items()}
    block, position = np.divmod(found["place"], context)
    return {
        "index": found["index"].astype(np.int32), "sampled": found["sampled"], "block": block.astype(np.int32),
        "position": position.astype(np.int16),
        "value": rounded(found["value"]), "scale": rounded(found["scale"]), "activation": found["window"],
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
