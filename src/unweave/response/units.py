"""The units of a response graph: neurons or features, chosen by their first-order effect on the target."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import OptionError
from ..models.language_model import LanguageModel
from ..transcoders.transcoders import Transcoders
from .references import ActiveUnits, ReferenceActivations
from .tangents import Cut, Held, HeldFeatures, TangentModel, Writes


@dataclass(frozen=True)
class Units:
    """Units of one prompt by (layer, position, index), the chosen ones or all there are."""

    layer: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]
    activation: Float[Tensor, " unit"]
    taken: Float[Tensor, " unit"]
    """What is taken away: the activation less what it is put to."""

    def __len__(self) -> int:
        return len(self.layer)

    def select(self, which: Tensor) -> "Units":
        """Some of them."""
        return Units(
            self.layer[which], self.position[which], self.index[which], self.activation[which], self.taken[which]
        )

    def at(self, layer: int) -> Int[Tensor, " here"]:
        """The numbers of those in one layer."""
        return torch.nonzero(self.layer == layer).flatten()

    @staticmethod
    def join(parts: Sequence["Units"]) -> "Units":
        """Several sets as one."""
        return Units(*(torch.cat(column) for column in zip(*(_columns(units) for units in parts), strict=True)))


@dataclass(frozen=True)
class Basis:
    """What units are in a model: its neurons (no dictionary), or a dictionary's features."""

    model: LanguageModel
    tangent: TangentModel
    transcoders: Transcoders | None

    @property
    def kind(self) -> str:
        """What they are called."""
        return "neurons" if self.transcoders is None else "features"

    @property
    def residual(self) -> bool:
        """Whether they write after a norm that may follow the MLP."""
        return self.transcoders is not None and self.transcoders.write == "residual"

    def writes(self, layer: int) -> range:
        """The layers at which a layer's units write."""
        return range(layer, layer + 1) if self.transcoders is None else self.transcoders.writes(layer)

    def vectors(
        self, layer: int, position: Int[Tensor, " unit"], index: Int[Tensor, " unit"], at: int
    ) -> Float[Tensor, "unit d"]:
        """What units of a layer write at another for an activation of one."""
        dtype = self.tangent.recording.final.dtype
        if self.transcoders is not None:
            return self.transcoders.decoder_rows(layer, index, at, dtype)
        made = torch.zeros(len(index), self.model.d_model, dtype=dtype)
        for part in self.tangent.layers[layer].mlp.parts:
            mine = (index >= part.first) & (index < part.first + len(part.writes))
            made[mine] = part.writes[index[mine] - part.first].cpu()
        return made

    def reads(self, layer: int, units: Units, *, norm_held: bool = False) -> Float[Tensor, "unit d"]:
        """The derivatives of activations by the residual stream before the MLP; none for features that are off."""
        mlp = self.tangent.layers[layer].mlp
        before = mlp.before.held if norm_held else mlp.before
        if self.transcoders is None:
            rows = torch.zeros(len(units), self.model.d_model, dtype=mlp.output.dtype)
            for part in mlp.parts:
                mine = torch.nonzero(
                    (units.index >= part.first) & (units.index < part.first + len(part.writes))
                ).flatten()
                here = units.position[mine]
                if part.positions is not None:
                    here = torch.searchsorted(part.positions, here)
                rows[mine] = part.read_rows(here, units.index[mine] - part.first)
            return before.transpose_at(rows, units.position)
        rows = self.transcoders.layers[layer].encoder.select(units.index, mlp.output.dtype)
        rows = rows * (units.activation != 0)[:, None]
        match self.transcoders.read:
            case "mid":
                return rows
            case "mlp_in":
                return before.transpose_at(rows, units.position)
            case "mlp_in_normalized":
                return before.without_gain.transpose_at(rows, units.position)

    def cut(self, units: Units) -> Cut:
        """What a sweep holds so that these units are nodes."""
        layers = range(len(self.tangent.layers))
        if self.transcoders is None:
            held = {
                layer: Held(which, units.position[which], units.index[which])
                for layer in layers
                if len(which := units.at(layer))
            }
            return Cut(len(units), neurons=held)
        features, writes = {}, {layer: [] for layer in layers}
        for layer in layers:
            which = units.at(layer)
            if not len(which):
                continue
            part = units.select(which)
            features[layer] = HeldFeatures(which, part.position, self.reads(layer, part))
            for at in self.writes(layer):
                writes[at].append((which, part.position, self.vectors(layer, part.position, part.index, at)))
        merged = {
            layer: Writes(*(torch.cat(column) for column in zip(*found, strict=True)))
            for layer, found in writes.items()
            if found
        }
        return Cut(len(units), features=features, writes=merged, write_residual=self.residual)

    def all_units(
        self, firing: tuple[ActiveUnits, ...] | None, reference: ReferenceActivations, silent: int, last: int
    ) -> list[Units]:
        """All units by layer, from position `silent` to `last`, where they may have an effect."""
        found = []
        kept = torch.zeros(last + 1, dtype=torch.bool)
        kept[reference.kept[reference.kept <= last]] = True
        for layer in range(len(self.tangent.layers)):
            if self.transcoders is None:
                values = self.tangent.layers[layer].mlp.activations()[: last + 1]
                other = torch.zeros_like(values) if reference.neurons is None else reference.neurons[layer][: last + 1]
            else:
                assert firing is not None
                width = self.transcoders.widths[layer]
                values = _dense(firing[layer], last + 1, width, self.tangent.recording.final)
                other = (
                    torch.zeros_like(values)
                    if reference.features is None
                    else _dense(reference.features[layer], last + 1, width, values)
                )
            taken = values - other
            taken[kept], taken[:silent] = 0, 0
            position, index = taken.nonzero(as_tuple=True)
            found.append(
                Units(
                    torch.full_like(position, layer), position, index, values[position, index], taken[position, index]
                )
            )
        return found

    def gradients(self, units: Units, layer: int, at_writes: Float[Tensor, "layer pos d"]) -> Float[Tensor, " unit"]:
        """The target's gradient at activations of one layer, from its gradients where units write."""
        found = units.activation.new_zeros(len(units))
        for at in self.writes(layer):
            for position in units.position.unique().tolist():
                which = torch.nonzero(units.position == position).flatten()
                rows = self.vectors(layer, units.position[which], units.index[which], at)
                found[which] += rows @ at_writes[at, position]
        return found


def _dense(firing: ActiveUnits, n: int, width: int, like: Tensor) -> Float[Tensor, "pos unit"]:
    made = like.new_zeros(n, width)
    here = firing.position < n
    made[firing.position[here], firing.index[here]] = firing.activation[here].to(like)
    return made


def strongest(by_layer: list[Units], effects: list[Tensor], most: int, there: int) -> tuple[Units, Tensor]:
    """The `most` units with the largest absolute effects, by (layer, position, index), and their effects.

    Raises:
        OptionError: `most` is 0 or more than there are.
    """
    if not 0 < most <= there:
        raise OptionError(f"most is {most}; it must lie between 1 and the {there:,} units of this prompt")
    everything = Units.join(by_layer)
    effect = torch.cat(effects)
    size = effect.abs()
    order = torch.argsort(size, descending=True, stable=True)[:most]
    order = torch.sort(order[size[order] > 0]).values
    return everything.select(order), effect[order]


def _columns(units: Units) -> tuple[Tensor, ...]:
    return units.layer, units.position, units.index, units.activation, units.taken
