"""The rooms: a file imports only from those before it, no file grows past 400 lines, and the doors stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unweave

SOURCE = Path(unweave.__file__).parent
ORDER = (
    "version", "errors", "files", "mapped",
    "nodes", "influence", "graph", "pruning", "paths", "totals",
    "architectures", "weights", "frozen", "hub", "catalogue", "devices", "smollm2", "recording", "models", "chats", "text",
    "transcoders", "stored", "layers", "formats", "neurons", "replacement",
    "targets", "sources", "rowstore", "limited", "budget", "attribution", "estimate", "features",
    "edits", "plans", "patching", "interventions", "steering", "gradients", "smallest", "generation", "naming", "slopes",
    "evaluation.results", "evaluation.prompts", "evaluation.passes", "evaluation.standins", "evaluation.baselines", "evaluation.measures",
    "evaluation.response", "evaluation.texts", "evaluation.graphs", "evaluation.evaluate", "evaluation.blocks", "evaluation.table", "evaluation.card",
    "validation.statistics", "validation.measured", "validation.sample", "validation.ablations", "validation.pairs", "validation.perturbations",
    "validation.control", "validation.results", "validation.figures", "validation.verdict", "validation.validate", "validation.table",
    "sampling", "training.config", "training.sparse", "training.statistics", "training.dictionary", "training.recorder",
    "training.parallel", "training.step", "training.tokens", "training.checkpoint", "training.state", "training.loop", "training.progress", "training.display",
    "training.curves",
    "microscope.tally", "microscope.collect", "microscope.rules", "microscope.label", "microscope.together", "microscope.write", "microscope.pages",
    "microscope.graphs", "microscope.held_out", "microscope.score", "microscope.endpoint", "microscope.judge", "microscope.like",
    "organism.world", "organism.instances", "organism.sentences", "organism.config", "organism.model", "organism.muon", "organism.accuracy", "organism.train",
    "export", "microscope.exchange", "microscope.importing", "microscope.display",
    "inspection", "comparison", "summary", "effects", "terminal", "yamlfile", "claimfile", "claims",
    "studies.results", "studies.bench", "studies.protocol", "studies.accuracy", "studies.trace", "studies.sets", "studies.swap", "studies.ablate",
    "studies.steer", "studies.operand_map", "studies.overlap",
    "studies.batch", "studies.templates", "studies.operands", "studies.families", "studies.midway", "studies.middle", "studies.explains",
    "studies.groups", "studies.shared", "studies.transplant", "studies.planning", "studies.inhibit",
    "studies.protocols", "studies.studyfile",
    "studies.run", "studies.plots", "studies.report",
    "many.lines", "many.work", "many.workers", "many.folder", "many.run",
    "feature_pages", "server.answers", "server.security", "server.page", "server.library", "server.view", "html",
    "server.annotations", "server.jobs", "server.live", "server.state",
    "server.sharing", "server.graphs_api", "server.notes_api", "server.live_api", "server.app", "server.run",
    "notebook", "commands.serve", "commands.many", "commands.trace", "commands.steer", "commands.validate", "commands.export", "commands.eval",
    "commands.train", "commands.features", "commands.files", "commands.models", "commands.organism", "commands.study", "cli",
)  # fmt: skip
GRAPH_ROOM = ("mapped", "nodes", "influence", "graph", "pruning", "paths", "totals")


def imported(name: str) -> tuple[set[str], set[str]]:
    """Our own and foreign modules that a file imports, also inside functions."""
    own, foreign = set(), set()
    for node in ast.walk(ast.parse((SOURCE / f"{name.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            foreign.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level]
            base = ".".join([*package, *([node.module] if node.module else [])])
            own |= {base} if base in ORDER else {f"{base}.{alias.name}".strip(".") for alias in node.names}
    return own, foreign


def test_every_file_has_its_place():
    found = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py") if path.stem != "__init__"]
    assert sorted(found) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_one_way(name):
    for module in imported(name)[0]:
        assert ORDER.index(module) < ORDER.index(name), f"{name} imports {module}, which comes after it"


@pytest.mark.parametrize("name", GRAPH_ROOM)
def test_the_graph_room_knows_no_model(name):
    own, foreign = imported(name)
    assert own <= {"errors", "files", *GRAPH_ROOM}
    assert not foreign & {"transformers", "huggingface_hub", "rich", "typer"}


def test_transformers_is_imported_where_models_are_loaded_and_nowhere_else():
    assert {name for name in ORDER if "transformers" in imported(name)[1]} == {"models", "smollm2", "organism.model"}


def test_no_pickle_and_no_file_over_400_lines():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        assert "torch.load" not in text and "import pickle" not in text and "allow_pickle=True" not in text


@pytest.mark.parametrize(("code", "absent"), [("import unweave", "transformers torch"), ("import unweave.cli", "transformers torch")])
def test_importing_is_light(code, absent):
    check = f"{code}; import sys; print([name for name in {absent.split()!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_public_names():
    assert unweave.__all__ == sorted(unweave.__all__)
    for name in unweave.__all__:
        assert getattr(unweave, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unweave.__getattr__("nothing")
