"""What units, tokens and the rest of each MLP are put to when they are taken away: nothing, a mean, another prompt."""

import difflib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import PromptError
from ..models.language_model import LanguageModel
from ..models.passes import read_at
from ..models.recording import Recording
from ..transcoders.transcoders import Transcoders


@dataclass(frozen=True)
class ActiveUnits:
    """Activations of one layer's units that are not zero, by (position, index)."""

    position: Int[Tensor, " firing"]
    index: Int[Tensor, " firing"]
    activation: Float[Tensor, " firing"]


@dataclass(frozen=True)
class ReferenceActivations:
    """The values that are put in place, position by position of the prompt; what has no counterpart keeps its own."""

    name: str
    neurons: tuple[Float[Tensor, "pos neuron"], ...] | None
    """By layer; None: zero."""
    features: tuple[ActiveUnits, ...] | None
    outputs: Float[Tensor, "layer pos d"] | None
    """Where units write."""
    embeddings: Float[Tensor, "pos d"] | None
    kept: Int[Tensor, " kept"]
    """Positions without a counterpart."""


def aligned(ids: Int[Tensor, " pos"], other: Int[Tensor, " other_pos"]) -> Int[Tensor, " pos"]:
    """For every position of a prompt the position of another that stands for it, -1 where there is none.

    Prompts of one length are matched place by place. Otherwise the tokens that both have in order are matched, and
    between them stretches of one length; last positions always are.

    >>> aligned(torch.tensor([1, 2, 3]), torch.tensor([1, 5, 6, 3])).tolist()
    [0, -1, 3]
    """
    if len(ids) == len(other):
        return torch.arange(len(ids))
    places = torch.full((len(ids),), -1)
    matcher = difflib.SequenceMatcher(None, ids.tolist(), other.tolist(), autojunk=False)
    for word, begin, end, start, stop in matcher.get_opcodes():
        if word == "equal" or (word == "replace" and end - begin == stop - start):
            places[begin:end] = torch.arange(start, stop)
    places[-1] = len(other) - 1
    return places


def check_contrast(ids: Int[Tensor, " pos"], other: Int[Tensor, " other_pos"]) -> None:
    """Refuse a prompt as its own contrast.

    Raises:
        PromptError: they are the same.
    """
    if torch.equal(ids, other):
        raise PromptError("the prompt to contrast with (instead) is the same prompt; give one with another answer")


def feature_firing(
    model: LanguageModel, transcoders: Transcoders, recording: Recording, silent: int
) -> tuple[ActiveUnits, ...]:
    """A dictionary's features on one recorded prompt, layer by layer."""
    found = []
    for layer in range(model.n_layers):
        x = read_at(model, layer, transcoders.read, recording.resid_mid[layer], recording.mlp_inputs[layer])
        position, index, activation, _ = transcoders.active(layer, x, silent)
        found.append(ActiveUnits(position, index, activation))
    return tuple(found)


def written_outputs(model: LanguageModel, recording: Recording, *, residual: bool) -> Float[Tensor, "layer pos d"]:
    """What MLPs put out, or (`residual`) what that is after a norm or factor that may follow."""
    if not residual:
        return torch.stack(recording.mlp_outputs)
    made = []
    for layer, output in enumerate(recording.mlp_outputs):
        post = model.after_mlp(layer, output)
        made.append(output if post is None else post.forward(output))
    return torch.stack(made)
