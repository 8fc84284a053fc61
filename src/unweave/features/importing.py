"""Pages that other tools made, taken into our form: circuit-tracer's packed folder or Neuronpedia's feature records."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ..base.files import write_atomically
from ..errors import FileError
from ..transcoders.transcoders import Transcoders
from ..version import __version__
from .exchange import INDEX, packed_records
from .label import Label
from .rules import Rule
from .tally import AFTER, BEFORE, BINS, FIRST_BIN, PER_OCTAVE, WINDOW
from .write import FORMAT, META, VERSION, save, write_labels

NOMINAL = 1_000_000
"""Positions that densities of imported pages are counted in: they come as shares alone."""


def import_pages(source: Path, folder: Path, transcoders: Transcoders) -> int:
    """Write other tools' pages as ours; the number of features that had one.

    Args:
        source: a folder with `index.json.gz`, or a JSON file of Neuronpedia records.
        transcoders: the dictionary that the pages are of.

    Raises:
        FileError: neither, damaged, of features that the dictionary lacks, or `folder` cannot be written.
    """
    found = _peer(source) if source.is_dir() else _neuronpedia(source)
    words: dict[str, int] = {}
    blocks: list[tuple[int, np.ndarray]] = []
    labels: list[tuple[int, int, Label]] = []
    (folder / META).unlink(missing_ok=True)
    connection, number, count = duckdb.connect(), 0, 0
    taken: set[int] = set()
    for layer, group in groupby(found, key=lambda page: page["layer"]):
        if not 0 <= layer < len(transcoders.widths) or layer in taken:
            raise FileError(
                f"{source} has pages of layer {layer}, out of place in a dictionary of {len(transcoders.widths)} "
                f"layers; give its --transcoders"
            )
        taken.add(layer)
        width = transcoders.widths[layer]
        pages = {page["index"]: page for page in group}
        if not all(0 <= index < width for index in pages):
            raise FileError(
                f"{source} has a page of feature {max(pages)} in layer {layer}, where the dictionary has {width}; "
                f"give its --transcoders"
            )
        number, count = _write_layer(connection, folder, layer, width, pages, words, blocks, number), count + len(pages)
        labels += [
            (layer, index, Label(page["label"], Rule("token", ()), 0.0))
            for index, page in pages.items()
            if page["label"]
        ]
    for layer in set(range(len(transcoders.widths))) - taken:
        number = _write_layer(connection, folder, layer, transcoders.widths[layer], {}, words, blocks, number)
    columns = {
        "token": np.arange(len(words), dtype=np.int32),
        "text": np.array(list(words), dtype=object),
        "count": np.zeros(len(words), np.int64),
    }
    save(connection, folder / "vocabulary.parquet", columns)
    numbers, rows = (
        np.array([block for block, _ in blocks], np.int32),
        np.stack([row for _, row in blocks]) if blocks else np.zeros((0, WINDOW), np.int32),
    )
    save(connection, folder / "blocks.parquet", {"block": numbers, "tokens": rows})
    write_labels(folder, labels, "imported")
    facts = {
        "format": FORMAT, "version": VERSION, "unweave": __version__, "model": transcoders.model_name,
        "transcoders": transcoders.name,
        "sha256": transcoders.sha256, "kind": transcoders.kind, "widths": list(transcoders.widths), "text": [],
        "context": WINDOW, "held_out": 0.0,
        "tokens": NOMINAL, "blocks": len(blocks), "digest": "", "imported": source.name,
    }  # fmt: skip
    write_atomically(folder / META, lambda name: Path(name).write_text(json.dumps(facts, indent=1) + "\n"))
    return count


def _write_layer(
    connection: duckdb.DuckDBPyConnection, folder: Path, layer: int, width: int, pages: dict[int, dict[str, Any]],
    words: dict[str, int],
    blocks: list[tuple[int, np.ndarray]], number: int,
) -> int:  # fmt: skip
    """Write one layer's two files; the number of the next block."""

    def ids(texts: list[str]) -> list[int]:
        return [words.setdefault(text, len(words)) for text in texts]

    longest = max([1, *(len(page[name]) for page in pages.values() for name in ("promoted", "suppressed"))])
    columns: dict[str, np.ndarray] = {
        "index": np.arange(width, dtype=np.int32), "count": np.zeros(width, np.int64),
        "mean": np.zeros(width, np.float32),
        "maximum": np.zeros(width, np.float32), "first_bin": np.zeros(width, np.int16),
        "histogram": np.full((width, BINS), -1, np.int32),
        "token": np.full((width, 1), -1, np.int32), "token_count": np.full((width, 1), -1, np.int32),
        "norm": np.full((width, 1), np.nan, np.float32),
    }  # fmt: skip
    for name in ("promoted", "suppressed"):
        columns[name] = np.full((width, longest), -1, np.int32)
        columns[f"{name}_logit"] = np.full((width, longest), np.nan, np.float32)
    columns |= {
        "companion": np.full((width, 1), -1, np.int32),
        "companion_share": np.full((width, 1), np.nan, np.float32),
    }
    contexts: list[tuple[int, bool, int, int, float, float, np.ndarray]] = []
    for index, page in sorted(pages.items()):
        columns["count"][index] = round(page["density"] * NOMINAL)
        columns["maximum"][index] = page["maximum"]
        for name in ("promoted", "suppressed"):
            tokens = [token for token, _ in page[name]]
            columns[name][index, : len(tokens)] = ids(tokens)
            if all(value is not None for _, value in page[name]):
                columns[f"{name}_logit"][index, : len(tokens)] = [value for _, value in page[name]]
        first, counts = _rebinned(page["histogram"])
        columns["first_bin"][index], columns["histogram"][index, : len(counts)] = first, counts
        for context in page["contexts"]:
            peak = context["peak"]
            span = slice(max(0, peak - BEFORE), peak + AFTER + 1)
            tokens, values = (
                ids(context["tokens"][span]),
                np.maximum(np.array(context["activations"][span], np.float32), 0),
            )
            at = peak - span.start
            window = np.zeros(WINDOW, np.uint8)
            scale = max(float(values.max(initial=0)), 1e-30)
            window[BEFORE - at : BEFORE - at + len(values)] = np.rint(values / scale * 255)
            blocks.append((number, np.pad(np.array(tokens, np.int32), (0, WINDOW - len(tokens)), constant_values=-1)))
            contexts.append(
                (index, not context["strongest"], number, at, float(context["activations"][peak]), scale, window)
            )
            number += 1
    save(connection, folder / f"features_{layer}.parquet", columns)
    columns = {
        "index": np.array([row[0] for row in contexts], np.int32),
        "sampled": np.array([row[1] for row in contexts], bool),
        "block": np.array([row[2] for row in contexts], np.int32),
        "position": np.array([row[3] for row in contexts], np.int16),
        "value": np.array([row[4] for row in contexts], np.float32),
        "scale": np.array([row[5] for row in contexts], np.float32),
        "activation": np.array([row[6] for row in contexts], np.uint8).reshape(-1, WINDOW),
    }  # fmt: skip
    save(connection, folder / f"contexts_{layer}.parquet", columns)
    return number


