"""`unweave mcp`: one server on the organism, talked to over its pipes; and what it may write."""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import fresh
import pytest

import unweave
from unweave.cli import mcp as command
from unweave.errors import OptionError
from unweave.mcp.calls import TraceCall, ValidateCall, checked
from unweave.mcp.serving import described
from unweave.mcp.tools import TOOLS, Start, Workplace, answer

PROMPT = "the capital of Texas is"
HELD = Path(unweave.__file__).parent / "data" / "organism" / "held-out" / "sentences.jsonl"
ABLATE = {"action": "ablate", "nodes": ["1_5_*"]}
CLAIMS = """
claims:
  - name: one feature is not needed
    prompt: the capital of Texas is
    ablate: 1_5_4
    expect: [{token: Austin, probability: '>= 0.5'}]
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder of feature pages of the organism's dictionary, from a few sentences."""
    out = tmp_path_factory.mktemp("built") / "pages"
    words = ["features", "build", "--model", "organism", "--text", HELD, "--out", out, "--tokens", 300, "--context", 16]
    done = fresh.run("from unweave.cli.main import main; main()", [*words, "--strongest", 1, "--sampled", 1])
    assert done.returncode == 0, done.stderr
    return out


class Client:
    """Talks to a server; every line that it prints has to be a message of the protocol."""

    def __init__(self, out, pages):
        code = "import sys; from unweave.cli.entry import run; sys.argv[0] = 'unweave'; run()"
        words = ["mcp", "--model", "organism", "--out", out, "--features", pages]
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        self.process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], text=True, **pipes)
        self.lines, self.errors, self.answers, self.number = queue.Queue(), [], {}, 0
        self.order, self.notes, self.readers = [], [], []
        for stream, take in ((self.process.stdout, self.lines.put), (self.process.stderr, self.errors.append)):
            self.readers.append(threading.Thread(target=lambda s=stream, t=take: [t(line) for line in s], daemon=True))
            self.readers[-1].start()

    def write(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, method, params=None, **more):
        self.number += 1
        asked = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params or {}}
        self.write(json.dumps(asked | more))
        return self.number

    def result(self, number):
        while number not in self.answers:
            message = json.loads(self.lines.get(timeout=120))
            assert message["jsonrpc"] == "2.0"
            if "id" in message:
                self.answers[message["id"]] = message
                self.order.append(message["id"])
            else:
                self.notes.append(message)
        return self.answers[number]

    def call(self, name, **arguments):
        return self.facts(self.send("tools/call", {"name": name, "arguments": arguments}))

    def facts(self, number):
        """The facts of an answer, or the one line of its error."""
        result = self.result(number)["result"]
        (content,) = result["content"]
        if result["isError"]:
            assert "\n" not in content["text"] and "Traceback" not in content["text"]
            assert "defect" not in content["text"]
            return content["text"]
        return json.loads(content["text"])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("mcp") / "results"


@pytest.fixture(scope="module")
def client(out, pages):
    client = Client(out, pages)
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    client.hello = client.result(client.send("initialize", hello))["result"]
    client.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
    yield client
    client.process.stdin.close()
    code = client.process.wait(30)
    for reader, pipe in zip(client.readers, (client.process.stdout, client.process.stderr), strict=True):
        reader.join(30)
        pipe.close()
    assert code == 0
    assert "Traceback" not in "".join(client.errors)


@pytest.fixture(scope="module")
def traced(client):
    return client.call("trace", prompt=PROMPT)


def test_it_says_what_it_is_and_lists_its_tools(client):
    assert client.hello["serverInfo"] == {"name": "unweave", "version": unweave.__version__}
    assert client.result(client.send("ping"))["result"] == {}
    tools = {tool["name"]: tool for tool in client.result(client.send("tools/list"))["result"]["tools"]}
    assert tools.keys() == TOOLS.keys()
    for tool in tools.values():
        assert tool["description"] and tool["inputSchema"]["type"] == "object"
        assert tool["inputSchema"]["additionalProperties"] is False
    assert tools["steer"]["annotations"]["readOnlyHint"] and not tools["trace"]["annotations"]["readOnlyHint"]


def test_a_trace_is_that_of_the_command_line(client, traced, out, pages, run):
    code, said, _ = run("trace", PROMPT, "--model", "organism", "--features", pages, "--json")
    wanted = json.loads(said)
    assert code == 0 and traced.keys() - {"graph_name"} == wanted.keys()
    assert traced["targets"][0]["token"] == "Austin"
    assert traced["targets"][0]["weight"] == pytest.approx(wanted["targets"][0]["weight"], abs=1e-5)
    for part in ("features", "effects"):
        assert [node["node"] for node in traced[part]] == [node["node"] for node in wanted[part]]
        assert [node["label"] for node in traced[part]] == [node["label"] for node in wanted[part]]
    assert Path(traced["file"]).parent == out and unweave.Graph.load(traced["file"]).prompt == PROMPT


