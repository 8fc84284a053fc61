"""What a task of the benchmark is: a program, what it computes as a causal model, and how prompts are drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .program import Program, ProgramNeuron, at_least

Tokens = tuple[str, ...]
Values = dict[str, object]


@dataclass(frozen=True)
class Variable:
    """A causal variable: which neurons carry it, and where."""

    name: str
    role: str
    """`middle`, or `answer` for what the output is read from."""
    carried_by: str
    """The variable that its neurons compute, as the program names it."""
    where: Callable[[Tokens], int]


@dataclass(frozen=True)
class Task:
    """A program with its causal model: `solve(tokens, put)` gives all variables and `answer`, those in `put` set."""

    name: str
    what: str
    program: Program
    variables: tuple[Variable, ...]
    solve: Callable[[Tokens, Mapping[str, object]], Values]
    draw: Callable[[Random], Tokens]
    change: Callable[[Random, Tokens], Tokens]
    """Another prompt that has some of the first's tokens changed."""


def last(length: int) -> Callable[[Tokens], int]:
    """A variable's place: the end of a prompt."""
    return lambda tokens: length - 1


def redrawn(draw: Callable[[Random], Tokens], places: Sequence[int]) -> Callable[[Random, Tokens], Tokens]:
    """One of several places takes another prompt's token."""

    def change(random: Random, tokens: Tokens) -> Tokens:
        at, other = random.choice(places), draw(random)
        return (*tokens[:at], other[at], *tokens[at + 1 :])

    return change


def steps(layer: int, variable: str, direction: str, names: Sequence[str]) -> list[ProgramNeuron]:
    """Thresholds from 1 on, each of which takes the answer from one name to the next."""
    return [
        neuron
        for k in range(1, len(names))
        for neuron in at_least(layer, variable, direction, k, {f"say {names[k]}": 1.0, f"say {names[k - 1]}": -1.0})
    ]
