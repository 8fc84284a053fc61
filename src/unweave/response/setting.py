"""A response graph's computation set up: the chosen units, what is taken away, and where the target's sweep begins."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .asking import ResponseQuestion
from .references import written_outputs
from .tangents import Cut, Starts
from .units import Units


@dataclass(frozen=True)
class Setting:
    """What rows and routes are computed from."""

    asked: ResponseQuestion
    chosen: Units
    cut: Cut
    start: Starts
    rests: Float[Tensor, "layer pos d"]
    """What is taken away with the rest of each MLP, where units write."""
    tokens: Float[Tensor, "pos d"]
    """What is taken away with each token."""
    support: Float[Tensor, " unit"] | None = None
    """How much each chosen unit holds the target up, by the ranking that chose it; None: not known here."""

    @staticmethod
    def of(
        asked: ResponseQuestion, chosen: Units, start: Starts, support: Float[Tensor, " unit"] | None = None
    ) -> "Setting":
        """The setting for chosen units, on the positions up to the target's."""
        n = int(start.position[0]) + 1
        return Setting(
            asked, chosen, asked.basis.cut(chosen), start, _rests(asked, chosen)[:, :n], taken_tokens(asked, n), support
        )


def taken_tokens(asked: ResponseQuestion, n: int) -> Float[Tensor, "pos d"]:
    """What is taken away with each of the first `n` tokens."""
    tokens = asked.tangent.recording.embeddings[:n].clone()
    if asked.reference.embeddings is not None:
        tokens -= asked.reference.embeddings[:n]
    tokens[asked.reference.kept[asked.reference.kept < n]] = 0
    return tokens


def _rests(asked: ResponseQuestion, chosen: Units) -> Float[Tensor, "layer pos d"]:
    """What is taken away with the rest of each MLP: its output less what the chosen units write, each as taken."""
    basis, reference = asked.basis, asked.reference
    made = written_outputs(asked.model, asked.tangent.recording, residual=basis.residual)
    if reference.outputs is not None:
        made = made - reference.outputs
    made[:, reference.kept] = 0
    for layer in range(len(made)):
        which = chosen.at(layer)
        for at in basis.writes(layer) if len(which) else ():
            rows = basis.vectors(layer, chosen.position[which], chosen.index[which], at)
            made[at].index_add_(0, chosen.position[which], -rows * chosen.taken[which, None])
    return made
