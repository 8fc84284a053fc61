"""One dataclass that is the command line, the TOML file and the record saved beside the weights."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import OptionError

CHOICES = {
    "objective": ("local", "end-to-end"),
    "train": ("all", "decoders"),
    "kind": ("per-layer", "skip", "cross-layer", "incremental"),
    "activation": ("batchtopk", "topk", "relu", "jumprelu"),
    "precision": ("auto", "float32", "bfloat16"),
    "parallel": ("data", "layers"),
}
"""`skip`: per-layer with a skip matrix. `incremental`: cross-layer, all features that write at a layer share its
decoder."""

RANGES: tuple[tuple[Callable[[Any], bool], tuple[str, ...], str], ...] = (
    (
        lambda value: value > 0,
        ("tokens", "batch", "context", "buffer", "reuse", "lr", "outlier", "dead_after", "statistics", "tanh_scale",
         "bandwidth", "checkpoint"),
        "be above 0",
    ),
    (
        lambda value: 0 <= value <= 1,
        ("self_sample", "k_anneal", "decay", "on_policy", "held_out"),
        "lie between 0 and 1",
    ),
    (
        lambda value: value >= 0,
        ("warmup", "auxiliary", "sparsity", "evaluate", "threshold"),
        "not be negative",
    ),
    (lambda value: value >= 1, ("k_start",), "be 1 or more"),
)  # fmt: skip
"""Which values numbers may have, and what is said of others."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides which dictionary comes out; `unweave train --help` and docs/training.md list the same
    fields."""

    model: str = _option("smollm2", "smollm2, a local folder, or a Hugging Face name.")
    text: tuple[str, ...] = _option(
        (), "File, folder, Parquet, JSONL or dataset name, with a weight if wanted: corpus.jsonl=0.7; repeatable."
    )
    self_sample: float = _option(0.0, "Share of the tokens that are sampled from the model itself, 0 to 1.")
    held_out: float = _option(0.01, "Share of the documents kept for evaluation, chosen by a hash of their text.")
    objective: str = _option(
        "local", "local (each MLP's output), or end-to-end (the model's predictions, all MLPs replaced at once)."
    )
    train: str = _option(
        "all",
        "all, or (end to end) decoders: decoders, skips and output biases, while encoders and thresholds stay those of "
        "init.",
    )
    kind: str = _option(
        "skip",
        "per-layer, skip (per-layer with a skip matrix), cross-layer, or incremental (cross-layer with tied decoders).",
    )
    width: str = _option("2048", "Features per layer: one number, or runs such as 3072x2,2048x26,3072x2.")
    activation: str = _option("batchtopk", "batchtopk (saved as JumpReLU), topk, relu, or jumprelu.")
    k: str = _option(
        "64", "Mean active features per token for batchtopk, exact number for topk; like --width, one number or runs."
    )
    k_start: float = _option(4.0, "k starts at this many times its value.")
    k_anneal: float = _option(0.15, "Share of the training over which k falls to its value.")
    sparsity: float = _option(
        0.002, "Weight of the tanh penalty for relu and jumprelu, reached linearly over the whole training."
    )
    tanh_scale: float = _option(4.0, "c in the penalty tanh(c |decoder| activation).")
    threshold: float = _option(0.03, "Initial threshold of jumprelu, in units of the normalised input.")
    bandwidth: float = _option(0.5, "Width of jumprelu's straight-through window, in the same units.")
    tokens: int = _option(4_000_000, "Tokens to train on, including repeats.")
    batch: int = _option(4096, "Tokens per step.")
    context: int = _option(128, "Tokens per sequence.")
    buffer: int = _option(2, "Batches recorded together; tokens are shuffled among them.")
    reuse: int = _option(1, "How many times each recorded token is trained on.")
    on_policy: float = _option(
        0.0,
        "Share of the sequences recorded with some layers already replaced, so that features learn how MLPs respond.",
    )
    lr: float = _option(1e-3, "Adam's learning rate.")
    warmup: int = _option(100, "Steps over which the learning rate rises.")
    decay: float = _option(0.3, "Final share of the training over which the learning rate falls to zero.")
    outlier: float = _option(
        16.0, "Outputs with more than this many times the median squared norm are down-weighted to it."
    )
    dead_after: int = _option(200_000, "A feature that is inactive for this many tokens counts as dead.")
    auxiliary: float = _option(1 / 32, "Weight of the loss that revives dead features; 0 leaves them.")
    init: str = _option("", "Transcoders to start from; new features are added where they are narrower.")
    statistics: int = _option(32_768, "Tokens for scales and the least-squares start of skip matrices.")
    precision: str = _option("auto", "auto, float32, or bfloat16 (products only; state stays float32).")
    parallel: str = _option(
        "data", "Under torchrun: data (a share of each batch per process) or layers (a range of layers per process)."
    )
    evaluate: int = _option(500_000, "Tokens between evaluations on held-out text; 0: only at the end.")
    checkpoint: float = _option(4.0, "Minutes between checkpoints, at most 5.")
    seed: int = _option(0, "Random seed for initial weights, the order of text and samples.")

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the field, its value and what is allowed.
        """
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for fits, names, said in RANGES:
            wrong = next((name for name in names if not fits(getattr(self, name))), None)
            if wrong is not None:
                raise OptionError(f"{wrong} is {getattr(self, wrong)}; it must {said}")
        if self.held_out == 1:
            raise OptionError("held_out is 1, which leaves nothing to train on")
        if self.context < 2:
            raise OptionError(
                f"context is {self.context}; a sequence needs 2 tokens or more, the first one is left out"
            )
        if self.checkpoint > 5:
            raise OptionError(f"checkpoint is {self.checkpoint} minutes; at most 5, so that no more is ever lost")
        if self.parallel == "layers" and self.cross_layer:
            raise OptionError(
                f"parallel is 'layers', but features of a {self.kind} dictionary write across layers; use data"
            )
        if self.parallel == "layers" and self.on_policy:
            raise OptionError(
                f"on_policy is {self.on_policy}, which needs the whole dictionary, but parallel is 'layers'; use data"
            )
        if self.cross_layer and self.activation == "topk":
            raise OptionError("activation is 'topk', which cross-layer folders do not hold; use batchtopk")
        if self.objective == "end-to-end":
            self._check_end_to_end()
        elif self.train != "all":
            raise OptionError(f"train is {self.train!r}, which only objective 'end-to-end' knows; leave it out")
        if not self.text and not self.self_sample:
            raise OptionError("no text: give --text (a file, folder or dataset) or --self-sample with a share above 0")
        runs(self.width, None, "width")
        runs(self.k, None, "k")

    def _check_end_to_end(self) -> None:
        """Refuse what the divergence of whole predictions has no use for."""
        if self.cross_layer or not self.sparse_by_k:
            raise OptionError(
                f"objective is 'end-to-end', which trains per-layer and skip dictionaries with batchtopk or topk; kind "
                f"is {self.kind!r} and activation {self.activation!r}"
            )
        if not self.init:
            raise OptionError(
                "objective is 'end-to-end', which starts from a dictionary trained layer by layer; give init"
            )
        for name, only in (("parallel", "data"), ("on_policy", 0.0), ("reuse", 1)):
            if getattr(self, name) != only:
                raise OptionError(f"{name} is {getattr(self, name)!r}, but objective 'end-to-end' knows only {only!r}")

    @property
    def cross_layer(self) -> bool:
        """Whether features write at later layers too."""
        return self.kind in ("cross-layer", "incremental")

    @property
    def sparse_by_k(self) -> bool:
        """Whether k, rather than a penalty, makes activations sparse."""
        return self.activation in ("batchtopk", "topk")

    def check(self, layers: int) -> None:
        """Refuse, before any work, widths or k that do not fit a model of so many layers.

        Raises:
            OptionError: see `widths` and `ks`.
        """
        self.widths(layers)
        self.ks(layers)

    def widths(self, layers: int) -> tuple[int, ...]:
        """Features of every layer.

        Raises:
            OptionError: the runs do not add up to the number of layers, k is over the width, or tied decoders of
                unequal widths.
        """
        widths = runs(self.width, layers, "width")
        if self.sparse_by_k:
            for layer, (width, k) in enumerate(zip(widths, self.ks(layers), strict=True)):
                if k > width:
                    raise OptionError(f"k is {k} at layer {layer}, over its width of {width}")
        if self.kind == "incremental" and len(set(widths)) > 1:
            raise OptionError(f"width is {self.width}; tied decoders need one width for all layers")
        return widths

    def ks(self, layers: int) -> tuple[int, ...]:
        """k of every layer; for topk all must be equal, since dictionary folders hold one.

        Raises:
            OptionError: the runs do not add up, or differ for topk.
        """
        ks = runs(self.k, layers, "k")
        if self.activation == "topk" and len(set(ks)) > 1:
            raise OptionError(f"k is {self.k}; topk needs one k for all layers (batchtopk may differ)")
        return ks


