"""unweave: trace which learned features caused a language model's next token, and how far the picture can be
trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same table for editors and type checkers; tests/test_types.py compares
    from .attribution.attribution import answer as answer
    from .attribution.estimate import CostEstimate as CostEstimate
    from .attribution.estimate import estimate as estimate
    from .attribution.question import Question as Question
    from .attribution.targets import Difference as Difference
    from .attribution.targets import Direction as Direction
    from .benchmark.data import KnownCircuit as KnownCircuit
    from .benchmark.data import KnownInput as KnownInput
    from .benchmark.data import read_circuit as read_circuit
    from .benchmark.methods import BenchmarkQuestion as BenchmarkQuestion
    from .benchmark.run import BenchmarkRun as BenchmarkRun
    from .benchmark.run import run_benchmark as run_benchmark
    from .benchmark.score import CircuitScores as CircuitScores
    from .benchmark.score import score_circuit as score_circuit
    from .errors import UnweaveError as UnweaveError
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.results import Evaluation as Evaluation
    from .explanation.comparing import compare_explanations as compare_explanations
    from .explanation.explaining import explain as explain
    from .explanation.result import Explanation as Explanation
    from .features.attribute import attribute as attribute
    from .features.details import feature_page as feature_page
    from .features.pages import Pages as Pages
    from .features.pages import open_pages as open_pages
    from .features.pages import search_features as search_features
    from .graphs.comparison import compare as compare
    from .graphs.frames import Frames as Frames
    from .graphs.graph import Edge as Edge
    from .graphs.graph import Graph as Graph
    from .graphs.influence import Scores as Scores
    from .graphs.limits import known_limits as known_limits
    from .graphs.nodes import Node as Node
    from .graphs.nodes import NodeKind as NodeKind
    from .graphs.nodes import NodeTable as NodeTable
    from .graphs.paths import Path as Path
    from .graphs.paths import average_path_length as average_path_length
    from .graphs.paths import strongest_paths as strongest_paths
    from .graphs.provenance import Provenance as Provenance
    from .graphs.pruning import prune as prune
    from .graphs.totals import total_effects as total_effects
    from .interventions.attribution_patching import first_order_effects as first_order_effects
    from .interventions.attribution_patching import predicted_effects as predicted_effects
    from .interventions.attribution_patching import write_gradients as write_gradients
    from .interventions.edits import Feature as Feature
    from .interventions.edits import Intervention as Intervention
    from .interventions.edits import ablate as ablate
    from .interventions.edits import add as add
    from .interventions.edits import add_direction as add_direction
    from .interventions.edits import scale as scale
    from .interventions.edits import set_to as set_to
    from .interventions.edits import shift as shift
    from .interventions.generation import Generation as Generation
    from .interventions.generation import generate as generate
    from .interventions.interventions import Outcome as Outcome
    from .interventions.interventions import intervene as intervene
    from .interventions.interventions import intervene_each as intervene_each
    from .interventions.smallest import SmallestSet as SmallestSet
    from .interventions.smallest import matched_controls as matched_controls
    from .interventions.smallest import smallest_ablation as smallest_ablation
    from .interventions.smallest import smallest_swap as smallest_swap
    from .interventions.steering import Sweep as Sweep
    from .interventions.steering import swap as swap
    from .interventions.steering import sweep as sweep
    from .many.explaining import ExplainOptions as ExplainOptions
    from .many.explaining import explain_many as explain_many
    from .many.lines import TraceOptions as TraceOptions
    from .many.run import trace_many as trace_many
    from .models.language_model import LanguageModel as LanguageModel
    from .models.loading import load_model as load_model
    from .organism.instances import instances as instances
    from .page.notebook import show as show
    from .response.attending import attend as attend
    from .response.pairs import pair_terms as pair_terms
    from .response.response import response_graph as response_graph
    from .response.routes import routes as routes
    from .response.several import ContrastPair as ContrastPair
    from .response.several import mean_effects as mean_effects
    from .response.several import read_pairs as read_pairs
    from .studies.run import run_study as run_study
    from .studies.stability import repeat_study as repeat_study
    from .studies.stabilitycard import stability_card as stability_card
    from .studies.studyfile import read_study as read_study
    from .training.config import TrainConfig as TrainConfig
    from .training.loop import train as train
    from .transcoders.formats import read_transcoders as read_transcoders
    from .transcoders.formats import write_transcoders as write_transcoders
    from .transcoders.replacement import ReplacementModel as ReplacementModel
    from .transcoders.replacement import load as load
    from .transcoders.transcoders import Transcoders as Transcoders
    from .validation.claimfile import read_claims as read_claims
    from .validation.claims import check_claims as check_claims
    from .validation.curves import circuit_curve as circuit_curve
    from .validation.looking import check_look as check_look
    from .validation.response_verdict import judge_response as judge_response
    from .validation.responses import validate_response as validate_response
    from .validation.specificity import Specificity as Specificity
    from .validation.specificity import specificity as specificity
    from .validation.validate import validate as validate
    from .version import __version__ as __version__

_HOMES = {
    "BenchmarkQuestion": "benchmark.methods",
    "BenchmarkRun": "benchmark.run",
    "CircuitScores": "benchmark.score",
    "CostEstimate": "attribution.estimate",
    "Difference": "attribution.targets",
    "Direction": "attribution.targets",
    "Edge": "graphs.graph",
    "Evaluation": "evaluation.results",
    "Explanation": "explanation.result",
    "Feature": "interventions.edits",
    "Frames": "graphs.frames",
    "Generation": "interventions.generation",
    "Graph": "graphs.graph",
    "Intervention": "interventions.edits",
    "KnownCircuit": "benchmark.data",
    "KnownInput": "benchmark.data",
    "LanguageModel": "models.language_model",
    "known_limits": "graphs.limits",
    "Node": "graphs.nodes",
    "NodeKind": "graphs.nodes",
    "NodeTable": "graphs.nodes",
    "Outcome": "interventions.interventions",
    "Pages": "features.pages",
    "Path": "graphs.paths",
    "Provenance": "graphs.provenance",
    "Question": "attribution.question",
    "ReplacementModel": "transcoders.replacement",
    "Scores": "graphs.influence",
    "SmallestSet": "interventions.smallest",
    "Sweep": "interventions.steering",
    "TraceOptions": "many.lines",
    "TrainConfig": "training.config",
    "Transcoders": "transcoders.transcoders",
    "UnweaveError": "errors",
    "__version__": "version",
    "ablate": "interventions.edits",
    "add": "interventions.edits",
    "add_direction": "interventions.edits",
    "answer": "attribution.attribution",
    "attend": "response.attending",
    "attribute": "features.attribute",
    "average_path_length": "graphs.paths",
    "check_claims": "validation.claims",
    "circuit_curve": "validation.curves",
    "compare": "graphs.comparison",
    "estimate": "attribution.estimate",
    "evaluate": "evaluation.evaluate",
    "compare_explanations": "explanation.comparing",
    "explain": "explanation.explaining",
    "feature_page": "features.details",
    "first_order_effects": "interventions.attribution_patching",
    "generate": "interventions.generation",
    "instances": "organism.instances",
    "intervene": "interventions.interventions",
    "intervene_each": "interventions.interventions",
    "load": "transcoders.replacement",
    "load_model": "models.loading",
    "matched_controls": "interventions.smallest",
    "open_pages": "features.pages",
    "predicted_effects": "interventions.attribution_patching",
    "prune": "graphs.pruning",
    "read_circuit": "benchmark.data",
    "read_claims": "validation.claimfile",
    "read_study": "studies.studyfile",
    "read_transcoders": "transcoders.formats",
    "pair_terms": "response.pairs",
    "response_graph": "response.response",
    "ContrastPair": "response.several",
    "mean_effects": "response.several",
    "read_pairs": "response.several",
    "routes": "response.routes",
    "run_benchmark": "benchmark.run",
    "repeat_study": "studies.stability",
    "run_study": "studies.run",
    "stability_card": "studies.stabilitycard",
    "scale": "interventions.edits",
    "score_circuit": "benchmark.score",
    "search_features": "features.pages",
    "set_to": "interventions.edits",
    "shift": "interventions.edits",
    "show": "page.notebook",
    "smallest_ablation": "interventions.smallest",
    "smallest_swap": "interventions.smallest",
    "strongest_paths": "graphs.paths",
    "swap": "interventions.steering",
    "sweep": "interventions.steering",
    "total_effects": "graphs.totals",
    "ExplainOptions": "many.explaining",
    "explain_many": "many.explaining",
    "trace_many": "many.run",
    "train": "training.loop",
    "validate": "validation.validate",
    "check_look": "validation.looking",
    "judge_response": "validation.response_verdict",
    "validate_response": "validation.responses",
    "Specificity": "validation.specificity",
    "specificity": "validation.specificity",
    "write_gradients": "interventions.attribution_patching",
    "write_transcoders": "transcoders.formats",
}
"""Where each public name lives; loaded when first asked for, so that `unweave --help` needs no torch."""


if not TYPE_CHECKING:  # where it is seen, any misspelt name would be a public one
    __all__ = sorted(_HOMES)

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'unweave' has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