def _rebinned(histogram: tuple[list[float], list[float]]) -> tuple[int, np.ndarray]:
    """Counts in our bins: each of theirs goes to the bin its middle lies in."""
    edges, counts = histogram
    if not counts or len(edges) < len(counts):
        return 0, np.zeros(0, np.int32)
    edges = [*edges, 2 * edges[-1] - edges[-2] if len(edges) > 1 else edges[-1]][: len(counts) + 1]
    middle = np.maximum((np.array(edges[:-1]) + np.array(edges[1:])) / 2, 2.0**FIRST_BIN).astype(np.float32)
    bins = np.clip((middle.view(np.int32) >> 21) - (127 + FIRST_BIN) * PER_OCTAVE, 0, BINS - 1)
    found = np.bincount(bins, np.array(counts, np.float64), BINS).round().astype(np.int32)
    some = np.flatnonzero(found)
    return (int(some[0]), found[some[0] : some[-1] + 1]) if len(some) else (0, np.zeros(0, np.int32))


def _peer(folder: Path) -> Iterator[dict[str, Any]]:
    place = folder if (folder / INDEX).is_file() else folder / "features"
    if not (place / INDEX).is_file():
        raise FileError(f"no feature pages in {folder}: it has no {INDEX}")
    for layer, index, record in packed_records(place):
        try:
            yield _peer_page(layer, index, record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"the page of feature {index} of layer {layer} in {place} is damaged ({type(error).__name__}: {error})"
            ) from error


