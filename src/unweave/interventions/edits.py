"""What is to be changed in a forward pass: features ablated, scaled, set or added to, and directions added."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.choices import PushPoint, choice
from ..errors import InterventionError
from ..graphs.nodes import Node, NodeKind
from ..transcoders.transcoders import Transcoders

Action = Literal["scale", "set", "add", "shift"]

EVERYWHERE, GENERATED = "*", "+"
"""In place of a position: every position but the first, and every generated token; generated tokens alone."""


@dataclass(frozen=True)
class Feature:
    """A feature at a position of the prompt (negative: from the end), at all of them (`*`), or at generated tokens
    (`+`).

    >>> Feature.parse("12_345_5")
    Feature(layer=12, position=5, index=345)
    """

    layer: int
    position: int | str
    index: int

    @property
    def id(self) -> str:
        """The name used in files and on the command line, such as `12_345_5`."""
        return f"{self.layer}_{self.index}_{self.position}"

    @staticmethod
    def parse(node_id: str) -> "Feature":
        """The feature that an id `layer_feature_position` names.

        Raises:
            InterventionError: it is no feature's id.
        """
        match = re.fullmatch(r"(\d{1,18})_(\d{1,18})_(-?\d{1,18}|[*+])", node_id)
        if match:
            place = match[3]
            return Feature(int(match[1]), place if place in (EVERYWHERE, GENERATED) else int(place), int(match[2]))
        if re.fullmatch(r"\d+_error_mlp_\d+|E_\d+_\d+|\d+_-1_\d+", node_id):
            raise InterventionError(
                f"{node_id} is an error or embedding node; only features can be changed (a direction can be added "
                f"anywhere)"
            )
        raise InterventionError(
            f"{node_id[:60]!r} is not a feature; ids look like '12_345_5' (layer_feature_position; * for all positions)"
        )


NodeLike = Node | Feature | str | tuple[int, int | str, int]
"""A node of a graph, an id (`12_345_5`), or a triple (layer, position, feature)."""


@dataclass(frozen=True)
class Intervention:
    """One change, the same for all its features; see `scale`, `set_to`, `add`, `shift`."""

    features: tuple[Feature, ...]
    action: Action
    value: float
    name: str | None = None
    """The supernode that the features make up, if they have a name."""


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction to be added at one layer and position."""

    vector: Float[Tensor, " d"]
    layer: int
    position: int | str
    at: PushPoint = "residual"


Change = Intervention | SteeringVector


def ablate(nodes: NodeLike | Iterable[NodeLike], name: str | None = None) -> Intervention:
    """Switch a feature off, or all features of a supernode.

    >>> ablate("12_345_5")
    Intervention(features=(Feature(layer=12, position=5, index=345),), action='scale', value=0.0, name=None)
    """
    return Intervention(features_of(nodes), "scale", 0.0, name)


def scale(nodes: NodeLike | Iterable[NodeLike], factor: float, name: str | None = None) -> Intervention:
    """Set features to `factor` times their activation on the unchanged prompt (at generated tokens: the one they
    have there).

    >>> import unweave
    >>> unweave.scale("0_233_4", -2.0).action
    'scale'
    """
    return Intervention(features_of(nodes), "scale", _number(factor, "factor"), name)


def set_to(nodes: NodeLike | Iterable[NodeLike], value: float, name: str | None = None) -> Intervention:
    """Set features to an activation.

    >>> import unweave
    >>> unweave.set_to(["0_233_4", "0_12_4"], 3.0, name="Texas").name
    'Texas'
    """
    return Intervention(features_of(nodes), "set", _number(value, "value"), name)


def add(nodes: NodeLike | Iterable[NodeLike], amount: float, name: str | None = None) -> Intervention:
    """Add an amount to whatever activation features have, also after other changes.

    >>> import unweave
    >>> unweave.add("0_233_4", 1.5).value
    1.5
    """
    return Intervention(features_of(nodes), "add", _number(amount, "amount"), name)


def shift(nodes: NodeLike | Iterable[NodeLike], amount: float, name: str | None = None) -> Intervention:
    """Set features to their activation on the unchanged prompt (at generated tokens: the one they have there) plus
    an amount.

    >>> import unweave
    >>> unweave.shift("0_233_4", 1.0).features
    (Feature(layer=0, position=4, index=233),)
    """
    return Intervention(features_of(nodes), "shift", _number(amount, "amount"), name)


def add_direction(
    vector: Float[Tensor, " d"], layer: int, position: int | str, at: PushPoint = "residual"
) -> SteeringVector:
    """Add any vector to the residual stream after a layer (-1: before layer 0), or where the dictionary writes
    (`mlp_out`).

    Raises:
        OptionError: another word for `at`.
        InterventionError: a vector that is not finite.

    >>> import unweave
    >>> import torch
    >>> model = unweave.load("organism")
    >>> direction = torch.ones(192)
    >>> vector = unweave.add_direction(direction, layer=2, position=4)
    >>> unweave.intervene(model, "the capital of Texas is", [vector], mode="open")
    Outcome(1 changes, mode 'open': 'Austin' 1.000 -> 1.000)
    """
    choice("at", at, PushPoint)
    if not bool(torch.isfinite(vector).all()):
        raise InterventionError("the direction to be added has entries that are not finite")
    return SteeringVector(vector, layer, position, at)


