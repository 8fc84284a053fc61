"""All kinds of steps, by the names that study files use."""

from .ablate import ABLATE
from .accuracy import ACCURACY
from .explains import EXPLAINS
from .families import ABLATED
from .inhibit import INHIBIT
from .middle import MIDDLE
from .operands import OPERANDS
from .planning import PLAN
from .protocol import Protocol
from .shared import SHARED
from .swap import SWAP
from .trace import TRACE
from .transplant import TRANSPLANT

PROTOCOLS: dict[str, Protocol] = {
    "accuracy": ACCURACY,
    "trace": TRACE,
    "swap": SWAP,
    "ablate": ABLATE,
    "middle": MIDDLE,
    "operands": OPERANDS,
    "families": ABLATED,
    "explains": EXPLAINS,
    "shared": SHARED,
    "transplant": TRANSPLANT,
    "plan": PLAN,
    "inhibit": INHIBIT,
}
