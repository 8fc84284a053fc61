"""Models with known circuits: compiled or trained, checked by interchange interventions, with the circuit of each
input."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from ..errors import OptionError
from ..models.language_model import LanguageModel
from ..models.loading import load_model
from .compiler import HEADS, WIDTH, ProgramPlaces, Tensors, compile_program, write_model
from .data import TARGET, Edge2, KnownCircuit, KnownInput, KnownVariable
from .interchange_training import held_out, placed
from .passes import BatchPass, GivenValues, direct_effects, run, run_put
from .program import Program
from .task import Task, Tokens, Variable
from .tasks import TASKS

MATTERS = 0.05
"""What a neuron or the target must change by for an edge to be there, where what a program writes is about 1; of a
trained model, as a share of the neuron's reach, and of the target's whole change."""
TRAINED = "-trained"
"""What a trained model's task is called, after the task."""
SHIPPED, COMPILED = Path(__file__).parents[1] / "data" / "benchmark", 3
"""Where trained models are; models of a compiled task, if nothing else is asked for."""
ALL_TASKS = (*TASKS, *(f"{name}{TRAINED}" for name in TASKS if (SHIPPED / f"{name}{TRAINED}-0.safetensors").is_file()))
"""Tasks whose models are compiled, then those whose models are trained and ship."""
HELD_OUT, INTERCHANGES = 64, 100
"""Prompts on which accuracy is measured, and interchange interventions on each variable."""


@dataclass(frozen=True)
class KnownModel:
    """A model with its task, and another from which the truth is read: the same program without distractors, or, of a
    trained model, itself."""

    name: str
    """Of the task, with `-trained` for a trained model."""
    task: Task
    program: Program
    """The neurons and heads that have a place."""
    seed: int
    places: ProgramPlaces
    tensors: Tensors
    model: LanguageModel
    ideal: LanguageModel
    reach: Float[Tensor, "layer neuron"]
    """What changes of neurons are measured against: 1, or, of a trained model, the most that each is on drawn
    prompts."""

    @property
    def trained(self) -> bool:
        """Whether its weights were trained."""
        return self.model is self.ideal

    def ids(self, tokens: Tokens) -> tuple[int, ...]:
        """A prompt as token ids."""
        return tuple(self.program.tokens.index(token) for token in tokens)

    def answer(self, tokens: Tokens) -> int:
        """The token that the causal model gives."""
        return self.program.tokens.index(str(self.task.solve(tokens, {})["answer"]))

    def neurons(self, variable: str) -> tuple[tuple[int, int], ...]:
        """(layer, index) of the neurons that carry a variable of the program."""
        pairs = zip(self.program.neurons, self.places.neurons, strict=True)
        return tuple(place for part, place in pairs if part.variable == variable)

    def kept(self, base: Tokens, source: Tokens) -> bool:
        """Whether a pair of prompts may be used for judging: of a trained model, one it was not trained on."""
        return not self.trained or held_out(base, source)


def known_model(name: str, seed: int) -> KnownModel:
    """A task's model in float64: compiled, or, with `-trained` after the task's name, as it was trained.

    Raises:
        OptionError: a trained model of a seed that does not ship.
    """
    task = TASKS[name.removesuffix(TRAINED)]()
    if not name.endswith(TRAINED):
        made = compile_program(task.program, seed)
        models = _loaded(made.tensors, task.program), _loaded(made.ideal, task.program)
        reach = torch.ones(task.program.layers, WIDTH, dtype=torch.float64)
        return KnownModel(name, task, task.program, seed, made.places, made.tensors, *models, reach)
    check_known(name, seed + 1)
    return trained_model(task, seed, load_file(SHIPPED / f"{name}-{seed}.safetensors"))


def check_known(name: str, seeds: int) -> None:
    """Refuse more trained models of a task than ship.

    Raises:
        OptionError: as in `known_model`.
    """
    there = seeds_of(name)
    if name.endswith(TRAINED) and seeds > there:
        raise OptionError(
            f"{seeds} models of {name!r} are asked for; {there} ship, so give --seeds {there} or only tasks without "
            f"{TRAINED!r}"
        )


