"""What a graph was computed from, how, and how exact it came out."""

from dataclasses import dataclass, field
from typing import Any

from ..base.choices import PositionZero, Precision


@dataclass(frozen=True)
class Provenance:
    """What a graph was computed from, how, and how exact it came out."""

    model: str
    n_layers: int
    prompt: str | None
    tokens: tuple[str, ...]
    input_ids: tuple[int, ...]
    logit_labels: tuple[str, ...]
    target_tokens: tuple[tuple[int, ...], ...] = ()
    """By logit node: the token, the two of a difference, or nothing for any other direction."""
    transcoders: str = ""
    transcoders_kind: str = ""
    transcoders_sha256: str = ""
    transcoders_weights_sha256: str = ""
    """Of the dictionary's files alone, as graphs of earlier versions have it under the name above."""
    unread_keys: tuple[str, ...] = ()
    """Keys of the model's config that no code reads."""
    dtype: str = "float32"
    precision: Precision = "exact"
    position_zero: PositionZero = "error"
    max_features: int | None = None
    active_features: int | None = None
    """Active features of the prompt; those beyond `max_features` are folded into error nodes."""
    logits_error: float | None = None
    """Largest difference between the local replacement model's logits and the model's."""
    unexplained: float | None = None
    """The median layer's squared errors over the squares of what its MLP adds beyond the decoder's bias, position 0
    excluded."""
    residual: float | None = None
    """Largest relative residual over all target rows of the unpruned graph."""
    scores: tuple[float, float] | None = None
    """Replacement and completeness of the unpruned graph."""
    scores_peer: tuple[float, float] | None = None
    """The same as circuit-tracer counts them: position 0's errors left out."""
    pruning: tuple[float, float] | None = None
    """Node and edge threshold, if the graph was pruned."""
    unpruned_nodes: int | None = None
    unpruned_edges: int | None = None
    kind: str = "attribution"
    """`attribution`: weights are shares of a value; `response`: what a source's presence does, to first order."""
    units: str = ""
    """Of a response graph: `neurons` or `features`; the others too."""
    baseline: str = ""
    """What taking away means: `zero`, `mean`, `resampled` or `contrast`."""
    attention: str = ""
    """`live`, or `held` where patterns do not respond."""
    ranking: str = ""
    """How units were chosen: `gradient`, `inputs` or `gates`."""
    target_unit: str = ""
    """The id of the unit that is the target, if one is."""
    instead: str | None = None
    """The prompt contrasted with, if it was given as text."""
    instead_ids: tuple[int, ...] = ()
    instead_places: tuple[int, ...] = ()
    """For every position the one that stands for it in the other prompt, -1 where there is none."""
    agreement: float | None = None
    """Largest difference between effects by paths and by one backward pass, relative to the largest effect."""
    mediated: float | None = None
    """Share of the units' effects that passes through other units of the graph."""
    mediated_by_layer: tuple[float, ...] = ()
    origin: str = "unweave"
    version: str = ""
    created: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a foreign file said beyond this, kept for writing it back."""
