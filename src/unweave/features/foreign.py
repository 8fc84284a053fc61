"""Feature pages: what features were seen to do on much text; read from disk, one feature at a time."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..base.catalogue import default_neuron_pages
from ..errors import FileError
from ..graphs.graph import Graph
from ..graphs.provenance import Provenance
from ..graphs.spelling import cantor
from ..transcoders.neurons import NEURONS
from .details import feature_pages
from .label_files import read_labels
from .packed import INDEX, read_index, read_record
from .pages import Pages
from .pages import open_pages as open_ours
from .write import META

Key = tuple[int, int]
"""Layer and index of a feature."""


@dataclass(frozen=True)
class FeaturePages:
    """Feature pages, whatever kind of folder they come from.

    Keys of a page as in docs/server.md: label, density, promoted, suppressed, histogram, quantiles, contexts. Another
    kind of folder is another such object, chosen in `open_pages`.
    """

    several: Callable[[Sequence[Key]], dict[Key, dict[str, Any]]]
    """The pages of some features, those without one left out."""
    briefs: Callable[[Sequence[Key]], dict[Key, tuple[str, float | None]]]
    """Label (empty: none) and density of some features; never reads whole pages where there are columns of them."""
    sha256: str = ""
    """Of the dictionary they are of; empty where their folder does not say."""
    shipped: bool = False
    """Whether nobody asked for them: they are then shown only with graphs that are known to be of their dictionary."""
    neurons_of: str = ""
    """Of pages of neurons the model's name; empty for pages of features."""
    unit: Callable[[int, int, float], int] = lambda layer, index, activation: index
    """The number that a page goes by, from layer, index and, for neurons, the sign of the activation."""

    def fits(self, facts: Provenance) -> bool:
        """Whether they are of a graph's dictionary, as far as both say."""
        of_neurons = facts.units == "neurons" or facts.transcoders == NEURONS
        if self.neurons_of or of_neurons:
            return bool(self.neurons_of) and of_neurons and self.neurons_of == facts.model
        hashes = {facts.transcoders_sha256, facts.transcoders_weights_sha256} - {""}
        if not hashes or not self.sha256:
            return not self.shipped
        return any(known.startswith(self.sha256) or self.sha256.startswith(known) for known in hashes)

    def __call__(self, layer: int, index: int) -> dict[str, Any] | None:
        """The page of one feature, or None if there is none."""
        return self.several([(layer, index)]).get((layer, index))


BRIEFS_READ = 1024
"""Whole pages opened for label and density, where there are no columns of them: about a millisecond each."""


def open_pages(folder: str | Path) -> FeaturePages:
    """Feature pages of a folder: ours, circuit-tracer's `index.json.gz` with `layer_N.bin`, or a `CANTOR.json` for
    each feature; or the names alone that a file of labels gives (`label_files.py`).

    Raises:
        FileError: it is none of these, or cannot be read.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        return named(read_labels(folder))
    if (folder / META).is_file():
        return served(open_ours(folder))
    for place in (folder, folder / "features"):
        if (place / INDEX).is_file():
            return _packed(place)
    if folder.is_dir() and any(path.stem.isdecimal() for path in folder.glob("*.json")):
        return _one_by_one(lambda layer, index: _single(folder / f"{cantor(layer, index)}.json"))
    raise FileError(
        f"no feature pages in {folder}: it has neither {META}, nor {INDEX}, nor files such as 75466754.json"
    )


def shipped_pages() -> FeaturePages | None:
    """The pages that ship for the default model's dictionary; None if their data package is not installed."""
    try:
        return served(open_ours(), shipped=True)
    except FileError:
        return None


def shipped_neuron_pages() -> FeaturePages | None:
    """The pages that ship for the default model's neurons; None if their data package is not installed."""
    try:
        return served(open_ours(default_neuron_pages()), shipped=True)
    except FileError:
        return None


def on_graph(pages: FeaturePages, graph: Graph) -> FeaturePages:
    """Pages that go by layer and index in a graph: of a neuron that of the sign it has there, where it is strongest."""
    if not pages.neurons_of:
        return pages
    rows = graph.nodes.features
    activation = graph.nodes.activation[rows]
    order = activation.abs().argsort(stable=True).tolist()  # the strongest comes last and stays
    layers, indices, values = graph.nodes.layer[rows].tolist(), graph.nodes.index[rows].tolist(), activation.tolist()
    sign = {(layers[row], indices[row]): values[row] for row in order}

    def units(features: Sequence[Key]) -> dict[Key, Key]:
        return {
            (layer, pages.unit(layer, index, sign.get((layer, index), 1.0))): (layer, index)
            for layer, index in features
        }

    def several(features: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        known = units(features)
        return {known[unit]: page for unit, page in pages.several(list(known)).items()}

    def briefs(features: Sequence[Key]) -> dict[Key, tuple[str, float | None]]:
        known = units(features)
        return {known[unit]: brief for unit, brief in pages.briefs(list(known)).items()}

    return replace(pages, several=several, briefs=briefs)


def served(pages: Pages, shipped: bool = False) -> FeaturePages:
    """Our own pages, one request at a time: a DuckDB connection is not for several threads."""
    lock = threading.Lock()

    def present(features: Sequence[Key]) -> list[Key]:
        widths = pages.widths
        return [(layer, index) for layer, index in features if 0 <= layer < len(widths) and 0 <= index < widths[layer]]

    def several(features: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        with lock:
            return feature_pages(pages, present(features))

    columns = cache(pages.densities)

    def briefs(features: Sequence[Key]) -> dict[Key, tuple[str, float | None]]:
        wanted = present(features)
        with lock:
            known, labels = columns(), pages.labels(wanted)
        return {key: (labels.get(key, ""), float(known[key[0]][key[1]])) for key in wanted}

    of = pages.facts["model"] if pages.of_neurons else ""
    return FeaturePages(several, briefs, pages.facts["sha256"], shipped, of, pages.unit)


def named(labels: Mapping[Key, str]) -> FeaturePages:
    """Pages that hold a name and nothing else."""

    def several(features: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        return {key: {"label": labels[key]} for key in features if key in labels}

    def briefs(features: Sequence[Key]) -> dict[Key, tuple[str, float | None]]:
        return {key: (labels[key], None) for key in features if key in labels}

    return FeaturePages(several, briefs)


def _one_by_one(page: Callable[[int, int], dict[str, Any] | None]) -> FeaturePages:
    """Pages of a folder that has nothing but pages."""

    def several(features: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        return {key: found for key in features if (found := page(*key)) is not None}

    def briefs(features: Sequence[Key]) -> dict[Key, tuple[str, float | None]]:
        known: dict[Key, tuple[str, float | None]] = {}
        for key in list(dict.fromkeys(features))[:BRIEFS_READ]:
            try:
                found = page(*key)
            except FileError:  # said when the feature's own page is opened
                continue
            if found is not None:
                known[key] = found.get("label") or "", found.get("density")
        return known

    return FeaturePages(several, briefs)


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

    return _one_by_one(page)


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