def seeds_of(name: str) -> int:
    """How many models of a task are judged if nothing else is asked for: all trained ones, or some compiled ones."""
    return len(list(SHIPPED.glob(f"{name}-[0-9].safetensors"))) if name.endswith(TRAINED) else COMPILED


def trained_model(task: Task, seed: int, tensors: Tensors) -> KnownModel:
    """A trained model from its weights."""
    program, places = placed(task, seed)
    model = _loaded(tensors, program)
    random = Random(f"reach {task.name} {seed}")
    prompts = [[program.tokens.index(token) for token in task.draw(random)] for _ in range(HELD_OUT)]
    reach = run(model, prompts).neurons.amax((0, 2)).clamp_min(1e-9)
    return KnownModel(f"{task.name}{TRAINED}", task, program, seed, places, tensors, model, model, reach)


def _loaded(tensors: Tensors, program: Program) -> LanguageModel:
    with tempfile.TemporaryDirectory() as folder:
        return load_model(str(write_model(tensors, program, folder)), dtype="float64")


def known_circuit(known: KnownModel, inputs: int) -> KnownCircuit:
    """The circuit of a model on inputs drawn by its seed, and how surely it computes by it.

    Of two prompts with different answers the first is asked about, or the second if nothing that is on in the first
    carries the difference (none of four letters is x, and then one is).
    """
    task, program, random = known.task, known.program, Random(f"{known.name} {known.seed}")
    found: list[KnownInput] = []
    while len(found) < inputs:
        pair = _pair(known, random)
        found += next(([one] for way in (pair, pair[::-1]) if (one := known_input(known, *way)).nodes), [])
    return KnownCircuit(
        known.name, known.seed, " ".join(task.what.split()), program.tokens, program.layers, WIDTH, HEADS,
        accuracy(known, HELD_OUT), rest_accuracy(known, INTERCHANGES),
        tuple(
            KnownVariable(
                one.name, one.role, tuple(f"{layer}_{index}" for layer, index in known.neurons(one.carried_by)),
                interchange_accuracy(known, one, INTERCHANGES),
            )
            for one in task.variables
        ),
        tuple(found),
    )  # fmt: skip


def _pair(known: KnownModel, random: Random) -> tuple[Tokens, Tokens]:
    """Two prompts with different answers."""
    while True:
        tokens = known.task.draw(random)
        other = known.task.change(random, tokens)
        if known.answer(tokens) != known.answer(other) and known.kept(tokens, other):
            return tokens, other


def accuracy(known: KnownModel, count: int) -> float:
    """Share of prompts on which the model says what the causal model says."""
    random = Random(f"accuracy {known.task.name} {known.seed}")
    prompts = [known.task.draw(random) for _ in range(count)]
    said = run(known.model, [known.ids(prompt) for prompt in prompts]).logits.argmax(-1).tolist()
    return sum(known.answer(prompt) == word for prompt, word in zip(prompts, said, strict=True)) / count


def interchange_accuracy(known: KnownModel, variable: Variable, count: int) -> float:
    """Share of interchange interventions after which the model says what the causal model says.

    The neurons that carry the variable take their values in another prompt, at its place there; the causal model gets
    the variable's value in that prompt. Where the causal model itself is undecided, another pair is drawn.

    Source: Geiger et al. 2021, "Causal Abstractions of Neural Networks".
    """
    task, random = known.task, Random(f"interchange {known.task.name} {variable.name} {known.seed}")
    cases: list[tuple[Tokens, Tokens, str]] = []
    while len(cases) < count:
        base, source = task.draw(random), task.draw(random)
        expected = task.solve(base, {variable.name: task.solve(source, {})[variable.name]})["answer"]
        if expected is not None and known.kept(base, source):
            cases.append((base, source, str(expected)))
    ids = torch.tensor([known.ids(base) for base, _, _ in cases])
    values = run(known.model, ids.tolist()).neurons
    given = run(known.model, [known.ids(source) for _, source, _ in cases]).neurons
    mask = torch.zeros_like(values, dtype=torch.bool)
    for row, (base, source, _) in enumerate(cases):
        for layer, index in known.neurons(variable.carried_by):
            mask[row, layer, variable.where(base), index] = True
            values[row, layer, variable.where(base), index] = given[row, layer, variable.where(source), index]
    said = run_put(known.model, ids, GivenValues(neurons=(mask, values))).logits.argmax(-1).tolist()
    words = [known.program.tokens[word] for word in said]
    return sum(word == expected for word, (_, _, expected) in zip(words, cases, strict=True)) / count


