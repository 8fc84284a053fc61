"""What an evaluation found, as plain data that goes to JSON and back. Every figure is explained in
docs/evaluation.md."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from ..errors import FileError

DENSITY_EDGES = tuple(step / 2 for step in range(-10, 1))
"""Edges of the density histogram: powers of ten, from 1e-5 to 1."""


@dataclass(frozen=True)
class Unexplained:
    """Fractions of variance unexplained (FVU) of one MLP's outputs."""

    plain: float
    """Sum of squared errors over sum of squared deviations from the mean."""
    weighted: float
    """The same with tokens of enormous norm weighed down, as in training."""
    token_mean: float
    """Mean over tokens of squared error over squared distance from the mean."""
    token_median: float


@dataclass(frozen=True)
class Replaced:
    """Predictions with all MLPs replaced and attention live."""

    cross_entropy: float
    """In nats."""
    kl: float
    """Of the replaced model from the model, in nats."""
    top1: float
    """Share of positions where both find the same token likeliest."""


@dataclass(frozen=True)
class StandInFigures:
    """How well something stands in for the MLPs."""

    name: str
    unexplained: tuple[Unexplained, ...]
    """By layer, each on the model's own inputs."""
    replaced: Replaced


@dataclass(frozen=True)
class Response:
    """Error of the predicted change of an MLP's output, relative to the true change, for three kinds of changed
    inputs."""

    feature: float | None
    """One active feature of an earlier layer taken away; None where no earlier layer has one."""
    towards: float
    """Moved 10 to 30% towards another token's input."""
    noise: float
    """Gaussian noise of that size."""


@dataclass(frozen=True)
class LayerFigures:
    """One layer of the dictionary on one kind of text."""

    l0: float
    """Mean number of active features."""
    alone: float
    """Nats added when this layer's MLP alone is replaced."""
    response: Response
    held_response: Response
    """The same with the norm's denominator and the set of active features held, which is what a graph predicts."""
    affine_response: Response
    """The same for the affine baseline."""


@dataclass(frozen=True)
class TextFigures:
    """All figures on one kind of text."""

    name: str
    tokens: int
    cross_entropy: float
    """The model's own."""
    stand_ins: tuple[StandInFigures, ...]
    """The dictionary, then the baselines."""
    layers: tuple[LayerFigures, ...]

    def stand_in(self, name: str) -> StandInFigures:
        """One of the stand-ins by name."""
        return next(one for one in self.stand_ins if one.name == name)


@dataclass(frozen=True)
class Features:
    """How often one layer's features fire, over all text."""

    width: int
    dead: int
    """Features that never fired."""
    histogram: tuple[int, ...]
    """The others by the share of tokens they fire on, between `DENSITY_EDGES`."""


@dataclass(frozen=True)
class PromptScores:
    """Scores of the whole attribution graph of one prompt."""

    prompt: str
    tokens: int
    features: int
    replacement: float
    completeness: float
    replacement_dropped: float
    """Peer-style: position 0's errors left out of the count."""
    completeness_dropped: float


@dataclass(frozen=True)
class NeuronScores:
    """Scores of two graphs of one prompt with as many features: the dictionary's strongest, and the strongest of the
    model's neurons."""

    prompt: str
    nodes: int
    replacement: float
    completeness: float
    neurons_replacement: float
    neurons_completeness: float


@dataclass(frozen=True)
class EvaluationSetting:
    """What was evaluated, on how much."""

    model: str
    transcoders: str
    sha256: str
    kind: str
    skip: bool
    context: int
    tokens: int
    """Evaluated in all."""
    alone_tokens: int
    """Those of them used for single layers and responses."""
    fit_tokens: int
    """Others, to which the baselines were fitted."""
    seed: int
    version: str
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Everything `unweave eval` finds."""

    setting: EvaluationSetting
    mean: TextFigures
    """Mean over the kinds of text."""
    texts: tuple[TextFigures, ...]
    features: tuple[Features, ...]
    prompts: tuple[PromptScores, ...]
    neurons: tuple[NeuronScores, ...] = ()
    """Of some of the prompts."""

    def facts(self) -> dict[str, Any]:
        """As JSON objects and arrays."""
        return asdict(self)

    @staticmethod
    def read(text: str) -> "Evaluation":
        """From JSON.

        Raises:
            FileError: the text is not JSON, or not that of an evaluation.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Evaluation).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "text"
            raise FileError(
                f"not the JSON of an evaluation: {place}: {first['msg']}; write one with unweave eval --json"
            ) from error

    @property
    def dead(self) -> float:
        """Share of features that never fired."""
        return sum(part.dead for part in self.features) / sum(part.width for part in self.features)

    @property
    def l0(self) -> float:
        """Mean number of active features in a layer."""
        return sum(layer.l0 for layer in self.mean.layers) / len(self.mean.layers)


def mean_unexplained(figures: StandInFigures) -> Unexplained:
    """Mean over layers."""
    return average(figures.unexplained)


def mean_text(texts: Sequence[TextFigures]) -> TextFigures:
    """Mean over kinds of text, each with the same weight."""
    return replace(average([replace(text, name="mean") for text in texts]), tokens=sum(text.tokens for text in texts))


def average(values: Sequence[Any]) -> Any:
    """The mean of records of the same shape: of their numbers; words and None are those of the first."""
    first = values[0]
    if is_dataclass(first):
        return type(first)(
            **{field.name: average([getattr(value, field.name) for value in values]) for field in fields(first)}
        )  # pyright: ignore[reportCallIssue]
    if isinstance(first, tuple):
        return tuple(average(part) for part in zip(*values, strict=True))
    if isinstance(first, str) or first is None:
        return first
    return type(first)(sum(values) / len(values))
