"""Feature pages: what features were seen to do on much text; read from disk, one feature at a time."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..graphs.spelling import cantor
from .packed import INDEX, read_index, read_record
from .pages import Pages, feature_page
from .pages import open_pages as open_ours
from .write import META

FeaturePages = Callable[[int, int], dict[str, Any] | None]
"""The page of (layer, index), or None if there is none. Keys as in docs/server.md: label, density, promoted,
suppressed, histogram, quantiles, contexts. Another kind of folder is another such function, chosen in `open_pages`."""


def open_pages(folder: str | Path) -> FeaturePages:
    """Feature pages of a folder: ours, circuit-tracer's `index.json.gz` with `layer_N.bin`, or a `CANTOR.json` for
    each feature.

    Raises:
        FileError: the folder holds none of these, or its index cannot be read.
    """
    folder = Path(folder).expanduser()
    if (folder / META).is_file():
        return served(open_ours(folder))
    for place in (folder, folder / "features"):
        if (place / INDEX).is_file():
            return _packed(place)
    if folder.is_dir() and any(path.stem.isdecimal() for path in folder.glob("*.json")):
        return lambda layer, index: _single(folder / f"{cantor(layer, index)}.json")
    raise FileError(
        f"no feature pages in {folder}: it has neither {META}, nor {INDEX}, nor files such as 75466754.json"
    )


def served(pages: Pages) -> FeaturePages:
    """Our own pages, one request at a time: a DuckDB connection is not for several threads."""
    lock = threading.Lock()

    def page(layer: int, index: int) -> dict[str, Any] | None:
        if not (0 <= layer < len(pages.widths) and 0 <= index < pages.widths[layer]):
            return None
        with lock:
            return feature_page(pages, layer, index)

    return page


def _packed(folder: Path) -> FeaturePages:
    """Records of all features of a layer in one file, found by offsets (circuit-tracer's format)."""
    found = read_index(folder)

    def page(layer: int, index: int) -> dict[str, Any] | None:
        path, offsets = found.get(layer, (folder, []))
        record = read_record(path, layer, index, offsets)
        try:
            return None if record is None else _page(record)
        except (ValueError, TypeError, AttributeError) as error:
            raise FileError(
                f"the page of feature {index} of layer {layer} in {path} is damaged ({type(error).__name__}: {error})"
            ) from error

    return page


def _single(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return _page(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} is not a feature page ({type(error).__name__}: {error})") from error


def _page(record: dict[str, Any]) -> dict[str, Any]:
    """A record of Anthropic's or circuit-tracer's kind in our words."""
    counts = [float(count) for count in record.get("histogram") or ()]
    low, high = float(record.get("act_min") or 0), float(record.get("act_max") or 0)
    edges = [low + (high - low) * step / max(1, len(counts)) for step in range(len(counts) + 1)]
    contexts = [
        _context(str(part.get("quantile_name", "")), example)
        for part in record.get("examples_quantiles") or ()
        for example in part.get("examples") or ()
    ]
    return {
        "label": str(record.get("clerp") or record.get("label") or ""),
        "density": None if record.get("activation_frequency") is None else float(record["activation_frequency"]),
        "promoted": [[str(token), None] for token in record.get("top_logits") or ()],
        "suppressed": [[str(token), None] for token in record.get("bottom_logits") or ()],
        "histogram": {"edges": edges, "counts": counts} if counts else None,
        "quantiles": [float(value) for value in record["quantile_values"]] if record.get("quantile_values") else None,
        "contexts": contexts,
    }


def _context(quantile: str, example: dict[str, Any]) -> dict[str, Any]:
    tokens, activations = (
        [str(token) for token in example["tokens"]],
        [float(value) for value in example["tokens_acts_list"]],
    )
    peak = example.get("train_token_ind", example.get("train_token_index"))
    return {
        "quantile": quantile,
        "tokens": tokens,
        "activations": activations,
        "peak": None if peak is None else int(peak),
    }
