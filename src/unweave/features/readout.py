"""What features write: norms, and the tokens they promote and suppress, directly or through all layers after."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.promoted import logit_effects
from ..base.progress import Progress
from ..interventions.live import Place
from ..interventions.slopes import slopes
from ..models.language_model import LanguageModel
from ..response.means import other_contexts
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import Transcoders

AT_ONCE = 64
"""Coordinates of the final stream that are differentiated in one pass."""
PROMOTED = 10
"""Tokens listed on a page."""
FEATURES_AT_ONCE = 256
"""Features whose effects on all logits are computed together."""


@dataclass(frozen=True)
class Readout:
    """By layer, a linear map from what its MLP adds at the last token to what reaches the unembedding: the mean over
    unrelated contexts of the derivative through the whole model, as names of groups in explanations use it. At the last
    layer nothing is between the two but the norm, of which the gain alone is kept."""

    maps: Float[Tensor, "layer d d"]

    @staticmethod
    def of(model: LanguageModel, report: Progress = lambda share: None) -> "Readout":
        """Measure it on 16 beginnings of texts; one pass back for each coordinate."""
        prompts, last = other_contexts(model), model.n_layers - 1
        unembedding = model.unembedding.to("cpu", torch.float64)
        undo = torch.linalg.pinv(unembedding.T @ unembedding) @ unembedding.T
        undo = undo.to(model.device, model.engine_dtype)
        places: list[tuple[Place, int]] = [("stream", layer) for layer in range(1, model.n_layers)]
        d = unembedding.shape[1]
        maps = torch.zeros(model.n_layers, d, d, dtype=model.engine_dtype)
        for begin in range(0, d, AT_ONCE):
            report(begin / d)
            rows = undo[begin : begin + AT_ONCE]
            found = slopes(
                model, prompts, [[]] * len(prompts), places, [prompts.shape[1] - 1],
                lambda logits, shown, span, rows=rows: rows @ logits.T,
            )  # fmt: skip
            for place, slope in found.at.items():
                maps[place[1] - 1, :, begin : begin + len(rows)] = slope.mean(1)[:, 0].T
        maps[last] = model.final_norm_weights.gain.to("cpu", model.engine_dtype).diag()
        return Readout(maps)

    def effects(
        self, model: LanguageModel, transcoders: Transcoders, layer: int, features: Tensor
    ) -> Float[Tensor, "feature vocab"]:
        """What features do to every token's logit, less the mean over the vocabulary; of cross-layer features the sum
        of what they write."""
        dtype = model.engine_dtype
        reached = sum(
            transcoders.decoder_rows(layer, features, at, dtype) @ self.maps[at] for at in transcoders.writes(layer)
        )
        assert isinstance(reached, Tensor)
        effects = reached.to(model.device) @ model.unembedding.to(dtype).T
        return effects - effects.mean(1, keepdim=True)


def written(model: ReplacementModel, number: int, readout: Readout | None = None) -> dict[str, np.ndarray]:
    """What units of a layer write: norms of their decoders, tokens they promote and suppress. What the negative sign of
    a neuron promotes is what the neuron suppresses."""
    transcoders, dtype = model.transcoders, model.language_model.engine_dtype
    every = torch.arange(transcoders.widths[number])
    norms = np.stack(
        [transcoders.decoder_rows(number, every, at, dtype).norm(dim=1).numpy() for at in transcoders.writes(number)], 1
    ).astype(np.float32)
    found = {"norm": rounded(norms), **_effects(model, number, np.asarray(norms.any(1)), readout)}
    if not transcoders.of_neurons:
        return found
    turned = {"norm": found["norm"]}
    for one, other in (("promoted", "suppressed"), ("suppressed", "promoted")):
        turned |= {one: found[other], f"{one}_logit": -found[f"{other}_logit"]}
    return {name: np.concatenate([column, turned[name]]) for name, column in found.items()}


def _effects(model: ReplacementModel, number: int, alive: np.ndarray, readout: Readout | None) -> dict[str, np.ndarray]:
    """Tokens that features promote and suppress most, and by how much (relative to the mean token)."""
    width, vocabulary = len(alive), model.language_model.unembedding.shape[0]
    count = min(PROMOTED, vocabulary)
    tokens = {name: np.full((width, count), -1, np.int32) for name in ("promoted", "suppressed")}
    logits = {name: np.full((width, count), np.nan, np.float32) for name in tokens}
    for part in torch.from_numpy(np.flatnonzero(alive)).split(FEATURES_AT_ONCE):
        if readout is None:
            effects = logit_effects(model, number, part)
        else:
            effects = readout.effects(model.language_model, model.transcoders, number, part)
        for name, largest in (("promoted", True), ("suppressed", False)):
            found = effects.topk(count, largest=largest)
            tokens[name][part.numpy()] = found.indices.cpu().numpy()
            logits[name][part.numpy()] = rounded(found.values.float().cpu().numpy())
    return tokens | {f"{name}_logit": values for name, values in logits.items()}


def rounded(values: np.ndarray) -> np.ndarray:
    """Numbers to about three digits, which halves the files."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    kept = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), kept, values).astype(np.float32)
