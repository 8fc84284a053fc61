"""circuit-tracer's Python names over this package's engine: `from unweave.compat.circuit_tracer import ...`.

Indices, signs and defaults are the peer's: rows of the adjacency matrix are targets, nodes are features, errors, tokens
and logits in this order, the first position has no features and no error. What the peer does by pickle is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attribution.targets import Direction
from ..errors import OptionError
from ..features.attribute import attribute as trace
from ..graphs.graph import Graph as NativeGraph
from ..graphs.interchange import write_json
from ..graphs.pruning import prune
from ..interventions.edits import Feature, Intervention, set_to
from ..interventions.interventions import Mode, Outcome, intervene
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel as NativeModel
from ..transcoders.replacement import load

BACKENDS = ("transformerlens", "nnsight")
IGNORED = ("batch_size", "offload", "verbose", "update_interval", "lazy_encoder", "lazy_decoder")
"""Options of the peer that here decide nothing: memory and batches are looked after, weights are mapped."""


class ExplainedToken(NamedTuple):
    """A token that a graph explains."""

    token_str: str
    vocab_idx: int


class PruneResult(NamedTuple):
    """Which nodes and edges pruning keeps, and how much influence nodes have up to each, the largest first."""

    node_mask: Bool[Tensor, " node"]
    edge_mask: Bool[Tensor, "node node"]
    cumulative_scores: Float[Tensor, " node"]


@dataclass(frozen=True)
class TracedModel:
    """A model with its dictionary, by the peer's names."""

    native: NativeModel
    """The same as this package has it."""

    @staticmethod
    def from_pretrained(
        model_name: str,
        transcoder_set: str,
        backend: str = "transformerlens",
        device: Any = None,
        dtype: torch.dtype | str = torch.float32,
        **options: Any,
    ) -> "TracedModel":
        """Load a model and a dictionary; `backend` changes nothing here.

        Raises:
            OptionError: an option that the peer's factory does not have.
            ModelError, UnsupportedModel, TranscoderError: as `unweave.load`.
        """
        if backend not in BACKENDS:
            raise OptionError(f"backend is {backend!r}; use one of {', '.join(BACKENDS)} (either is the same here)")
        _refuse_unknown(options)
        name = str(dtype).removeprefix("torch.")
        return TracedModel(
            load(model_name, transcoder_set, dtype=name, device="cpu" if device is None else str(device))
        )

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.native.language_model.tokenizer

    def ensure_tokenized(self, prompt: str | Sequence[int] | Tensor) -> Int[Tensor, " pos"]:
        """A prompt's token ids, with the special token that is put first."""
        return self.native.language_model.tokenize(prompt)

    def get_activations(
        self, inputs: str | Sequence[int] | Tensor, sparse: bool = False, apply_activation_function: bool = True
    ) -> tuple[Float[Tensor, "1 pos vocab"], Tensor]:
        """Logits, and all activations [layer, pos, feature]; none at the first position.

        Raises:
            OptionError: pre-activations are asked for, or layers differ in width.
        """
        if not apply_activation_function:
            raise OptionError("pre-activations of all features are not kept; watch features with unweave.intervene")
        widths = set(self.native.transcoders.widths)
        if len(widths) > 1:
            raise OptionError("layers of this dictionary differ in width, so activations are no one tensor")
        local = self.native.localize(self.ensure_tokenized(inputs), position_zero="drop")
        found = local.features
        places = torch.stack([found.layer, found.position, found.index])
        size = (local.n_layers, local.n_positions, widths.pop())
        dense = torch.sparse_coo_tensor(places, found.activation, size, check_invariants=True).coalesce()
        model = self.native.language_model
        return model.capped(local.recording.logits)[None], dense if sparse else dense.to_dense()

    def feature_intervention(
        self,
        inputs: str | Sequence[int] | Tensor,
        interventions: Sequence[tuple[Any, Any, Any, Any]],
        constrained_layers: range | None = None,
        freeze_attention: bool = True,
        apply_activation_function: bool = True,
        sparse: bool = False,
        return_activations: bool = True,
    ) -> tuple[Float[Tensor, "1 pos vocab"], "ActivationsAfter | None"]:
        """Set features (layer, position, feature, value) and run the model.

        Positions may be slices or lists. With all layers constrained, everything but what the features write is held.

        Returns:
            The logits; and activations after the change, looked up as `activations[layer, position, feature]`.

        Raises:
            OptionError: pre-activations are asked for.
            InterventionError: no such feature or position.
        """
        if not apply_activation_function:
            raise OptionError("pre-activations after a change: watch features with unweave.intervene")
        ids = self.ensure_tokenized(inputs)
        changes = [
            set_to((int(layer), place, int(feature)), float(value))
            for layer, position, feature, value in interventions
            for place in _positions(position, len(ids))
        ]
        layers = constrained_layers
        whole = layers is not None and len(layers) == self.native.language_model.n_layers
        mode: Mode = "frozen" if whole else "frozen_attention" if freeze_attention else "open"
        asked = RepeatedRun(self.native, ids, tuple(changes), mode, None if whole else layers)
        return asked.run(()).logits[None], ActivationsAfter(asked) if return_activations else None


