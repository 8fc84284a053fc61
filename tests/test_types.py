"""The public names as editors, type checkers and `help()` see them."""

import ast
import json
import pydoc
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import unweave

SOURCE = Path(unweave.__file__).parents[1]
USER = """
import unweave
model = unweave.load("organism")
reveal_type(model)
graph = unweave.attribute(model, "The state of Dallas is", max_features=100, position_zero="drop")
reveal_type(graph)
reveal_type(graph.nodes)
reveal_type(graph.scores().replacement)
reveal_type(unweave.Graph.load("x.graph.safetensors"))
outcome = unweave.intervene(model, "The state of Dallas is", [unweave.ablate("1_2_3")], mode="open")
reveal_type(outcome)
reveal_type(unweave.prune(graph))
unweave.attribut
unweave.attribute(model, "x", max_feature=3)
unweave.attribute(model, "x", position_zero="errors")
unweave.intervene(model, "x", [], mode="opened")
graph.node
"""
SEEN = {
    3: "ReplacementModel", 5: "Graph", 6: "NodeTable", 7: "float", 8: "Graph", 10: "Outcome", 11: "Graph",
}  # fmt: skip
"""What pyright says of a line, counted from 0 as it does."""
REFUSED = {12: "attribut", 13: "max_feature", 14: "errors", 15: "opened", 16: "node"}


def test_the_types_are_those_of_the_table():
    tree = ast.parse(Path(unweave.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") != "")
    typed = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom) and line.level == 1
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is not seen as public without 'as {alias.name}'"
            typed[alias.name] = line.module
    assert typed == unweave._HOMES
    assert (files("unweave") / "py.typed").is_file()


def test_a_users_file(tmp_path):
    """What an editor shows of a user's code, and that it marks what is misspelt."""
    (tmp_path / "user.py").write_text(USER)
    config = {"include": ["user.py"], "extraPaths": [str(SOURCE)], "reportMissingModuleSource": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    said = json.loads(done.stdout)["generalDiagnostics"]
    revealed, refused = {}, {}
    for one in said:
        if one["severity"] == "error":
            refused[one["range"]["start"]["line"]] = one["message"]
        elif one["severity"] == "information":
            revealed[one["range"]["start"]["line"]] = one["message"].rsplit(" is ", 1)[-1].strip('"')
    assert revealed == SEEN
    assert refused.keys() == REFUSED.keys(), refused
    assert all(word in refused[line] for line, word in REFUSED.items()), refused


@pytest.mark.parametrize("name", ["attribute", "Graph", "load"])
def test_help(name):
    assert name in pydoc.render_doc(unweave, renderer=pydoc.plaintext)
    assert name in dir(unweave)
