"""The server among files and clients that mean no good: one bad file or request is that file's or request's affair."""

import http.client
import itertools
import json
import os
import socket
import threading
import time
from contextlib import closing

import pytest
from conftest import PROMPT
from serving import Page, document, listening, page_of, write_document

import unweave
from unweave.errors import FileError
from unweave.server import jobs, live, security
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server


def nested(levels):
    """JSON of lists in lists."""
    return "[" * levels + "]" * levels


def ours(path, graph, **facts):
    """A graph file of ours with other facts in its header, whatever their kind."""
    from safetensors.torch import save_file

    tensors, header = graph._stored()
    known = json.loads(header["provenance"]) | facts
    save_file(tensors, path, header | {"provenance": json.dumps(known)})


@pytest.fixture(scope="module")
def graph(tiny):
    return unweave.attribute(tiny(), PROMPT, max_features=10)


SURROGATE = "a\ud800b"
ODD_FACTS = {
    "prompt half": {"prompt": SURROGATE}, "model half": {"model": SURROGATE}, "provenance number": {"prompt": 5},
    "scores number": {"scores": 0.5}, "scores one": {"scores": [0.5]}, "scores words": {"scores": ["a", "b"]},
    "extra list": {"extra": [1]}, "extra text": {"extra": "x"}, "labels list": {"extra": {"labels": [1]}},
    "title list": {"extra": {"title": [1]}}, "tokens null": {"tokens": None}, "created object": {"created": {}},
    "big number": {"extra": {"metadata": {"n": 10**400}}}, "transcoders list": {"transcoders": [SURROGATE]},
}  # fmt: skip


@pytest.mark.parametrize("facts", ODD_FACTS.values(), ids=ODD_FACTS)
def test_odd_facts_in_a_header_are_one_files_affair(tmp_path, graph, facts):
    ours(tmp_path / "odd.graph.safetensors", graph, **facts)
    write_document(tmp_path / "good.json")
    page = page_of(tmp_path)
    listed = {entry["slug"]: entry for entry in page.get("/api/graphs").json()["graphs"]}
    assert set(listed) == {"odd", "good"} and listed["good"]["title"] == "a b"
    if "error" not in listed["odd"]:
        texts = ("title", "prompt", "model", "transcoders", "created")
        assert all(isinstance(listed["odd"][name], str) for name in texts)
    for address in ("", "/annotations", "/edges?node=0", "/neuronpedia.json", "/export.html", "/features/0/1"):
        answer = page.get(f"/api/graphs/odd{address}")
        assert answer.status_code in (200, 422), (address, answer.text)


ODD_DOCUMENTS = {
    "prompt half": {"prompt": SURROGATE}, "label half": {"label": SURROGATE},
    "token half": {"tokens": (SURROGATE, "b")},
    "model half": {"scan": SURROGATE}, "big number": {"note": 10**400}, "deep": {"note": json.loads(nested(150))},
}  # fmt: skip


@pytest.mark.parametrize("changes", ODD_DOCUMENTS.values(), ids=ODD_DOCUMENTS)
def test_odd_texts_in_a_document_are_made_encodable(tmp_path, changes):
    body = json.dumps(document(**changes)).encode()
    page = page_of(tmp_path)
    assert page.post("/api/graphs?name=odd.json", content=body).json() == {"slug": "odd"}
    for address in ("", "/odd", "/odd/annotations", "/odd/neuronpedia.json", "/odd/export.html"):
        answer = page.get(f"/api/graphs{address}")
        assert answer.status_code == 200 and answer.content.decode(), (address, answer.text)
    if "prompt" in changes:
        assert page.get("/api/graphs/odd").json()["prompt"] == "a\ufffdb"


@pytest.mark.parametrize("given", [[], ["x"], "x", 5, True, None, {"pinnedIds": {}}, {"clerps": [[1, [2]]]}])
def test_odd_query_parameters_are_left_out(tmp_path, given):
    (tmp_path / "x.json").write_text(json.dumps(document() | {"qParams": given}))
    page = page_of(tmp_path)
    for address in ("", "/annotations", "/neuronpedia.json", "/export.html"):
        assert page.get(f"/api/graphs/x{address}").status_code == 200, address


