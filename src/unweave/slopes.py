"""What switching a feature off would do to the answer, to first order in the real model: one backward pass for all features."""

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import GraphError
from .gradients import write_gradients
from .graph import Graph
from .interventions import record
from .models import Recording
from .naming import check_graph
from .nodes import NodeKind
from .plans import Mode
from .replacement import ReplacementModel
from .totals import NodeRef


def first_order_effects(model: ReplacementModel, graph: Graph, target: NodeRef | None = None, mode: Mode = "frozen_attention") -> Float[Tensor, " node"]:
    """How much every feature of a graph adds to a target, to first order in the real model: without it the target is lower by this.

    Where `total_effects` follows the graph's edges, with norms and errors as they were, here norms and the whole of each MLP
    respond. The direction and size of single ablations are predicted far better by this; it does not say by which path.

    Args:
        target: a logit of the graph, a token or a difference of two; None: the likeliest.
        mode: as in `intervene`.

    Returns:
        One value a node, 0 for nodes that are no features. In units of the logit, less the mean of all logits.

    Raises:
        GraphError: a graph of another model or dictionary, or a target that is a direction.
        OptionError: another mode.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load("smollm2")                                       # doctest: +SKIP
    >>> graph = unweave.attribute(model, "The capital of France is")          # doctest: +SKIP
    >>> unweave.first_order_effects(model, graph).topk(5)                     # doctest: +SKIP
    """
    check_graph(graph, "the graph", model)
    row = likeliest_target(graph) if target is None else graph.nodes.find(target).row
    seen = int(graph.nodes.position[row]) + 1
    recording = record(model, list(graph.provenance.input_ids[:seen]))
    return slope_effects(model, graph, recording, row, mode)


def slope_effects(model: ReplacementModel, graph: Graph, recording: Recording, target: int, mode: Mode) -> Float[Tensor, " node"]:
    """`first_order_effects` on a prompt that was run before, up to the target's position."""
    tokens = target_tokens(graph, target)
    slopes = write_gradients(model, recording, lambda logits: target_value(logits, tokens), mode, raw=True)
    nodes, transcoders = graph.nodes, model.transcoders
    found = torch.zeros(len(nodes), dtype=model.language_model.engine_dtype)
    features = nodes.kind == NodeKind.FEATURE
    for layer in nodes.layer[features].unique().tolist():
        here = torch.nonzero(features & (nodes.layer == layer)).flatten()
        for at in transcoders.writes(layer):
            rows = transcoders.decoder_rows(layer, nodes.index[here], at, found.dtype)
            found[here] += (rows * slopes[at][nodes.position[here]]).sum(-1) * nodes.activation[here].to(found)
    return found


def likeliest_target(graph: Graph) -> int:
    """The row of the graph's likeliest target that is a token or a difference of two.

    Raises:
        GraphError: there is none.
    """
    logits = graph.nodes.logits
    known = [row for row in range(logits.start, logits.stop) if target_tokens(graph, row, strict=False)]
    if not known:
        raise GraphError("none of the graph's targets is a token or a difference of tokens; only such logits can be measured")
    return max(known, key=lambda row: float(graph.nodes.activation[row]))


def target_tokens(graph: Graph, row: int, *, strict: bool = True) -> tuple[int, ...]:
    """The token of a logit node, or the two of a difference; with `strict` a direction is refused.

    Raises:
        GraphError: the node is no logit, or a direction.
    """
    logits, known = graph.nodes.logits, graph.provenance.target_tokens
    found: tuple[int, ...] = ()
    if logits.start <= row < logits.stop:
        found = known[row - logits.start] if known else (int(graph.nodes.index[row]),)
    if strict and not found:
        raise GraphError(f"{graph.nodes[row].id} is not the logit of a token or of a difference of tokens; only such logits can be measured")
    return found


def target_value(logits: Float[Tensor, "*rows vocab"], tokens: tuple[int, ...]) -> Float[Tensor, "*rows"]:
    """A target as graphs count it: the logit less the mean of all logits, or the difference of two."""
    first = logits[..., tokens[0]]
    return first - (logits.mean(-1) if len(tokens) == 1 else logits[..., tokens[1]])
