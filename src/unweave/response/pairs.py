"""What pairs of nodes do to one score of attention: one through the query, the other through the key."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .attending import node_effects, plain_attention
from .attention import TangentAttention
from .routes import setting_of
from .setting import Setting
from .tangents import Starts

NUMBERS_AT_ONCE = 1 << 25
"""Gradients in memory at a time."""


def pair_terms(
    model: ReplacementModel | LanguageModel, graph: Graph, layer: int, head: int, query: int, key: int
) -> Float[Tensor, "query_node key_node"]:
    """What each pair of a response graph's nodes adds to the score with which a head at `query` looks at `key`.

    Entry [s, t] is the product of what s, by all paths and to first order, gives the head's query and t its key:
    positive raises the score. Rows add up to what a node's part in the query meets in all nodes' parts of the key.

    Raises:
        GraphError: not a response graph of this model, or a pruned one.
        OptionError: there is no such head, or no such place that it sees.

    Source: the bilinear form of attention scores in the residual stream, as in Kamath et al. 2025, "Tracing Attention
        Computation Through Feature Interactions"; here by all paths, with what is no node responding.

    >>> import unweave                                                              # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                       # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")           # doctest: +SKIP
    >>> head = unweave.attend(model, graph)[0]                                      # doctest: +SKIP
    >>> pair_terms(model, graph, head.layer, head.head, head.query, head.key).shape # doctest: +SKIP
    """
    return terms_of(setting_of(model, graph), layer, head, query, key)


def terms_of(setting: Setting, layer: int, head: int, query: int, key: int) -> Float[Tensor, "query_node key_node"]:
    """The same, of a graph whose computation is set up."""
    if not 0 <= key <= query:
        raise OptionError(f"token {query} does not see token {key}")
    attention = _attention(setting, layer, head, query)
    by_query, by_key = (channel_effects(setting, layer, head, at, side) for side, at in ((0, query), (1, key)))
    return attention.factor * by_query.T @ by_key


def most_looked_at(setting: Setting, layer: int, head: int, query: int) -> int:
    """The key that a head at `query` looks at most, the first token left out where there is another.

    Raises:
        OptionError: there is no such head or token.
    """
    row = _attention(setting, layer, head, query).pattern[head, query, : query + 1]
    return int(row[1:].argmax()) + 1 if query else 0


def _attention(setting: Setting, layer: int, head: int, query: int) -> TangentAttention:
    inside = 0 <= layer < len(setting.asked.tangent.layers) and 0 <= query < len(setting.tokens)
    if not inside or not 0 <= head < (attention := plain_attention(setting, layer)).pattern.shape[0]:
        raise OptionError(f"no head {layer}.{head} at token {query}")
    return attention


def channel_effects(setting: Setting, layer: int, head: int, position: int, side: int) -> Float[Tensor, "channel node"]:
    """What taking each node away does to a head's query (side 0) or key (side 1) at one position."""
    attention = plain_attention(setting, layer)
    one, heads, channels = (
        (attention.query, attention.key)[side],
        attention.pattern.shape[0],
        attention.queries.shape[2],
    )
    at = head // (heads // one.heads)
    gradients = setting.tokens.new_zeros(channels, position + 1, one.heads, channels)
    gradients[torch.arange(channels), position, at, torch.arange(channels)] = 1.0
    rows = (one.transpose(gradients) @ one.weight).view(channels, position + 1, -1)[:, position]
    places = torch.full((channels,), position)
    vectors = attention.before.transpose_at(rows, places)
    each = max(1, NUMBERS_AT_ONCE // (len(setting.asked.tangent.layers) * setting.tokens.numel()))
    found = []
    for start in range(0, channels, each):
        part = vectors[start : start + each]
        size = len(part)
        starts = Starts(torch.full((size,), layer), places[:size], part)
        found.append(node_effects(setting, layer, starts, torch.arange(size)))
    return torch.cat(found)
