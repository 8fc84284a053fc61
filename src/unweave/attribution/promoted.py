"""What a feature does: the tokens it promotes and suppresses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.progress import Progress
from ..graphs.graph import Graph
from ..transcoders.replacement import ReplacementModel

MOST_NAMED = 4096
"""Features of a graph that are named by the tokens they promote, the most influential first: a second's work."""
AT_ONCE = 128
"""Bounds the memory for features times vocabulary."""


def logit_effects(
    model: ReplacementModel, layer: int, features: Int[Tensor, " feature"]
) -> Float[Tensor, "feature vocab"]:
    """The direct effect of features on every token's logit: decoder through final norm gain and unembedding, vocabulary
    mean taken off. Scales are left out, so only the order of tokens means something.

    Cross-layer features count with the sum of what they write.
    """
    language_model = model.language_model
    dtype = language_model.engine_dtype
    decoder = sum(model.transcoders.decoder_rows(layer, features, at, dtype) for at in model.transcoders.writes(layer))
    assert isinstance(decoder, Tensor)
    block = language_model.final_norm_weights
    vectors = decoder * block.gain.to(dtype)
    effects = vectors @ language_model.unembedding.to(dtype).T
    return effects - effects.mean(1, keepdim=True)


def promoted_tokens(model: ReplacementModel, features: list[tuple[int, int]], count: int = 3) -> list[list[str]]:
    """For each (layer, index) the `count` tokens whose logits the feature raises most, the strongest first."""
    found: list[list[str]] = [[] for _ in features]
    for layer in {layer for layer, _ in features}:
        places = [place for place, (other, _) in enumerate(features) if other == layer]
        effects = logit_effects(model, layer, torch.tensor([features[place][1] for place in places]))
        for place, tokens in zip(places, effects.topk(count).indices.tolist(), strict=True):
            found[place] = [model.language_model.token_text(token) for token in tokens]
    return found


def with_promoted(
    graph: Graph, model: ReplacementModel, most: int = MOST_NAMED, progress: Progress | None = None
) -> Graph:
    """The graph with the tokens that its `most` most influential features promote written into its provenance, under
    `promotes` of `extra`, so that the features have names where the model is not loaded.
    """
    rows = torch.arange(graph.nodes.features.start, graph.nodes.features.stop)
    if len(rows) > most:
        rows = rows[graph.influence()[rows].topk(most).indices]
    features = sorted(set(zip(graph.nodes.layer[rows].tolist(), graph.nodes.index[rows].tolist(), strict=True)))
    named = {}
    for begin in range(0, len(features), AT_ONCE):
        part = features[begin : begin + AT_ONCE]
        if progress is not None:
            progress(begin / len(features))
        named |= {
            f"{layer}_{index}": words for (layer, index), words in zip(part, promoted_tokens(model, part), strict=True)
        }
    return graph.with_provenance(extra={**graph.provenance.extra, "promotes": named})
