"""unweave: trace which learned features caused a language model's next token, and how far the picture can be
trusted."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Difference": "attribution.targets",
    "Direction": "attribution.targets",
    "Edge": "graphs.graph",
    "Evaluation": "evaluation.results",
    "Feature": "interventions.edits",
    "Generation": "interventions.generation",
    "Graph": "graphs.graph",
    "Intervention": "interventions.edits",
    "LanguageModel": "models.language_model",
    "Node": "graphs.nodes",
    "NodeKind": "graphs.nodes",
    "NodeTable": "graphs.nodes",
    "Outcome": "interventions.interventions",
    "Path": "graphs.paths",
    "Provenance": "graphs.graph",
    "ReplacementModel": "transcoders.replacement",
    "Scores": "graphs.influence",
    "SmallestSet": "interventions.smallest",
    "Sweep": "interventions.steering",
    "TraceOptions": "many.lines",
    "Transcoders": "transcoders.transcoders",
    "UnweaveError": "errors",
    "__version__": "version",
    "ablate": "interventions.edits",
    "add": "interventions.edits",
    "add_direction": "interventions.edits",
    "attribute": "attribution.attribution",
    "average_path_length": "graphs.paths",
    "evaluate": "evaluation.evaluate",
    "first_order_effects": "interventions.attribution_patching",
    "generate": "interventions.generation",
    "intervene": "interventions.interventions",
    "intervene_each": "interventions.interventions",
    "load": "transcoders.replacement",
    "load_model": "models.loading",
    "matched_controls": "interventions.smallest",
    "predicted_effects": "interventions.attribution_patching",
    "prune": "graphs.pruning",
    "read_study": "studies.studyfile",
    "read_transcoders": "transcoders.formats",
    "run_study": "studies.run",
    "scale": "interventions.edits",
    "set_to": "interventions.edits",
    "shift": "interventions.edits",
    "show": "page.notebook",
    "smallest_ablation": "interventions.smallest",
    "smallest_swap": "interventions.smallest",
    "strongest_paths": "graphs.paths",
    "swap": "interventions.steering",
    "sweep": "interventions.steering",
    "total_effects": "graphs.totals",
    "trace_many": "many.run",
    "validate": "validation.validate",
    "write_gradients": "interventions.attribution_patching",
    "write_transcoders": "transcoders.formats",
}
"""Where each public name lives; loaded when first asked for, so that `unweave --help` needs no torch."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unweave' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
