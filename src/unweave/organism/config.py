"""What decides which organism comes out of a training."""

from dataclasses import dataclass, fields

from ..errors import OptionError


@dataclass(frozen=True)
class OrganismConfig:
    """The defaults make the organism that ships."""

    layers: int = 6
    width: int = 192
    heads: int = 6
    mlp: int = 640
    steps: int = 1600
    rows: int = 64
    """Rows of a step."""
    length: int = 48
    """Tokens of a row, the start token not counted."""
    matrix_rate: float = 0.02
    """Step size of Muon, for the matrices of the blocks."""
    rate: float = 0.002
    """Step size of Adam, for embeddings and norms."""
    shrink: float = 0.1
    """Weight decay of both."""
    warmup: int = 60
    cool: float = 0.5
    """Last share of the steps over which both step sizes fall to zero."""
    undetermined: float = 0.03
    """Weight of predicting words that nothing before them determines; answers weigh 1."""
    late: int = 1100
    """The step from which on the mix is the late one, and couplets are hidden."""
    hidden: float = 0.9
    """Share of couplets whose first line the words after the line break do not see, so that the line break has to
    carry the plan."""
    checkpoint: int = 100
    """Steps between checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the field, its value and what is allowed.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("seed", "shrink", "undetermined", "warmup", "cool", "hidden", "late") else None
            if value < 0 or (least is None and value == 0):
                raise OptionError(f"{field.name} is {value}; it must be {'0 or more' if least == 0 else 'above 0'}")
        if self.width % self.heads or self.width // self.heads % 2:
            raise OptionError(
                f"width is {self.width} with {self.heads} heads; each head needs an even number of dimensions"
            )
        for name in ("cool", "hidden"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