def _peer_page(layer: int, index: int, record: dict[str, Any]) -> dict[str, Any]:
    counts = [float(value) for value in record.get("histogram") or ()]
    low, high = float(record.get("act_min") or 0), float(record.get("act_max") or 0)
    return {
        "layer": layer,
        "index": index,
        "density": float(record.get("activation_frequency") or 0),
        "maximum": high,
        "label": str(record.get("clerp") or record.get("label") or ""),
        "promoted": [(str(token), None) for token in record.get("top_logits") or ()],
        "suppressed": [(str(token), None) for token in record.get("bottom_logits") or ()],
        "histogram": ([low + (high - low) * step / max(1, len(counts)) for step in range(len(counts) + 1)], counts),
        "contexts": [
            _context(
                example["tokens"],
                example["tokens_acts_list"],
                example.get("train_token_ind", example.get("train_token_index")),
                number == 0,
            )
            for number, group in enumerate(record.get("examples_quantiles") or [])
            for example in group.get("examples") or ()
        ],
    }


def _neuronpedia(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"cannot read {path}: {error}; give a folder with {INDEX} or a JSON file of Neuronpedia's records"
        ) from error
    records = content if isinstance(content, list) else [content]
    found = []
    for number, record in enumerate(records):
        try:
            explanations = record.get("explanations") or []
            found.append(
                {
                    "layer": int(str(record["layer"]).partition("-")[0]),
                    "index": int(record["index"]),
                    "density": float(record.get("frac_nonzero") or 0),
                    "maximum": float(record.get("maxActApprox") or 0),
                    "label": str(explanations[0]["description"]) if explanations else "",
                    "promoted": list(
                        zip(
                            map(str, record.get("pos_str") or ()),
                            map(float, record.get("pos_values") or ()),
                            strict=True,
                        )
                    ),
                    "suppressed": list(
                        zip(
                            map(str, record.get("neg_str") or ()),
                            map(float, record.get("neg_values") or ()),
                            strict=True,
                        )
                    ),
                    "histogram": tuple(
                        [float(value) for value in record.get(f"freq_hist_data_bar_{name}") or ()]
                        for name in ("values", "heights")
                    ),
                    "contexts": [
                        _context(part["tokens"], part["values"], part.get("maxValueTokenIndex"), True)
                        for part in record.get("activations") or ()
                    ],
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"{path}: record {number} is not one of Neuronpedia's ({type(error).__name__}: {error})"
            ) from error
    yield from sorted(found, key=lambda page: (page["layer"], page["index"]))


def _context(tokens: list[str], values: list[float], peak: int | None, strongest: bool) -> dict[str, Any]:
    activations = [float(value) for value in values]
    if not tokens or len(tokens) != len(activations):
        raise ValueError(f"{len(tokens)} tokens with {len(activations)} activations")
    at = int(np.argmax(activations)) if peak is None or not 0 <= int(peak) < len(tokens) else int(peak)
    return {"tokens": [str(token) for token in tokens], "activations": activations, "peak": at, "strongest": strongest}
