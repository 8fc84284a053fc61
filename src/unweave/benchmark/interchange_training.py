"""Models trained until each variable of a task sits in neurons that were chosen before, and nowhere else."""

import tempfile
from dataclasses import replace
from random import Random
from typing import NamedTuple
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..models.language_model import LanguageModel
from ..models.loading import load_model
from ..models.places import neurons_changed
from .compiler import WIDTH, ProgramPlaces, Tensors, drawn_places, write_model
from .program import Program
from .task import Task, Tokens

D = 64
"""Width of a trained model; neurons and heads are as many as in compiled ones."""
STEPS, BATCH, CASES = 400, 96, 2000
"""Of a training: steps, cases a step, cases drawn of each variable."""
LONGER = {"largest": 1000, "sort-three": 1200, "indirect-object": 1200, "brackets": 1200}
"""Steps of tasks that need more."""
LR, WARMUP, DECAY, ALONE = 3e-3, 50, 0.4, 1.0
"""Adam's step, the steps over which it rises, the last share over which it falls, and the weight of the third loss."""
HELD_OUT = 5
"""One pair of prompts in so many is not trained on."""


class Cases(NamedTuple):
    """Interchange interventions: a prompt, another, whose variable's neurons are taken over, and the answer then."""

    base: Int[Tensor, "case pos"]
    source: Int[Tensor, "case pos"]
    at: Int[Tensor, " case"]
    source_at: Int[Tensor, " case"]
    neurons: Bool[Tensor, "case layer neuron"]
    expected: Int[Tensor, " case"]
    own: Int[Tensor, " case"]
    """The answer to the first prompt."""

    def some(self, rows: Int[Tensor, " some"]) -> "Cases":
        """Some of them."""
        return Cases(*(part[rows] for part in self))


def placed(task: Task, seed: int) -> tuple[Program, ProgramPlaces]:
    """The neurons of a program that carry a variable of the causal model, and where a trained model has them."""
    names = {variable.carried_by for variable in task.variables}
    neurons = tuple(part for part in task.program.neurons if part.variable in names)
    drawn = drawn_places(replace(task.program, neurons=neurons), torch.Generator().manual_seed(seed))
    return replace(task.program, neurons=neurons), drawn


def held_out(base: Tokens, source: Tokens) -> bool:
    """Whether a pair of prompts is kept from training.

    >>> held_out(("BOS", "a"), ("BOS", "b"))
    False
    """
    return crc32(repr((base, source)).encode()) % HELD_OUT == 0


def train(task: Task, seed: int, *, steps: int | None = None) -> Tensors:
    """Weights in float16 of a GPT-2 that computes a task by its variables: deterministic in the seed.

    Three losses: the answer; what the causal model answers when a variable's neurons take their values in another
    prompt; and the same answer when at all places all other neurons do.

    Source: Geiger et al. 2022, "Inducing Causal Structure for Interpretable Neural Networks"; the third loss: Gupta et
        al. 2024, "InterpBench".
    """
    program, places = placed(task, seed)
    steps = LONGER.get(task.name, STEPS) if steps is None else steps
    cases = _cases(task, program, places, seed)
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(write_model(_start(program, seed), program, folder)))
    module = model.module.requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), LR, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))
        optimizer.param_groups[0]["lr"] = LR * rate
        optimizer.zero_grad()
        _loss(model, cases.some(torch.randint(len(cases.at), (BATCH,), generator=draw))).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}


def _cases(task: Task, program: Program, places: ProgramPlaces, seed: int) -> Cases:
    """Interventions on every variable, of pairs of prompts that may be trained on."""
    number = {token: row for row, token in enumerate(program.tokens)}
    random, rows = Random(f"{task.name} {seed} training"), []
    for variable in task.variables:
        mine = torch.zeros(program.layers, WIDTH, dtype=torch.bool)
        for part, place in zip(program.neurons, places.neurons, strict=True):
            mine[place] = part.variable == variable.carried_by
        made = 0
        while made < CASES:
            base, source = task.draw(random), task.draw(random)
            expected = task.solve(base, {variable.name: task.solve(source, {})[variable.name]})["answer"]
            if expected is None or held_out(base, source):
                continue
            made += 1
            answers = [number[str(word)] for word in (expected, task.solve(base, {})["answer"])]
            prompts = [[number[token] for token in tokens] for tokens in (base, source)]
            rows.append((*prompts, variable.where(base), variable.where(source), mine, *answers))
    columns = list(zip(*rows, strict=True))
    return Cases(*(torch.stack(one) if isinstance(one[0], Tensor) else torch.tensor(one) for one in columns))


def _loss(model: LanguageModel, cases: Cases) -> Float[Tensor, ""]:
    """The three losses, in two passes."""
    count = len(cases.at)
    rows, seen = torch.arange(count), {}

    def keep(layer: int, h: Tensor) -> Tensor:
        seen[layer] = h
        return h

    def change(layer: int, h: Tensor) -> Tensor:
        """Of the first half of a batch the variable is put, of the second all else."""
        there, mine = seen[layer][count:], cases.neurons[:, layer]
        put, rest = h[:count].clone(), there.clone()
        put[rows, cases.at] = torch.where(mine, there[rows, cases.source_at], put[rows, cases.at])
        rest[rows, cases.at] = torch.where(mine, h[count:][rows, cases.at], rest[rows, cases.at])
        return torch.cat([put, rest])

    with neurons_changed(model, keep):
        said = model.module(input_ids=torch.cat([cases.base, cases.source]), use_cache=False).logits[:count, -1]
    with neurons_changed(model, change):
        after = model.module(input_ids=torch.cat([cases.base, cases.base]), use_cache=False).logits[:, -1]
    return (
        cross_entropy(said, cases.own)
        + cross_entropy(after[:count], cases.expected)
        + ALONE * cross_entropy(after[count:], cases.own)
    )


def _start(program: Program, seed: int) -> Tensors:
    """Random weights of variance 1 / inputs."""
    draw = torch.Generator().manual_seed(seed)

    def random(first: int, *rest: int) -> Tensor:
        return torch.randn(first, *rest, generator=draw) / first**0.5

    words, made = len(program.tokens), {}
    for name in ("transformer.wte.weight", "transformer.wpe.weight"):
        made[name] = torch.randn(words if "wte" in name else program.length, D, generator=draw) * 0.5
    for layer in range(program.layers):
        block = f"transformer.h.{layer}"
        shapes = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, WIDTH), "mlp.c_proj": (WIDTH, D)}
        for name, shape in shapes.items():
            made |= {f"{block}.{name}.weight": random(*shape), f"{block}.{name}.bias": torch.zeros(shape[1])}
        for name in ("ln_1", "ln_2"):
            made |= {f"{block}.{name}.weight": torch.ones(D), f"{block}.{name}.bias": torch.zeros(D)}
    made |= {"transformer.ln_f.weight": torch.ones(D), "transformer.ln_f.bias": torch.zeros(D)}
    return made | {"lm_head.weight": random(D, words).T.contiguous()}
