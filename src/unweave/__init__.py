"""unweave: trace which learned features caused a language model's next token, and how far the picture can be trusted."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Difference": "targets",
    "Direction": "targets",
    "Edge": "graph",
    "Evaluation": "evaluation.results",
    "Feature": "edits",
    "Generation": "generation",
    "Graph": "graph",
    "Intervention": "edits",
    "LanguageModel": "models",
    "Node": "nodes",
    "NodeKind": "nodes",
    "NodeTable": "nodes",
    "Outcome": "interventions",
    "Path": "paths",
    "Provenance": "graph",
    "ReplacementModel": "replacement",
    "Scores": "influence",
    "SmallestSet": "smallest",
    "Sweep": "steering",
    "TraceOptions": "many.lines",
    "Transcoders": "transcoders",
    "UnweaveError": "errors",
    "__version__": "version",
    "ablate": "edits",
    "add": "edits",
    "add_direction": "edits",
    "attribute": "attribution",
    "average_path_length": "paths",
    "evaluate": "evaluation.evaluate",
    "first_order_effects": "slopes",
    "generate": "generation",
    "intervene": "interventions",
    "intervene_each": "interventions",
    "load": "replacement",
    "load_model": "models",
    "matched_controls": "smallest",
    "predicted_effects": "gradients",
    "prune": "pruning",
    "read_study": "studies.studyfile",
    "read_transcoders": "formats",
    "run_study": "studies.run",
    "scale": "edits",
    "set_to": "edits",
    "shift": "edits",
    "show": "notebook",
    "smallest_ablation": "smallest",
    "smallest_swap": "smallest",
    "strongest_paths": "paths",
    "swap": "steering",
    "sweep": "steering",
    "total_effects": "totals",
    "trace_many": "many.run",
    "validate": "validation.validate",
    "write_gradients": "gradients",
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