CHANGEABLE = frozenset(("tokens", "evaluate", "checkpoint"))
"""Fields that may differ when a training goes on: they decide how long, not what."""


MOST_LAYERS = 10_000
"""No model has more; a run of more is a slip of the pen, and would be spelled out in memory."""


def runs(text: str, layers: int | None, name: str) -> tuple[int, ...]:
    """Numbers by layer from `2048` or `3072x2,2048x26`.

    Raises:
        OptionError: not of that form, not positive, or not as many as there are layers.

    >>> runs("30x2,20", 3, "k")
    (30, 30, 20)
    """
    numbers: list[int] = []
    named = 0
    for part in str(text).split(","):
        number, _, times = part.strip().partition("x")
        if max(len(number), len(times)) > 9:
            raise OptionError(f"{name} is {str(text)[:40]!r}: a number of more than 9 digits")
        if not number.isdecimal() or not (times or "1").isdecimal() or int(number) < 1 or int(times or 1) < 1:
            raise OptionError(f"{name} is {text!r}; give a whole number above 0, or runs such as 3072x2,2048x26")
        named += int(times or 1)
        if named <= (layers or MOST_LAYERS):
            numbers += [int(number)] * int(times or 1)
    if layers is None and named <= MOST_LAYERS:
        return tuple(numbers)
    if layers is None:
        raise OptionError(f"{name} is {text!r}, which names {named} layers; at most {MOST_LAYERS} are taken")
    if named == 1:
        return tuple(numbers * layers)
    if named != layers:
        raise OptionError(f"{name} is {text!r}, which names {named} layers; the model has {layers}")
    return tuple(numbers)


