"""Mean activations over a little text, the usual stand-in where no contrast prompt is given."""

import json
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.catalogue import shipped_beside
from ..errors import OptionError
from ..models.language_model import LanguageModel
from ..transcoders.transcoders import Transcoders
from .building import tangent_mlp, watch
from .references import feature_firing, written_outputs

TEXT = Path(__file__).parents[1] / "data" / "held-out"
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
    if model.tokenizer is None:
        raise OptionError(f"{model.name} has no tokenizer, so no means over text; use baseline='zero' or instead=...")
    known = _KNOWN.setdefault(model.module, {})
    key = "neurons" if transcoders is None else transcoders.sha256
    if key not in known:
        known[key] = _means(model, transcoders)
    return known[key]


def _texts(model: LanguageModel) -> list[Int[Tensor, " pos"]]:
    beside, found = shipped_beside(model.name), []
    for path in sorted((TEXT if beside is None else beside / "held-out").glob("*.jsonl")):
        lines = path.read_text().splitlines()
        for line in lines[:: max(1, len(lines) // DOCUMENTS)][:DOCUMENTS]:
            text = json.loads(line).get("text")
            if text:
                found.append(model.tokenize(text[: TOKENS * 20])[:TOKENS])
    return found


def _means(model: LanguageModel, transcoders: Transcoders | None) -> Means:
    units: list[Tensor] = []
    outputs = torch.zeros(model.n_layers, model.d_model, dtype=torch.float64)
    embeddings, count = torch.zeros(model.d_model, dtype=torch.float64), 0
    for ids in _texts(model):
        seen = watch(model, ids)
        recording = seen.recording
        count += len(ids) - 1
        residual = transcoders is not None and transcoders.write == "residual"
        outputs += written_outputs(model, recording, residual=residual)[:, 1:].double().sum(1)
        embeddings += recording.embeddings[1:].double().sum(0)
        if transcoders is None:
            sums = [
                tangent_mlp(model, seen, layer).activations()[1:].double().sum(0) for layer in range(model.n_layers)
            ]
        else:
            sums = [
                torch.zeros(width, dtype=torch.float64).index_add_(0, firing.index, firing.activation.double())
                for width, firing in zip(
                    transcoders.widths, feature_firing(model, transcoders, recording, 1), strict=True
                )
            ]
        units = [a + b for a, b in zip(units, sums, strict=True)] if units else sums
    dtype = model.engine_dtype
    return Means(
        tuple((part / count).to(dtype) for part in units), (outputs / count).to(dtype), (embeddings / count).to(dtype)
    )
