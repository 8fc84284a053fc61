"""Known circuits as JSON: nodes, edges, variables and inputs. Needs neither torch nor the rest of the engine.

Nodes are named as in graphs of the field: `{layer}_{neuron}_{position}`, `E_{token}_{position}` for a token,
`H{layer}_{head}_{position}` for what a head brings to a position, and `target` for the answer's logit less its rival's.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..base.jsontext import parse_json
from ..errors import FileError

SCHEMA_VERSION = 2
TARGET = "target"
Edge2 = tuple[str, str]
"""(source, target)."""


@dataclass(frozen=True)
class KnownVariable:
    """A causal variable, and which neurons carry it."""

    name: str
    role: str
    neurons: tuple[str, ...]
    """As `{layer}_{neuron}`."""
    interchange: float
    """Share of interchange interventions on it after which the model says what the causal model says."""


@dataclass(frozen=True)
class KnownInput:
    """A prompt, another that changes its answer, and the circuit by which it does."""

    prompt: tuple[int, ...]
    instead: tuple[int, ...]
    answer: int
    rival: int
    nodes: tuple[str, ...]
    """The circuit's neurons."""
    either: tuple[str, ...]
    """Neurons of the program that are alike in both prompts: part of the computation, not of the difference; not
    scored."""
    candidates: tuple[str, ...]
    """All neurons that are on in the prompt and could reach the target, the circuit's and `either` among them."""
    sources: tuple[str, ...]
    """Tokens that differ between the prompts."""
    heads: tuple[str, ...]
    """Heads that carry an edge of the circuit, where they bring it."""
    edges: tuple[Edge2, ...]
    mediators: dict[str, tuple[str, ...]]
    """Of each variable between input and answer: its neurons in the circuit."""
    effects: dict[str, float]
    """The change of the target, measured in the model, when a candidate alone takes its value in the other prompt."""

    def scored_nodes(self) -> tuple[str, ...]:
        """The neurons that are scored: all candidates but `either`."""
        either = set(self.either)
        return tuple(node for node in self.candidates if node not in either)

    def scored_edges(self) -> Iterator[Edge2]:
        """The edges that are scored: from tokens that differ and scored neurons to later scored neurons and the
        target."""
        nodes = self.scored_nodes()
        for target in (*nodes, TARGET):
            for source in (*self.sources, *nodes):
                if before(source, target):
                    yield source, target


@dataclass(frozen=True)
class KnownCircuit:
    """One model whose circuit is known, on several inputs."""

    task: str
    seed: int
    what: str
    tokens: tuple[str, ...]
    layers: int
    width: int
    heads: int
    accuracy: float
    """On prompts drawn for nothing else."""
    rest: float
    """Share of pairs of prompts after which the answer stays when all neurons that carry no variable are the
    other's."""
    variables: tuple[KnownVariable, ...]
    inputs: tuple[KnownInput, ...]

    @property
    def name(self) -> str:
        """Task and seed."""
        return f"{self.task}-{self.seed}"


def before(source: str, target: str) -> bool:
    """Whether a node can act on another: a lower layer, no later position.

    >>> before("0_3_1", "1_2_4"), before("1_3_1", "1_2_4"), before("E_5_2", "0_1_1"), before("E_5_2", "target")
    (True, False, False, True)
    """
    if target == TARGET:
        return True
    (layer, at), (later, to) = _place(source), _place(target)
    return layer < later and at <= to


def _place(node: str) -> tuple[int, int]:
    first, _, position = node.split("_")
    return -1 if first == "E" else int(first), int(position)


def write_circuit(circuit: KnownCircuit, path: str | Path) -> Path:
    """Write a known circuit as JSON.

    Raises:
        FileError: it cannot be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(circuit)}, indent=1)
    return write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def read_circuit(path: str | Path) -> KnownCircuit:
    """Read a known circuit.

    Raises:
        FileError: not a file of this kind.

    >>> import unweave                                                        # doctest: +SKIP
    >>> unweave.read_circuit("known/two-hop-0/circuit.json").inputs[0].edges  # doctest: +SKIP
    """
    content = read_object(path)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise FileError(f"{path} has schema version {content.get('schema_version')!r}; this reads {SCHEMA_VERSION}")
    try:
        return KnownCircuit(
            task=str(content["task"]), seed=int(content["seed"]), what=str(content["what"]),
            tokens=tuple(map(str, content["tokens"])), layers=int(content["layers"]), width=int(content["width"]),
            heads=int(content["heads"]), accuracy=float(content["accuracy"]), rest=float(content["rest"]),
            variables=tuple(
                KnownVariable(
                    str(one["name"]), str(one["role"]), tuple(map(str, one["neurons"])), float(one["interchange"])
                )
                for one in content["variables"]
            ),
            inputs=tuple(map(_input, content["inputs"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} is no known circuit: {type(error).__name__} {error}; see docs/benchmark.md") from error


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileError: it cannot be read, or is none.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} holds no JSON object; see docs/benchmark.md")
    return content


def _input(one: dict[str, Any]) -> KnownInput:
    lists = {name: tuple(map(str, one[name])) for name in ("nodes", "either", "candidates", "sources", "heads")}
    for node in (*lists["nodes"], *lists["candidates"], *lists["sources"]):
        _place(node)
    return KnownInput(
        prompt=tuple(map(int, one["prompt"])), instead=tuple(map(int, one["instead"])), answer=int(one["answer"]),
        rival=int(one["rival"]), edges=tuple((str(source), str(target)) for source, target in one["edges"]),
        mediators={str(name): tuple(map(str, nodes)) for name, nodes in one["mediators"].items()},
        effects={str(name): float(value) for name, value in one["effects"].items()}, **lists,
    )  # fmt: skip