def read_config(path: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """A config from a TOML file (if any), with the options given by hand put over it.

    Raises:
        OptionError: unreadable, unknown keys, or values of another type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:  # nested deep, numbers of thousands of digits
            raise OptionError(f"cannot read {path}: {error}") from error
    return config_from(values | dict(given), str(path or "options"))


def config_from(values: Mapping[str, Any], where: str) -> TrainConfig:
    """A config from plain values, as TOML or JSON give them.

    Raises:
        OptionError: unknown keys, or values of another type.
    """
    types = {item.name: type(item.default) for item in fields(TrainConfig)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise OptionError(f"{where}: unknown keys {unknown}; known: {', '.join(types)}")
    clean: dict[str, Any] = {}
    for name, value in values.items():
        kind = types[name]
        if kind is tuple:
            value = (value,) if isinstance(value, str) else value
            if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                raise OptionError(f"{where}: {name} is {value!r}; it must be a list of texts")
            clean[name] = tuple(value)
        elif isinstance(value, bool) or not isinstance(
            value, (int, float) if kind is float else (str, int) if kind is str else kind
        ):
            raise OptionError(
                f"{where}: {name} is {value!r}; it must be a {'number' if kind in (int, float) else 'text'}"
            )
        else:
            clean[name] = kind(value)
    return TrainConfig(**clean)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields in which a checkpoint's config differs from the one asked for, as lines; fields that may change are
    left out."""
    first, second = asdict(old), asdict(new)
    return [
        f"{name} {first[name]!r} (asked: {second[name]!r})"
        for name in first
        if name not in CHANGEABLE and first[name] != second[name]
    ]
