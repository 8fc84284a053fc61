"""Examples in docstrings as blocks of code; griffe, which reads docstrings for `make docs`, calls this."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Fences around lines that begin with `>>>` and what is printed under them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"(?m)(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)+",
                lambda match: f"```pycon\n{match[0].rstrip().replace('  # doctest: +SKIP', '').rstrip()}\n```\n",
                obj.docstring.value,
            )
