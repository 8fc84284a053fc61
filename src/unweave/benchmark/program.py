"""Small programs for a transformer, as what its neurons and heads read and write: lookup, both, at least, copy, match.

A direction is a name; the compiler gives each its own unit vector. `token X` is written by the embedding of X,
`position i` by the embedding of a position, and `say X` is read by the unembedding of X.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARP, SOFT = 12.0, 6.0
"""By how much the score of a head's key lies above others: of copies by position, and of matches by content."""
ALWAYS = "always"
"""As a query: at every position."""


@dataclass(frozen=True)
class ProgramNeuron:
    """A neuron that writes `relu(sum of what it reads + bias)` times its factors."""

    layer: int
    variable: str
    reads: Mapping[str, float]
    bias: float
    writes: Mapping[str, float]


@dataclass(frozen=True)
class ProgramHead:
    """A head that attends where a query meets its key, else to the first position, and moves directions to others."""

    layer: int
    name: str
    matches: tuple[tuple[str, tuple[str, ...], float], ...]
    """(query, keys, score); without any, all positions are attended alike."""
    moves: Mapping[str, str]
    factor: float = 1.0


@dataclass(frozen=True)
class Program:
    """What a model computes: its tokens, the length of a prompt, neurons and heads."""

    tokens: tuple[str, ...]
    length: int
    neurons: tuple[ProgramNeuron, ...]
    heads: tuple[ProgramHead, ...]

    @property
    def layers(self) -> int:
        """How many layers it needs."""
        return 1 + max(part.layer for part in (*self.neurons, *self.heads))

    @property
    def directions(self) -> tuple[str, ...]:
        """The names of all directions, in the order in which they are met."""
        names = [f"token {token}" for token in self.tokens] + [f"position {i}" for i in range(self.length)]
        for neuron in self.neurons:
            names += [*neuron.reads, *neuron.writes]
        for head in self.heads:
            names += [*head.moves, *head.moves.values()]
            names += [name for query, keys, _ in head.matches for name in (query, *keys)]
        return tuple(name for name in dict.fromkeys(names) if name != ALWAYS)


def lookup(layer: int, variable: str, of: Sequence[str], writes: Mapping[str, float]) -> ProgramNeuron:
    """A fact: on where one of several directions is written.

    >>> lookup(0, "city", ["token Lyon", "token Nice"], {"in France": 1.0}).bias
    -0.2
    """
    return ProgramNeuron(layer, variable, dict.fromkeys(of, 1.25), -0.2, writes)


def both(layer: int, variable: str, first: str, second: str, writes: Mapping[str, float]) -> ProgramNeuron:
    """On where two directions are both written.

    >>> both(0, "pair", "a", "b", {"a and b": 1.0}).reads
    {'a': 2.0, 'b': 2.0}
    """
    return ProgramNeuron(layer, variable, {first: 2.0, second: 2.0}, -3.0, writes)


def at_least(
    layer: int, variable: str, direction: str, least: int, writes: Mapping[str, float]
) -> tuple[ProgramNeuron, ProgramNeuron]:
    """A threshold: two neurons that together write 1 from `least` on, and nothing below.

    The ramp from `least - 0.9` to `least + 0.1` has a slope where the direction is just `least`; above, the two cancel.

    >>> [neuron.bias for neuron in at_least(1, "count", "x", 2, {"say 2": 1.0})]
    [-1.1, -2.1]
    """
    up = ProgramNeuron(layer, variable, {direction: 1.0}, 0.9 - least, writes)
    down = ProgramNeuron(layer, variable, {direction: 1.0}, -0.1 - least, {name: -by for name, by in writes.items()})
    return up, down


def copy(layer: int, name: str, places: Mapping[int, int], moves: Mapping[str, str]) -> ProgramHead:
    """A head that copies from one position to another, whatever stands there: the previous one, or a fixed one.

    >>> copy(0, "previous", {2: 1}, {"token a": "before a"}).matches[1]
    ('position 2', ('position 1',), 12.0)
    """
    found = ((f"position {to}", (f"position {at}",), SHARP) for to, at in places.items())
    return ProgramHead(layer, name, (_rest(SHARP), *found), moves)


def match(layer: int, name: str, pairs: Sequence[tuple[str, Sequence[str]]], moves: Mapping[str, str]) -> ProgramHead:
    """A head that attends where the direction of a query meets one of its keys.

    >>> match(1, "induction", [("token a", ["before a"])], {"token b": "next b"}).matches[1]
    ('token a', ('before a',), 6.0)
    """
    return ProgramHead(layer, name, (_rest(SOFT), *((query, tuple(keys), SOFT) for query, keys in pairs)), moves)


def total(layer: int, name: str, length: int, moves: Mapping[str, str]) -> ProgramHead:
    """A head that adds up a direction over all positions of a prompt; right at its last position.

    >>> total(1, "count", 6, {"is x": "count"}).factor
    6.0
    """
    return ProgramHead(layer, name, (), moves, float(length))


def _rest(score: float) -> tuple[str, tuple[str, ...], float]:
    return ALWAYS, ("position 0",), score / 2
