"""What a head's preference for one key is made of: every source at the query and at the keys, biases among them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .attention import Side, TangentAttention
from .mixing import TangentMixer
from .references import written_outputs
from .setting import Setting

SIDES = ("query", "key")


@dataclass(frozen=True)
class LookAccount:
    """How far a key's score lies above the mean of all that the query sees, weighted by the pattern, taken apart.

    With norms held, queries are linear in what enters the layer at the query, and keys at the keys; so the lead is a
    sum over sources on either side, the other side held, before a soft cap. Rows of tensors: query side, key side.
    """

    lead: float
    nodes: Float[Tensor, "side node"]
    """By what is taken away with each node of the graph, read straight from the residual stream."""
    kept: Float[Tensor, " side"]
    """By what tokens and MLPs keep when all nodes are taken away."""
    heads: Float[Tensor, "side layer head"]
    """By what the heads of earlier layers write; what a layer of another kind does is under its first."""
    bias: Float[Tensor, " side"]
    """By biases of norms and projections: all that no source gives."""

    @property
    def total(self) -> Float[Tensor, " side"]:
        """The lead again, from each side's parts."""
        return self.nodes.sum(1) + self.kept + self.heads.sum((1, 2)) + self.bias


def look_account(setting: Setting, layer: int, head: int, query: int, key: int) -> LookAccount:
    """Take one head's preference for a key apart."""
    asked, chosen = setting.asked, setting.chosen
    tangent, basis = asked.tangent, asked.basis
    attention, n, depth = tangent.layers[layer].attention, query + 1, len(tangent.layers)
    assert isinstance(attention, TangentAttention)
    weights = -attention.pattern[head, query, :n]
    weights[key] += 1
    scores = attention.keys[head, :n] @ attention.queries[head, query] / attention.factor
    lead = float(weights @ scores)
    g = held_gradients(attention, weights, head, query)
    recording = tangent.recording
    made = written_outputs(asked.model, recording, residual=basis.residual)
    at_writes = g.new_zeros(2, depth, len(setting.tokens), g.shape[-1])
    heads = g.new_zeros(2, depth, attention.pattern.shape[0])
    for number in range(layer):
        below = tangent.layers[number]
        after = below.mlp.after
        at_writes[:, number, :n] = g if after is None or basis.residual else after.held.transpose(g)
        entered = g if below.attention.after is None else below.attention.after.held.transpose(g)
        if isinstance(below.attention, TangentMixer):
            heads[:, number, 0] = (entered * recording.attention_outputs[number][:n]).sum((1, 2))
            continue
        into = (entered @ below.attention.output).view(2, n, heads.shape[-1], -1)
        own = torch.einsum("hpq,hqc->phc", below.attention.pattern[:, :n, :n], below.attention.values[:, :n])
        heads[:, number] = (into * own).sum((1, 3))
    units = g.new_zeros(2, len(chosen))
    for side in range(2):
        for number in range(layer):
            which = chosen.at(number)
            part = chosen.select(which)
            units[side, which] = basis.gradients(part, number, at_writes[side]) * part.taken
    rests = (at_writes * setting.rests).sum(-1).flatten(1)
    tokens = g.new_zeros(2, len(setting.tokens))
    tokens[:, :n] = (g * setting.tokens[:n]).sum(-1)
    nodes = torch.cat([units, rests, tokens, g.new_zeros(2, 1)], 1)
    whole = (at_writes * made[:, : len(setting.tokens)]).sum((1, 2, 3)) + (g * recording.embeddings[:n]).sum((1, 2))
    kept = whole - nodes.sum(1)
    bias = lead - nodes.sum(1) - kept - heads.sum((1, 2))
    return LookAccount(lead, nodes, kept, heads, bias)


def held_gradients(
    attention: TangentAttention, weights: Float[Tensor, " key"], head: int, query: int
) -> Float[Tensor, "side pos d"]:
    """The gradients, norms held, of a weighted sum of one head's scores, in what enters its layer: by the query, by the
    keys."""
    n, (heads, _, channels) = len(weights), attention.queries.shape
    own, places = head // (heads // attention.key.heads), torch.arange(n)
    queries = weights.new_zeros(1, n, heads, channels)
    queries[0, query, head] = weights @ attention.keys[head, :n]
    keys = weights.new_zeros(1, n, attention.key.heads, channels)
    keys[0, places, own] = weights[:, None] * attention.queries[head, query]
    made = torch.cat([_held(side).transpose(g) @ side.weight for side, g in (
        (attention.query, queries), (attention.key, keys),
    )])  # fmt: skip
    return attention.before.held.transpose(made.view(2, n, -1))


def _held(side: Side) -> Side:
    return side if side.norm is None else replace(side, norm=side.norm.held)
