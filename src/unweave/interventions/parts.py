"""Parts of the real model that are swapped together: neurons, attention heads, whole MLPs; by words, as in claims."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InterventionError
from ..models.language_model import LanguageModel
from ..models.places import Place
from .live import Gauge, GaugeReading, Inside, NeuronPlaces, Put, heads_of

_HEAD, _MLP, _NEURON = (
    re.compile(pattern) for pattern in (r"(\d+)\.h(\d+)@(\d+)", r"(\d+)(?:-(\d+))?\.mlp@(\d+)", r"(\d+)_(\d+)_(\d+)")
)


def _no_units() -> NeuronPlaces:
    return NeuronPlaces.of([])


@dataclass(frozen=True)
class Part:
    """Neurons, attention heads by (layer, head, position), and whole MLPs by (layer, position)."""

    units: NeuronPlaces = field(default_factory=_no_units)
    heads: tuple[tuple[int, int, int], ...] = ()
    mlps: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def parse(words: Sequence[str], named: Mapping[str, Sequence[str]] | None = None) -> "Part":
        """From words: `12_345_5` (layer, neuron, position), `23.h4@5` (a head), `0-2.mlp@4` (MLPs), or names of lists
        of such.

        Raises:
            InterventionError: another word.

        >>> Part.parse(["0-1.mlp@4", "23.h4@5", "12_345_5"]).words
        ('0-1.mlp@4', '23.h4@5', '12_345_5')
        """
        units: list[tuple[int, int, int]] = []
        heads: list[tuple[int, int, int]] = []
        mlps: list[tuple[int, int]] = []
        for word in (inner for given in words for inner in (named or {}).get(given, [given])):
            if match := _NEURON.fullmatch(word):
                layer, index, position = map(int, match.groups())
                units.append((layer, position, index))
            elif match := _HEAD.fullmatch(word):
                layer, head, position = map(int, match.groups())
                heads.append((layer, head, position))
            elif match := _MLP.fullmatch(word):
                first, last, position = int(match[1]), int(match[2] or match[1]), int(match[3])
                mlps += [(layer, position) for layer in range(first, last + 1)]
            else:
                known = f", or one of {', '.join(named)}" if named else ""
                raise InterventionError(
                    f"{word!r} is no part of a model; give a neuron (12_345_5: layer, number, position), a head "
                    f"(23.h4@5), MLPs (0-2.mlp@4){known}"
                )
        return Part(
            NeuronPlaces.of(list(dict.fromkeys(units))), tuple(dict.fromkeys(heads)), tuple(dict.fromkeys(mlps))
        )

    @property
    def words(self) -> tuple[str, ...]:
        """As `parse` takes them."""
        spans: list[tuple[int, int, int]] = []
        for layer, position in sorted(self.mlps, key=lambda place: place[::-1]):
            if spans and spans[-1][1:] == (layer - 1, position):
                spans[-1] = (spans[-1][0], layer, position)
            else:
                spans.append((layer, layer, position))
        mlps = [f"{first}{'' if first == last else f'-{last}'}.mlp@{position}" for first, last, position in spans]
        return (*mlps, *(f"{layer}.h{head}@{position}" for layer, head, position in self.heads), *self.units.ids)

    @property
    def positions(self) -> tuple[int, ...]:
        """The tokens that it sits on."""
        places = {p for _, _, p in self.heads} | {p for _, p in self.mlps} | set(self.units.position.tolist())
        return tuple(sorted(places))

    @property
    def layers(self) -> range:
        """From its first layer to its last."""
        found = [h[0] for h in self.heads] + [m[0] for m in self.mlps] + self.units.layer.tolist()
        return range(min(found), max(found) + 1) if found else range(0)

    def __len__(self) -> int:
        return len(self.units) + len(self.heads) + len(self.mlps)

    @property
    def places(self) -> list[tuple[Place, int]]:
        """By place and layer, where its values lie."""
        heads: list[tuple[Place, int]] = [("heads", layer) for layer, _, _ in self.heads]
        layers = [*(layer for layer, _ in self.mlps), *self.units.layer.tolist()]
        neurons: list[tuple[Place, int]] = [("neurons", layer) for layer in layers]
        return sorted({*heads, *neurons})

    @property
    def members(self) -> list["Part"]:
        """Each of its parts alone."""
        singles = [Part(self.units.select(torch.tensor([unit]))) for unit in range(len(self.units))]
        return [
            *(Part(mlps=(mlp,)) for mlp in self.mlps), *(Part(heads=(head,)) for head in self.heads), *singles,
        ]  # fmt: skip

    def join(self, other: "Part") -> "Part":
        """Both together."""
        return Part(self.units.join(other.units), self.heads + other.heads, self.mlps + other.mlps)

    def moved(self, places: Mapping[int, int]) -> "Part":
        """The same at other positions; what has no new place is left out."""
        units = [(layer, places[p], index) for layer, p, index in self.units.triples if p in places]
        heads = tuple((layer, head, places[p]) for layer, head, p in self.heads if p in places)
        return Part(NeuronPlaces.of(units), heads, tuple((layer, places[p]) for layer, p in self.mlps if p in places))

    def put(self, values: Inside, heads: int) -> list[Put]:
        """Set it to what it is in some prompt; `heads`: how many a layer has."""
        puts: list[Put] = []
        for layer in sorted({layer for layer, _ in self.mlps}):
            puts += values.put_cells("neurons", [layer], [p for at, p in self.mlps if at == layer])
        puts += [values.put_head(layer, [position], head, heads) for layer, head, position in self.heads]
        return puts + values.put_units(self.units)

    def differences(
        self, here: Inside, there: Inside, heads: int
    ) -> list[tuple[Place, int, int, Float[Tensor, " width"]]]:
        """By place, layer and position: its values in one prompt less those in another, zero for what is no part of
        it."""
        places: dict[tuple[Place, int, int], list[slice | int]] = {}
        for layer, position in self.mlps:
            places["neurons", layer, position] = [slice(None)]
        for layer, position, index in self.units.triples:
            places.setdefault(("neurons", layer, position), []).append(index)
        for layer, head, position in self.heads:
            width = here.at["heads", layer].shape[1] // heads
            places.setdefault(("heads", layer, position), []).append(slice(head * width, (head + 1) * width))
        made = []
        for (place, layer, position), entries in places.items():
            whole = here.at[place, layer][position] - there.at[place, layer][position]
            line = torch.zeros_like(whole)
            for entry in entries:
                line[entry] = whole[entry]
            made.append((place, layer, position, line))
        return made

    def gauge(self, here: Inside, there: Inside, heads: int) -> Gauge:
        """What shows how far it is from its values in one prompt (0) to those in another (1), along the difference."""
        lines = self.differences(there, here, heads)
        scale = 1 / max(sum(float(line.square().sum()) for *_, line in lines), 1e-12)
        return [
            GaugeReading(place, layer, position, line * scale, float(here.at[place, layer][position] @ line) * scale)
            for place, layer, position, line in lines
        ]

    def check(self, model: LanguageModel, n_positions: int) -> None:
        """Refuse what a model or prompt does not have.

        Raises:
            InterventionError: a layer, neuron, head or position that is not there.
        """
        down = [block.get_submodule(model.architecture.mlp) for block in model.blocks]
        limits = [
            ("layer", model.n_layers, [*(h[0] for h in self.heads), *(m[0] for m in self.mlps)]),
            ("layer", model.n_layers, self.units.layer.tolist()),
            ("position", n_positions, list(self.positions)),
            ("head", heads_of(model), [h[1] for h in self.heads]),
        ]
        for what, limit, values in limits:
            wrong = next((value for value in values if value >= limit), None)
            if wrong is not None:
                raise InterventionError(f"{what} {wrong} does not exist; there are {limit}, from 0 to {limit - 1}")
        for layer, _, index in self.units.triples:
            weight = down[layer].get_submodule(model.architecture.down).weight
            width = max(weight.shape) if min(weight.shape) == model.d_model else weight.numel() // model.d_model
            if index >= width:
                raise InterventionError(f"layer {layer} has no neuron {index}; it has {width}")
