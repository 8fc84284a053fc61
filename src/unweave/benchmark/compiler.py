"""From a program to the weights of a GPT-2: directions, distractors, interference, and norms that change nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ..base.files import write_atomically
from ..errors import OptionError
from .program import ALWAYS, Program, ProgramHead, ProgramNeuron

WIDTH, HEADS, CHANNELS, SPARE = 40, 4, 32, 16
"""Neurons and heads a layer, channels a head, directions that nothing reads but distractors."""
D = HEADS * CHANNELS
LOUD = 300.0
"""What every token writes into one direction that nothing reads. It alone sets the LayerNorms' denominators, which the
gains undo: what else a prompt writes changes them by less than a percent."""
INTERFERENCE = 0.005
"""Standard deviation of what every weight has beside the program's, by direction."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ProgramPlaces:
    """Where the parts of a program are in a compiled model."""

    neurons: tuple[tuple[int, int], ...]
    """(layer, index) of each of the program's neurons."""
    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Compiled:
    """Weights of a model that computes a program, with and without what is not part of it."""

    program: Program
    places: ProgramPlaces
    tensors: Tensors
    ideal: Tensors
    """The same program at the same places, without distractors and interference."""


def compile_program(program: Program, seed: int, *, interference: float = INTERFERENCE) -> Compiled:
    """Compile a program into a GPT-2 whose other neurons and heads are distractors.

    A seed draws the directions, the places of neurons and heads, the distractors and the interference. Distractors are
    as active as the program's neurons: they echo them, read tokens, read one another, or raise all answers alike.

    Raises:
        OptionError: the program has more neurons in a layer, directions or channels in a head than a model holds.
    """
    draw = torch.Generator().manual_seed(seed)
    names = (*program.directions, *(f"spare {number}" for number in range(SPARE)))
    _check(program, names)
    column = {name: number for number, name in enumerate(names)}
    places = drawn_places(program, draw)
    rotation = _rotation(draw)
    ideal = _Weights(program, column)
    for part, (layer, index) in zip(program.neurons, places.neurons, strict=True):
        ideal.neuron(part, layer, index)
    for part, (layer, index) in zip(program.heads, places.heads, strict=True):
        ideal.head(part, layer, index)
    real = ideal.copy()
    for layer in range(program.layers):
        for index in sorted(set(range(WIDTH)) - {at for there, at in places.neurons if there == layer}):
            real.neuron(_distractor(program, layer, draw), layer, index)
        for index in sorted(set(range(HEADS)) - {at for there, at in places.heads if there == layer}):
            real.head(_idle_head(program, layer, draw), layer, index)
    real.interfere(interference, draw)
    return Compiled(program, places, real.rotated(rotation), ideal.rotated(rotation))


def write_model(tensors: Tensors, program: Program, folder: str | Path) -> Path:
    """Write weights as a Hugging Face folder that any tool reads as a GPT-2.

    Raises:
        FileError: the folder cannot be written.
    """
    folder = Path(folder)
    width = tensors["transformer.wte.weight"].shape[1]
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": len(program.tokens),
        "n_positions": program.length, "n_embd": width, "n_layer": program.layers, "n_head": HEADS, "n_inner": WIDTH,
        "activation_function": "relu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    }  # fmt: skip
    write_atomically(folder / "model.safetensors", lambda name: save_file(tensors, name, {"format": "pt"}))
    text = json.dumps(config, indent=2)
    write_atomically(folder / "config.json", lambda name: Path(name).write_text(text, encoding="utf-8"))
    return folder


def _check(program: Program, names: tuple[str, ...]) -> None:
    for layer in range(program.layers):
        here = sum(neuron.layer == layer for neuron in program.neurons)
        if here > WIDTH or sum(head.layer == layer for head in program.heads) > HEADS:
            raise OptionError(f"layer {layer} of a program has more than {WIDTH} neurons or {HEADS} heads; split it")
    if len(names) > D - 2:
        raise OptionError(f"a program has {len(names)} directions; a model of width {D} holds {D - 2}")
    if any(max(len(head.matches), len(head.moves)) > CHANNELS for head in program.heads):
        raise OptionError(f"a head of a program matches or moves more than {CHANNELS} directions; use two heads")