@pytest.mark.parametrize(
    "text",
    [
        nested(300),
        nested(5000),
        '{"metadata": ' + nested(900) + "}",
        "9" * 5000,
        '{"metadata": {"n": ' + "9" * 5000 + "}}",
    ],
)
def test_deep_and_endless_documents_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    write_document(tmp_path / "good.json")
    page = page_of(tmp_path)
    assert {entry["slug"] for entry in page.get("/api/graphs").json()["graphs"]} == {"x", "good"}
    for answer in (page.get("/api/graphs/x"), page.post("/api/graphs?name=y.json", content=text.encode())):
        assert (answer.status_code, list(answer.json())) == (422, ["error"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_and_folders_are_never_opened(tmp_path):
    write_document(tmp_path / "good.json")
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.graph.safetensors")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    for ending in ("annotations", "validation"):
        os.mkfifo(tmp_path / f"good.{ending}.json")
    page = page_of(tmp_path)
    assert [entry["slug"] for entry in page.get("/api/graphs").json()["graphs"]] == ["good"]
    assert page.get("/api/graphs/pipe").status_code == 404
    assert page.get("/api/graphs/good").status_code == 200
    assert "is no regular file" in page.get("/api/graphs/good/annotations").json()["error"]
    with pytest.raises(FileError, match="neither a file nor a folder"):
        open_library([tmp_path / "pipe.json"])


@pytest.mark.skipif(os.name == "nt", reason="file names are characters there")
def test_file_names_that_are_no_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.json"
    with open(name, "w") as file:
        json.dump(document(prompt=""), file)
    page = page_of(tmp_path)
    (entry,) = page.get("/api/graphs").json()["graphs"]
    assert (entry["file"], entry["slug"]) == ("caf\ufffd.json", "caf")
    saved = page.put("/api/graphs/caf/annotations", json={"annotations": {"notes": "x"}}, headers={"If-Match": "0"})
    assert saved.status_code == 200
    assert page.get("/api/graphs/caf/annotations").json()["revision"] == 1
    assert page.get("/api/graphs/caf").status_code == 200


RESERVED = [
    "x.annotations.json",
    "x.validation.json",
    "x.study.json",
    "x.explanation.json",
    "x.Annotations.json",
    "graph-metadata.json",
]


@pytest.mark.parametrize("name", [*RESERVED, "x.annotations .json", "x.validation-.json", "../x.annotations.json"])
def test_an_upload_never_touches_what_lies_beside_a_graph(tmp_path, name):
    write_document(tmp_path / "x.json")
    page = page_of(tmp_path)
    page.put("/api/graphs/x/annotations", json={"annotations": {"notes": "kept"}}, headers={"If-Match": "0"})
    (tmp_path / "x.validation.json").write_text('{"kept": true}')
    (tmp_path / "graph-metadata.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    answer = page.post("/api/graphs", params={"name": name}, content=json.dumps(document(prompt="new")).encode())
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "lies beside graphs" in answer.json()["error"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_upload_is_listed_under_the_name_that_it_gets(tmp_path, graph):
    page = page_of(tmp_path)
    assert page.post("/api/graphs?name=foo.safetensors", content=graph.to_bytes()).json() == {"slug": "foo"}
    assert (tmp_path / "foo.graph.safetensors").is_file()
    assert page.post("/api/graphs?name=FOO.json", content=json.dumps(document()).encode()).json() == {"slug": "FOO-2"}
    (tmp_path / "lone.annotations.json").write_text("{}")  # of a graph that is gone, and may come back
    assert page.post("/api/graphs?name=lone.json", content=json.dumps(document()).encode()).json() == {"slug": "lone-2"}
    listed = {entry["slug"] for entry in page.get("/api/graphs").json()["graphs"]}
    assert listed == {"foo", "FOO-2", "lone-2"}


@pytest.mark.parametrize("levels", [150, 190, 199, 230, 300, 900, 1100])
def test_annotations_nested_deep_are_saved_or_refused(tmp_path, levels):
    page = page_of(write_document(tmp_path / "x.json"))
    headers = {"If-Match": "0", "Content-Type": "application/json"}
    body = f'{{"annotations": {{"history": [{{"a": {nested(levels)}}}]}}}}'
    answer = page.put("/api/graphs/x/annotations", content=body.encode(), headers=headers)
    assert answer.status_code == (200 if levels < 195 else 400), answer.text
    assert page.get("/api/graphs/x/annotations").json()["revision"] == (1 if levels < 195 else 0)
    assert page.get("/api/graphs/x/export.html").status_code == 200
    (tmp_path / "x.annotations.json").write_text(
        f'{{"format": "unweave annotations", "version": 1, "revision": 1, "annotations": {{"a": {nested(levels)}}}}}'
    )
    assert page.get("/api/graphs/x/annotations").status_code in (200, 422)


def test_accepted_jobs_are_done_and_others_refused(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(jobs, "JOBS_IN_LINE", 4)
    monkeypatch.setattr(jobs, "JOBS_KEPT", 2)
    gate, attribute = threading.Event(), live.answer
    monkeypatch.setattr(live, "answer", lambda *words, **more: (gate.wait(20), attribute(*words, **more))[1])
    page = Page(Server(open_library([tmp_path]), Live(tiny())))
    answers = [page.post("/api/trace", json={"prompt": PROMPT, "max_features": 5}) for _ in range(9)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 5
    assert answers[-1].headers["retry-after"] and "in line already" in answers[-1].json()["error"]
    gate.set()
    for answer in answers[:4]:
        assert "event: done" in page.get(f"/api/jobs/{answer.json()['job']}/events").text
    assert len(list(tmp_path.glob("*.graph.safetensors"))) == 4
    assert page.post("/api/trace", json={"prompt": PROMPT, "max_features": 5}).status_code == 200


def test_runs_that_wait_for_the_model_leave_the_others_alone(tmp_path, tiny, graph):
    graph.save(tmp_path / "g.graph.safetensors")
    server = Server(open_library([tmp_path]), Live(tiny()))
    page, node = Page(server), next(node.id for node in graph.nodes if node.kind == unweave.NodeKind.FEATURE)
    wanted, answers = {"changes": [{"action": "ablate", "nodes": [node]}]}, []
    with server.live.lock:  # type: ignore[union-attr]  a long trace
        ask = lambda: answers.append(page.post("/api/graphs/g/steer", json=wanted).status_code)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(live.RUNS_IN_LINE + 4)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        while len(answers) < 4 and time.monotonic() < begin + 20:
            time.sleep(0.01)
        assert page.get("/api/graphs").status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * live.RUNS_IN_LINE + [429] * 4


@pytest.mark.parametrize(
    "host",
    [
        r"evil.com\@127.0.0.1", "evil.com/@127.0.0.1", "evil.com#@localhost", "a@127.0.0.1", "127.0.0.1:", "127.1",
        "localhost:x", "127.0.0.1:999999", "localhost.", "127.0.0.1 ", "2130706433",
    ],
)  # fmt: skip
def test_host_names_are_taken_by_the_letter(tmp_path, host):
    answer = page_of(write_document(tmp_path / "x.json")).get("/api/graphs", headers={"Host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("method", "address", "allowed"),
    [
        ("PATCH", "/api/graphs", "GET, POST"), ("DELETE", "/api/graphs/x/annotations", "GET, PUT"),
        ("POST", "/api/graphs/x", "GET"), ("GET", "/api/trace", "POST"), ("PUT", "/", "GET"),
        ("HEAD", "/api/jobs/x", "DELETE"),
    ],
)  # fmt: skip
def test_a_wrong_method_is_told_the_right_ones(tmp_path, method, address, allowed):
    answer = page_of(write_document(tmp_path / "x.json")).request(method, address, content=b"{}")
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_an_unknown_feature_is_no_error(tmp_path):
    page = page_of(write_document(tmp_path / "x.json"))
    for address in ("0/3", "7/1", "0/99999999999999999999", "-1/1"):
        answer = page.get(f"/api/graphs/x/features/{address}")
        assert (answer.status_code, answer.json()["source"], answer.json()["contexts"]) == (200, "none", [])


def test_connections_that_ask_for_nothing_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("unweave.server.run.SECONDS_OF_SILENCE", 0.2)
    monkeypatch.setattr(security, "SECONDS_OF_SILENCE", 0.2)
    server = Server(open_library([write_document(tmp_path / "x.json")]))
    half = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX"
    whole = b"GET /api/graphs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    body = (
        b"PUT /api/graphs/x/annotations HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Unweave-Token: "
        + server.token.encode()
        + b"\r\nContent-Length: 10\r\n\r\n{"
    )
    with listening(server) as port:
        held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(30)]
        for number, connection in enumerate(held):
            connection.sendall((b"", half, whole + half, body)[number % 4])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/api/graphs")
            assert connection.getresponse().status == 200  # others are served meanwhile
        for number, connection in enumerate(held):
            said = b"".join(iter(lambda connection=connection: connection.recv(1 << 16), b""))  # until it is closed
            assert said.startswith((b"", b"", b"HTTP/1.1 200", b"HTTP/1.1 408")[number % 4]), number
            connection.close()


def test_a_long_chain_is_shown_in_linear_time(tmp_path):
    feature, size = "cross layer transcoder", 4000
    given = document()
    first, last = given["nodes"][0], given["nodes"][-1]
    chain = [{**first, "node_id": f"{at}_3_0", "layer": str(at), "feature_type": feature} for at in range(size)]
    given["nodes"] = [first, *chain, {**last, "node_id": f"{size}_7_1", "layer": str(size)}]
    ids = [node["node_id"] for node in given["nodes"]]
    given["links"] = [{"source": a, "target": b, "weight": 1.0} for a, b in itertools.pairwise(ids)]
    (tmp_path / "chain.json").write_text(json.dumps(given))
    from unweave.graphs import influence as graphs

    steps = []
    unique = graphs.np.unique
    page = page_of(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs.np, "unique", lambda nodes: (steps.append(len(nodes)), unique(nodes))[1])
        view = page.get("/api/graphs/chain").json()
    assert sum(steps) == size + 1  # every edge is followed once
    assert view["nodes"]["influence"][0] == pytest.approx(0.8)
    assert view["scores"]["replacement_file"] == pytest.approx(1.0)
