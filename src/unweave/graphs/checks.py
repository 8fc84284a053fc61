"""What a graph's file must hold before anything is computed with it, and whether it is as it was written."""

import json
import types
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..errors import GraphError
from .graphfile import check_extra
from .nodes import NodeKind
from .provenance import Provenance

WHOLE = (torch.int64, torch.int32)
REAL = (torch.float32, torch.float64)
KINDS = {
    **dict.fromkeys(("nodes.kind", "nodes.layer", "nodes.position", "nodes.index", "rows.start", "rows.column"), WHOLE),
    **dict.fromkeys(
        ("nodes.activation", "rows.value", "bias", "preactivation", "removed", "removed_size", "full_influence",
         "full_rank", "effect"), REAL,
    ),
}  # fmt: skip
"""The tensors of a graph file, all with one dimension, and the kinds of number they may hold."""
OPTIONAL = ("full_influence", "full_rank", "effect")


def checksum(tensor: Tensor) -> int:
    """A CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.detach().contiguous().numpy().data) if tensor.numel() else 0


def check_sums(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Refuse tensors that are not as they were written; False: the file, of an earlier version, does not tell."""
    if "checksums" not in header:
        return False
    kept = json.loads(header["checksums"])
    if not isinstance(kept, dict):
        raise ValueError("its checksums are no object")
    wrong = [name for name, tensor in tensors.items() if kept.get(name) != checksum(tensor)]
    wrong += ["provenance"] if kept.get("provenance") != zlib.crc32(header["provenance"].encode()) else []
    if wrong or set(kept) - {"provenance"} != set(tensors):
        raise GraphError(
            f"{path} is damaged: {', '.join(sorted(wrong)) or 'its list of tensors'} changed since it was written; "
            f"trace the prompt again"
        )
    return True


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tables of other names, kinds of number, dimensions, lengths or order."""
    missing = sorted(set(KINDS) - set(OPTIONAL) - set(tensors))
    strange = sorted(set(tensors) - set(KINDS))
    if missing or strange:
        raise GraphError(f"{path} is not a whole graph file: {_listed('lacks', missing)}{_listed('has', strange)}")
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or tensor.dtype not in KINDS[name]:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise GraphError(f"{path} is damaged: {name} holds {kind} numbers in shape {list(tensor.shape)}")
    if not _lengths_agree(tensors):
        raise GraphError(f"{path} is damaged: its tables disagree in length; trace the prompt again")
    kinds = tensors["nodes.kind"]
    if len(kinds) and not (int(kinds[0]) >= 0 and int(kinds[-1]) <= max(NodeKind) and bool((kinds.diff() >= 0).all())):
        raise GraphError(f"{path} is damaged: its nodes are not features, errors, embeddings and logits, in this order")
    if not bool(tensors["rows.value"].isfinite().all()):
        raise GraphError(f"{path} is damaged: it has weights that are not finite")


def _lengths_agree(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every node has its facts and its row, and every column is a node's."""
    n, start, column = len(tensors["nodes.kind"]), tensors["rows.start"], tensors["rows.column"]
    even = all(len(tensor) == n for name, tensor in tensors.items() if not name.startswith("rows."))
    if not even or len(start) != n + 1 or len(column) != len(tensors["rows.value"]):
        return False
    rising = int(start[0]) == 0 and int(start[-1]) == len(column) and bool((start.diff() >= 0).all())
    return rising and (not len(column) or (int(column.min()) >= 0 and int(column.max()) < n))


def check_ids(path: Path, ids: list[str]) -> None:
    """Refuse the same node twice."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise GraphError(f"{path} names two nodes {twice}; each node of a graph has an id of its own")


def provenance_of(known: Any) -> Provenance:
    """The provenance in a header.

    Raises:
        ValueError, KeyError: it is none, or facts are of other types.
    """
    if not isinstance(known, dict):
        raise ValueError("its provenance is no object")
    check_extra(known.get("extra", {}))
    facts = {f.name: known[f.name] for f in fields(Provenance) if f.name in known}
    facts = {name: value if name == "extra" else _tupled(value) for name, value in facts.items()}
    hints = get_type_hints(Provenance)
    for name, value in facts.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"its {name} is of another type")
    return Provenance(**facts)


def check_counts(path: Path, facts: Provenance, logits: int) -> None:
    """Refuse names that are not one a node."""
    if len(facts.logit_labels) != logits or len(facts.target_tokens) not in (0, logits):
        raise GraphError(f"{path} is damaged: it names {len(facts.logit_labels)} targets and has {logits}")
    if facts.origin == "unweave" and len(facts.tokens) != len(facts.input_ids):
        raise GraphError(f"{path} is damaged: {len(facts.tokens)} tokens have {len(facts.input_ids)} ids")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        several = inner[-1] is Ellipsis
        kinds = [inner[0]] * len(value) if several and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(part) for part in value) if isinstance(value, list) else value


def _listed(verb: str, names: list[str]) -> str:
    return f"it {verb} {', '.join(names)}; " if names else ""