def drawn_places(program: Program, draw: torch.Generator) -> ProgramPlaces:
    """Places for a program's neurons and heads."""
    layers = range(program.layers)
    neurons = [torch.randperm(WIDTH, generator=draw).tolist() for _ in layers]
    heads = [torch.randperm(HEADS, generator=draw).tolist() for _ in layers]
    return ProgramPlaces(tuple(_place(program.neurons, neurons)), tuple(_place(program.heads, heads)))


def _place(
    parts: tuple[ProgramNeuron, ...] | tuple[ProgramHead, ...], orders: list[list[int]]
) -> list[tuple[int, int]]:
    free = [iter(order) for order in orders]
    return [(part.layer, next(free[part.layer])) for part in parts]


def _rotation(draw: torch.Generator) -> Float[Tensor, "direction d"]:
    """Orthonormal rows, each with a mean of zero, so that a LayerNorm's centring takes nothing away."""
    random = torch.randn(D, D, generator=draw, dtype=torch.float64)
    random[:, 0] = 1.0
    return torch.linalg.qr(random).Q[:, 1:].T.contiguous()


def _some(names: list[str], count: int, draw: torch.Generator) -> list[str]:
    return [names[number] for number in torch.randperm(len(names), generator=draw)[:count].tolist()]


def _distractor(program: Program, layer: int, draw: torch.Generator) -> ProgramNeuron:
    """A neuron that is active and not used."""
    spare = [f"spare {number}" for number in range(SPARE)]
    tokens = [f"token {token}" for token in program.tokens[1:]]
    loud = 0.5 + 0.5 * float(torch.rand(1, generator=draw))
    kind, own = int(torch.randint(4, (1,), generator=draw)), [part for part in program.neurons if part.layer == layer]
    unread = dict.fromkeys(_some(spare, 1, draw), loud)
    if kind == 0 and own:
        like = own[int(torch.randint(len(own), (1,), generator=draw))]
        return ProgramNeuron(layer, "distractor", like.reads, like.bias, unread)
    if kind == 1 and layer:
        return ProgramNeuron(layer, "distractor", dict.fromkeys(_some(spare, 3, draw), 0.2), 0.1, unread)
    if kind == 2:
        says = [name for name in program.directions if name.startswith("say ")]
        return ProgramNeuron(
            layer, "distractor", dict.fromkeys(_some(tokens, 2, draw), 1.0), 0.0, dict.fromkeys(says, 0.2)
        )
    reads = _some(tokens, 3, draw) + _some([f"position {i}" for i in range(program.length)], 1, draw)
    return ProgramNeuron(layer, "distractor", dict.fromkeys(reads, 1.0), 0.0, unread)


def _idle_head(program: Program, layer: int, draw: torch.Generator) -> ProgramHead:
    """A head that attends to some token and moves what nobody needs."""
    tokens = [f"token {token}" for token in program.tokens[1:]]
    spare = [f"spare {number}" for number in range(SPARE)]
    keys, moved = _some(tokens, 3, draw), _some([*tokens, *spare], 12, draw)
    moves = dict(zip(moved, _some(spare, 12, draw), strict=False))
    return ProgramHead(layer, "distractor", ((ALWAYS, tuple(keys), 3.0),), moves)


