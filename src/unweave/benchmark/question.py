"""What a method is asked."""

from collections.abc import Callable
from dataclasses import dataclass

from ..transcoders.replacement import ReplacementModel
from .data import TARGET, Edge2, before
from .score import CircuitScores


@dataclass(frozen=True)
class BenchmarkQuestion:
    """What a method is asked: why one prompt's answer rather than another prompt's, in terms of the model's neurons."""

    model: ReplacementModel
    """With the model's own neurons as its dictionary; `model.language_model.module` is the Hugging Face model."""
    prompt: tuple[int, ...]
    instead: tuple[int, ...]
    answer: int
    rival: int
    neurons: tuple[str, ...]
    """The neurons in question, as ids; a method may score more."""
    sources: tuple[str, ...]
    """The tokens that differ."""
    heads: tuple[str, ...]


Method = Callable[[BenchmarkQuestion], CircuitScores]


def pairs(asked: BenchmarkQuestion) -> list[Edge2]:
    """All edges in question."""
    sources = (*asked.sources, *asked.neurons)
    return [(a, b) for b in (*asked.neurons, TARGET) for a in sources if before(a, b)]


def unit(name: str) -> tuple[int, int, int]:
    """(layer, position, index) of an id; layer -1 for a token."""
    layer, index, position = name.split("_")
    return -1 if layer == "E" else int(layer), int(position), int(index)
