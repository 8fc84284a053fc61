"""All kinds of steps, by the names that study files use."""

from .ablate import ABLATE
from .accuracy import ACCURACY
from .explains import EXPLAINS
from .families import ABLATED
from .middle import MIDDLE
from .midway import MIDWAY
from .operands import OPERANDS
from .protocol import Protocol
from .swap import SWAP
from .trace import TRACE

PROTOCOLS: dict[str, Protocol] = {
    "accuracy": ACCURACY,
    "trace": TRACE,
    "swap": SWAP,
    "ablate": ABLATE,
    "middle": MIDDLE,
    "operands": OPERANDS,
    "families": ABLATED,
    "midway": MIDWAY,
    "explains": EXPLAINS,
}
