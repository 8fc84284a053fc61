"""Words that users choose among, listed once: types for editors, and one refusal for any other word."""

from typing import Any, Literal, get_args

from ..errors import OptionError

PositionZero = Literal["error", "drop"]
"""`error`: position 0's MLP outputs stay as error nodes; `drop`: they become constants, as in circuit-tracer."""
Precision = Literal["exact", "fast"]
"""`fast`: operands of the large products rounded to bfloat16, sums in float32."""
Mode = Literal[
    "frozen_attention",
    "frozen_norms",
    "open",
    "frozen",
    "replacement",
    "replacement_frozen",
    "replacement_open",
]
"""What an intervention holds fixed; `replacement...` put the dictionary in place of the MLPs. See
`docs/interventions.md`."""
PushPoint = Literal["residual", "mlp_out"]
"""Where a direction is added: `residual`, after a layer (-1: before layer 0), or `mlp_out`, where the dictionary
writes."""
UnitKind = Literal["neurons", "features"]
"""What a response graph is made of: the model's own neurons, or a dictionary's features."""

Baseline = Literal["auto", "zero", "mean", "resampled"]
"""What a response graph's units are put to when they are taken away, where no other prompt says."""
Ranking = Literal["auto", "gradient", "inputs", "gates"]
"""Which units of a response graph count as strongest: by the gradient on the prompt, or averaged on the way to what
takes their place, over inputs or over gates of neurons."""
Attention = Literal["live", "held"]
"""Whether attention patterns of a response graph respond, or stay as they are."""


def choice(name: str, value: object, choices: Any) -> Any:
    """`value`, if it is one of a `Literal`'s words.

    Raises:
        OptionError: it is none of them.

    >>> choice("precision", "quick", Precision)
    Traceback (most recent call last):
    unweave.errors.OptionError: precision 'quick' is unknown; use 'exact' or 'fast'
    """
    known = [repr(word) for word in get_args(choices)]
    if repr(value) not in known:
        raise OptionError(f"{name} {value!r} is unknown; use {', '.join(known[:-1])} or {known[-1]}")
    return value


NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98
"""Shares of the influence that a graph keeps where nothing else is said, as in the peer's."""
