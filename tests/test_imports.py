"""The rooms: a folder imports only from those before it, files of a folder in no circle, and the engine needs no
door."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import unweave

SOURCE = Path(unweave.__file__).parent
ENGINE = ("errors", "version", "base", "graphs", "models", "transcoders", "attribution", "response", "interventions")
SCIENCE = (
    "corpus",
    "features",
    "evaluation",
    "training",
    "validation",
    "explanation",
    "organism",
    "many",
    "studies",
    "benchmark",
    "compat",
)
FLOORS = (*ENGINE, *SCIENCE, "page", "server", "mcp", "cli", "__main__")
"""Each may import from those before it, none from those after."""
NOT_IN_THE_ENGINE = ("typer", "rich", "pydantic", "duckdb", "fastapi", "uvicorn", "orjson", "matplotlib", "ray", "mcp")
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
    for path in SOURCE.rglob("*.py")
    if path.parent != SOURCE or path.stem != "__init__"
}


def imported(name: str) -> tuple[set[str], set[str]]:
    """Our own and foreign modules that a file imports, also inside functions and by `import_module`."""
    own, foreign = set(), set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            foreign.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level]
            base = ".".join([*package, *([node.module] if node.module else [])])
            own |= {base} if base in FILES else {f"{base}.{alias.name}".strip(".") for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            assert len(node.args) == 1 and not node.keywords, (
                f"{name}: import_module with a name relative to a package hides a room"
            )
            words = ast.literal_eval(node.args[0]).split(".") if isinstance(node.args[0], ast.Constant) else []
            if words:
                (own if words[0] == "unweave" else foreign).add(
                    ".".join(words[1:]) if words[0] == "unweave" else words[0]
                )
    return own, foreign


def test_every_folder_has_its_floor():
    assert {name.split(".")[0] for name in FILES} <= set(FLOORS)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_run_one_way(name):
    floor = FLOORS.index(name.split(".")[0])
    for module in imported(name)[0]:
        assert module in FILES, f"{name} imports {module}, which does not exist"
        assert FLOORS.index(module.split(".")[0]) <= floor, f"{name} imports {module}, which is on a later floor"


@pytest.mark.parametrize("folder", sorted({name.split(".")[0] for name in FILES}))
def test_files_of_a_folder_are_in_no_circle(folder):
    inside = [name for name in FILES if name.split(".")[0] == folder]
    tuple(
        TopologicalSorter({name: imported(name)[0] & set(inside) for name in inside}).static_order()
    )  # raises CycleError


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.split(".")[0] in ENGINE))
def test_the_engine_needs_no_door(name):
    assert not imported(name)[1] & set(NOT_IN_THE_ENGINE)


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("graphs.")))
def test_graphs_know_no_model(name):
    assert {module.split(".")[0] for module in imported(name)[0]} <= {"errors", "base", "graphs"}
    assert not imported(name)[1] & {"transformers", "huggingface_hub"}


def test_transformers_is_imported_where_models_are_loaded_and_nowhere_else():
    assert {name for name in FILES if "transformers" in imported(name)[1]} == {
        "models.loading",
        "models.smollm2",
        "organism.model",
    }


def test_no_pickle_and_no_file_over_400_lines():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        assert max(map(len, text.splitlines()), default=0) <= 120, path
        assert "torch.load" not in text and "import pickle" not in text and "allow_pickle=True" not in text


def test_contributing_shows_every_folder_in_order_and_names_files_that_exist():
    root = SOURCE.parents[1]
    text = (root / "CONTRIBUTING.md").read_text()
    tree = [match[1].removesuffix(".py") for match in re.finditer(r"^  (\w+(?:/|\.py)) ", text, re.MULTILINE)]
    shown = [name.strip("/") for name in tree if name != "data/"]
    assert shown == [name for name in FLOORS if name == "errors" or (SOURCE / name / "__init__.py").exists()]
    table = text[text.index("| To add |") : text.index("## House rules")]
    for name in re.findall(r"`([\w/]+(?:/|\.\w+))`", table):
        assert any((place / name).exists() for place in (SOURCE, root, SOURCE / "graphs")), name


def test_no_two_classes_have_one_name():
    """Also private ones: a traceback or a search that shows a class's name shows which it is."""
    homes = {}
    for name, path in FILES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    ("code", "absent"), [("import unweave", "transformers torch"), ("import unweave.cli.main", "transformers torch")]
)
def test_importing_is_light(code, absent):
    check = f"{code}; import sys; print([name for name in {absent.split()!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_engine_alone():
    """Attribution and interventions where the packages of the doors are not installed."""
    check = f"""
import sys
for name in {NOT_IN_THE_ENGINE!r}: sys.modules[name] = None
import unweave
from unweave.attribution import attribution, estimate
from unweave.interventions import generation, interventions, smallest, steering
unweave.attribute, unweave.intervene, unweave.load, unweave.Graph, unweave.prune, unweave.generate
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names():
    assert unweave.__all__ == sorted(unweave.__all__)
    for name in unweave.__all__:
        assert getattr(unweave, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unweave.__getattr__("nothing")