ReplacementModel = TracedModel
LogitTarget = ExplainedToken


class RepeatedRun(NamedTuple):
    """An intervention, to be run as often as something new is looked up."""

    model: NativeModel
    ids: Int[Tensor, " pos"]
    changes: tuple[Intervention, ...]
    mode: Mode
    layers: range | None

    def run(self, watch: Sequence[tuple[int, int, int]]) -> Outcome:
        """Run it, watching some features."""
        return intervene(self.model, self.ids, list(self.changes), self.mode, layers=self.layers, watch=list(watch))


class ActivationsAfter:
    """Activations after an intervention: the run is made again for those that are looked up."""

    def __init__(self, asked: RepeatedRun):
        self._asked = asked

    def __getitem__(self, place: tuple[Any, Any, Any]) -> Float[Tensor, "*shape"]:
        """One activation, or one for each feature of a list, by (layer, position, feature)."""
        if not isinstance(place, tuple) or len(place) != 3:
            raise OptionError("activations after a change are looked up as activations[layer, position, feature]")
        layer, position, feature = place
        several = torch.as_tensor(feature)
        n = len(self._asked.ids)
        where = int(position) % n
        wanted = [(int(layer), where, int(index)) for index in several.flatten().tolist()]
        return self._asked.run(wanted).activations[1].view(several.shape)


@dataclass(frozen=True)
class TracedGraph:
    """An attribution graph by the peer's names."""

    native: NativeGraph
    """The same as this package has it."""
    model: LanguageModel
    input_tokens: Int[Tensor, " pos"]

    @cached_property
    def adjacency_matrix(self) -> Float[Tensor, "node node"]:
        """Edges as a dense matrix: rows are targets, columns sources."""
        return self.native.dense()

    @property
    def input_string(self) -> str:
        """The prompt's text."""
        return "".join(self.model.token_texts(self.input_tokens))

    @property
    def n_pos(self) -> int:
        """The number of tokens."""
        return len(self.input_tokens)

    @cached_property
    def active_features(self) -> Int[Tensor, "feature 3"]:
        """Layer, position and number of the features that are nodes."""
        nodes, part = self.native.nodes, self.native.nodes.features
        return torch.stack([nodes.layer[part], nodes.position[part], nodes.index[part]], dim=1)

    @property
    def selected_features(self) -> Int[Tensor, " feature"]:
        """Which of `active_features` are nodes: all."""
        return torch.arange(len(self.active_features))

    @property
    def activation_values(self) -> Float[Tensor, " feature"]:
        """Their activations."""
        return self.native.nodes.activation[self.native.nodes.features]

    @cached_property
    def logit_targets(self) -> list[ExplainedToken]:
        """The tokens explained."""
        return [ExplainedToken(self.model.token_text(int(token)), int(token)) for token in self.logit_token_ids]

    @property
    def logit_token_ids(self) -> Int[Tensor, " logit"]:
        """Their ids."""
        return self.native.nodes.index[self.native.nodes.logits]

    @property
    def logit_probabilities(self) -> Float[Tensor, " logit"]:
        """Their probabilities."""
        return self.native.nodes.activation[self.native.nodes.logits]

    @property
    def vocab_size(self) -> int:
        """Of the model."""
        return self.model.unembedding.shape[0]

    def to(self, device: Any) -> "TracedGraph":
        """Itself: graphs are kept on the CPU."""
        return self

    def to_pt(self, path: str | Path) -> NoReturn:
        """Refuse to pickle.

        Raises:
            OptionError: always, with what to do instead.
        """
        raise OptionError(
            "a .pt file is a pickle, which can run anything when it is read; keep the graph with "
            "graph.native.save('NAME.graph.safetensors') or create_graph_files"
        )

    @staticmethod
    def from_pt(path: str | Path, map_location: Any = "cpu") -> NoReturn:
        """Refuse to read a pickle.

        Raises:
            OptionError: always, with what to do instead.
        """
        raise OptionError(
            f"{path} is a pickle, which can run anything when it is read; trace the prompt again, or have the peer "
            "write JSON (create_graph_files), which unweave.Graph.load reads"
        )


