"""`unweave serve` and `unweave trace --open`: what they serve, and what they refuse."""

import os
import re

import pytest
from conftest import PROMPT
from serving import write_document

import unweave
from unweave.server import app
from unweave.server import run as running
from unweave.server.run import listen


def test_listening_says_when_a_port_is_taken():
    with (
        listen(0) as taken,
        pytest.raises(unweave.UnweaveError, match=r"cannot listen on port \d+: .*in use; give another with --port"),
    ):
        listen(taken.getsockname()[1])
    with pytest.raises(unweave.UnweaveError, match="cannot listen on port 99999"):
        listen(99999)
    with listen(None) as first, listen(None) as second:
        assert first.getsockname()[0] == second.getsockname()[0] == "127.0.0.1"
        assert first.getsockname()[1] != second.getsockname()[1]


def test_the_command_refuses_in_one_line(run, tmp_path):
    assert run("serve", "--no-browser")[0] == 2 and not (tmp_path / "graphs").exists()
    for words, said in (
        (("serve",), "nothing at graphs; give graph files or folders"),
        (("serve", tmp_path), "no graphs in"),
        (("serve", "no.json"), "nothing at no.json"),
        (("serve", tmp_path, "--port", "99999"), "cannot listen on port 99999"),
    ):
        code, out, err = run(*words, "--no-browser")
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())
    write_document(tmp_path / "x.json")
    code, _, err = run("serve", tmp_path, "--no-browser", "--features", tmp_path / "none")
    assert code == 2 and "no feature pages in" in " ".join(err.split())


def test_the_command_serves(run, tmp_path, served):
    write_document(tmp_path / "x.json")
    code, out, _ = run("serve", tmp_path / "x.json", "--port", "0")
    assert code == 0
    assert "1 graph at http://127.0.0.1:" in out and "--model smollm2 adds tracing and steering" in out
    assert served[0][1].startswith("http://127.0.0.1:")


@pytest.fixture
def served(monkeypatch):
    """What would be served, in place of serving it."""
    found = []
    monkeypatch.setattr(app, "create_app", lambda server: server)
    monkeypatch.setattr(running, "run", lambda server, listening, open_at: found.append((server, open_at)))
    return found


def test_the_command_serves_with_a_model(run, tmp_path, served, tiny_folders):
    model, dictionary = tiny_folders("llama", "jumprelu")
    code, out, _ = run("serve", "-m", model, "-t", dictionary, "--no-browser")
    assert code == 0 and out.startswith("0 graphs at http://127.0.0.1:") and "adds tracing" not in out
    ((server, address),) = served
    assert (server.live.name, server.library.folder, address) == (str(model), tmp_path / "graphs", None)
    code, _, err = run("serve", "-m", tmp_path / "none", "--no-browser")
    assert code == 2 and "none" in err


def test_a_trace_opens_its_graph(run, tmp_path, served, tiny_folders):
    model, dictionary = tiny_folders("llama", "jumprelu")
    code, out, _ = run("trace", "--ids", " ".join(map(str, PROMPT)), "-m", model, "-t", dictionary, "--open", "--json")
    ((server, address),) = served
    assert code == 0
    (name,) = [path.name for path in server.library.paths().values()]
    assert re.fullmatch(r"0-7-3-41-7-12-[0-9a-f]{8}\.graph\.safetensors", name)
    assert server.live.name == str(model) and address.startswith("http://127.0.0.1:")
    code, out, _ = run("trace", "--ids", "0 7 3", "-m", model, "-t", dictionary)
    assert f"unweave serve graphs --model {model}" in " ".join(out.split())
    assert len(served) == 1


def test_serving_opens_on_what_was_explained_last(run, tmp_path, served):
    write_document(tmp_path / "x.json")
    (tmp_path / "x.explanation.json").write_text("{}")
    assert run("serve", tmp_path, "--port", "0")[0] == 0
    write_document(tmp_path / "y.json")
    os.utime(tmp_path / "x.json", (1, 1))
    assert run("serve", tmp_path, "--port", "0")[0] == 0
    assert [address.endswith("/#x") for _, address in served] == [True, False]
