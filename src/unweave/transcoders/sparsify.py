"""Transcoders of EleutherAI's sparsify, and of its fork clt-training, whose features may write at several layers.

What the fork computes, from its `sparse_coder.py` and `runner.py`, with s a layer that is read and t one that is
written, j = t - s below s's `n_targets`, n_in and n_out the norms of `normalize_io` (else left out) and d the width:

    a_s = top k of relu(W_enc_s x_s sqrt(d) / n_in_s + b_enc_s)
    y_t = n_out_t / sqrt(d) (sum over s of ((a_s + post_enc_sj on(a_s)) scale_sj) W_dec_sj + b_dec_sj, + W_skip_t x_t)

`coalesce_topk` takes the decoders, of which each layer then has one, from the layer that is written.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TranscoderError
from .configs import read_json, refuse_unknown, whole
from .stored import TensorFile
from .transcoders import Kind, Matrix, Slots, TopK, TranscoderLayer

WITHOUT_EFFECT = frozenset(
    "expansion_factor normalize_decoder num_latents multi_topk d_in dtype tp_output n_sources train_post_encoder "
    "use_fp8".split()
)
"""Keys of training, of shapes that tensors have anyway, and of how weights are spread over devices."""
COVERED: dict[str, tuple[Any, ...]] = {
    "transcode": (True,),
    "activation": (None, "topk"),
    "embed_skip": (None, False),
    "gram_lookup": (None, False),
    "signed": (None, False),
    "secondary_target_tied": (None, False),
    "coalesce_topk": (None, "none", "concat", "per-layer"),
    **dict.fromkeys(
        ("skip_connection", "normalize_io", "divide_cross_layer", "post_encoder_scale", "per_source_tied"),
        (None, False, True),
    ),
}
"""Values that are read; all others are refused."""


@dataclass(frozen=True)
class Coder:
    """One layer's file and what its `cfg.json` says."""

    file: TensorFile
    config: dict[str, Any]
    k: int
    targets: int
    """At how many layers its features write; 0: at its own, in a set whose layers know nothing of each other."""

    @staticmethod
    def read(path: Path) -> "Coder":
        """Raises TranscoderError for keys and values that are not covered."""
        about = path.parent / "cfg.json"
        config = read_json(about)
        refuse_unknown(about, config, WITHOUT_EFFECT | set(COVERED) | {"k", "n_targets", "topk_coalesced"})
        wrong = [f"{key}={config.get(key)!r}" for key, values in COVERED.items() if config.get(key) not in values]
        if wrong:
            raise TranscoderError(f"{about}: {', '.join(wrong)}; only TopK transcoders (transcode=true) can be traced")
        k, targets = whole(about, "k", config.get("k"), 1), whole(about, "n_targets", config.get("n_targets") or 0, 0)
        coder = Coder(TensorFile(path), config, k, targets)
        if coder.coalesced and config.get("topk_coalesced") is not False:
            raise TranscoderError(
                f"{about}: coalesce_topk={config['coalesce_topk']!r} with topk_coalesced="
                f"{config.get('topk_coalesced')!r}; features that compete anew at every layer cannot be traced, only "
                f"topk_coalesced=false"
            )
        return coder

    @property
    def coalesced(self) -> bool:
        """Whether decoders belong to the layer that is written."""
        return self.targets > 0 and self.config.get("coalesce_topk") in ("concat", "per-layer")

    @cached_property
    def weight(self) -> Tensor:
        """The encoder."""
        return self.file.take("encoder.weight", 2)

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.weight)

    def norm(self, name: str) -> float:
        """`in_norm` or `out_norm` by the square root of the width; 1 where nothing is normalised."""
        if not self.config.get("normalize_io"):
            return 1.0
        value = self.file.tensors.get(name)
        if value is not None and value.numel() == 1:
            return float(self.file.take(name, value.dim())) / math.sqrt(self.weight.shape[1])
        raise TranscoderError(f"{self.file.path}: normalize_io is true, but there is no single number {name!r}")

    def of(self, name: str, j: int, dimensions: int, *, always: bool = True) -> Tensor | None:
        """A tensor by target: `W_decs.0`, of which `W_dec` may be the same, or only `W_dec`."""
        plural, file = f"{name}s.{j}", self.file
        if not self.targets or (self.coalesced and name in ("W_dec", "b_dec", "W_skip")) or (
            name == "W_dec" and self.config.get("per_source_tied")
        ):  # fmt: skip
            return file.take(name, dimensions) if always or name in file else None
        if plural not in file:
            return file.take(plural, dimensions) if always else None
        tensor = file.take(plural, dimensions)
        if j == 0 and name in file:
            again = file.take(name, dimensions)
            some = slice(None, None, max(1, len(tensor) // 256))
            if again.shape != tensor.shape or not torch.equal(again[some], tensor[some]):
                raise TranscoderError(f"{file.path}: {name!r} and {plural!r} differ, but stand for the same")
        return tensor

    def post(self, j: int) -> Tensor:
        """What is added to activations that are on, where they write at the j-th target."""
        found = self.of("post_enc", j, 1, always=False)
        return torch.zeros(self.width) if found is None else found.float()

    def scale(self, j: int) -> Tensor:
        """What activations are multiplied by there."""
        if not self.config.get("post_encoder_scale"):
            return torch.ones(self.width)
        found = self.of("post_enc_scale", j, 1, always=False)
        # the fork's own default where a file has none: only the first target, or the only one, is written
        return torch.full((self.width,), 0.0 if j else 1.0) if found is None else found.float()

    def skip(self, j: int) -> Tensor | None:
        """Its skip matrix at the j-th target."""
        wanted = self.config.get("skip_connection")
        if wanted is False or (wanted is None and not {"W_skip", "W_skips.0"} & set(self.file.tensors)):
            return None
        return self.of("W_skip", j, 2)


def read_sparsify(files: list[Path]) -> tuple[Kind, tuple[TranscoderLayer, ...]]:
    """All layers of a set, in order.

    Raises:
        TranscoderError: keys, values or tensors that are not covered; layers that disagree.
    """
    coders = [Coder.read(path) for path in files]
    for key in ("coalesce_topk", "divide_cross_layer"):
        if len({str(coder.config.get(key) or "none") for coder in coders}) > 1:
            raise TranscoderError(f"{files[0].parent.parent}: layers disagree on {key}")
    if len({coder.targets > 0 for coder in coders}) > 1:
        raise TranscoderError(f"{files[0].parent.parent}: n_targets is 0 at some layers and not at others")
    for layer, coder in enumerate(coders):
        if layer + coder.targets > len(coders):
            raise TranscoderError(
                f"{coder.file.path.parent / 'cfg.json'}: n_targets is {coder.targets}, but only {len(coders) - layer} "
                f"layers are left to write at"
            )
    layers = tuple(_layer(coders, number) for number in range(len(coders)))
    for coder in coders:
        coder.file.finish()
    return ("cross-layer" if any(coder.targets > 1 for coder in coders) else "per-layer"), layers


def _live(coders: list[Coder], at: int) -> list[int]:
    """The layers whose features write at one."""
    return [source for source in range(at + 1) if at - source < max(1, coders[source].targets)]


def _layer(coders: list[Coder], number: int) -> TranscoderLayer:
    coder, first = coders[number], coders[number].post(0)
    slots, more = [], []
    for j in range(max(1, coder.targets)):
        post = coder.post(j) - first
        slots.append(_decoder(coders, number, j))
        more.append(post if bool(post.any()) else None)
    written, left = coder.norm("out_norm"), len(coders) - number - len(slots)
    crossing = any(each.targets > 1 for each in coders)
    skip = coder.skip(0)
    into = written / coder.norm("in_norm")
    return TranscoderLayer(
        _scaled(coder.weight, torch.full((coder.width,), 1 / coder.norm("in_norm"))),
        coder.file.take("encoder.bias", 1).float() + first,
        Slots((*slots, *[None] * left)) if crossing else slots[0],
        _bias(coders, number),
        TopK(coder.k, rectified=True, shift=first if bool(first.any()) else None),
        None if skip is None else _scaled(skip, torch.full((len(skip),), into)),
        (*more, *[None] * left) if any(part is not None for part in more) else (),
    )


def _decoder(coders: list[Coder], source: int, j: int) -> Matrix:
    at = source + j
    coder, target = coders[source], coders[at]
    if j and (skip := None if coder.coalesced else coder.skip(j)) is not None and bool(skip.any()):
        raise TranscoderError(
            f"{coder.file.path}: 'W_skips.{j}' is a skip path from layer {source} to layer {at}; only skip paths "
            f"within a layer can be traced"
        )
    scale = coder.scale(j) * target.norm("out_norm")
    if not coder.coalesced:
        weight = coder.of("W_dec", j, 2)
        scale = scale / _share(coders, at) if j else scale
    else:
        weight, live = target.file.take("W_dec", 2), _live(coders, at)
        if target.config["coalesce_topk"] == "per-layer":
            if len(weight) < len(live) * coder.width:
                raise TranscoderError(
                    f"{target.file.path}: 'W_dec' has {len(weight)} rows, too few for {len(live)} layers of "
                    f"{coder.width} features"
                )
            begin = live.index(source) * coder.width
            weight = weight[begin : begin + coder.width]
    assert weight is not None
    if len(weight) != coder.width:
        raise TranscoderError(
            f"{target.file.path}: a decoder of {len(weight)} rows for the {coder.width} features of layer {source}"
        )
    return _scaled(weight, scale)


def _share(coders: list[Coder], at: int) -> int:
    """By what the fork divides that comes from other layers."""
    return max(1, len(_live(coders, at)) - 1) if coders[at].config.get("divide_cross_layer") else 1


def _bias(coders: list[Coder], at: int) -> Tensor:
    def own(source: int) -> Tensor:
        bias = coders[source].of("b_dec", at - source, 1)
        assert bias is not None
        return bias

    total = own(at)
    others = [] if coders[at].coalesced else [source for source in _live(coders, at) if source != at]
    if others or coders[at].config.get("normalize_io"):
        total = (total.float() + sum(own(source).float() for source in others) / _share(coders, at)) * coders[at].norm(
            "out_norm"
        )
    return total


def _scaled(weight: Tensor, scale: Tensor) -> Matrix:
    """A matrix whose rows are multiplied by numbers."""
    return Matrix(weight) if bool((scale == 1).all()) else Matrix(weight, scale)
