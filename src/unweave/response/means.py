"""Mean activations over a little text, the usual stand-in where no contrast prompt is given."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.catalogue import shipped_beside
from ..errors import OptionError, PromptError
from ..models.language_model import LanguageModel
from ..models.recording import first_of
from ..transcoders.transcoders import Transcoders
from .building import tangent_mlp, watch
from .references import feature_firing, written_outputs

TEXT = Path(__file__).parents[1] / "data" / "held-out"
Key = TypeVar("Key")
DOCUMENTS, TOKENS = 8, 64
"""How many texts of each kind are read, and how much of each."""


@dataclass(frozen=True)
class Means:
    """Means over all positions but the first of each text."""

    units: tuple[Float[Tensor, " unit"], ...]
    """By layer."""
    outputs: Float[Tensor, "layer d"]
    embeddings: Float[Tensor, " d"]


_KNOWN: WeakKeyDictionary[object, dict[str, Means]] = WeakKeyDictionary()


def text_means(model: LanguageModel, transcoders: Transcoders | None) -> Means:
    """The means of a model's neurons, or of a dictionary's features, over texts that come with the package.

    Raises:
        OptionError: the model has no tokenizer.
    """
    known = _KNOWN.setdefault(model.module, {})
    key = "neurons" if transcoders is None else transcoders.sha256
    if key not in known:
        known[key] = _means(model, transcoders)
    return known[key]


def resampled(model: LanguageModel, ids: Int[Tensor, " pos"]) -> Int[Tensor, " pos"]:
    """The beginning of a text that comes with the package, of a prompt's length; which one depends on the prompt.

    Raises:
        OptionError: the model has no tokenizer, or no text is long enough.
    """
    if model.tokenizer is None:
        raise OptionError(f"{model.name} has no tokenizer, so no other prompts; use baseline='zero' or instead=...")
    found = [text for text in texts(model, tokens=len(ids)) if len(text) == len(ids) and not torch.equal(text, ids)]
    if not found:
        raise OptionError(f"no text at hand has the prompt's {len(ids)} tokens; use baseline='mean' or instead=...")
    return found[int(ids.sum()) % len(found)]


def texts(model: LanguageModel, first: int = 0, tokens: int = TOKENS) -> list[Int[Tensor, " pos"]]:
    """The first tokens of texts that come with the package: of each kind every so many from the `first` on. Means are
    taken over those from 0; the others, where a kind has enough, serve to judge by."""
    beside, found = shipped_beside(model.name), []
    for path in sorted((TEXT if beside is None else beside / "held-out").glob("*.jsonl")):
        lines = path.read_text().splitlines()
        step = max(1, len(lines) // DOCUMENTS)
        for line in [line for number, line in enumerate(lines) if number % step == first][:DOCUMENTS]:
            text = json.loads(line).get("text")
            if text:
                words = text if len(text) <= tokens * 20 else text[: tokens * 20].rpartition(" ")[0]
                found.append(model.tokenize(words or text)[:tokens])
    return found


def other_contexts(
    model: LanguageModel, count: int = 16, tokens: int = 8, first: int = 0
) -> Int[Tensor, "context pos"]:
    """Contexts of one length with no relation to any prompt: beginnings of texts, or random tokens (the first of them
    `first`) for a model without a tokenizer, or one that does not know the words of these texts."""
    try:
        found = [ids[:tokens] for ids in texts(model) if len(ids) >= tokens] if model.tokenizer is not None else []
    except PromptError:
        found = []
    if len(found) >= count:
        return torch.stack(found[:: len(found) // count][:count])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(model.unembedding), (count, tokens), generator=generator)
    drawn[:, 0] = first
    return drawn


def over_texts(
    model: LanguageModel, sums: Callable[[Int[Tensor, " pos"]], Mapping[Key, Float[Tensor, "..."]]]
) -> dict[Key, Float[Tensor, "..."]]:
    """Means per token over `texts`, of what `sums` gives of each text summed over all positions but the first.

    Raises:
        OptionError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise OptionError(f"{model.name} has no tokenizer, so no means over text; use baseline='zero' or instead=...")
    total: dict[Key, Tensor] = {}
    count = 0
    for ids in texts(model):
        count += len(ids) - 1
        for key, part in sums(ids).items():
            total[key] = total[key] + part if key in total else part
    return {key: (value / count).to(model.engine_dtype) for key, value in total.items()}


def _means(model: LanguageModel, transcoders: Transcoders | None) -> Means:
    plain = transcoders is None and model.architecture.up is not None

    def sums(ids: Tensor) -> dict[int | str, Tensor]:
        units, outputs, embeddings = _neuron_sums(model, ids) if plain else _unit_sums(model, transcoders, ids)
        return {**dict(enumerate(units)), "outputs": outputs, "embeddings": embeddings}

    found = over_texts(model, sums)
    outputs, embeddings = found.pop("outputs"), found.pop("embeddings")
    return Means(tuple(found[layer] for layer in range(len(found))), outputs, embeddings)


def _neuron_sums(model: LanguageModel, ids: Int[Tensor, " pos"]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Sums over one text of what enters each MLP's last linear map, of MLPs' outputs and of embeddings: by hooks, in a
    fifth of the time that a derivative takes."""
    row, seen, entered = model.architecture, {}, []

    def total(x: Tensor) -> Tensor:
        return x[0, 1:].detach().double().sum(0).cpu()

    def keep(layer: int) -> Callable:
        return lambda module, args, output: seen.update({layer: (total(args[0]), total(first_of(output)))})

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        entered.append(total(args[0] if args else kwargs["hidden_states"]))

    with ExitStack() as stack:
        stack.callback(model.blocks[0].register_forward_pre_hook(enter, with_kwargs=True).remove)
        for layer, block in enumerate(model.blocks):
            mlp = block.get_submodule(row.mlp)
            stack.callback(mlp.get_submodule(row.down).register_forward_hook(keep(layer)).remove)
        with torch.no_grad():
            model.module(input_ids=ids[None].to(model.device), use_cache=False)
    neurons, outputs = zip(*(seen[layer] for layer in range(model.n_layers)), strict=True)
    return list(neurons), torch.stack(outputs), entered[0]


def _unit_sums(
    model: LanguageModel, transcoders: Transcoders | None, ids: Int[Tensor, " pos"]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The same of experts' neurons, or of a dictionary's features."""
    seen = watch(model, ids)
    recording = seen.recording
    residual = transcoders is not None and transcoders.write == "residual"
    if transcoders is None:
        units = [tangent_mlp(model, seen, layer).activations()[1:].double().sum(0) for layer in range(model.n_layers)]
    else:
        units = [
            torch.zeros(width, dtype=torch.float64).index_add_(0, firing.index, firing.activation.double())
            for width, firing in zip(transcoders.widths, feature_firing(model, transcoders, recording, 1), strict=True)
        ]
    outputs = written_outputs(model, recording, residual=residual)[:, 1:].double().sum(1)
    return units, outputs, recording.embeddings[1:].double().sum(0)
