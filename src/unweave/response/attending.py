"""Why a head looked where it did: what each node of a response graph does to one entry of an attention pattern."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.kinds import typed
from ..errors import OptionError
from ..graphs.graph import Graph
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .account import LookAccount, look_account
from .attention import TangentAttention
from .routes import setting_of
from .setting import Setting
from .tangents import Cut, Starts


@dataclass(frozen=True)
class Looked:
    """One head at one query and key, what it carries, and what made it look there.

    Effects are first-order changes of the pattern's entry when a node of the graph is taken away, by all paths, in the
    order of the graph's nodes; the two sides add up to the whole. The softmax's competition counts: on the key side,
    every key that the query sees.
    """

    layer: int
    head: int
    query: int
    key: int
    pattern: float
    """How much of the head's attention goes there."""
    carried: float
    """The first-order effect on the graph's target of what the head moves from the key to the query."""
    by_query: Float[Tensor, " node"]
    by_key: Float[Tensor, " node"]
    row: Float[Tensor, " key"]
    """How much of the head's attention goes to each key that the query sees."""
    account: LookAccount
    """What the score's lead over those of other keys is made of as it stands, every source and bias counted."""

    @property
    def effect(self) -> Float[Tensor, " node"]:
        """Both sides together."""
        return self.by_query + self.by_key


@typed
def attend(model: ReplacementModel | LanguageModel, graph: Graph, most: int = 5) -> list[Looked]:
    """The heads through which most of a response graph's target flows, and why they looked where they did.

    Heads are found by the first-order effect of what they carry from a key to a query, the first position's keys left
    out; the patterns' change is computed as the graph's rows are, by a transposed sweep from the entry.

    Raises:
        GraphError: not a response graph of this model, or a pruned one.
        OptionError: `most` is under 1.

    >>> import unweave                                                              # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                       # doctest: +SKIP
    >>> graph = unweave.response_graph(model, "The capital of France is")           # doctest: +SKIP
    >>> unweave.attend(model, graph)[0].head                                        # doctest: +SKIP
    """
    if most < 1:
        raise OptionError(f"most is {most}; it must be at least 1")
    setting = setting_of(model, graph)
    found: list[tuple[float, int, int, int, int, float]] = []
    for layer, carried in carried_by_heads(setting).items():
        carried[:, :, 0] = 0
        size = carried.abs().flatten()
        top = size.topk(min(most, len(size)))
        n = carried.shape[-1]
        for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            found.append((value, layer, place // (n * n), place // n % n, place % n, float(carried.flatten()[place])))
    found.sort(reverse=True)
    return [
        looked_at(setting, layer, head, query, key, carried) for _, layer, head, query, key, carried in found[:most]
    ]


def carried_by_heads(setting: Setting) -> dict[int, Float[Tensor, "head query key"]]:
    """By layer, the first-order effect on the target of what each head moves from each key to each query."""
    tangent, found = setting.asked.tangent, {}
    for number, g, _ in tangent.walk(setting.start, Cut()):
        attention = tangent.layers[number].attention
        if isinstance(attention, TangentAttention):
            found[number] = attention.cut(g.shape[1]).carried(g[0])
    if not found:
        model = setting.asked.model
        raise OptionError(f"{model.name}: no layer of a {model.architecture.family} has plain attention to look into")
    return found


def looked_at(setting: Setting, layer: int, head: int, query: int, key: int, carried: float = 0.0) -> Looked:
    """What made one head look from a query at a key."""
    attention = plain_attention(setting, layer)
    starts = pattern_starts(setting, layer, head, query, key)
    side = torch.tensor([0] + [1] * (len(starts.position) - 1))
    by_query, by_key = node_effects(setting, layer, starts, side)
    row = attention.pattern[head, query, : query + 1]
    account = look_account(setting, layer, head, query, key)
    return Looked(layer, head, query, key, float(row[key]), carried, by_query, by_key, row, account)


def node_effects(setting: Setting, layer: int, starts: Starts, row: Int[Tensor, " start"]) -> Float[Tensor, "row node"]:
    """What taking each node away does to directions in what enters a layer; starts of one row are added up."""
    tangent, chosen = setting.asked.tangent, setting.chosen
    count, n, d = int(row.max()) + 1, len(setting.tokens), setting.tokens.shape[1]
    seen = int(starts.position.max()) + 1
    below = replace(tangent, layers=tangent.layers[:layer])
    gradient = setting.tokens.new_zeros(count, len(tangent.layers), n, d)

    def keep(number: int, g: Tensor, inside: Tensor, mlp: object) -> None:
        gradient[:, number, :seen].index_add_(0, row, g if setting.asked.basis.residual else inside)

    entered = setting.tokens.new_zeros(count, seen, d)
    if layer:
        entered.index_add_(0, row, below.sweep(starts, Cut(), watcher=keep).tokens)
    else:
        entered.index_put_((row, starts.position), starts.vector, accumulate=True)
    effects = setting.tokens.new_zeros(count, len(chosen) + setting.rests.shape[0] * n + n)
    parts = [chosen.at(number) for number in range(layer)]
    for number, which in enumerate(parts):
        part = chosen.select(which)
        for at in range(count):
            effects[at, which] = setting.asked.basis.gradients(part, number, gradient[at]) * part.taken
    rest = (gradient * setting.rests).sum(-1).flatten(1)
    effects[:, len(chosen) : len(chosen) + rest.shape[1]] = rest
    tokens = len(chosen) + rest.shape[1]
    effects[:, tokens : tokens + seen] = (entered * setting.tokens[:seen]).sum(-1)
    return torch.cat([-effects, effects.new_zeros(count, 1)], dim=1)  # and the target itself


def plain_attention(setting: Setting, layer: int) -> TangentAttention:
    """A layer's attention.

    Raises:
        OptionError: it is of another kind.
    """
    attention = setting.asked.tangent.layers[layer].attention
    if not isinstance(attention, TangentAttention):
        raise OptionError(f"layer {layer} has no plain attention to look into")
    return attention


def pattern_starts(setting: Setting, layer: int, head: int, query: int, key: int) -> Starts:
    """The gradients of one entry of a pattern in what enters its layer: by the query, then by each key it sees."""
    attention = plain_attention(setting, layer)
    n, (heads, _, channels) = query + 1, attention.queries.shape
    pattern = attention.pattern[head, query, :n]
    score = -pattern * pattern[key]
    score[key] += pattern[key]
    if attention.slope is not None:
        score = score * attention.slope[head, query, :n]
    own = head // (heads // attention.key.heads)
    queries = score.new_zeros(1, n, heads, channels)
    queries[0, query, head] = score @ attention.keys[head, :n]
    keys = score.new_zeros(n, n, attention.key.heads, channels)
    places = torch.arange(n)
    keys[places, places, own] = score[:, None] * attention.queries[head, query]
    by_query = (attention.query.transpose(queries) @ attention.query.weight).view(1, n, -1)[:, query]
    by_key = (attention.key.transpose(keys) @ attention.key.weight).view(n, n, -1)[places, places]
    at = torch.cat([torch.tensor([query]), places])
    vectors = attention.before.transpose_at(torch.cat([by_query, by_key]), at)
    return Starts(torch.full((n + 1,), layer), at, vectors)