def rest_accuracy(known: KnownModel, count: int) -> float:
    """Share of pairs of prompts after which the first's answer stays when all neurons but those that carry a variable,
    at its place, take their values in the second."""
    task, random = known.task, Random(f"rest {known.name} {known.seed}")
    pairs: list[tuple[Tokens, Tokens]] = []
    while len(pairs) < count:
        pair = task.draw(random), task.draw(random)
        pairs += [pair] if known.kept(*pair) else []
    given = run(known.model, [known.ids(source) for _, source in pairs]).neurons
    mask = torch.ones_like(given, dtype=torch.bool)
    for row, (base, _) in enumerate(pairs):
        for variable in task.variables:
            for layer, index in known.neurons(variable.carried_by):
                mask[row, layer, variable.where(base), index] = False
    ids = torch.tensor([known.ids(base) for base, _ in pairs])
    said = run_put(known.model, ids, GivenValues(neurons=(mask, given))).logits.argmax(-1).tolist()
    return sum(known.answer(base) == word for (base, _), word in zip(pairs, said, strict=True)) / count


def known_input(known: KnownModel, tokens: Tokens, other: Tokens) -> KnownInput:
    """The circuit by which one prompt's answer is another than a second's.

    An edge is there if, in the model without distractors and interference, its target changes when its source alone
    takes its value in the other prompt and all other neurons keep theirs. The circuit is what lies on a path of edges
    from a token that differs to the target.
    """
    prompt, instead, answer, rival = known.ids(tokens), known.ids(other), known.answer(tokens), known.answer(other)
    base, there = run(known.ideal, [prompt]), run(known.ideal, [instead])
    on = _of_program(known, base)
    moved = (base.neurons - there.neurons)[0].abs() / known.reach[:, None]
    differs = [at for at in range(len(prompt)) if prompt[at] != instead[at]]
    sources = [(-1, at, prompt[at]) for at in differs] + [unit for unit in on if moved[unit] > MATTERS]
    by_source = _edges(known, prompt, base, there, sources, on, (answer, rival))
    edges = _on_paths(set().union(*by_source), [_name(source) for source in sources if source[0] < 0])
    nodes = {name for edge in edges for name in edge if name != TARGET and not name.startswith("E_")}
    real, real_there = run(known.model, [prompt]), run(known.model, [instead])
    candidates = _candidates(known, real)
    either = {_name(unit) for unit in on if moved[unit] <= MATTERS or not unit[1]}
    names = [_name(unit) for unit in candidates]
    measured = patch_effects(known.model, prompt, real, real_there, candidates, (answer, rival))
    return KnownInput(
        prompt, instead, answer, rival, tuple(sorted(nodes)),
        tuple(name for name in names if name in either), tuple(names),
        tuple(_name(source) for source in sources if source[0] < 0),
        _heads(known, prompt, base, there, sources, on, (answer, rival), edges), tuple(sorted(edges)),
        _mediators(known, tokens, nodes), dict(zip(names, measured.tolist(), strict=True)),
    )  # fmt: skip


def patch_effects(
    model: LanguageModel,
    prompt: Sequence[int],
    base: BatchPass,
    other: BatchPass,
    units: Sequence[tuple[int, int, int]],
    tokens: tuple[int, int],
) -> Float[Tensor, " unit"]:
    """The change of the difference of two logits when each neuron alone takes its value in another pass."""
    mask = torch.zeros(len(units), *base.neurons.shape[1:], dtype=torch.bool)
    for row, unit in enumerate(units):
        mask[row][unit] = True
    ids = torch.tensor([list(prompt)]).repeat(len(units), 1)
    made = (
        run_put(model, ids, GivenValues(neurons=(mask, other.neurons.expand(len(units), -1, -1, -1)))).logits
        - base.logits
    )
    return made[:, tokens[0]] - made[:, tokens[1]]


