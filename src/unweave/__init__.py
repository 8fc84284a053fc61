"""unweave: trace which learned features caused a language model's next token, and how far the picture can be trusted."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Difference": "targets",
    "Direction": "targets",
    "Edge": "graph",
    "Graph": "graph",
    "LanguageModel": "models",
    "Node": "nodes",
    "NodeKind": "nodes",
    "NodeTable": "nodes",
    "Path": "paths",
    "Provenance": "graph",
    "ReplacementModel": "replacement",
    "Scores": "influence",
    "Transcoders": "transcoders",
    "UnweaveError": "errors",
    "__version__": "version",
    "attribute": "attribution",
    "load": "replacement",
    "load_model": "models",
    "prune": "pruning",
    "read_transcoders": "formats",
    "strongest_paths": "paths",
    "write_transcoders": "formats",
}
"""Where each public name lives; loaded when first asked for, so that `unweave --help` needs no torch."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unweave' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