class _Weights:
    """Weights by direction, before the directions are drawn."""

    def __init__(self, program: Program, column: dict[str, int]):
        self.program, self.column = program, column
        self.tensors: Tensors = {
            "wte": self.zeros(len(program.tokens), D - 1),
            "wpe": self.zeros(program.length, D - 1),
        }
        self.tensors["head"] = self.zeros(len(program.tokens), D - 1)
        for layer in range(program.layers):
            self.tensors |= {
                f"{layer}.attn": self.zeros(D - 1, 3 * D), f"{layer}.attn.bias": self.zeros(3 * D),
                f"{layer}.out": self.zeros(D, D - 1), f"{layer}.up": self.zeros(D - 1, WIDTH),
                f"{layer}.up.bias": self.zeros(WIDTH), f"{layer}.down": self.zeros(WIDTH, D - 1),
            }  # fmt: skip
        self.tensors["wte"][:, -1] = LOUD
        for number, token in enumerate(program.tokens):
            self.tensors["wte"][number, column[f"token {token}"]] = 1.0
            if f"say {token}" in column:
                self.tensors["head"][number, column[f"say {token}"]] = 1.0
        for number in range(program.length):
            self.tensors["wpe"][number, column[f"position {number}"]] = 1.0

    @staticmethod
    def zeros(*shape: int) -> Tensor:
        """Nothing yet."""
        return torch.zeros(*shape, dtype=torch.float64)

    def copy(self) -> "_Weights":
        """The same weights, to be changed."""
        made = _Weights(self.program, self.column)
        made.tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return made

    def neuron(self, part: ProgramNeuron, layer: int, index: int) -> None:
        """Set what a neuron reads and writes."""
        for name, weight in part.reads.items():
            self.tensors[f"{layer}.up"][self.column[name], index] = weight
        self.tensors[f"{layer}.up.bias"][index] = part.bias
        for name, weight in part.writes.items():
            self.tensors[f"{layer}.down"][index, self.column[name]] = weight

    def head(self, part: ProgramHead, layer: int, index: int) -> None:
        """Set where a head attends and what it moves."""
        attn, bias, first = self.tensors[f"{layer}.attn"], self.tensors[f"{layer}.attn.bias"], index * CHANNELS
        for channel, (query, keys, score) in enumerate(part.matches, first):
            if query == ALWAYS:
                bias[channel] = score * CHANNELS**0.5
            else:
                attn[self.column[query], channel] = score * CHANNELS**0.5
            for key in keys:
                attn[self.column[key], D + channel] = 1.0
        for channel, (source, target) in enumerate(part.moves.items(), first):
            attn[self.column[source], 2 * D + channel] = 1.0
            self.tensors[f"{layer}.out"][channel, self.column[target]] = part.factor

    def interfere(self, size: float, draw: torch.Generator) -> None:
        """Add noise to all weights, but for the direction that sets the norms."""
        for name, tensor in self.tensors.items():
            if name.endswith("bias"):
                continue
            noise = size * torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
            if name.endswith((".attn", ".up")):
                noise[-1] = 0.0
            else:
                noise[..., -1] = 0.0
            tensor += noise

    def rotated(self, rotation: Float[Tensor, "direction d"]) -> Tensors:
        """The tensors of a GPT-2, in float32."""
        gain, nothing = torch.full((D,), LOUD / D**0.5), torch.zeros(D)
        own = self.tensors
        made = {
            "transformer.wte.weight": own["wte"] @ rotation, "transformer.wpe.weight": own["wpe"] @ rotation,
            "lm_head.weight": own["head"] @ rotation, "transformer.ln_f.weight": gain, "transformer.ln_f.bias": nothing,
        }  # fmt: skip
        for layer in range(self.program.layers):
            made |= {
                f"transformer.h.{layer}.{name}": tensor
                for name, tensor in {
                    "ln_1.weight": gain, "ln_1.bias": nothing, "ln_2.weight": gain, "ln_2.bias": nothing,
                    "attn.c_attn.weight": rotation.T @ own[f"{layer}.attn"],
                    "attn.c_attn.bias": own[f"{layer}.attn.bias"],
                    "attn.c_proj.weight": own[f"{layer}.out"] @ rotation, "attn.c_proj.bias": nothing,
                    "mlp.c_fc.weight": rotation.T @ own[f"{layer}.up"], "mlp.c_fc.bias": own[f"{layer}.up.bias"],
                    "mlp.c_proj.weight": own[f"{layer}.down"] @ rotation, "mlp.c_proj.bias": nothing,
                }.items()
            }  # fmt: skip
        return {name: tensor.float().contiguous().clone() for name, tensor in made.items()}
