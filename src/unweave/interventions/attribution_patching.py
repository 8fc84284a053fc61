"""What changes would do to a prediction, to first order: one backward pass through the real model for all features."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.choices import Mode
from ..base.kinds import typed
from ..errors import GraphError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind, NodeRef
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .edits import Change, Intervention, add_direction
from .interventions import Prompt, record
from .naming import check_graph
from .patching import patched
from .plans import EditPlan, frozen_parts, prompt_edits

Measure = Callable[[Float[Tensor, " vocab"]], Float[Tensor, ""]]
"""A number from the logits at the last position."""


def lead(token: int) -> Measure:
    """The logit of one token less the largest of all others: above 0 if it is the likeliest.

    >>> float(lead(0)(torch.tensor([3.0, 1.0, 5.0])))
    -2.0
    """
    return lambda logits: logits[token] - torch.cat([logits[:token], logits[token + 1 :]]).max()


def difference(plus: int, minus: int) -> Measure:
    """The logit of one token less that of another."""
    return lambda logits: logits[plus] - logits[minus]


def write_gradients(
    model: ReplacementModel,
    prompt: Prompt,
    measure: Measure,
    mode: Mode = "frozen_attention",
    *,
    changes: Sequence[Change] = (),
    raw: bool = False,
) -> Float[Tensor, "layer pos d"]:
    """The gradient of a measure with respect to what is written where the dictionary writes, at each layer and
    position.

    The pass is that of `intervene` in the same mode with the same changes. In mode `frozen` a gradient times a
    decoder row is what a feature does through the graph's edges, all other features staying as they are.

    Raises:
        PromptError, OptionError: as in `intervene`.

    Source: attribution patching, Nanda 2023; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit
        Discovery".

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> lead = lambda logits: logits[230] - logits[1248]  # Austin, less pecan
    >>> gradients = unweave.write_gradients(model, "the capital of Texas is", lead)
    >>> tuple(gradients.shape)
    (6, 6, 192)
    """
    language_model = model.language_model
    recording = record(model, prompt)
    frozen = frozen_parts(mode, None, language_model.n_layers)
    n, layers = len(recording.input_ids), language_model.n_layers
    zeros = torch.zeros(layers, n, language_model.d_model, dtype=language_model.engine_dtype, requires_grad=True)
    pushes = tuple(
        (0, position, add_direction(zeros[layer, position], layer, position, "mlp_out"))
        for layer in range(layers)
        for position in range(n)
    )
    plan = prompt_edits(model, recording, [changes])
    with torch.enable_grad(), patched(model, EditPlan(plan.layers, (*plan.pushes, *pushes)), recording, frozen) as seen:
        language_model.module(input_ids=recording.input_ids[None].to(language_model.device), use_cache=False)
        logits = seen.logits[0, -1].to(zeros)
        value = measure(logits if raw else language_model.capped(logits))
        return torch.autograd.grad(value, zeros)[0]


def predicted_effects(
    model: ReplacementModel,
    recording: Recording,
    variants: Sequence[Sequence[Intervention]],
    gradients: Float[Tensor, "layer pos d"],
) -> Float[Tensor, " variant"]:
    """The change of a measure by each variant's changes, to first order, from its `write_gradients` on the same prompt.

    Raises:
        InterventionError: as in `intervene`.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> recording = model.language_model.record("the capital of Texas is")    # doctest: +SKIP
    >>> gradients = unweave.write_gradients(model, "the capital of Texas is", measure)    # doctest: +SKIP
    >>> unweave.predicted_effects(model, recording, [[unweave.ablate("0_233_4")]], gradients)    # doctest: +SKIP
    """
    plan = prompt_edits(model, recording, variants)
    effects = torch.zeros(len(variants), dtype=gradients.dtype)
    for layer, edits in plan.layers.items():
        amount = (edits.slope - 1) * edits.clean + edits.offset
        for at in model.transcoders.writes(layer):
            rows = model.transcoders.decoder_rows(layer, edits.index, at, gradients.dtype)
            effects.index_add_(0, edits.row, (rows * gradients[at, edits.position]).sum(-1) * amount)
    return effects


@typed
def first_order_effects(
    model: ReplacementModel, graph: Graph, target: NodeRef | None = None, mode: Mode = "frozen_attention"
) -> Float[Tensor, " node"]:
    """How much every feature of a graph adds to a target, to first order in the real model: without it the target is
    lower by this.

    Where `total_effects` follows the graph's edges, with norms and errors as they were, here norms and the whole of
    each MLP respond. The direction and size of single ablations are predicted far better by this; it does not say by
    which path.

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


def slope_effects(
    model: ReplacementModel, graph: Graph, recording: Recording, target: int, mode: Mode
) -> Float[Tensor, " node"]:
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
        raise GraphError(
            "none of the graph's targets is a token or a difference of tokens; only such logits can be measured"
        )
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
        raise GraphError(
            f"{graph.nodes[row].id} is not the logit of a token or of a difference of tokens; only such logits can be "
            f"measured"
        )
    return found


def target_value(logits: Float[Tensor, "*rows vocab"], tokens: tuple[int, ...]) -> Float[Tensor, "*rows"]:
    """A target as graphs count it: the logit less the mean of all logits, or the difference of two."""
    first = logits[..., tokens[0]]
    return first - (logits.mean(-1) if len(tokens) == 1 else logits[..., tokens[1]])
