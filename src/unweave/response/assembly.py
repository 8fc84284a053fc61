"""From rows to a graph: nodes, weights, effects, and the check against one backward pass."""

from datetime import UTC, datetime

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InexactAttribution
from ..graphs.graph import Graph
from ..graphs.influence import Rows
from ..graphs.nodes import NodeTable
from ..graphs.provenance import Provenance
from ..transcoders.neurons import NEURONS, neurons
from ..version import __version__
from .asking import ResponseQuestion, target_unit
from .backward import real_gradients
from .setting import Setting
from .tangents import Cut

AGREEMENT = 1e-3
"""Beyond this, effects by paths are not those of the real model, and no graph is given (float32, float64)."""


def agreement_of(setting: Setting, by_path: Float[Tensor, " node_source"]) -> float:
    """The largest difference between effects by paths and by one backward pass, relative to the largest effect.

    The pass is the real model's, by PyTorch's own derivative; the engine's own where that says nothing: patterns held,
    a unit as the target, weights in half precision.

    Raises:
        InexactAttribution: beyond `AGREEMENT`.
    """
    asked, chosen, start = setting.asked, setting.chosen, setting.start
    rests, tokens = setting.rests, setting.tokens
    basis, tangent = asked.basis, asked.tangent
    real = asked.target is not None and not tangent.held and asked.model.dtype in (torch.float32, torch.float64)
    if real and asked.target is not None:
        writes, entered = real_gradients(asked.model, asked.ids, asked.target.measure, residual=basis.residual)
    else:
        writes = torch.zeros_like(rests)

        def keep(layer: int, g: Tensor, inside: Tensor, mlp: object) -> None:
            writes[layer] = (g if basis.residual else inside)[0]

        entered = tangent.sweep(start, Cut(), watcher=keep).tokens[0]
    found = [torch.zeros(0, dtype=by_path.dtype)]
    for layer in range(len(tangent.layers)):
        part = chosen.select(chosen.at(layer))
        found.append((basis.gradients(part, layer, writes) * part.taken).to(by_path))
    once = torch.cat([*found, (writes * rests).sum(-1).flatten().to(by_path), (entered * tokens).sum(-1).to(by_path)])
    gap = float((once - by_path).abs().max() / once.abs().max().clamp_min(1e-30))
    if not gap <= AGREEMENT and asked.model.dtype in (torch.float32, torch.float64):
        raise InexactAttribution(
            f"{asked.model.name}: effects by paths differ from one backward pass through the model by {gap:.2g} of the "
            f"largest, more than {AGREEMENT:g}; load it with --dtype float64 (dtype='float64')"
        )
    return gap


def assembled(
    setting: Setting,
    there: int,
    slopes: Float[Tensor, "target unit"],
    sources: Float[Tensor, "target source"],
    by_path: Float[Tensor, " node_source"],
) -> Graph:
    """The graph: units, rests, tokens and the target, with the weights of rows.

    Args:
        there: how many units the prompt has.
        by_path: what each source gives to the target by all paths.
    """
    asked, chosen, rests, tokens = setting.asked, setting.chosen, setting.rests, setting.tokens
    model, depth, n = asked.model, len(rests), len(tokens)
    dtype = tokens.dtype
    own = asked.tangent.recording
    target, label, target_tokens, value = _described(asked)
    nodes = NodeTable.build(
        n_layers=depth,
        features=torch.stack([chosen.layer, chosen.position, chosen.index], dim=1),
        activations=chosen.activation,
        errors=torch.cartesian_prod(torch.arange(depth), torch.arange(n)),
        error_norms=rests.norm(dim=-1).flatten(),
        embeddings=own.input_ids[:n],
        embedding_norms=own.embeddings[:n].norm(dim=-1),
        logits=torch.tensor([[target, n - 1]]),
        probabilities=torch.ones(1),
    )
    weights = torch.cat([slopes * chosen.taken, sources], dim=1).to(dtype)
    where = [*range(len(chosen)), len(nodes) - 1]
    entries = [row.nonzero().flatten() for row in weights]
    lengths = torch.zeros(len(nodes), dtype=torch.int64)
    lengths[where] = torch.tensor([len(part) for part in entries])
    rows = Rows(
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        torch.cat(entries).to(torch.int32),
        torch.cat([row[part] for row, part in zip(weights, entries, strict=True)]),
    )
    size = torch.zeros(len(nodes), dtype=dtype)
    size[nodes.features] = chosen.taken.to(dtype)
    size[-1] = value
    bias = torch.zeros(len(nodes), dtype=dtype)
    bias[where] = size[where] - weights.double().sum(1).to(dtype)
    nothing = torch.zeros(len(nodes), dtype=dtype)
    effect = torch.zeros(len(nodes), dtype=dtype)
    effect[: len(by_path)] = -by_path.to(dtype)
    kind, sha256 = _dictionary(asked)
    provenance = Provenance(
        model=model.name,
        n_layers=depth,
        prompt=asked.prompt,
        tokens=model.token_texts(own.input_ids[:n]),
        input_ids=tuple(own.input_ids[:n].tolist()),
        logit_labels=(label,),
        target_tokens=(target_tokens,),
        transcoders=NEURONS if asked.transcoders is None else asked.transcoders.name,
        transcoders_kind=kind,
        transcoders_sha256=sha256,
        unread_keys=model.unread_keys,
        dtype=str(model.dtype).removeprefix("torch."),
        max_features=len(chosen),
        active_features=there,
        kind="response",
        units=asked.basis.kind,
        baseline=asked.reference.name,
        attention="held" if asked.tangent.held else "live",
        target_unit="" if asked.unit is None else f"{asked.unit[0]}_{asked.unit[2]}_{asked.unit[1]}",
        instead=asked.instead,
        instead_ids=() if asked.other_ids is None else tuple(asked.other_ids.tolist()),
        instead_places=() if asked.places is None else tuple(asked.places.tolist()),
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    graph = Graph(nodes, rows, bias, size, nothing, nothing, None, None, provenance, effect)
    return graph.with_provenance(residual=float(graph.residual().max()), scores=tuple(graph.scores()))


def _described(asked: ResponseQuestion) -> tuple[int, str, tuple[int, ...], float]:
    """The target's index, label, tokens and value."""
    if asked.target is not None:
        return asked.target.token, asked.target.label, asked.target.tokens, asked.target.value
    assert asked.unit is not None
    layer, position, index = asked.unit
    label = f"{asked.basis.kind.removesuffix('s')} {layer}/{index} at {position}"
    return asked.model.unembedding.shape[0], label, (), float(target_unit(asked).activation[0])


def _dictionary(asked: ResponseQuestion) -> tuple[str, str]:
    if asked.transcoders is not None:
        return asked.transcoders.kind, asked.transcoders.sha256
    if asked.model.architecture.up is None:
        return "per-layer", ""
    return "per-layer", neurons(asked.model).sha256