def _active(seen: BatchPass) -> list[tuple[int, int, int]]:
    """Neurons that are on, as (layer, position, index)."""
    return [(layer, at, index) for layer, at, index in (seen.neurons[0] > 0).nonzero().tolist()]


def _of_program(known: KnownModel, seen: BatchPass) -> list[tuple[int, int, int]]:
    """Those of the program's neurons that are on."""
    program = set(known.places.neurons)
    return [unit for unit in _active(seen) if (unit[0], unit[2]) in program]


def _candidates(known: KnownModel, seen: BatchPass) -> list[tuple[int, int, int]]:
    """Neurons that are on where a method may look: not at the first token, in the last layer at the last alone."""
    last, end = known.program.layers - 1, seen.neurons.shape[2] - 1
    return [unit for unit in _active(seen) if unit[1] and (unit[0] < last or unit[1] == end)]


def _name(unit: tuple[int, int, int]) -> str:
    layer, at, index = unit
    return f"{'E' if layer < 0 else layer}_{index}_{at}"


def _edges(
    known: KnownModel,
    prompt: Sequence[int],
    base: BatchPass,
    there: BatchPass,
    sources: Sequence[tuple[int, int, int]],
    targets: Sequence[tuple[int, int, int]],
    tokens: tuple[int, int],
    hold: Sequence[tuple[int, int, int]] = (),
) -> list[set[Edge2]]:
    """The edges out of each source."""
    effects = direct_effects(known.ideal, prompt, base, there, sources, hold=hold)
    moved = effects.neurons.abs() / known.reach[:, None] > MATTERS
    whole = (there.logits - base.logits)[0]
    whole = abs(float(whole[tokens[0]] - whole[tokens[1]])) if known.trained else 1.0
    answers = ((effects.logits[:, tokens[0]] - effects.logits[:, tokens[1]]).abs() > MATTERS * whole).tolist()
    found = []
    for row, source in enumerate(sources):
        later = [unit for unit in targets if unit[0] > source[0] and bool(moved[row][unit])]
        found.append(
            {(_name(source), _name(unit)) for unit in later} | ({(_name(source), TARGET)} if answers[row] else set())
        )
    return found


def _on_paths(edges: set[Edge2], starts: Sequence[str]) -> set[Edge2]:
    """Edges on a path from a start to the target."""

    def reached(begin: set[str], steps: set[Edge2]) -> set[str]:
        while more := {target for source, target in steps if source in begin} - begin:
            begin = begin | more
        return begin

    forward = reached(set(starts), edges)
    back = reached({TARGET}, {(target, source) for source, target in edges})
    return {edge for edge in edges if edge[0] in forward and edge[1] in back}


def _heads(
    known: KnownModel,
    prompt: Sequence[int],
    base: BatchPass,
    there: BatchPass,
    sources: Sequence[tuple[int, int, int]],
    targets: Sequence[tuple[int, int, int]],
    tokens: tuple[int, int],
    edges: set[Edge2],
) -> tuple[str, ...]:
    """The program's heads without which, at a position, an edge of the circuit is gone; none of a trained model, where
    several may do one thing."""
    if known.trained:
        return ()
    names = [(layer, at, head) for layer, head in known.places.heads for at in range(1, len(prompt))]
    every = [(source, hold) for hold in names for source in sources]
    left = _edges(known, prompt, base, there, [one for one, _ in every], targets, tokens, [hold for _, hold in every])
    found = set()
    for (source, hold), kept in zip(every, left, strict=True):
        if {edge for edge in edges if edge[0] == _name(source)} - kept:
            found.add(hold)
    return tuple(f"H{layer}_{head}_{at}" for layer, at, head in sorted(found))


def _mediators(known: KnownModel, tokens: Tokens, nodes: set[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for one in known.task.variables:
        at = one.where(tokens)
        names = [f"{layer}_{index}_{at}" for layer, index in known.neurons(one.carried_by)]
        if one.role == "middle" and set(names) & nodes:
            found[one.name] = tuple(sorted(set(names) & nodes))
    return found


def write_known(known: KnownModel, folder: Path) -> Path:
    """Write a model's weights beside its circuit, for tools that read Hugging Face folders."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_model(known.tensors, known.program, folder)
