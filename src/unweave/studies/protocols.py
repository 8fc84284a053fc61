"""All kinds of steps, by the names that study files use."""

from .ablate import ABLATE
from .accuracy import ACCURACY
from .apart import APART
from .contrast import CONTRAST
from .explains import EXPLAINS
from .families import ABLATED
from .inhibit import INHIBIT
from .middle import MIDDLE
from .midway import MIDWAY
from .operand_map import OPERAND_MAP
from .operands import OPERANDS
from .overlap import OVERLAP
from .planning import PLAN
from .protocol import Protocol
from .shared import SHARED
from .steer import STEER
from .swap import SWAP
from .trace import TRACE
from .transplant import TRANSPLANT

PROTOCOLS: dict[str, Protocol] = {
    "accuracy": ACCURACY,
    "trace": TRACE,
    "swap": SWAP,
    "ablate": ABLATE,
    "steer": STEER,
    "operand_map": OPERAND_MAP,
    "overlap": OVERLAP,
    "middle": MIDDLE,
    "operands": OPERANDS,
    "families": ABLATED,
    "midway": MIDWAY,
    "explains": EXPLAINS,
    "shared": SHARED,
    "transplant": TRANSPLANT,
    "plan": PLAN,
    "inhibit": INHIBIT,
    "contrast": CONTRAST,
    "apart": APART,
}
