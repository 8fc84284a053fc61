"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[..., object]
"""Called with the share of the work that is done, from 0 to 1, and by work of several parts with the name of the
part."""
