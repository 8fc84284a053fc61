"""Pages of other tools and ours in their forms: circuit-tracer's packed `features/` folder and Neuronpedia's feature
JSON."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..base.progress import Progress
from ..graphs.spelling import cantor
from .details import feature_page
from .packed import INDEX, read_index, read_record
from .pages import Pages


def to_peer(found: dict[str, Any], name: str) -> dict[str, Any]:
    """One page as circuit-tracer and Anthropic's viewer read it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for context in found["contexts"]:
        group = "Top activations" if context["quantile"] == "strongest" else f"Firings {context['quantile']}"
        groups.setdefault(group, []).append(
            {
                "tokens": context["tokens"],
                "tokens_acts_list": context["activations"],
                "train_token_ind": context["peak"],
                "is_repeated_datapoint": False,
            }
        )
    edges = [] if found["histogram"] is None else found["histogram"]["edges"]
    low, high = (edges[0], found["maximum"]) if edges else (0.0, 0.0)
    return {
        "transcoder_id": f"{name}-{found['layer']}", "index": cantor(found["layer"], found["index"]),
        "examples_quantiles": [{"quantile_name": group, "examples": examples} for group, examples in groups.items()],
        "top_logits": [token for token, _ in found["promoted"]],
        "bottom_logits": [token for token, _ in found["suppressed"]],
        "act_min": low, "act_max": high, "quantile_values": found["quantiles"] or [],
        "histogram": _even(found["histogram"], low, high), "activation_frequency": found["density"],
        "clerp": found["label"],
    }  # fmt: skip


def _even(histogram: dict[str, Any] | None, low: float, high: float, bins: int = 20) -> list[float]:
    """Counts in equally wide bins from `low` to `high`, each count spread evenly over its own bin."""
    if histogram is None or high <= low:
        return []
    step, found = (high - low) / bins, [0.0] * bins
    for begin, end, count in zip(histogram["edges"][:-1], histogram["edges"][1:], histogram["counts"], strict=True):
        end = min(end, high)
        for place in range(bins):
            overlap = min(end, low + (place + 1) * step) - max(begin, low + place * step)
            if overlap > 0 and end > begin:
                found[place] += count * overlap / (end - begin)
    return [round(value, 2) for value in found]


def to_neuronpedia(found: dict[str, Any], model: str, source_set: str) -> dict[str, Any]:
    """One page as a feature record of Neuronpedia."""
    histogram = found["histogram"] or {"edges": [], "counts": []}
    contexts = [
        {
            "tokens": context["tokens"], "values": context["activations"],
            "maxValue": max([*context["activations"], 0.0]),
            "maxValueTokenIndex": context["peak"], "minValue": min([*context["activations"], 0.0]),
            "dataIndex": str(place),
        }
        for place, context in enumerate(found["contexts"])
    ]  # fmt: skip
    return {
        "modelId": model, "layer": f"{found['layer']}-{source_set}", "index": str(found["index"]),
        "sourceSetName": source_set,
        "maxActApprox": found["maximum"], "frac_nonzero": found["density"],
        "pos_str": [token for token, _ in found["promoted"]], "pos_values": [value for _, value in found["promoted"]],
        "neg_str": [token for token, _ in found["suppressed"]],
        "neg_values": [value for _, value in found["suppressed"]],
        "freq_hist_data_bar_values": histogram["edges"][:-1], "freq_hist_data_bar_heights": histogram["counts"],
        "explanations": [{"description": found["label"], "typeName": "unweave"}] if found["label"] else [],
        "activations": contexts,
    }  # fmt: skip


def export_peer(pages: Pages, folder: Path, progress: Progress = lambda share: None) -> Path:
    """All pages in circuit-tracer's packed form: `index.json.gz`, last of all, and `layer_N.bin`.

    Raises:
        FileError: the folder cannot be written.
    """
    index: dict[str, Any] = {}
    for layer, width in enumerate(pages.widths):
        offsets = [0]

        def write(name: str, layer: int = layer, width: int = width, offsets: list[int] = offsets) -> None:
            with open(name, "wb") as file:
                for number in range(width):
                    packed = zlib.compress(
                        json.dumps(
                            to_peer(feature_page(pages, layer, number), pages.facts["transcoders"]), ensure_ascii=False
                        ).encode(),
                        6,
                    )
                    file.write(struct.pack("<I", len(packed)) + packed)
                    offsets.append(offsets[-1] + 4 + len(packed))
                    progress((layer + number / width) / len(pages.widths))

        write_atomically(folder / f"layer_{layer}.bin", write)
        index[str(layer)] = {"filename": f"layer_{layer}.bin", "offsets": offsets}
    packed = gzip.compress(json.dumps(index).encode(), mtime=0)
    write_atomically(folder / INDEX, lambda name: Path(name).write_bytes(packed))
    return folder


def export_neuronpedia(pages: Pages, features: list[tuple[int, int]], path: Path, source_set: str) -> Path:
    """Some pages as JSON that Neuronpedia takes: one list of records.

    Raises:
        FileError: it cannot be written.
    """
    records = [
        to_neuronpedia(feature_page(pages, layer, index), pages.facts["model"], source_set) for layer, index in features
    ]
    return write_atomically(
        path,
        lambda name: Path(name).write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"),
    )


def packed_records(folder: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(layer, index, record) of every page in circuit-tracer's packed form.

    Raises:
        FileError: no index, or something is damaged.
    """
    for layer, (path, offsets) in sorted(read_index(folder).items()):
        for index in range(len(offsets) - 1):
            record = read_record(path, layer, index, offsets)
            if record is not None:
                yield layer, index, record
