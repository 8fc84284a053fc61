"""The loaded model behind the page: tracing, steering, and what features promote."""

import threading
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ..attribution.attribution import answer
from ..attribution.promoted import logit_effects, with_promoted
from ..attribution.question import Question
from ..attribution.work import bounded
from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD, Mode, PositionZero, Precision
from ..base.progress import Progress
from ..base.words import slug_of
from ..errors import GraphError, InterventionError
from ..graphs.graph import Graph
from ..graphs.nodes import NodeKind
from ..graphs.pruning import prune
from ..interventions import described as effects
from ..interventions import edits, generation, interventions, steering
from ..interventions.naming import Names, check_graph
from ..transcoders.replacement import ReplacementModel

TOKENS_OF_A_FEATURE = 10
"""Promoted and suppressed tokens in a feature's details."""
RUNS_IN_LINE = 16
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Token = str | Annotated[int, Field(ge=0, lt=1 << 31)]
PromptText = (
    Annotated[str, Field(min_length=1, max_length=1_000_000)]
    | Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
)


class TraceRequest(BaseModel):
    """What is to be traced."""

    model_config = ConfigDict(strict=True)
    prompt: PromptText
    targets: list[Token] | None = None
    position: int = Question.position
    max_logits: Count = Question.max_logits
    logit_mass: Share = Question.logit_mass
    max_features: Count | None = Question.max_features
    position_zero: PositionZero = Question.position_zero
    precision: Precision = Question.precision
    device: str | None = Question.device
    max_memory: int | str | None = Question.max_memory
    node_threshold: Share = NODE_THRESHOLD
    edge_threshold: Share = EDGE_THRESHOLD

    def question(self) -> Question:
        """What is asked, apart from pruning.

        Raises:
            PromptError, TargetError, OptionError: it cannot be asked like this.
        """
        asked: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Question)}
        asked["targets"] = self.targets or None
        return Question(**asked)


class ChangeRequest(BaseModel):
    """One change of features."""

    model_config = ConfigDict(strict=True)
    action: Literal["scale", "ablate", "set", "add"]
    nodes: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    value: FiniteFloat = 0.0
    name: str | None = None


class SteerRequest(BaseModel):
    """What is to be changed, and what is wanted to be known."""

    model_config = ConfigDict(strict=True)
    changes: list[ChangeRequest] = []
    swap_from: PromptText | None = None
    swap_factor: FiniteFloat = 1.0
    mode: Mode = "frozen_attention"
    watch: Annotated[list[str], Field(max_length=10_000)] = []
    tokens: list[Token] = []
    generate: Annotated[int, Field(ge=0, le=1000)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


@dataclass(frozen=True)
class Live:
    """A model that answers one request at a time."""

    model: ReplacementModel
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while hooks are on the model."""
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(RUNS_IN_LINE))
    """Of requests that wait for the model: the others' threads stay free to answer what needs none."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.language_model.name

    def fits(self, graph: Graph) -> bool:
        """Whether a graph was traced with this model and dictionary."""
        try:
            check_graph(graph, "", self.model)
        except GraphError:
            return False
        return graph.provenance.origin == "unweave"


def trace(live: Live, wanted: TraceRequest, report: Progress) -> Graph:
    """Trace a prompt, prune, name the features.

    Raises:
        UnweaveError: the prompt cannot be traced like this.
    """
    report(0.0, "tracing")
    with live.lock:
        question = bounded(wanted.question(), live.model.transcoders)
        graph = answer(live.model, question, progress=lambda share: report(0.9 * share, "tracing"))
    report(0.9, "pruning")
    pruned = prune(graph, wanted.node_threshold, wanted.edge_threshold)
    return with_promoted(pruned, live.model, progress=lambda share: report(0.92 + 0.07 * share, "naming features"))


def name_of(wanted: TraceRequest) -> str:
    """A file's name for what is traced."""
    return slug_of(wanted.prompt if isinstance(wanted.prompt, str) else " ".join(map(str, wanted.prompt)))


def decoder_details(live: Live, layer: int, index: int) -> dict[str, Any]:
    """What a feature's decoder says of tokens.

    Raises:
        InterventionError: the dictionary has no such feature.
    """
    edits.check_feature(edits.Feature(layer, 0, index), live.model.transcoders)
    scores = logit_effects(live.model, layer, torch.tensor([index]))[0]
    count = min(TOKENS_OF_A_FEATURE, len(scores))
    text = live.model.language_model.token_text
    ends = [scores.topk(count, largest=largest) for largest in (True, False)]
    promoted, suppressed = (
        [[text(token), value] for token, value in zip(end.indices.tolist(), end.values.tolist(), strict=True)]
        for end in ends
    )
    return {"promoted": promoted, "suppressed": suppressed}


def steer(
    live: Live, asked: Graph | str | list[int], wanted: SteerRequest, labels: effects.Labels | None = None
) -> dict[str, Any]:
    """Run the model with features changed, on a prompt or on the graph's; the facts of `effects.describe`.

    Raises:
        GraphError: the graph lacks a node.
        InterventionError: a change that cannot be made.
    """
    graph = asked if isinstance(asked, Graph) else None
    prompt = _prompt_of(asked) if isinstance(asked, Graph) else asked
    names = Names(live.model, {}, graph)
    changes: list[edits.Change] = []
    for change in wanted.changes:
        features = [feature for node in change.nodes for feature in names.features(_own_id(graph, node))[0]]
        make = {"scale": edits.scale, "set": edits.set_to, "add": edits.add}.get(change.action)
        changes.append(
            edits.ablate(features, change.name) if make is None else make(features, change.value, change.name)
        )
    watched = [feature for node in wanted.watch for feature in names.features(_own_id(graph, node))[0]]
    with live.lock:
        recording = interventions.record(live.model, prompt)
        if wanted.swap_from is not None:
            changes += edits.dosed(steering.swap(live.model, recording, wanted.swap_from), wanted.swap_factor)
        if not changes:
            raise InterventionError("nothing to change; give changes or swap_from")
        outcome = interventions.intervene(live.model, recording, changes, wanted.mode, watch=watched)
        written = None
        if wanted.generate:
            written = generation.generate(
                live.model, recording, changes, wanted.mode, max_new_tokens=wanted.generate,
                temperature=wanted.temperature, seed=wanted.seed
            )  # fmt: skip
        return effects.describe(
            live.model, recording, changes, wanted.mode, None, outcome, wanted.tokens, written, labels=labels
        )


def _own_id(graph: Graph | None, name: str) -> str:
    """A node's own id; other names (with `*` for all positions) as they are."""
    if graph is None or name.endswith(("_*", "_+")):
        return name
    node = graph.nodes.find(name)
    if node.kind != NodeKind.FEATURE:
        raise InterventionError(
            f"{node.id} is a node of kind {node.kind.name.lower()}; only features can be changed or watched"
        )
    return node.id


def _prompt_of(graph: Graph) -> str | list[int]:
    ids = list(graph.provenance.input_ids)
    if ids and min(ids) >= 0:
        return ids
    if graph.provenance.prompt:
        return graph.provenance.prompt
    raise InterventionError("this graph carries neither token ids nor a prompt, so it cannot be run")
