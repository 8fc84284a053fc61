"""All kinds of steps, by the names that study files use."""

from .ablate import ABLATE
from .accuracy import ACCURACY
from .protocol import Protocol
from .swap import SWAP
from .trace import TRACE

PROTOCOLS: dict[str, Protocol] = {"accuracy": ACCURACY, "trace": TRACE, "swap": SWAP, "ablate": ABLATE}
