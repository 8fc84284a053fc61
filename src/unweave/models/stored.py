"""What a model's files hold beside what its config says: tensors that it has no place for, of other sizes or kinds,
and keys that another version of transformers wrote."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import ModelError, UnsupportedModel

FLOATS = ("F64", "F32", "F16", "BF16")
_BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")
"""Ends of names of what older versions stored beside weights: masks and frequencies, which are made anew."""
_OTHER_PARTS = ("vision", "visual", "audio", "multi_modal", "mtp")
"""Of names of parts that do not compute the next token of a text."""
_ALONE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
"""Facts of rotary embeddings that stand beside `rope_scaling`; transformers 5 takes them where `rope_parameters` lacks
them."""
_ADAPTER = ("lora_", "base_layer", "base_model.model.", "modules_to_save")


class StoredTensor(NamedTuple):
    """A tensor in a file, not read."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: str | Path) -> dict[str, StoredTensor]:
    """The tensors that a model's safetensors files hold, by name; none where it has only others or they are damaged."""
    found: dict[str, StoredTensor] = {}
    for path in sorted(Path(folder).glob("model*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dict
                    part = file.get_slice(name)
                    found[name] = StoredTensor(path, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError):
            return {}
    return found


def check_kinds(name: str, stored: Mapping[str, StoredTensor], quantised: bool) -> None:
    """Refuse weights that are an adapter's, or numbers that stand for others.

    Raises:
        ModelError: a tensor of an adapter.
        UnsupportedModel: weights that are no floating-point numbers of 16 bits or more, which no config explains.
    """
    strange = next((key for key in stored if any(part in key for part in _ADAPTER)), None)
    if strange is not None:
        raise ModelError(
            f"the files of model {name!r} hold an adapter's tensors ({strange}); merge it into its model first (peft: "
            f"model.merge_and_unload().save_pretrained(FOLDER)) and give that folder"
        )
    for key, part in stored.items() if not quantised else ():
        if key.endswith("weight") and len(part.shape) > 1 and part.dtype not in FLOATS:
            raise UnsupportedModel(
                f"model {name!r} is quantised: {key} is {part.dtype}, and config.json does not say how; give the "
                f"unquantised model"
            )


def check_unexpected(name: str, unexpected: Iterable[str]) -> None:
    """Refuse tensors that the loaded model has no place for: what they do would be left out.

    Raises:
        ModelError: naming them.
    """
    left = [
        key
        for key in sorted(unexpected)
        if not key.endswith(_BUFFERS) and not any(part in key.lower() for part in _OTHER_PARTS)
    ]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ModelError(
            f"the files of model {name!r} hold {left[0]}{more}, for which a model of its config.json has no place; "
            f"what they do would be left out: mend the config, or save the model again"
        )


def check_sizes(stored: Mapping[str, StoredTensor], expected: Mapping[str, torch.Size]) -> None:
    """Refuse tensors of other sizes than a model of this config has.

    Raises:
        ModelError: naming one, and what to mend.
    """
    wrong = [key for key, part in stored.items() if part.shape != tuple(expected.get(key, part.shape))]
    if not wrong:
        return
    words = {part.shape[0] for key, part in stored.items() if any(name in key for name in ("embed", "wte", "lm_head"))}
    mend = f"; if the vocabulary was resized, set vocab_size to {min(words)} there" if len(words) == 1 else ""
    there, said = list(stored[wrong[0]].shape), list(expected[wrong[0]])
    raise ModelError(f"{wrong[0]} is {there} in its files, and by config.json {said}{mend}")


def keep_head(module: Any, stored: Mapping[str, StoredTensor]) -> None:
    """Put the head that the files hold into a module that has tied it to the embeddings; transformers 4 does so where
    the config says that they are one, though both are there and differ."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    key = next((f"{key}.weight" for key, part in module.named_modules() if part is head), "")
    if key not in stored or head.weight is not embeddings.weight:
        return
    with safe_open(stored[key].file, "pt") as file:
        weight = file.get_tensor(key).to(head.weight.dtype)
    if head.weight.is_meta:  # the files hold the head alone, which is the embeddings too
        embeddings.weight = head.weight = nn.Parameter(weight, requires_grad=False)
    elif not torch.equal(weight, head.weight):
        head.weight = nn.Parameter(weight, requires_grad=False)


def check_rope(name: str, folder: str | Path, reads_parameters: bool) -> None:
    """Refuse a config whose rotary frequencies this version of transformers does not take as they were meant.

    Args:
        reads_parameters: whether it knows `rope_parameters`, as transformers 5 does; 4 goes by `rope_theta` and
            `rope_scaling` alone.

    Raises:
        ModelError: they are there in the other spelling only, or in two that differ.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return
    for part in (config, config.get("text_config")) if isinstance(config, dict) else ():
        new = part.get("rope_parameters") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(new, dict) or not new:
            continue
        old = {key: part[key] for key in _ALONE if part.get(key) is not None} | _plain(part.get("rope_scaling"))
        if not old and not reads_parameters:
            raise ModelError(
                f"model {name!r} was saved by transformers 5 (config.json has rope_parameters), and transformers 4 "
                f"would compute with other frequencies; pip install 'transformers>=5'"
            )
        by_layer, new = any(isinstance(value, dict) for value in new.values()), _plain(new)
        asked, read = (old, new) if reads_parameters else (new, old)
        asked = asked if reads_parameters and not part.get("rope_scaling") else {"rope_type": None} | asked
        filled = set(_ALONE) - read.keys() if reads_parameters else set()
        wrong = sorted(key for key in asked.keys() - filled if read.get(key) != asked[key])
        if old and wrong and not by_layer:
            raise ModelError(
                f"model {name!r}: config.json gives its rotary frequencies twice, and rope_parameters differs from "
                f"rope_theta and rope_scaling in {', '.join(wrong)}; keep the one that is meant"
            )


def _plain(facts: Any) -> dict[str, Any]:
    """Facts of rotary embeddings under one name each; nothing said about scaling is no scaling."""
    found = dict(facts) if isinstance(facts, dict) else {}
    kind = found.pop("type", None)
    kind = found.pop("rope_type", kind)
    return found | ({"rope_type": kind} if kind not in (None, "default") else {})
