"""The list of graphs: summaries kept for the next start, whatever happens to the file that keeps them."""

import json
import os
import stat

import pytest
from serving import document, page_of

import unweave
import unweave.server.summaries as module
from unweave.graphs.graph import Graph
from unweave.server.library import Library
from unweave.server.summaries import Summaries, summary_of, summary_of_file


@pytest.fixture
def graph(tiny, tmp_path):
    path = tmp_path / "graphs" / "one.graph.safetensors"
    path.parent.mkdir()
    unweave.attribute(tiny(), [3, 5, 7]).save(path)
    return path


@pytest.fixture
def start(tmp_path, graph):
    """A new start of the server, and its list by slug; the cache is written however little there was to read."""

    def listed():
        library = Library((graph.parent,), _kept=Summaries(tmp_path / "cache" / "kept.json", worth=0.0))
        return {one["slug"]: one for one in library.summaries()}

    return listed


def forbid(monkeypatch):
    def peek(*_, **__):
        raise AssertionError("a file was read")

    monkeypatch.setattr(Graph, "peek", peek)
    monkeypatch.setattr(Graph, "load", peek)


def test_a_second_start_reads_no_graph(start, graph, monkeypatch):
    (graph.parent / "two.json").write_text(json.dumps(document()))
    first = start()
    assert first["one"]["features"] > 0 and first["two"]["prompt"] == "a b"
    with monkeypatch.context() as patched:
        forbid(patched)
        assert start() == first


@pytest.mark.parametrize("change", ["inode", "time", "size"])
def test_a_changed_file_is_read_again(start, graph, change):
    start()
    state, other = graph.stat(), Graph.load(graph).with_provenance(prompt="new", extra={"title": "x" * 9})
    if change == "time":
        other.save(graph)
        os.utime(graph, ns=(state.st_mtime_ns + 1, state.st_mtime_ns + 1))
    elif change == "inode":  # same size and time: only the file itself is another
        raw, title = graph.read_bytes(), summary_of(Graph.load(graph))["model"].encode()
        graph.rename(graph.with_name("old"))
        graph.write_bytes(raw.replace(title, b"x" * len(title)))
        os.utime(graph, ns=(state.st_mtime_ns, state.st_mtime_ns))
        assert graph.stat().st_size == state.st_size
        assert set(start()["one"]["model"]) == {"x"}
        return
    else:
        other.save(graph)
        os.utime(graph, ns=(state.st_mtime_ns, state.st_mtime_ns))
        assert graph.stat().st_size != state.st_size
    assert start()["one"]["title"] == "x" * 9


@pytest.mark.parametrize("damage", [
    b"", b"{", b"[]", b'"x"', b'{"version": 1}', b"\xff", b'{"version":"V","entries":7}',
    b'{"version":"V","entries":[[]]}', b'{"version":"V","entries":[["k",{"title":1}]]}', b"[" * 5000,
])  # fmt: skip
def test_a_damaged_cache_is_ignored_and_replaced(start, tmp_path, damage, monkeypatch):
    first, file = start(), tmp_path / "cache" / "kept.json"
    file.write_bytes(damage.replace(b'"V"', json.dumps(module.__version__).encode()))
    assert start() == first
    forbid(monkeypatch)
    assert start() == first


def test_an_unsound_entry_is_read_again(start, tmp_path):
    first, file = start(), tmp_path / "cache" / "kept.json"
    whole = json.loads(file.read_text())
    for name, value in (("title", 3), ("nodes", "many"), ("scores", {"replacement": "x"}), ("extra", "")):
        broken = json.loads(json.dumps(whole))
        broken["entries"][0][1][name] = value
        file.write_text(json.dumps(broken))
        assert start() == first


def test_another_version_reads_anew(start, tmp_path):
    start()
    file = tmp_path / "cache" / "kept.json"
    file.write_text(file.read_text().replace(module.__version__, "0.0.0"))
    assert module._read(file) == {}


def test_what_cannot_be_read_is_not_kept(start, graph, tmp_path):
    whole = graph.read_bytes()
    graph.write_bytes(whole[:100])
    assert "error" in start()["one"]
    assert not module._read(tmp_path / "cache" / "kept.json")


def test_prompts_in_the_cache_are_the_users_own(start, tmp_path):
    start()
    assert stat.S_IMODE((tmp_path / "cache" / "kept.json").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["kept.json"]


def test_a_cache_that_cannot_be_written_costs_nothing(start, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert start()["one"]["features"] > 0


def test_the_file_is_bounded_and_the_last_used_stay(tmp_path, graph, monkeypatch):
    facts, file = summary_of_file(graph, ""), tmp_path / "kept.json"
    monkeypatch.setattr(module, "MOST_KEPT", 5)
    for names in (range(4), (0,), range(4, 7)):
        kept = Summaries(file, worth=0.0)
        for name in names:
            kept.of(str(name), lambda: facts)
        kept.of(f"new {names[0]}", lambda: facts)
        kept.keep()
    assert list(module._read(file)) == ["new 0", "4", "5", "6", "new 4"]
    monkeypatch.setattr(module, "MOST_BYTES", 400)
    kept = Summaries(file, worth=0.0)
    kept.of("large", lambda: {**facts, "prompt": "p" * 300, "title": ""})
    kept.of("small", lambda: facts)
    kept.keep()
    assert list(module._read(file)) == ["small"] and file.stat().st_size < 500


def test_two_servers_keep_each_others(tmp_path, graph):
    facts, file = summary_of_file(graph, ""), tmp_path / "kept.json"
    first, second = Summaries(file, worth=0.0), Summaries(file, worth=0.0)
    for kept, name in ((first, "a"), (second, "b")):
        kept.of(name, lambda: facts)
    first.keep()
    second.keep()
    assert module._read(file).keys() == {"a", "b"}


def test_a_moment_of_reading_writes_nothing(graph, monkeypatch, tmp_path):
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    kept = Summaries(worth=1e9)
    kept.of("a", lambda: summary_of_file(graph, ""))
    kept.keep()
    assert not kept.file.exists() and kept.file.parent == tmp_path / "cache"


@pytest.mark.parametrize("facts", [
    {}, {"prompt": "one"}, {"prompt": 'with ", "extra": { inside'},
    {"extra": {"title": "Named", "labels": {"0_1": "x"}}},
    {"extra": {"labels": {"0_1": 'the "title"'}}}, {"extra": {"labels": {"0_1": "half \ud800"}}},
    {"prompt": "half \ud800"}, {"scores": (0.5, 0.25)}, {"extra": {"notes": '", "extra": {'}},
])  # fmt: skip
def test_the_head_of_a_file_says_what_the_whole_does(graph, facts):
    """The shortened reading and the whole one agree, whatever the texts hold."""
    Graph.load(graph).with_provenance(**facts).save(graph)
    assert summary_of_file(graph, "one") == module.encodable(summary_of(Graph.load(graph)))


def test_the_api_lists_the_same(graph, start):
    (listed,) = page_of(graph.parent).get("/api/graphs").json()["graphs"]
    assert listed == start()["one"]
