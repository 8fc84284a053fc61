"""The rooms: a file imports only from those before it, no file grows past 400 lines, and the doors stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unweave

SOURCE = Path(unweave.__file__).parent
ORDER = (
    "version", "errors", "files",
    "nodes", "influence", "graph", "pruning", "paths",
    "architectures", "frozen", "smollm2", "models", "hub", "transcoders", "formats", "replacement",
    "targets", "sources", "attribution", "features",
    "export", "inspection", "summary", "cli",
)  # fmt: skip
GRAPH_ROOM = ("nodes", "influence", "graph", "pruning", "paths")


def imported(name: str) -> list[tuple[str, int]]:
    """(module, relative level) of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
        elif isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
    return found


def test_every_file_has_its_place():
    assert sorted(path.stem for path in SOURCE.glob("*.py")) == sorted([*ORDER, "__init__"])


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_one_way(name):
    for module, level in imported(name):
        if level:
            assert ORDER.index(module) < ORDER.index(name), f"{name} imports {module}, which comes after it"


@pytest.mark.parametrize("name", GRAPH_ROOM)
def test_the_graph_room_knows_no_model(name):
    for module, level in imported(name):
        if level:
            assert module in ("errors", "files", *GRAPH_ROOM)
        else:
            assert module.split(".")[0] not in ("transformers", "huggingface_hub", "rich", "typer")


def test_transformers_is_imported_where_models_are_loaded_and_nowhere_else():
    assert {name for name in ORDER if any(module.split(".")[0] == "transformers" for module, _ in imported(name))} == {"models", "smollm2"}


def test_no_pickle_and_no_file_over_400_lines():
    for path in SOURCE.glob("*.py"):
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
