"""Which keys of a config no code reads: what fine-tunes and mirrors leave behind, which changes nothing."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SHARED = (
    "activations cache_utils configuration_utils integrations/moe masking_utils modeling_layers modeling_outputs "
    "modeling_rope_utils modeling_utils pytorch_utils utils/generic"
).split()
"""What of transformers any family's forward pass goes through."""


def unread(family: str, keys: Iterable[str]) -> frozenset[str]:
    """Those of `keys` that occur as a word neither in a family's own files in transformers nor in what all share."""
    words = _words(family)
    return frozenset(key for key in keys if words and key not in words)


@cache
def _words(family: str) -> frozenset[str]:
    """Every word of the code that computes a family's forward pass; nothing if its code is not found."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    root = Path(spec.origin).parent
    folder = root / "models" / family.removesuffix("_text")
    own = [path for path in sorted(folder.glob("*.py")) if path.name.startswith(("modeling_", "configuration_"))]
    if not own:
        return frozenset()
    shared = [path for name in SHARED if (path := root / f"{name}.py").is_file()]
    return frozenset(word for path in (*own, *shared) for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
