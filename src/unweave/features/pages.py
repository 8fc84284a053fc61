"""Reading feature pages: one feature in milliseconds, and search over all of them, with DuckDB over Parquet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ..base.catalogue import default_feature_pages, default_neuron_pages
from ..base.kinds import typed
from ..errors import FileError, InterventionError, OptionError, TranscoderMismatch
from ..transcoders.transcoders import Transcoders
from .collect import Reading
from .write import FORMAT, META, VERSION

FIELDS = ("label", "token", "promoted", "suppressed", "context")
"""Where a search looks, most telling first."""

MOST_COUNTED = 1 << 53
"""Tokens or features of a layer beyond any that could have been counted."""


@dataclass(frozen=True)
class Pages:
    """The pages of one dictionary, open for reading."""

    folder: Path
    facts: dict[str, Any]
    """What `pages.json` holds: model, dictionary and its sha256, widths, text, number of tokens."""
    connection: duckdb.DuckDBPyConnection

    @property
    def widths(self) -> list[int]:
        """Number of features of every layer; of neurons, twice as many: each sign has a page."""
        return self.facts["widths"]

    @property
    def of_neurons(self) -> bool:
        """Whether they are pages of a model's neurons: those of negative activations come after all others."""
        return bool(self.facts.get("neurons"))

    def unit(self, layer: int, index: int, activation: float) -> int:
        """The number of the page that tells of a feature, or of a neuron with an activation of this sign."""
        return index + (self.widths[layer] // 2 if self.of_neurons and activation < 0 else 0)

    def name(self, layer: int, unit: int) -> tuple[int, str]:
        """Index and sign of what a page is of: the sign is empty for features."""
        if not self.of_neurons:
            return unit, ""
        half = self.widths[layer] // 2
        return unit % half, "-" if unit >= half else "+"

    @property
    def seen(self) -> int:
        """Positions that the pages were made from."""
        return self.facts["tokens"]

    def file(self, name: str) -> str:
        """A file of the pages, as a string in SQL."""
        return "'" + str(self.folder / name).replace("'", "''") + "'"

    def query(self, sql: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query as dicts.

        Raises:
            FileError: a file is missing or damaged.
        """
        try:
            result = self.connection.execute(sql, values)
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        except duckdb.Error as error:
            raise FileError(
                f"cannot read the feature pages in {self.folder}: {str(error).splitlines()[0]}; build them anew"
            ) from error

    def check_feature(self, layer: int, index: int) -> None:
        """Refuse a feature that the dictionary does not have.

        Raises:
            InterventionError: a layer or an index out of range.
        """
        if not 0 <= layer < len(self.widths):
            raise InterventionError(f"layer {layer} does not exist; the pages have layers 0 to {len(self.widths) - 1}")
        if not 0 <= index < self.widths[layer]:
            raise InterventionError(
                f"feature {index} of layer {layer} does not exist; the layer has features 0 to {self.widths[layer] - 1}"
            )

    def place(self, number: int) -> tuple[int, int]:
        """(layer, index) of a feature numbered through all layers."""
        starts = np.cumsum([0, *self.widths])
        layer = int(np.searchsorted(starts, number, "right")) - 1
        return layer, number - int(starts[layer])

    def densities(self) -> list[np.ndarray]:
        """By layer, the share of positions at which each feature fires."""
        return [
            np.array(
                [
                    row["count"]
                    for row in self.query(f"SELECT count FROM {self.file(f'features_{layer}.parquet')} ORDER BY index")
                ]
            )
            / max(1, self.seen)
            for layer in range(len(self.widths))
        ]

    def labels(self, features: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """Labels of some features, by (layer, index); those without one are left out."""
        if not features:
            return {}
        pairs = ", ".join(
            f"({layer}, {index})" for layer, index in {(int(layer), int(index)) for layer, index in features}
        )
        rows = self.query(
            f"SELECT layer, index, label FROM {self.file('labels.parquet')} WHERE (layer, index) IN ({pairs})"
        )
        return {(row["layer"], row["index"]): row["label"] for row in rows}

    def labels_at(self, activations: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], str]:
        """Labels of features, or of neurons by the signs of their activations, by (layer, index)."""
        units = {
            (layer, self.unit(layer, index, value)): (layer, index) for (layer, index), value in activations.items()
        }
        return {units[place]: text for place, text in self.labels(list(units)).items()}

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...]:
        """Of neurons, by layer what each unit must be above to be on."""
        return tuple(
            np.array(
                [
                    row["level"]
                    for row in self.query(f"SELECT level FROM {self.file(f'features_{layer}.parquet')} ORDER BY index")
                ],
                np.float32,
            )
            for layer in range(len(self.widths))
        )

    @cached_property
    def vocabulary(self) -> tuple[list[str], list[int]]:
        """Text of every token, and how often it came."""
        rows = self.query(
            f"SELECT list(text ORDER BY token) words, list(count ORDER BY token) counts FROM "
            f"{self.file('vocabulary.parquet')}"
        )
        return rows[0]["words"] or [], rows[0]["counts"] or []

    def blocks(self, numbers: set[int]) -> dict[int, list[int]]:
        """Blocks of tokens by number."""
        if not numbers:
            return {}
        listed = ", ".join(str(int(number)) for number in numbers)
        return {
            row["block"]: row["tokens"]
            for row in self.query(f"SELECT block, tokens FROM {self.file('blocks.parquet')} WHERE block IN ({listed})")
        }


@typed
def open_pages(folder: str | Path | None = None, transcoders: Transcoders | None = None) -> Pages:
    """Open a folder of feature pages.

    Args:
        folder: None: those that ship for the default model's dictionary, or for its neurons if `transcoders` are.
        transcoders: if given, the pages must have been made with it.

    Raises:
        FileError: no pages there, an interrupted build, or pages of a newer version.
        TranscoderMismatch: they were made with another dictionary.

    >>> import unweave
    >>> unweave.open_pages().facts["tokens"]                                  # doctest: +SKIP
    139700
    """
    of_neurons = transcoders is not None and transcoders.of_neurons
    shipped = default_neuron_pages if of_neurons else default_feature_pages
    place = shipped() if folder is None else Path(folder).expanduser()
    path = place / META
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        begun = (place / "collecting.safetensors").is_file()
        why = (
            "a build there was stopped; run the same unweave features build again and it goes on"
            if begun
            else "make them with unweave features build"
        )
        raise FileError(f"no feature pages in {place}: {why}") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged ({error}); build the pages anew") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FileError(f"{path} does not describe feature pages")
    if facts.get("version") != VERSION:
        raise FileError(
            f"{path} is version {facts.get('version')} of feature pages; this unweave reads version {VERSION}"
        )
    wanted = {"widths": list, "tokens": int, "sha256": str, "transcoders": str, "model": str}
    if not all(isinstance(facts.get(name), kind) for name, kind in wanted.items()):
        raise FileError(f"{path} is damaged: it lacks one of {', '.join(wanted)}; build the pages anew")
    counted = [facts["tokens"], *facts["widths"]]
    if not all(isinstance(number, int) and 0 <= number < MOST_COUNTED for number in counted):
        raise FileError(f"{path} is damaged: its tokens and widths are no counts; build the pages anew")
    if transcoders is not None and not transcoders.is_of(facts["sha256"]):
        hashes = f"(sha256 {facts['sha256'][:12]}, this one {transcoders.sha256[:12]})"
        raise TranscoderMismatch(
            f"the feature pages in {place} are of another dictionary, {facts['transcoders']} {hashes}; give "
            f"--features of this one"
        )
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute("SET enable_progress_bar = false; SET parquet_metadata_cache = true")
    return Pages(place, facts, connection)


def pages_of(transcoders: Transcoders, folder: str | Path | None = None) -> Pages | None:
    """The pages of a dictionary, if there are any: those of `folder`, or those that ship if they are of this
    dictionary."""
    try:
        return open_pages(folder, transcoders)
    except (FileError, TranscoderMismatch):
        if folder is not None:
            raise
        return None


def already_built(folder: Path, reading: Reading, tokens: int) -> bool:
    """Whether a folder holds finished pages of this text, with at least so many tokens or all there are.

    Raises:
        FileError: it holds finished pages of something else.
    """
    if not (folder / META).is_file():
        return False
    facts = open_pages(folder).facts
    if facts.get("imported") or any(
        facts.get(name) != (list(value) if name == "text" else value) for name, value in asdict(reading).items()
    ):
        raise FileError(f"{folder} holds pages of another text, model or dictionary; give another --out")
    if facts["tokens"] < tokens and not facts.get("ended"):
        raise FileError(
            f"{folder} holds finished pages of {facts['tokens']:,} tokens; give another --out, or remove it to read "
            f"more"
        )
    return True


def _tokens_like(pages: Pages, wanted: str) -> list[dict[str, Any]]:
    """Tokens that are a word, or else those that hold it and little more."""
    tokens = pages.query(
        f"SELECT token, text, count FROM {pages.file('vocabulary.parquet')} WHERE contains(lower(text), ?)", [wanted]
    )
    exact = [row for row in tokens if row["text"].strip().lower() == wanted]
    return exact or [row for row in tokens if len(row["text"].strip()) <= len(wanted) + 3]


@typed
def search_features(
    pages: Pages, text: str, *, fields: Sequence[str] = FIELDS, limit: int = 20
) -> list[dict[str, Any]]:
    """Features that have to do with a text: by label, tokens they fire on, tokens they promote or suppress, and
    contexts.

    Case does not matter. A feature counts once, with the fields that matched; better fields come first, and within one
    those on whose tokens the feature fires most exclusively.

    Raises:
        OptionError: an empty text, an unknown field, or a limit below 1.

    >>> import unweave
    >>> unweave.search_features(unweave.open_pages(), "franchise", limit=1)   # doctest: +SKIP
    """
    wanted = text.strip().lower()
    if not wanted:
        raise OptionError("the search text is empty; give a word")
    if limit < 1 or not fields or not set(fields) <= set(FIELDS):
        raise OptionError(f"search in {', '.join(FIELDS)}, with a limit of at least 1")
    parts, values = [], []
    if "label" in fields:
        parts.append(
            f"SELECT layer, index, 'label' field, confidence::DOUBLE weight FROM {pages.file('labels.parquet')} WHERE "
            f"contains(lower(label), ?)"
        )
        values.append(wanted)
    found = _tokens_like(pages, wanted)
    ids = [row["token"] for row in found]
    features = (
        f"(SELECT *, regexp_extract(filename, '_([0-9]+)[.]parquet$', 1)::INT layer FROM "
        f"read_parquet({pages.file('features_*.parquet')}, filename=true))"
    )
    if ids and "token" in fields:
        total = max(1, sum(row["count"] for row in found))
        parts.append(
            f"SELECT layer, index, 'token' field, (sum(n) * sum(n) / any_value(count)::DOUBLE / {total})::DOUBLE "
            f"weight FROM "
            f"(SELECT layer, index, count, unnest(token) t, unnest(token_count) n FROM {features}) WHERE "
            f"list_contains({ids}, t) GROUP BY layer, index"
        )
    for field in ("promoted", "suppressed"):
        if ids and field in fields:
            parts.append(
                f"SELECT layer, index, '{field}' field, 1.0 / list_min([list_position({field}, i) FOR i IN {ids} IF "
                f"list_contains({field}, i)]) weight "
                f"FROM {features} WHERE list_has_any({field}, {ids})"
            )
    if "context" in fields:
        parts += _contexts_with(pages, ids)
    if not parts:
        return []
    order = " ".join(f"WHEN '{field}' THEN {place}" for place, field in enumerate(FIELDS))
    sql = (
        f"SELECT layer::INT layer, index::INT index, list(field ORDER BY CASE field {order} END) fields, "
        f"sum(weight / (1 + CASE field {order} END)) weight FROM ({' UNION ALL '.join(parts)}) GROUP BY 1, 2 ORDER BY "
        f"weight DESC, 1, 2 LIMIT {int(limit)}"
    )
    rows = pages.query(sql, values)
    labels = pages.labels([(row["layer"], row["index"]) for row in rows])
    return [
        {**row, **_named(pages, row), "label": labels.get((row["layer"], row["index"]), ""),
         "weight": round(row["weight"], 4)}
        for row in rows
    ]  # fmt: skip


def _named(pages: Pages, row: dict[str, Any]) -> dict[str, Any]:
    """Of pages of neurons the neuron's index, and the sign."""
    if not pages.of_neurons:
        return {}
    return dict(zip(("index", "sign"), pages.name(row["layer"], row["index"]), strict=True))


def _contexts_with(pages: Pages, ids: list[int]) -> list[str]:
    """Features at least two of whose examples have one of the tokens where they fire or in the three positions
    before."""
    if not ids:
        return []
    contexts = f"read_parquet({pages.file('contexts_*.parquet')}, filename=true)"
    found = (
        f"SELECT regexp_extract(c.filename, '_([0-9]+)[.]parquet$', 1)::INT layer, index FROM {contexts} c JOIN "
        f"(SELECT block, tokens FROM {pages.file('blocks.parquet')} WHERE list_has_any(tokens, {ids})) USING (block) "
        f"WHERE list_has_any(tokens[greatest(1, position - 2) : position + 1], {ids})"
    )
    return [
        f"SELECT layer, index, 'context' field, count(*) / 10.0 weight FROM ({found}) GROUP BY layer, index HAVING "
        f"count(*) >= 2"
    ]
