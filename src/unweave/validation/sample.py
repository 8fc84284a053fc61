"""What is tested: the strongest features and as many at random, in an order whose every beginning is a fair sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import GraphError, OptionError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..interventions.attribution_patching import likeliest_target, target_tokens, target_value
from ..interventions.interventions import record
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel


@dataclass(frozen=True)
class JudgedGraph:
    """A graph's prompt, run on the model, and the logit whose changes are measured."""

    model: ReplacementModel
    graph: Graph
    recording: Recording
    target: int
    """The logit's row in the graph."""
    tokens: tuple[int, ...]
    """The token, or the two of a difference."""

    @staticmethod
    def of(model: ReplacementModel, graph: Graph) -> "JudgedGraph":
        """The question about a graph's likeliest target.

        Raises:
            GraphError: no target is a token or a difference of two, or there are no features.
        """
        nodes, target = graph.nodes, likeliest_target(graph)
        if not bool((nodes.kind == NodeKind.FEATURE).any()):
            raise GraphError("no feature is on in this prompt, or --max-features left none; there is nothing to test")
        seen = int(nodes.position[target]) + 1
        recording = record(model, list(graph.provenance.input_ids[:seen]))
        return JudgedGraph(model, graph, recording, target, target_tokens(graph, target))

    def value(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
        """The target as the graph counts it."""
        return target_value(logits, self.tokens)


@dataclass(frozen=True)
class Sample:
    """Features of a graph (rows), and which of them are among the strongest."""

    rows: Int[Tensor, " sample"]
    strong: Bool[Tensor, " sample"]


def sample_features(strength: Float[Tensor, " node"], allowed: Bool[Tensor, " node"], count: int, seed: int) -> Sample:
    """Half of them the strongest that are allowed, half at random from the others, in random order.

    Raises:
        OptionError: fewer than two are asked for.
    """
    if count < 2:
        raise OptionError(f"a sample of {count} is too small; test at least 2")
    generator = torch.Generator().manual_seed(seed)
    order = torch.argsort(torch.where(allowed, strength, -1.0), descending=True, stable=True)[: int(allowed.sum())]
    strongest, others = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    chosen = others[torch.randperm(len(others), generator=generator)[: count // 2]]
    rows, strong = torch.cat([strongest, chosen]), torch.arange(len(strongest) + len(chosen)) < len(strongest)
    mixed = torch.randperm(len(rows), generator=generator)
    return Sample(rows[mixed], strong[mixed])
