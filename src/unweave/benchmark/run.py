"""The benchmark: every method on every input of every model, with figures, intervals, a table and plots."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_
from pathlib import Path

import torch

from ..base.files import check_writable
from ..base.progress import Progress
from ..errors import OptionError
from ..transcoders.neurons import neurons
from ..transcoders.replacement import ReplacementModel
from ..validation.statistics import Estimate, mean
from .data import KnownCircuit, KnownInput, write_circuit
from .dictionaries import KINDS, MiddleFigures, known_features, middles_kept, shipped_kinds
from .faithfulness import CURVE, faithfulness
from .feature_methods import feature_methods
from .known import ALL_TASKS, KnownModel, check_known, known_circuit, known_model, seeds_of, write_known
from .methods import METHODS
from .question import BenchmarkQuestion, Method
from .score import FIGURES, CircuitScores, read_found, score_circuit

SURE = 0.99
"""The least interchange accuracy with which a model counts as computing by its circuit."""
ALL_FIGURES = (*FIGURES[:-1], *CURVE, FIGURES[-1])
"""What is measured of a method on one input."""


@dataclass(frozen=True)
class Row:
    """One method's figures on one input."""

    task: str
    seed: int
    input: int
    method: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkRun:
    """What came out: the circuits, and every method's figures on each of their inputs."""

    circuits: tuple[KnownCircuit, ...]
    rows: tuple[Row, ...]
    seconds: float
    dictionaries: tuple[MiddleFigures, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order in which they ran."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(dict.fromkeys(circuit.task for circuit in self.circuits))

    @property
    def interchange(self) -> float:
        """The least interchange accuracy of any variable of any model."""
        return min(variable.interchange for circuit in self.circuits for variable in circuit.variables)

    def summary(self, method: str, task: str | Sequence[str] | None = None) -> dict[str, Estimate]:
        """A method's mean figures over models, of all tasks or of some, each model's being the mean over its inputs,
        with bootstrap intervals over models."""
        found, wanted = {}, self.tasks if task is None else (task,) if isinstance(task, str) else task
        for figure in ALL_FIGURES:
            models: dict[tuple[str, int], list[float]] = {}
            for row in self.rows:
                value = row.figures[figure]
                if row.method == method and row.task in wanted and not math.isnan(value):
                    models.setdefault((row.task, row.seed), []).append(value)
            means = torch.tensor([sum(values) / len(values) for values in models.values()], dtype=torch.float64)
            short = Estimate(float(means.mean()) if len(means) else math.nan, math.nan, math.nan, len(means))
            found[figure] = mean(means) if len(means) > 2 else short
        return found


def run_benchmark(
    tasks: Sequence[str] = ALL_TASKS,
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    *,
    seeds: int | None = None,
    inputs: int = 4,
    scores: Mapping[str, str | Path] | None = None,
    dictionaries: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BenchmarkRun:
    """Judge methods that say which neurons and edges a prediction goes through, on models whose circuits are known.

    Args:
        seeds: models of each task; None: three that are compiled, all trained ones that ship.
        methods: names of methods that are here, or others by a name of their own: functions from a `BenchmarkQuestion`
            to `CircuitScores`.
        scores: JSON files with scores that other tools gave, by the name to show; see `docs/benchmark.md`.
        dictionaries: kinds (`per-layer`, `skip`, `cross-layer`) whose graphs are judged too, trained first on every
            model for which none ships; None: those that ship if all methods are asked for, else none.
        out: a folder for models, circuits and results.

    Raises:
        OptionError: an unknown task, method or kind, or too few seeds or inputs.
        FileError: scores that cannot be read, or a folder that cannot be written.

    Source: the idea of models with known circuits is that of Lindner et al. 2023 (Tracr) and Gupta et al. 2024
        (InterpBench).

    >>> import unweave
    >>> run = unweave.run_benchmark(["two-hop"], ["attribution-patching", "random"], seeds=1, inputs=1)
    >>> run.interchange, run.summary("attribution-patching")["nodes"].value
    (1.0, 1.0)
    """
    chosen = _chosen(tasks, methods, seeds, inputs)
    everything = tuple(methods) == tuple(METHODS)
    _check_kinds(dictionaries or ())
    for task in tasks:
        check_known(task, seeds or 0)
    folder = None if out is None else check_writable(Path(out) / "benchmark.json").parent
    begin, circuits, rows, middles = time.monotonic(), [], [], []
    names = [(task, seed) for task in tasks for seed in range(seeds or seeds_of(task))]
    for number, (task, seed) in enumerate(names):
        if progress is not None:
            progress(number / len(names), f"{task}, seed {seed}")
        known = known_model(task, seed)
        circuit = known_circuit(known, inputs)
        if folder is not None:
            write_known(known, folder / circuit.name)
            write_circuit(circuit, folder / circuit.name / "circuit.json")
        circuits.append(circuit)
        rows += _rows(known, circuit, chosen)
        shipped = shipped_kinds(known) if everything else ()
        for kind in shipped if dictionaries is None else dictionaries:
            features, missed = known_features(known, kind)
            judged = _rows(known, circuit, feature_methods(kind, features))
            first = [row.figures for row in judged if row.method == f"attribution, {kind}"]
            middles.append(middles_kept(circuit, kind, features, missed, first))
            rows += judged
        for name, path in (scores or {}).items():
            given = read_found(path, [circuit])[circuit.name]
            rows += [_row(known, circuit, at, name, found) for at, found in enumerate(given)]
    return BenchmarkRun(tuple(circuits), tuple(rows), time.monotonic() - begin, tuple(middles))


def _check_kinds(kinds: Sequence[str]) -> None:
    wrong = next((kind for kind in kinds if kind not in KINDS), None)
    if wrong is not None:
        raise OptionError(f"no dictionary of kind {wrong!r} is trained here; there are {', '.join(KINDS)}")


def _chosen(
    tasks: Sequence[str], methods: Sequence[str] | Mapping[str, Method], seeds: int | None, inputs: int
) -> dict[str, Method]:
    named = dict(methods) if isinstance(methods, Mapping) else {name: METHODS.get(name) for name in methods}
    found = {name: method for name, method in named.items() if method is not None}
    for what, given, known in (("task", tasks, ALL_TASKS), ("method", named, {**METHODS, **found})):
        wrong = next((name for name in given if name not in known), None)
        if wrong is not None:
            raise OptionError(f"there is no {what} {wrong!r}; there are {', '.join(known)}")
    if not tasks or not named:
        raise OptionError(f"no {'method' if tasks else 'task'} is chosen; leave the option out for all")
    if (seeds is not None and seeds < 1) or inputs < 1:
        raise OptionError(f"seeds are {seeds} and inputs {inputs}; both must be at least 1")
    return found


def _rows(known: KnownModel, circuit: KnownCircuit, methods: Mapping[str, Method]) -> list[Row]:
    model = ReplacementModel(known.model, neurons(known.model))
    rows = []
    for number, one in enumerate(circuit.inputs):
        question = BenchmarkQuestion(
            model, one.prompt, one.instead, one.answer, one.rival, one.candidates, one.sources, heads_of(circuit, one)
        )
        for name, method in methods.items():
            begin = time.perf_counter()
            found = with_(method(question), seconds=time.perf_counter() - begin)
            rows.append(_row(known, circuit, number, name, found))
    return rows


def _row(known: KnownModel, circuit: KnownCircuit, number: int, method: str, found: CircuitScores) -> Row:
    one = circuit.inputs[number]
    figures = score_circuit(one, found, heads=heads_of(circuit, one)) | faithfulness(known.model, one, found.nodes)
    return Row(circuit.task, circuit.seed, number, method, figures)


def heads_of(circuit: KnownCircuit, one: KnownInput) -> tuple[str, ...]:
    """All heads at all positions of an input but the first."""
    return tuple(
        f"H{layer}_{head}_{at}"
        for layer in range(circuit.layers)
        for head in range(circuit.heads)
        for at in range(1, len(one.prompt))
    )
