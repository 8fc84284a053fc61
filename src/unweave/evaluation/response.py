"""Whether a dictionary responds to changed inputs as the MLPs do: what steering and ablation in a graph rely on."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.frozen import FrozenNorm
from ..models.language_model import LanguageModel
from ..models.passes import Pass, counted, read_at
from ..models.recording import WritePoint, first_of
from ..transcoders.dense import DenseTranscoders
from .baselines import AffineMaps
from .results import Response

SHARES = (0.1, 0.3)
"""How far an input is moved towards another token's."""
KINDS = ("feature", "towards", "noise")


class Changed(NamedTuple):
    """A changed input of one MLP."""

    mlp_in: Float[Tensor, "token d"]
    read: Float[Tensor, "token d"]
    """The same where the dictionary reads."""
    frozen: Float[Tensor, "token d"]
    """The change there with the norm's denominators held."""
    direct: Float[Tensor, "token d"]
    """What else the dictionary predicts for the output: what a removed cross-layer feature wrote there itself."""


class Responses:
    """Sums of squares over tokens, by layer and kind: errors of the dictionary as it is, and held as in a graph, of
    the affine map, and the true changes."""

    def __init__(self, n_layers: int, seed: int, device: torch.device):
        self.sums = torch.zeros(n_layers, len(KINDS), 4, dtype=torch.float64)
        self.generator = torch.Generator(device).manual_seed(seed)

    def add(
        self, model: LanguageModel, clean: Pass, dictionary: DenseTranscoders, affine: AffineMaps, write: WritePoint
    ) -> None:
        """Count the tokens of one pass."""
        dtype = model.engine_dtype
        upstream = _Upstream(dictionary, self.generator)
        for layer in range(model.n_layers):
            mid, mlp_in, output = (
                counted(series[layer], dtype) for series in (clean.resid_mid, clean.inputs, clean.outputs)
            )
            read = read_at(model, layer, dictionary.read, mid, mlp_in)
            activation, before = dictionary.encode(layer, read), dictionary.local(layer, read)
            direct = upstream.writes_at(layer, mid)
            for kind, changed in enumerate(
                (
                    _without(model, layer, dictionary, mid, upstream.vector, direct),
                    *self._moved(model, layer, dictionary, mid),
                )
            ):
                if changed is None:
                    continue
                true = _output(model, layer, changed.mlp_in, write) - output
                live = dictionary.local(layer, changed.read) - before + changed.direct
                frozen = dictionary.frozen(layer, activation, changed.frozen) + changed.direct
                linear = affine.linear(layer, changed.mlp_in - mlp_in)
                squares = [part.double().square().sum() for part in (live - true, frozen - true, linear - true, true)]
                self.sums[layer, kind] += torch.stack(squares).cpu()
            upstream.pass_layer(layer, activation, direct, _post_norm(model, layer, output, write))

    def _moved(
        self, model: LanguageModel, layer: int, dictionary: DenseTranscoders, mid: Float[Tensor, "token d"]
    ) -> list[Changed]:
        """Inputs moved within the space of the norm's output before its gain, the norm's denominators held as in a
        graph."""
        norm = model.before_mlp(layer, mid)
        bare = norm.without_gain
        normalized = bare.forward(mid)
        other = normalized[torch.randperm(len(mid), generator=self.generator, device=mid.device)]
        low, high = SHARES
        share = low + (high - low) * torch.rand(
            len(mid), 1, generator=self.generator, device=mid.device, dtype=mid.dtype
        )
        towards = share * (other - normalized)
        noise = torch.randn(mid.shape, generator=self.generator, device=mid.device, dtype=mid.dtype)
        if norm.centred:
            noise = noise - noise.mean(-1, keepdim=True)
        noise = noise * (towards.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
        moved = []
        for delta in (towards, noise):
            at_mid = mid + delta / norm.scale[:, None]
            seen = {"mid": at_mid, "mlp_in": norm.forward(at_mid), "mlp_in_normalized": bare.forward(at_mid)}
            read = seen[dictionary.read]
            before = read_at(model, layer, dictionary.read, mid, norm.forward(mid))
            moved.append(Changed(seen["mlp_in"], read, read - before, torch.zeros_like(mid)))
        return moved

    def figures(self, layer: int) -> tuple[Response, Response, Response]:
        """Relative errors of one layer: the dictionary's, its with active features held, the affine map's."""
        true = self.sums[layer, :, 3]

        def response(column: int) -> Response:
            feature, towards, noise = (self.sums[layer, :, column] / true.clamp_min(1e-30)).tolist()
            return Response(feature if float(true[0]) > 0 else None, towards, noise)

        return response(0), response(1), response(2)


class _Upstream:
    """For every token one random active feature of a random earlier layer, and what it has added to the residual
    stream so far."""

    def __init__(self, dictionary: DenseTranscoders, generator: torch.Generator):
        self.dictionary, self.generator = dictionary, generator
        self.layer = torch.zeros(0, dtype=torch.int64)
        self.vector = self.index = self.activation = torch.zeros(0)

    def writes_at(self, layer: int, like: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What the chosen features write at this layer; only those of cross-layer dictionaries write past their own."""
        if not layer:
            self.layer = torch.full((len(like),), -1, device=like.device)
            self.index, self.activation, self.vector = (
                torch.zeros_like(self.layer),
                torch.zeros_like(like[:, 0]),
                torch.zeros_like(like),
            )
        written = torch.zeros_like(like)
        for source in range(layer):
            slots = self.dictionary.layers[source].decoders
            if layer - source < len(slots):
                chosen = self.layer == source
                written[chosen] = slots[layer - source][self.index[chosen]] * self.activation[chosen, None]
        return written

    def pass_layer(
        self,
        layer: int,
        activation: Float[Tensor, "token feature"],
        direct: Float[Tensor, "token d"],
        post: FrozenNorm | None,
    ) -> None:
        """Add what was written at this layer; choose anew, so that in the end every earlier layer was as likely."""
        active = activation != 0
        lot = torch.rand(len(active), generator=self.generator, device=active.device)
        chosen = torch.nonzero(active.any(1) & (lot < 1 / (layer + 1))).flatten()
        written = direct
        if len(chosen):
            index = torch.multinomial(active[chosen].float(), 1, generator=self.generator)[:, 0]
            self.layer[chosen], self.index[chosen], self.activation[chosen] = layer, index, activation[chosen, index]
            self.vector[chosen] = 0
            written = direct.index_copy(
                0, chosen, self.dictionary.layers[layer].decoders[0][index] * activation[chosen, index, None]
            )
        self.vector = self.vector + (written if post is None else post.linear(written))


def _without(
    model: LanguageModel,
    layer: int,
    dictionary: DenseTranscoders,
    mid: Float[Tensor, "token d"],
    vector: Float[Tensor, "token d"],
    direct: Float[Tensor, "token d"],
) -> Changed | None:
    """Inputs without what one upstream feature added, through the norm, whose denominators follow."""
    if not layer:
        return None
    norm, after = model.before_mlp(layer, mid), mid - vector
    mlp_in = model.before_mlp(layer, after).forward(after)
    frozen = {"mid": -vector, "mlp_in": norm.linear(-vector), "mlp_in_normalized": norm.without_gain.linear(-vector)}[
        dictionary.read
    ]
    return Changed(mlp_in, read_at(model, layer, dictionary.read, after, mlp_in), frozen, -direct)


def _output(
    model: LanguageModel, layer: int, mlp_in: Float[Tensor, "token d"], write: WritePoint
) -> Float[Tensor, "token d"]:
    """What the true MLP puts out, where the dictionary writes."""
    mlp, (writer, factor) = model.blocks[layer].get_submodule(model.architecture.mlp), model.writer(layer, write)
    with torch.no_grad():
        output = first_of(mlp(mlp_in[None].to(model.dtype)))
        if writer is not mlp:
            output = writer(output)
    return output[0].to(mlp_in.dtype) * factor


def _post_norm(
    model: LanguageModel, layer: int, output: Float[Tensor, "token d"], write: WritePoint
) -> FrozenNorm | None:
    """What stands between what is written and the residual stream, as it is for `output`."""
    return None if write == "residual" else model.after_mlp(layer, output)