Graph = TracedGraph


def attribute(
    prompt: str | Sequence[int] | Tensor,
    model: TracedModel,
    *,
    attribution_targets: Any = None,
    max_n_logits: int = 10,
    desired_logit_prob: float = 0.95,
    max_feature_nodes: int | None = None,
    **options: Any,
) -> TracedGraph:
    """Trace a prompt.

    Args:
        attribution_targets: token ids, tokens as text, or triples (name, probability, direction at the final norm's
            output); None: the likeliest.

    Raises:
        OptionError: an option that the peer's function does not have.
        PromptError, TargetError: as `unweave.attribute`.
    """
    _refuse_unknown(options)
    ids = model.ensure_tokenized(prompt)
    graph = trace(
        model.native, ids, _targets(attribution_targets), max_logits=max_n_logits, logit_mass=desired_logit_prob,
        max_features=max_feature_nodes, position_zero="drop",
    )  # fmt: skip
    return TracedGraph(graph, model.native.language_model, ids)


def prune_graph(graph: TracedGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> PruneResult:
    """Which nodes and edges carry most of the influence."""
    whole, kept = graph.native, prune(graph.native, node_threshold, edge_threshold)
    numbers = {node.id: number for number, node in enumerate(whole.nodes)}
    places = torch.tensor([numbers[node.id] for node in kept.nodes])
    nodes = torch.zeros(len(numbers), dtype=torch.bool)
    nodes[places] = True
    edges = torch.zeros(len(numbers), len(numbers), dtype=torch.bool)
    edges[places[kept.rows.row_numbers().long()], places[kept.rows.column.long()]] = True
    return PruneResult(nodes, edges, whole.influence_rank().float())


def compute_graph_scores(graph: TracedGraph) -> tuple[float, float]:
    """Replacement and completeness score."""
    scores = graph.native.scores()
    return float(scores.replacement), float(scores.completeness)


def create_graph_files(
    graph_or_path: TracedGraph | str | Path,
    slug: str,
    output_path: str | Path,
    scan: str | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> Path:
    """Prune a graph and write its JSON into a folder, as the peer's page and Neuronpedia read it.

    Raises:
        OptionError: a path of a pickle.
        FileError: the folder cannot be written.
    """
    native = graph_or_path.native if isinstance(graph_or_path, TracedGraph) else _loaded(Path(graph_or_path))
    return write_json(prune(native, node_threshold, edge_threshold), Path(output_path) / f"{slug}.json", scan)


def _loaded(path: Path) -> NativeGraph:
    if path.suffix == ".pt":
        TracedGraph.from_pt(path)
    return NativeGraph.load(path)


def _positions(position: Any, n: int) -> list[int]:
    if isinstance(position, slice):
        return list(range(*position.indices(n)))
    several = torch.as_tensor(position).flatten().tolist()
    return [int(place) for place in several]


def _targets(given: Any) -> Any:
    if given is None or isinstance(given, str | int):
        return given
    if isinstance(given, Tensor):
        return given.flatten().tolist()
    return [Direction(target[2], target[0]) if isinstance(target, tuple) else target for target in given]


def _refuse_unknown(options: dict[str, Any]) -> None:
    strange = sorted(set(options) - set(IGNORED))
    if strange:
        raise OptionError(f"{', '.join(strange)}: no such option here; these decide nothing: {', '.join(IGNORED)}")


__all__ = [
    "Feature", "Graph", "LogitTarget", "PruneResult", "ReplacementModel", "attribute", "compute_graph_scores",
    "create_graph_files", "prune_graph",
]  # fmt: skip
