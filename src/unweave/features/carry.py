"""Pages of a dictionary carried over to one whose features fire alike but write something else."""

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import torch

from ..base.files import check_writable, write_atomically
from ..base.progress import Progress
from ..errors import FileError, TranscoderMismatch
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import JumpReLU, Transcoders
from .label import PROMOTES, promotes
from .pages import Pages
from .readout import Readout, written
from .write import META, PARQUET, WORDS, label_rows, save, write_rows


def carry(pages: Pages, old: Transcoders, model: ReplacementModel, folder: Path, report: Progress) -> Path:
    """Write pages for `model`'s dictionary from those of `old`, of which it has the encoders and thresholds bit by bit.

    Counts, contexts, co-firing features, labels and their scores stay; norms, promoted and suppressed tokens, and the
    token that a label says is promoted, are made anew. `pages.json` names the dictionary that was run, as
    `carried_from`.

    Raises:
        TranscoderMismatch: the pages are not of `old`, or features of the two do not fire alike.
        FileError: pages cannot be read or written.
    """
    if not old.is_of(pages.facts["sha256"]):
        raise TranscoderMismatch(f"the pages in {pages.folder} are not of {old.name}; give the dictionary they are of")
    check_same_features(old, model.transcoders)
    if folder.resolve() == pages.folder.resolve():
        raise FileError(f"{folder} holds the pages that are carried over; give another folder")
    check_writable(folder / META)
    (folder / META).unlink(missing_ok=True)
    words = {row["token"]: row["text"] for row in pages.query(f"SELECT token, text FROM {pages.file(WORDS)}")}
    rows, n = label_rows(pages.folder), len(pages.widths)
    causal = pages.facts.get("promoted") == "causal"
    readout = Readout.of(model.language_model, lambda share: report(0, "what directions do")) if causal else None
    for number in range(n):
        report(number / n, f"carrying pages of layer {number}")
        new = written(model, number, readout)
        _replace(pages, folder, f"features_{number}.parquet", new)
        for index, tokens in enumerate(new["promoted"].tolist()):
            row = rows.get((number, index))
            if row is not None and row["source"] == "evidence" and PROMOTES in row["label"]:
                kept = row["label"].rpartition(PROMOTES)[0]
                row["label"] = kept + (promotes(words[tokens[0]]) if tokens[0] >= 0 else "")
    write_rows(folder, rows)
    for name in (WORDS, "blocks.parquet", *(f"contexts_{number}.parquet" for number in range(n))):
        write_atomically(folder / name, lambda to, name=name: shutil.copyfile(pages.folder / name, to))
    facts = pages.facts | {
        "transcoders": model.transcoders.name,
        "sha256": model.transcoders.sha256,
        "carried_from": pages.facts["sha256"],
    }
    write_atomically(folder / META, lambda name: Path(name).write_text(json.dumps(facts, indent=1) + "\n"))
    return folder


def check_same_features(old: Transcoders, new: Transcoders) -> None:
    """Refuse two dictionaries whose features do not fire alike on every input.

    Raises:
        TranscoderMismatch: naming the first layer and what differs there.
    """
    if (old.widths, old.read, old.kind) != (new.widths, new.read, new.kind):
        raise TranscoderMismatch(f"{old.name} and {new.name} have other widths, or read or write elsewhere")
    for number, (one, other) in enumerate(zip(old.layers, new.layers, strict=True)):
        differ = [
            name
            for name, same in (
                ("encoders", torch.equal(one.encoder.dense(torch.float32), other.encoder.dense(torch.float32))),
                ("encoder biases", torch.equal(one.encoder_bias, other.encoder_bias)),
                ("activation functions", _same(one.activation, other.activation)),
            )
            if not same
        ]
        if differ:
            raise TranscoderMismatch(
                f"{' and '.join(differ)} of {old.name} and {new.name} differ at layer {number}, so their features "
                f"fire otherwise; build pages anew with unweave features build"
            )


def _same(one: object, other: object) -> bool:
    if isinstance(one, JumpReLU) and isinstance(other, JumpReLU):
        return torch.equal(one.threshold, other.threshold)
    return not isinstance(one, JumpReLU) and type(one) is type(other) and repr(one) == repr(other)


def _replace(pages: Pages, folder: Path, name: str, new: dict[str, np.ndarray]) -> None:
    """Write one layer's table of features with other columns in place of its own."""
    beside = folder / f".{name}.new"
    count = len(new["norm"])
    save(duckdb.connect(), beside, {"index": np.arange(count, dtype=np.int32), **new})
    columns = ", ".join(f"new.{column} AS {column}" for column in new)
    quoted = str(beside).replace("'", "''")
    query = (
        f"COPY (SELECT old.* REPLACE ({columns}) FROM read_parquet({pages.file(name)}) old JOIN "
        f"read_parquet('{quoted}') new USING (index) ORDER BY old.index) TO '{{}}' {PARQUET}"
    )
    try:
        write_atomically(folder / name, lambda to: pages.connection.execute(query.format(to.replace("'", "''"))))
    except duckdb.Error as error:
        raise FileError(f"cannot carry {pages.folder / name} over ({error}); build the pages anew") from error
    finally:
        beside.unlink(missing_ok=True)