def changes_of(changes: Change | Iterable[Change]) -> tuple[Change, ...]:
    """One or several changes, as several.

    Raises:
        InterventionError: anything that is no change.
    """
    several: list[Any] = [changes] if isinstance(changes, Change) or not hasattr(changes, "__iter__") else [*changes]
    for one in several:
        if not isinstance(one, Change):
            raise InterventionError(
                f"{one!r} is not a change; give what unweave.ablate, scale, set_to, add or add_direction makes"
            )
    return tuple(several)


def dosed(changes: Sequence[Change], factor: float) -> list[Change]:
    """The same changes at another dose: scaled (and ablated) features at `factor` times their activation; set values,
    amounts and directions times `factor`. So a swap, which shifts features, is undone at 0, whole at 1, and overdone
    at 2.

    >>> [change.value for change in dosed([ablate("1_2_3"), set_to("1_2_4", 5.0)], -2.0)]
    [-2.0, -10.0]
    """
    factor = _number(factor, "factor")

    def at_dose(change: Change) -> Change:
        if isinstance(change, SteeringVector):
            return replace(change, vector=change.vector * factor)
        return replace(change, value=factor if change.action == "scale" else change.value * factor)

    return [at_dose(change) for change in changes]


def only_generated(changes: Sequence[Change]) -> bool:
    """Whether all changes are at generated tokens alone, so that the prompt stays as it is."""
    places = [
        place for change in changes for place in ([change] if isinstance(change, SteeringVector) else change.features)
    ]
    return bool(places) and all(place.position == GENERATED for place in places)


def features_of(nodes: NodeLike | Iterable[NodeLike]) -> tuple[Feature, ...]:
    """One or several nodes as features.

    Raises:
        InterventionError: no node, or one that is not a feature.
    """
    if isinstance(nodes, Node):
        if nodes.kind != NodeKind.FEATURE:
            raise InterventionError(
                f"{nodes.id} is a node of kind {nodes.kind.name.lower()}; only features can be changed (a direction "
                f"can be added anywhere)"
            )
        return (Feature(nodes.layer, nodes.position, nodes.index),)
    if isinstance(nodes, Feature):
        return (nodes,)
    if isinstance(nodes, str):
        return (Feature.parse(nodes),)
    if not isinstance(nodes, Iterable):
        raise InterventionError(
            f"{nodes!r} is not a node; give a graph's node, an id such as '12_345_5', or a list of them"
        )
    several = tuple(nodes)
    if len(several) == 3 and isinstance(several[0], int):
        return (_from_triple(several),)
    if not several:
        raise InterventionError("an intervention without features; give at least one")
    found = [feature for node in several for feature in features_of(node)]  # pyright: ignore[reportArgumentType]
    return tuple(dict.fromkeys(found))


def _from_triple(triple: tuple) -> Feature:
    layer, position, index = triple
    whole = isinstance(position, int) or position in (EVERYWHERE, GENERATED)
    if not whole or not isinstance(index, int):
        raise InterventionError(f"{triple!r} is not a feature; a triple is (layer, position, feature)")
    return Feature(layer, position, index)


def _number(value: float, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InterventionError(f"{what} {value!r} is not a finite number")
    return number


def check_feature(feature: Feature, transcoders: Transcoders) -> None:
    """Refuse a feature that the dictionary does not have.

    Raises:
        InterventionError: its layer or number is outside the dictionary, or it was left out because it never fires.
    """
    layers = len(transcoders.layers)
    if not 0 <= feature.layer < layers:
        raise InterventionError(
            f"{feature.id}: layer {feature.layer} is outside the model's {layers} layers (0 to {layers - 1})"
        )
    width = transcoders.layers[feature.layer].width
    if not 0 <= feature.index < width:
        raise InterventionError(
            f"{feature.id}: feature {feature.index} is outside layer {feature.layer}'s {width} features (0 to "
            f"{width - 1})"
        )
    rows = transcoders.layers[feature.layer].encoder.rows
    if rows is not None and not bool((rows == feature.index).any()):
        raise InterventionError(
            f"{feature.id}: feature {feature.index} of layer {feature.layer} never fires and was left out of "
            f"{transcoders.name}"
        )


def prompt_positions(name: str, position: int | str, n: int) -> list[int]:
    """The positions of a prompt of `n` tokens that a position means; none for generated tokens.

    Raises:
        InterventionError: outside the prompt; `name` says of what.
    """
    if position == EVERYWHERE:
        return list(range(1, n))
    if position == GENERATED:
        return []
    if not isinstance(position, int) or not -n <= position < n:
        raise InterventionError(f"{name}: position {position} is outside the prompt of {n} tokens (0 to {n - 1})")
    return [position % n]


def goes_on(position: int | str) -> bool:
    """Whether a position means generated tokens too."""
    return position in (EVERYWHERE, GENERATED)
