"""Many prompts: each traced once and as alone, on any kind of workers; killed at the worst moments and resumed;
refused before anything runs."""

import json
import os
import signal
import sys
from pathlib import Path

import duckdb
import fresh
import pytest
import torch
from conftest import PROMPT
from test_cli import refused

import unweave
from unweave.base.files import locked
from unweave.errors import FileError, ModelError, OptionError, PromptError
from unweave.many import work as work_module
from unweave.many import workers as workers_module
from unweave.many.folder import JOURNAL
from unweave.many.lines import TraceOptions, read_prompts
from unweave.many.work import Source, Traced
from unweave.many.workers import work
from unweave.server.library import open_library

PROMPTS = [
    {"prompt": PROMPT, "id": "first"},
    {"prompt": [0, 5, 9], "targets": [5, 9], "max_features": 7},
    {"prompt": [1] * 65, "id": "long"},
    {"prompt": PROMPT, "id": "differ", "targets": [5], "minus": 9, "position": 3},
    {"prompt": [], "id": "empty"},
    {"prompt": [0, 5, 9], "targets": [5, 9], "max_features": 7},
    {"prompt": [4, 4, 4, 4], "id": 17, "node_threshold": 1.0, "edge_threshold": 1.0},
]
GOOD = 4


@pytest.fixture
def names(tiny_folders):
    return tuple(map(str, tiny_folders("llama", "skip")))