def test_steering_a_prompt_and_a_graph(client, traced, run):
    node = traced["effects"][0]["node"]
    asked = {"changes": [{"action": "scale", "nodes": [node], "value": -2.0}], "tokens": ["Austin"], "generate": 2}
    named = client.call("steer", prompt=PROMPT, **asked)
    graph = client.call("steer", graph=traced["graph_name"], **asked)
    assert {**named, "seconds": 0} == {**graph, "seconds": 0}
    words = ("--scale", f"{node}=-2", "--token", "Austin", "--generate", 2, "--model", "organism", "--json")
    wanted = json.loads(run("steer", PROMPT, *words)[1])
    assert named.keys() == wanted.keys() - {"plot"}
    for key in ("before", "after"):
        assert named["changed"][0][key] == pytest.approx(wanted["changed"][0][key], rel=1e-4)
    assert named["generation"]["steered"]["ids"] == wanted["generation"]["steered"]["ids"]
    swapped = client.call("steer", prompt=PROMPT, swap_from="the capital of Florida is")
    assert swapped["changed"] and "seconds" in swapped


def test_validating_a_graph_and_claims(client, traced, out):
    asked = {"ablations": 10, "pairs": 0, "disturbances": 0, "control": False, "neurons": False}
    report = client.call("validate", graph=traced["graph_name"], **asked)
    assert report["format"] == "unweave validation" and report["verdict"]["level"] in ("good", "fair", "poor")
    assert Path(report["file"]).parent == out and Path(report["file"]).is_file()
    checked = client.call("validate", claims=CLAIMS)
    assert [claim["holds"] for claim in checked["claims"]] == [True]


def test_explaining_writes_where_it_is_told_to(client, out):
    facts = client.call("explain", prompt=PROMPT, save="why")
    assert "Austin" in facts["headline"] and facts["sentences"]
    written = {Path(name).name for name in facts["files"]}
    assert {"why.explanation.json", "why.md"} <= written == {path.name for path in out.glob("why.*")}
    assert client.call("explain", prompt=PROMPT)["files"] == []


def test_features_and_models(client):
    found = client.call("search_features", text="Texas", limit=3)
    assert 1 <= len(found["features"]) <= 3
    layer, index = (found["features"][0][name] for name in ("layer", "index"))
    page = client.call("show_feature", feature=f"{layer}_{index}_4", contexts=1)
    assert (page["layer"], page["index"]) == (layer, index) and len(page["contexts"]) <= 1
    known = client.call("models")
    assert known["served"] == "organism" and "smollm2" in [one["name"] for one in known["models"]]


BAD = [
    ("trace", {}, "'prompt' is missing"),
    ("trace", {"prompt": 3}, "prompt: 3 should be text"),
    ("trace", {"prompt": ""}, "prompt: it is empty"),
    ("trace", {"prompt": "x", "nope": 1}, "unknown key 'nope'"),
    ("trace", {"prompt": "x", "max_logits": 10**30}, "less than or equal"),
    ("trace", {"prompt": "x", "minus": "y"}, "minus needs exactly one target"),
    ("trace", {"prompt": PROMPT, "save": "../x"}, "cannot name a file"),
    ("trace", {"prompt": PROMPT, "save": ".."}, "cannot name a file"),
    ("trace", {"prompt": "one two", "ids": True}, "whole numbers"),
    ("trace", {"prompt": PROMPT, "targets": ["#99999999"]}, "99999999"),
    ("trace", {"prompt": PROMPT, "chat": True}, "chat template"),
    ("explain", {"prompt": PROMPT, "instead": PROMPT}, "same prompt"),
    ("explain", {"prompt": PROMPT, "instead": "is"}, "tokens"),
    ("explain", {"prompt": PROMPT, "baseline": "no"}, "is not one of"),
    ("steer", {"prompt": PROMPT}, "nothing to change"),
    ("steer", {"changes": [ABLATE]}, "either prompt or graph"),
    ("steer", {"prompt": PROMPT, "changes": [{"action": "scale", "nodes": ["1_5_4"]}]}, "need a value"),
    ("steer", {"prompt": PROMPT, "changes": [ABLATE | {"factor": 2}]}, "unknown key 'factor'; known here: action"),
    ("steer", {"prompt": PROMPT, "changes": [{"action": "ablate", "nodes": ["99_1_1"]}]}, "99"),
    ("steer", {"graph": "nope", "changes": [ABLATE]}, "nope"),
    ("validate", {}, "either graph or claims"),
    ("validate", {"graph": "/etc/passwd"}, "/etc/passwd"),
    ("validate", {"claims": "a: ["}, "claims, line 1"),
    ("validate", {"claims": "model: smollm2\n" + CLAIMS}, "about smollm2"),
    ("search_features", {"text": "x", "fields": ["nope"]}, "is not one of"),
    ("show_feature", {"feature": "first"}, "layer_index"),
    ("show_feature", {"feature": "99_0"}, "99"),
    ("models", {"x": None}, "unknown key 'x'"),
    ("nothing", {}, "no tool is called 'nothing'"),
]


