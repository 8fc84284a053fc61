"""The command line on odd terminals: any encoding, closed pipes, full disks, few columns, Ctrl-C, absurd values."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import write_tiny_dictionary, write_tiny_model
from serving import write_document
from test_cli import IDS, refused

from unweave.cli import commands, terminal
from unweave.graphs.graph import Graph

COMMAND = [sys.executable, "-c", "from unweave.cli.entry import run; run()"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder and a dictionary for it."""
    root = tmp_path_factory.mktemp("terminal")
    return write_tiny_model("llama", root / "model"), write_tiny_dictionary("skip", "llama", root / "dictionary")


@pytest.fixture
def graph(tmp_path):
    return write_document(tmp_path / "x.json", prompt="café →", tokens=("caf\u00e9", " \u2192"), label="‘straße’ 日本")


def unweave(*words, env=None, **how):
    """The real command, as (exit code, stdout, stderr) in bytes."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | how
    done = subprocess.run([*COMMAND, *map(str, words)], env={**os.environ, **(env or {})}, **how)
    assert b"Traceback" not in (done.stderr or b""), done.stderr
    return done.returncode, done.stdout, done.stderr


ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"}, "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "code page": {"PYTHONIOENCODING": "cp437"}, "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "no UTF-8 mode": {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
}  # fmt: skip


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
def test_any_encoding_of_the_output(graph, env):
    code, out, err = unweave("info", graph, env=env)
    assert (code, err) == (0, b"")
    assert b"caf" in out and b"->" in out
    code, out, _ = unweave("info", graph, "--json", env=env)
    encoding = env.get("PYTHONIOENCODING", "ascii").removesuffix(":strict")
    facts = json.loads(out.decode(encoding))
    assert (code, facts["tokens"]) == (0, ["café", " →"])  # JSON loses nothing in any encoding


def test_a_closed_pipe_ends_quietly(graph):
    for words in (("models",), ("info", graph), ("info", graph, "--json"), ("--help",)):
        reading, writing = os.pipe()
        os.close(reading)
        code, _, err = unweave(*words, stdout=writing)
        os.close(writing)
        assert (code, err) == (141, b""), words


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(graph):
    with open("/dev/full", "wb") as full:
        for words in (("models",), ("info", graph), ("info", graph, "--json")):
            code, _, err = unweave(*words, stdout=full)
            assert (
                code == 2 and len(err.splitlines()) == 1 and b"No space left" in err.replace(b"no space", b"No space")
            )
        assert unweave("info", "nowhere", stderr=full)[0] == 2


def test_streams_that_are_closed(graph):
    for number in (1, 2):
        code = unweave("info", graph, preexec_fn=lambda number=number: os.close(number))[0]
        assert code == 0


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals there")
@pytest.mark.parametrize(
    "env", [{"TERM": "dumb"}, {"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "xterm", "COLUMNS": "40"}]
)
def test_terminals_that_can_do_little(graph, env):
    import pty

    leader, follower = pty.openpty()
    assert unweave("info", graph, stdout=follower, stderr=follower, env=env)[0] == 0
    os.close(follower)
    out = b""
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:
            break
        if not part:
            break
        out += part
    os.close(leader)
    assert b"Traceback" not in out and "café".encode() in out
    if env["TERM"] == "dumb":
        assert b"\x1b" not in out
    if "NO_COLOR" in env:
        assert not re.search(rb"\x1b\[[\d;]*\b(3[0-8]|9[0-7])[;m]", out)  # a colour; italics are none


@pytest.mark.parametrize("columns", [40, 80])
def test_help_is_wrapped_and_not_cut(columns):
    env = {"COLUMNS": str(columns)}
    for words in ((), ("steer",), ("trace",), ("features",), ("features", "build"), ("train",)):
        code, out, _ = unweave(*words, "--help", env=env)
        text = out.decode()
        assert code == 0 and "list[" not in text and "<str>" not in text
        assert not [line for line in text.splitlines() if line.endswith("...") and "ARGS" not in line], text
        if columns >= 80:
            assert max(map(len, text.splitlines())) <= columns
    assert text.startswith("Usage: unweave train")


@pytest.mark.parametrize("word", commands.HINTS)
def test_words_that_are_no_command_are_answered_with_one(run, word):
    refused(run(word, "x"), f"there is no command {word!r}; {commands.HINTS[word]}")


LONG = "9" * 5000
ABSURD = {
    "target": (["trace", IDS, "--ids", "--target", f"#{LONG}"], "no token's id"),
    "ids": (["trace", LONG, "--ids"], "--ids takes whole numbers"),
    "position": (["trace", IDS, "--ids", "--position", "9" * 40], "--position is a number of 40 digits"),
    "endless position": (["trace", IDS, "--ids", "--position", LONG], "--position"),
    "threshold": (["trace", IDS, "--ids", "--node-threshold", "inf"], "--node-threshold is inf"),
    "same target twice": (["trace", IDS, "--ids", "--target", "#5", "--target", "#5"], "the same token"),
    "target less itself": (["trace", IDS, "--ids", "--target", "#5", "--minus", "#5"], "the same token"),
    "out": (["trace", IDS, "--ids", "--out", "x" * 300 + ".json"], "too long"),
    "bytes": (["trace", "caf\udce9"], "PROMPT holds bytes that are not UTF-8"),
    "bytes of a target": (["trace", "x", "--target", "\udcff"], "--target holds bytes that are not UTF-8"),
    "empty": (["trace", ""], "the prompt is empty"),
    "no ids": (["trace", " ", "--ids"], "the prompt is empty"),
    "empty steer": (["steer", "", "--ablate", "1_2_3"], "the prompt is empty"),
    "empty swap": (["steer", "x", "--swap-from", ""], "the prompt is empty"),
    "seed": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--generate", "2", "--seed", "9" * 40], "--seed is a number"),
    "seed below zero": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--seed", "-1"], "--seed is -1"),
    "sweep": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--sweep", "-4:4:1000000000000"], "at most 1000"),
    "sweep of digits": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--sweep", f"0:1:{LONG}"], "at most 1000"),
    "layers": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--layers", LONG], "give the first and the last layer"),
    "temperature": (["steer", IDS, "--ids", "--ablate", "1_2_3", "--temperature", "1"], "needs --generate"),
    "tokens": (["eval", "--tokens", "-5"], "--tokens is -5; it must be at least 1"),
    "contexts": (["features", "show", "1_2", "--contexts", "-1"], "--contexts is -1"),
    "model": (["trace", "x", "--model", "m" * 5000], ""),
    "dictionary": (["trace", "x", "--transcoders", "d" * 5000], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_values_are_refused_before_anything_is_loaded(run, case, monkeypatch):
    words, phrase = ABSURD[case]
    if phrase:
        monkeypatch.setattr("unweave.transcoders.replacement.load", lambda *_, **__: pytest.fail("a model was loaded"))
    refused(run(*words), phrase)


def test_absurd_values_for_a_loaded_model(run, folders, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    base = ("steer", IDS, "--ids", "-m", folders[0], "-t", folders[1])
    refused(run(*base, "--scale", f"{LONG}_1_1=2"), "is not a feature")
    refused(run(*base, "--ablate", "x", "--supernodes", "deep.json"), "is not JSON")


def test_text_in_the_bytes_of_another_locale_is_understood():
    assert commands._value("PROMPT", "caf\udcc3\udca9") == "café"
    assert commands._value("--out", "plain") == "plain"


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.8, 3.0])
def test_ctrl_c_in_the_first_seconds(seconds, tmp_path):
    words = ("trace", "36 + 59 =", "--model", "organism", "--out", "x.graph.safetensors")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        child = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(seconds)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
        assert child.returncode == 130 and b"Traceback" not in err and err.strip().endswith(b"stopped"), err
        assert not list(tmp_path.glob("x.graph*"))
    else:
        child.communicate()


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SECONDS", 0.02)
    with terminal.progress("loading [m]") as report:
        time.sleep(0.2)
        report(0.5, "tracing")
        time.sleep(0.2)
        report(None, "summing up")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if not line.startswith("loading")).startswith("tracing 50%, ")
    assert lines[0].startswith("loading [m], ") and lines[-1].startswith("summing up, ")
    assert len(lines) > 5


def test_progress_in_a_terminal_shows_every_stage(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(terminal, "stderr", terminal._Console(file=written, force_terminal=True, width=80))
    with terminal.progress("loading [m]") as report:
        time.sleep(0.3)
        report(0.5, "tracing")
        time.sleep(0.3)
        report(None, "summing up")
        time.sleep(0.3)
    text = written.getvalue()
    assert "loading [m]" in text and "tracing" in text and " 50%" in text and "summing up" in text
    assert "0%" not in text.split("tracing")[0]  # nothing is known while it loads


def test_a_graph_is_summed_up_again_without_its_model(run, folders, tmp_path):
    words = ("trace", IDS, "--ids", "-m", folders[0], "-t", folders[1], "--out", "x.graph.safetensors", "--json")
    first = json.loads(run(*words)[1])
    again = json.loads(run("info", "x.graph.safetensors", "--json")[1])
    assert again["paths"] == first["paths"]
    for mine, told in zip(again["most_influential"], first["features"], strict=True):
        assert mine == told and mine["effect"] is not None
    assert again["largest_effects"] == first["effects"] and again["bands"] == first["bands"]
    sizes = [abs(node["effect"]) for node in first["effects"]]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == min(8, len(sizes))
    kept = Graph.load("x.graph.safetensors").provenance.extra["effects"]
    told = sum(part["effect"] for row in first["bands"] for part in row["effects"])
    assert told == pytest.approx(sum(kept.values()), rel=1e-5, abs=1e-6)
    covered = [
        layer for part in first["bands"][0]["effects"] for layer in range(part["layers"][0], part["layers"][1] + 1)
    ]
    assert covered == list(range(len(covered)))
    out = run("info", "x.graph.safetensors")[1]
    assert "Strongest paths to" in out and "Features with the largest effect" in out and "Where it is made" in out