@pytest.fixture
def file(tmp_path):
    def write(lines=PROMPTS, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write


def rows(folder, what="*"):
    result = duckdb.connect().execute(f"SELECT {what} FROM read_parquet(?)", [str(folder / "index.parquet")])
    return [dict(zip([column[0] for column in result.description], row, strict=True)) for row in result.fetchall()]


def same(one, other):
    """Whether two folders hold the same graphs, to rounding."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    for name in names:
        a, b = unweave.Graph.load(one / name), unweave.Graph.load(other / name)
        assert [node.id for node in a.nodes] == [node.id for node in b.nodes]
        assert torch.allclose(a.dense(), b.dense(), atol=1e-5, rtol=1e-4)
        assert a.provenance.logit_labels == b.provenance.logit_labels
    return names


def test_one_graph_a_prompt_and_an_index(names, file, tmp_path, tiny):
    run = unweave.trace_many(file(), tmp_path / "out", *names)
    assert (run.prompts, run.traced, run.there) == (6, GOOD, 0)  # of seven lines one says the same as another
    assert [(one["id"], one["line"]) for one in run.failed] == [("long", 3), ("empty", 5)]
    index = rows(run.folder)
    assert [row["line"] for row in index] == [1, 2, 3, 4, 5, 7]
    assert [row["id"] for row in index][2:] == ["long", "differ", "empty", "17"]
    for row in index:
        assert (row["file"] is None) == (row["error"] is not None)
    assert (
        index[2]["error"] == f"the prompt has 65 tokens; {names[0]} takes at most 64"
        and index[4]["error_kind"] == "PromptError"
    )
    whole = unweave.attribute(tiny("llama", "skip"), PROMPT)
    graph, row = unweave.Graph.load(run.folder / "first.graph.safetensors"), index[0]
    assert torch.equal(graph.dense(), unweave.prune(whole).dense())
    assert (row["tokens"], row["token_ids"]) == (list(whole.tokens), PROMPT)
    assert row["replacement"] == pytest.approx(whole.scores().replacement) and row["residual"] < 1e-4
    assert (row["features"], row["edges"]) == (whole.nodes.features.stop, whole.n_edges) and (
        row["kept_nodes"],
        row["kept_edges"],
    ) == (
        len(graph.nodes),
        graph.n_edges,
    )
    assert [target["token"] for target in row["targets"]] == list(whole.provenance.logit_labels)
    influence = graph.influence()[graph.nodes.features]
    assert row["strongest"][0]["node"] == graph.nodes[int(influence.argmax())].id
    assert (
        row["strongest"][0]["influence"] == pytest.approx(float(influence.max()))
        and row["seconds"] >= row["attribution_seconds"] > 0
    )
    assert (index[1]["features"], [target["id"] for target in index[1]["targets"]]) == (7, [5, 9])
    assert (index[3]["targets"][0]["token"], index[3]["position"]) == ("#5 - #9", 3)
    assert index[5]["kept_edges"] == index[5]["edges"]
    library = open_library([run.folder])
    listed = [library.summary(slug, path) for slug, path in library.paths().items()]
    assert {one["slug"] for one in listed} == {row["id"] for row in index if row["file"]} and not any(
        "error" in one for one in listed
    )


def test_a_second_run_does_only_what_is_missing(names, file, tmp_path, monkeypatch):
    out, done = tmp_path / "out", []
    real = work_module.trace
    monkeypatch.setattr(
        work_module, "trace", lambda tools, request, digest: (done.append(request), real(tools, request, digest))[1]
    )
    unweave.trace_many(file(), out, *names)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.safetensors")}
    done.clear()
    run = unweave.trace_many(file(), out, *names)
    assert (run.traced, run.there, len(run.failed)) == (0, GOOD, 2) and len(done) == 2  # what failed is tried again
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.safetensors")} == before
    (out / "first.graph.safetensors").unlink()
    cut = out / "17.graph.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    done.clear()
    run = unweave.trace_many(file([*PROMPTS[:2], *PROMPTS[5:], {"prompt": [9, 9]}]), out, *names)
    assert (run.traced, run.there, len(done)) == (3, 1, 3)  # the lost one, the cut one, the new one
    assert unweave.Graph.load(cut).n_edges and unweave.Graph.load(out / "first.graph.safetensors").n_edges
    assert [row["id"] for row in rows(out)] == [
        "first",
        "0-5-9-" + rows(out)[1]["id"][-8:],
        "17",
        "9-9-" + rows(out)[3]["id"][-8:],
        "long",
        "differ",
        "empty",
    ]
    assert [row["line"] for row in rows(out)] == [1, 2, 4, 5, None, None, None]


def test_what_a_folder_refuses(names, file, tmp_path, tiny_folders):
    out = tmp_path / "out"
    lines = PROMPTS[:2]
    unweave.trace_many(file(lines), out, *names)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        OptionError,
        match=r"out was made with other options: max_features None \(asked: 5\); max_logits|max_features None",
    ):
        unweave.trace_many(file(lines), out, *names, options=TraceOptions(max_features=5))
    with pytest.raises(PromptError, match=r"has id 'first' \(line 1\) with another prompt or options"):
        unweave.trace_many(file([{"prompt": [1, 2], "id": "first"}]), out, *names)
    with pytest.raises(OptionError, match=r"was made with other options: dictionary .*skip \(asked: .*relu\)"):
        unweave.trace_many(file(lines), out, names[0], str(tiny_folders("llama", "relu")[1]))
    with pytest.raises(OptionError, match=r"was made with other options: dtype float32 \(asked: float64\)"):
        unweave.trace_many(file(lines), out, *names, dtype="float64")
    with pytest.raises(OptionError, match=r"was made with other options: model .*llama \(asked: .*qwen2\)"):
        unweave.trace_many(file(lines), out, str(tiny_folders("qwen2", "skip")[0]), names[1])
    with (
        locked(out, FileError("held")),
        pytest.raises(FileError, match=r"another process is tracing into .*out; wait for it"),
    ):
        unweave.trace_many(file(lines), out, *names)
    with pytest.raises(OptionError, match="is a file; many prompts need a folder"):
        unweave.trace_many(file(lines), file(lines), *names)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / ".settings.json").write_text("{}")
    with pytest.raises(FileError, match=r"settings\.json cannot be read"):
        unweave.trace_many(file(lines), out, *names)


def test_a_file_of_someone_else_is_not_written_over(names, file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "first.graph.safetensors").write_text("mine")
    for _ in range(2):  # nor when it is tried again
        run = unweave.trace_many(file(PROMPTS[:2]), out, *names)
        assert [one["id"] for one in run.failed] == ["first"] and "move it away" in run.failed[0]["error"]
        assert (out / "first.graph.safetensors").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
import unweave.base.files, unweave.many.folder
from unweave.many.folder import Store
from unweave.many.run import trace_many

where, file, out, *names = sys.argv[1:]
replace, append = os.replace, Store._append

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def replaced(source, target):
    if where == "graph" and Path(target).name == "p3.graph.safetensors":
        die()
    replace(source, target)

def appended(self, record):
    if where == "journal" and len(self.records) == 4:
        with (self.folder / unweave.many.folder.JOURNAL).open("a") as half:
            half.write('{"id": "half of a li')
        die()
    append(self, record)

unweave.base.files.os.replace, Store._append = replaced, appended
trace_many(file, out, *names)
"""


@pytest.mark.parametrize("where", ["graph", "journal"])
def test_killed_in_the_middle_of_a_write(names, file, tmp_path, where):
    """kill -9 with a graph's temporary file written and not yet renamed; and between a graph and the end of its
    line."""
    path, out = file([{"prompt": [0, number, 7], "id": f"p{number}"} for number in range(8)]), tmp_path / "out"
    ended = fresh.run(KILLED, [where, path, out, *names])
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    graphs = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    left = [path.name for path in out.iterdir() if path.name.startswith(".p3.graph")]
    assert (len(graphs), len(left)) == ((3, 1) if where == "graph" else (4, 0))
    run = unweave.trace_many(path, out, *names)
    assert (run.there, run.traced, run.failed) == (3, 5, ())
    assert [row["id"] for row in rows(out)] == [f"p{number}" for number in range(8)]
    assert not [path.name for path in out.iterdir() if path.name.startswith(".p")]
    for name in ("p0", "p1", "p2"):
        assert (out / f"{name}.graph.safetensors").stat().st_mtime_ns == graphs[f"{name}.graph.safetensors"]
    assert len((out / JOURNAL).read_text().splitlines()) == 8
    unweave.trace_many(path, tmp_path / "fresh", *names)
    assert len(same(out, tmp_path / "fresh")) == 8


def test_a_stop_leaves_an_index_and_a_full_disk_ends_the_run(names, file, tmp_path, monkeypatch):
    path = file([{"prompt": [0, number, 7], "id": f"p{number}"} for number in range(4)])
    real, done = work_module.trace, []

    def stopped(tools, request, digest):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(tools, request, digest)

    monkeypatch.setattr(work_module, "trace", stopped)
    with pytest.raises(KeyboardInterrupt):
        unweave.trace_many(path, tmp_path / "out", *names)
    assert [row["id"] for row in rows(tmp_path / "out")] == ["p0", "p1"]

    def full(name, write):
        raise FileError(f"cannot write {name}: No space left on device")

    monkeypatch.setattr(work_module, "trace", real)
    monkeypatch.setattr("unweave.many.folder.write_atomically", full)
    with pytest.raises(FileError, match=r"p2\.graph\.safetensors: No space left"):
        unweave.trace_many(path, tmp_path / "out", *names)
    monkeypatch.undo()
    assert unweave.trace_many(path, tmp_path / "out", *names).there == 2


def test_any_failure_is_noted_and_the_rest_goes_on(names, file, tmp_path, monkeypatch):
    from unweave.many import work as module

    real, calls = module.answer, []

    def unlucky(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the device ran out of memory\nand more")
        return real(*args, **options)

    monkeypatch.setattr(module, "answer", unlucky)
    run = unweave.trace_many(file(PROMPTS[:2]), tmp_path / "out", *names)
    assert [one["error"] for one in run.failed] == ["RuntimeError: the device ran out of memory"] and run.traced == 1


# -- workers


def test_processes_give_the_same(names, file, tmp_path):
    unweave.trace_many(file(), tmp_path / "one", *names)
    run = unweave.trace_many(file(), tmp_path / "two", *names, workers=2)
    assert (run.traced, len(run.failed)) == (GOOD, 2) and len(same(tmp_path / "one", tmp_path / "two")) == GOOD
    columns = "id, line, prompt, tokens, token_ids, targets.len(), features, edges, kept_nodes, file, error, digest"
    assert rows(tmp_path / "one", columns) == rows(tmp_path / "two", columns)
    with pytest.raises(ModelError, match="no-such"):
        unweave.trace_many(file(), tmp_path / "three", "./no-such", names[1], workers=2)


def test_ray_gives_the_same(names, file, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    unweave.trace_many(file(), tmp_path / "one", *names)
    for left in (2, 1, 0):  # a node has 30 s to start, which a busy machine may miss
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    try:
        run = unweave.trace_many(file(), tmp_path / "two", *names, workers="ray:2")
        with pytest.raises(ModelError, match="no-such"):
            unweave.trace_many(file(), tmp_path / "three", "./no-such", names[1], workers="ray")
        with pytest.raises(OptionError, match="the Ray cluster has no GPU; give another --device"):
            unweave.trace_many(file(), tmp_path / "three", *names, device="cuda", workers="ray")
    finally:
        ray.shutdown()
    assert (run.traced, len(run.failed)) == (GOOD, 2) and len(same(tmp_path / "one", tmp_path / "two")) == GOOD


def mortal(source, connection):
    """A worker that is killed by the prompt `poison`, and loads nothing."""
    if source.model == "early":
        os._exit(3)
    connection.send({"model": source.model})
    while True:
        job = connection.recv()
        if job.id == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        connection.send(Traced({"worker": os.getpid()}, None))


def test_a_prompt_that_kills_its_worker(monkeypatch):
    monkeypatch.setattr(workers_module, "_serve", mortal)
    jobs = read_prompts(
        [{"prompt": [number], "id": "poison" if number == 2 else f"p{number}"} for number in range(6)], TraceOptions()
    )
    seen = []
    found = {job.id: traced.facts for job, traced in work(Source("any", None), jobs, 2, seen.append)}
    assert set(found) == {job.id for job in jobs} and all(one == {"model": "any"} for one in seen)
    assert "the worker died while it traced this prompt (signal 9)" in found.pop("poison")["error"]
    assert all("error" not in facts for facts in found.values())
    with pytest.raises(ModelError, match=r"a worker died while it loaded the model \(exit code 3\)"):
        list(work(Source("early", None), jobs, 2, seen.append))


@pytest.mark.parametrize("given", ["0", "-1", "many", "ray:", "ray:x", "rays"])
def test_workers_that_are_none(given, names, file, tmp_path):
    with pytest.raises(OptionError, match="give a number of processes, ray, or ray:N"):
        unweave.trace_many(file(), tmp_path / "out", *names, workers=given)
    assert not (tmp_path / "out").exists()


def test_ray_that_is_not_installed(names, file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"--workers ray needs Ray; install it: pip install 'unweave\[ray\]'"):
        unweave.trace_many(file(), tmp_path / "out", *names, workers="ray")


# -- lines


BROKEN = {
    "no JSON": ('{"prompt": [1]', "line 3: not JSON"),
    "a key twice": (
        '{"prompt": "x", "prompt": "y"}',
        "line 3: not JSON as it is wanted here: the key 'prompt' is given twice",
    ),
    "no object": ("[1, 2]", "line 3: not an object such as"),
    "a number": ("7", "line 3: not an object such as"),
    "nothing to trace": ('{"id": "x"}', "line 3: give either prompt or messages"),
    "two things": (
        '{"prompt": "x", "messages": [{"role": "user", "content": "y"}]}',
        "line 3: give either prompt or messages",
    ),
    "a typo": (
        '{"prompt": "x", "target": ["y"]}',
        "line 3: 'target' is unknown; a line may hold id, prompt, messages, position",
    ),
    "a prompt of another kind": ('{"prompt": {"a": 1}}', "line 3: prompt: input should be a valid string"),
    "ids below zero": ('{"prompt": [1, -2]}', "line 3: prompt"),
    "a wrong option": (
        '{"prompt": "x", "max_features": 0}',
        "line 3: max_features is 0; it must be at least 1",
    ),
    "a wrong threshold": (
        '{"prompt": "x", "node_threshold": 1.5}',
        "line 3: node_threshold: input should be less than or equal to 1",
    ),
    "a wrong word": (
        '{"prompt": "x", "position_zero": "keep"}',
        "line 3: position_zero: input should be 'error' or 'drop'",
    ),
    "minus alone": ('{"prompt": "x", "minus": "y"}', "line 3: minus needs exactly one target"),
    "chat of ids": ('{"prompt": [1], "chat": true}', "line 3: chat and system are for a prompt that is text"),
    "an id that is no name": ('{"prompt": "x", "id": "../y"}', "line 3: id '../y' cannot name a file; give letters"),
    "an id twice": (
        '{"prompt": "x", "id": "first"}',
        "line 3: id 'first' is taken by line 1; give each prompt an id of its own",
    ),
    "an id twice but for case": (
        '{"prompt": [0, 7, 3, 41, 7, 12], "id": "First"}',
        "line 3: id 'First' is taken by line 1",
    ),
    "half a character": ('{"prompt": "\\ud800"}', "line 3: holds half a surrogate pair"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_stops_before_anything_runs(run, names, file, tmp_path, case):
    line, words = BROKEN[case]
    path = file([PROMPTS[0], "", line, PROMPTS[1]])
    refused(run("trace", "--prompts", path, "--out", "out", "-m", "never-looked-at", "-t", "nor-this"), words)
    assert not (tmp_path / "out").exists()


def test_files_of_prompts_that_cannot_be_read(run, names, file, tmp_path):
    how = ("--out", "out", "-m", names[0], "-t", names[1])
    refused(run("trace", "--prompts", "nowhere.jsonl", *how), "cannot read nowhere.jsonl: No such file")
    refused(
        run("trace", "--prompts", file([], "none.jsonl"), *how), "none.jsonl holds no prompt; write one a line, such as"
    )
    refused(run("trace", "--prompts", file(["", "  "], "blank.jsonl"), *how), "blank.jsonl holds no prompt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": [1]}\n{"prompt": "caf\xe9"}\n')
    refused(run("trace", "--prompts", "latin.jsonl", *how), "latin.jsonl, line 2: not UTF-8 text")
    refused(run("trace", "--prompts", ".", *how), "cannot read .: Is a directory")
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(run, names, file, tmp_path):
    how = ("-m", names[0], "-t", names[1])
    code, out, err = run("trace", "--prompts", file(), "--out", "out", *how)
    assert (
        (code, err.strip()) == (1, "")
        and "6 prompts: 4 traced, 2 failed" in out
        and "line 3  long  the prompt has 65 tokens" in out
    )
    code, out, _ = run("trace", "--prompts", file(PROMPTS[:2]), *how, "--max-logits", "3", "--json")
    facts = json.loads(out)
    assert (code, facts["prompts"], facts["traced"], facts["index"]) == (0, 2, 2, "graphs/prompts/index.parquet")
    assert len(rows(Path("graphs/prompts"))[0]["targets"]) == 3
    code, out, _ = run("trace", "--prompts", file(PROMPTS[:2]), *how, "--max-logits", "3")
    assert code == 0 and "2 prompts: 0 traced, 2 there already, 0 failed" in out
    refused(run("trace", "--prompts", file(PROMPTS[:2]), *how), "was made with other options: max_logits 3 (asked: 10)")
    refused(run("trace", "x", "--prompts", file(), *how), "--prompts takes the place of PROMPT")
    refused(run("trace", *how), "nothing to trace; give a PROMPT, or --prompts FILE")


def test_what_holds_for_all_lines_and_what_a_line_says(file):
    options = TraceOptions(targets=(" a",), minus=" b", chat=True, system="Be brief.", max_features=9)
    plain, own, ids = read_prompts(
        ["x", {"prompt": "x", "targets": [" c"], "chat": False, "system": None, "max_features": 4}, {"prompt": [1, 2]}],
        options,
    )
    assert plain.request.options == options
    assert (own.request.options.targets, own.request.options.minus, own.request.options.max_features) == (
        (" c",),
        None,
        4,
    )
    assert ids.request.options.chat is False and ids.request.options.system is None
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    (said,) = read_prompts([talk], TraceOptions())
    assert said.request.messages == (("user", "Hi"), ("assistant", "Hello")) and said.id.startswith("hello-")
    assert (
        len(
            read_prompts(
                ["x", {"prompt": "x"}, {"prompt": "x", "max_logits": 10}, {"prompt": "x", "max_logits": 9}],
                TraceOptions(),
            )
        )
        == 2
    )