@pytest.mark.parametrize(("tool", "arguments", "said"), BAD)
def test_a_bad_call_is_answered_in_one_line(client, tool, arguments, said):
    answered = client.call(tool, **arguments)
    assert isinstance(answered, str) and said in answered, answered


NO_MESSAGES = ["{bad", "", "[]", "null", '{"jsonrpc": "2.0"}', '{"id": {}}', "\0", "[" * 5000]


@pytest.mark.parametrize("line", NO_MESSAGES, ids=range(len(NO_MESSAGES)))
def test_what_is_no_message_ends_nothing(client, line):
    client.write(line)
    assert client.call("models")["served"] == "organism"


def test_methods_and_parameters_that_do_not_exist(client):
    assert client.result(client.send("nope"))["error"]["code"] == -32601
    assert "error" in client.result(client.send("tools/call", {"arguments": []}))
    assert "error" in client.result(client.send("tools/call", {"name": "trace", "arguments": "x"}))
    assert client.call("models")["served"] == "organism"


def test_other_requests_are_answered_while_one_runs(client, traced):
    asked = {"name": "explain", "arguments": {"prompt": PROMPT}, "_meta": {"progressToken": "here"}}
    slow = client.send("tools/call", asked)
    also = client.send("tools/call", {"name": "steer", "arguments": {"prompt": PROMPT, "changes": [ABLATE]}})
    quick = client.send("tools/call", {"name": "models", "arguments": {}})
    pinged = client.send("ping")
    assert "Austin" in client.facts(slow)["headline"] and client.facts(also)["changes"]
    assert client.facts(quick)["models"] and client.result(pinged)["result"] == {}
    assert max(map(client.order.index, (quick, pinged))) < client.order.index(slow)
    shares = [note["params"]["progress"] for note in client.notes if note["params"].get("progressToken") == "here"]
    assert shares == sorted(set(shares))


def test_a_cancelled_call_stops_and_frees_the_model(client, traced):
    slow = client.send("tools/call", {"name": "explain", "arguments": {"prompt": PROMPT}})
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": slow}}
    client.write(json.dumps(cancel))
    assert client.call("steer", prompt=PROMPT, changes=[ABLATE])["changes"]
    assert "result" not in client.answers.get(slow, {})


def test_without_a_folder_nothing_is_saved(tmp_path):
    place = Workplace(Start("organism"), tmp_path)
    with pytest.raises(OptionError, match="without --out FOLDER"):
        answer(place, "trace", TraceCall(prompt=PROMPT, save="x"), lambda *said: None)
    assert not [*tmp_path.iterdir()]
    facts = answer(place, "trace", TraceCall(prompt=PROMPT), lambda *said: None)
    assert facts["file"] is None and (tmp_path / f"{facts['graph_name']}.graph.safetensors").is_file()


def test_results_do_not_go_through_links(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.graph.safetensors").symlink_to(tmp_path / "elsewhere")
    place = Workplace(Start("organism", out=tmp_path / "out"), tmp_path / "out")
    with pytest.raises(OptionError, match="is a link"):
        place.file("x", "", ".graph.safetensors")


def test_the_temporary_folder_goes_away(monkeypatch, tmp_path, run):
    seen = []
    monkeypatch.setattr("unweave.mcp.serving.serve", seen.append)
    assert run("mcp", "--model", "organism")[0] == 0
    assert run("mcp", "--out", tmp_path / "new" / "one")[0] == 0
    assert not seen[0].folder.exists() and seen[0].start.out is None
    assert seen[1].folder == seen[1].start.out == (tmp_path / "new" / "one").resolve() and seen[1].folder.is_dir()


def test_without_the_package_one_line_says_what_to_install(monkeypatch, run):
    monkeypatch.setattr("unweave.base.optional.find_spec", lambda name: None)
    code, _, said = run("mcp")
    assert code == 2 and "pip install 'unweave[mcp]'" in said and said.count("\n") == 1
    assert command.mcp.__doc__


def test_schemas_say_what_is_checked():
    for tool in described():
        assert set(tool.input_schema["properties"]) == set(TOOLS[tool.name].takes.model_fields)
    with pytest.raises(OptionError, match="ablations"):
        checked(ValidateCall, {"ablations": 1})
