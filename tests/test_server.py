"""The server's reading side and its doors: what it lists and gives, and whom it refuses."""

import gzip
import http.client
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from conftest import PROMPT, SHARED
from serving import document, large_graph, listening, page_of, write_document

import unweave
from unweave.server import security
from unweave.server.library import open_library
from unweave.server.state import Server

REAL = SHARED / "graphs"


@pytest.fixture(scope="module")
def graph(tiny):
    return unweave.attribute(tiny(), PROMPT)


@pytest.fixture
def shelf(tmp_path, graph):
    """A folder with one graph of ours and one JSON."""
    unweave.prune(graph, 0.9, 0.95).save(tmp_path / "ours.graph.safetensors")
    write_document(tmp_path / "theirs.json")
    return tmp_path


@pytest.fixture
def page(shelf):
    return page_of(shelf)


def refused(answer, status, words):
    assert (answer.status_code, next(iter(answer.json()))) == (status, "error"), answer.text
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and "Traceback" not in answer.text


def test_the_list_says_what_is_there_and_what_cannot_be_read(page, shelf):
    (shelf / "broken.json").write_text('{"metadata": 3}')
    (shelf / "cut.graph.safetensors").write_bytes((shelf / "ours.graph.safetensors").read_bytes()[:2000])
    for name in ("graph-metadata.json", "ours.annotations.json", ".hidden.json", "ours.validation.json", "note.txt"):
        (shelf / name).write_text("{}")
    facts = page.get("/api/graphs").json()
    assert (facts["live"], facts["model"]) == (False, None)
    listed = {entry["slug"]: entry for entry in facts["graphs"]}
    assert set(listed) == {"ours", "theirs", "broken", "cut"}
    kept = unweave.Graph.load(shelf / "ours.graph.safetensors")
    ours = listed["ours"]
    assert (ours["nodes"], ours["edges"], ours["features"]) == (len(kept.nodes), kept.n_edges, kept.nodes.features.stop)
    assert ours["scores"] == {"replacement": kept.provenance.scores[0], "completeness": kept.provenance.scores[1]}
    assert ours["has_validation"] is True
    assert (listed["theirs"]["title"], listed["theirs"]["nodes"], listed["theirs"]["edges"]) == ("a b", 6, 6)
    assert "not an attribution graph" in listed["broken"]["error"]
    assert "not a whole graph file" in listed["cut"]["error"]
    refused(page.get("/api/graphs/broken"), 422, "not an attribution graph")


def test_files_come_go_and_change_while_it_runs(page, shelf):
    slugs = lambda: [entry["slug"] for entry in page.get("/api/graphs").json()["graphs"]]  # noqa: E731
    assert sorted(slugs()) == ["ours", "theirs"]
    write_document(shelf / "new one!.json", prompt="new")
    assert slugs()[0] == "new-one"
    os.utime(shelf / "theirs.json", ns=(0, 2**62))
    assert slugs()[0] == "theirs"
    before = page.get("/api/graphs/theirs").json()
    write_document(shelf / "theirs.json", prompt="changed")
    assert (before["prompt"], page.get("/api/graphs/theirs").json()["prompt"]) == ("a b", "changed")
    (shelf / "theirs.json").unlink()
    assert "theirs" not in slugs()
    refused(page.get("/api/graphs/theirs"), 404, "no graph 'theirs'")


def test_files_of_equal_names_have_their_own_addresses(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_document(tmp_path / name / "x.json", prompt=name)
    page = page_of(tmp_path / "a", tmp_path / "b" / "x.json")
    assert {entry["slug"]: entry["prompt"] for entry in page.get("/api/graphs").json()["graphs"]} == {
        "x": "a",
        "x-2": "b",
    }


def test_the_view_holds_the_graph(page, shelf):
    graph, view = unweave.Graph.load(shelf / "ours.graph.safetensors"), page.get("/api/graphs/ours").json()
    nodes, edges = view["nodes"], view["edges"]
    assert nodes["id"] == [node.id for node in graph.nodes]
    assert nodes["kind"] == graph.nodes.kind.tolist()
    assert nodes["activation"] == pytest.approx(graph.nodes.activation.tolist())
    assert nodes["influence"] == pytest.approx(graph.influence().tolist())
    assert nodes["rank"] == pytest.approx(graph.influence_rank().tolist())
    assert (view["layers"], view["tokens"]) == (3, list(graph.tokens))
    assert view["shown_edges"] == view["total_edges"] == len(edges["weight"]) == graph.n_edges
    dense = torch.zeros(len(graph.nodes), len(graph.nodes))
    dense[edges["target"], edges["source"]] = torch.tensor(edges["weight"])
    assert torch.equal(dense, graph.dense())
    first = graph.incoming(graph.nodes[edges["target"][0]])[0]
    assert edges["share"][0] == pytest.approx(first.share, rel=1e-5)
    assert edges["share"] == sorted(edges["share"], reverse=True)
    assert sum(nodes["inputs"]) == sum(nodes["outputs"]) == graph.n_edges
    here, peer = graph.scores(), graph.scores("drop")
    assert (view["scores"]["replacement"], view["scores"]["completeness"]) == graph.provenance.scores
    assert (view["scores"]["replacement_file"], view["scores"]["replacement_file_peer"]) == pytest.approx(
        (here.replacement, peer.replacement)
    )
    assert view["residual"] == graph.provenance.residual < 1e-4
    assert view["validation"] is None and view["live"] is False
    targets = [row for row, kind in enumerate(nodes["kind"]) if kind == 3]
    assert [nodes["label"][row] for row in targets] == list(graph.provenance.logit_labels)


def test_few_edges_are_the_strongest_and_eight_into_every_node(page, shelf):
    graph = unweave.Graph.load(shelf / "ours.graph.safetensors")
    view = page.get("/api/graphs/ours?edges=10").json()
    assert view["shown_edges"] == len(view["edges"]["weight"]) < view["total_edges"] == graph.n_edges
    every = page.get("/api/graphs/ours").json()["edges"]
    pairs = list(zip(view["edges"]["source"], view["edges"]["target"], strict=True))
    assert pairs[:10] == list(zip(every["source"][:10], every["target"][:10], strict=True))
    for row in range(len(graph.nodes)):
        strongest = [edge.source.row for edge in graph.incoming(graph.nodes[row])[:8]]
        assert set(strongest) <= {source for source, target in pairs if target == row}


def test_the_edges_of_a_node_are_whole_and_paged(page, shelf):
    graph = unweave.Graph.load(shelf / "ours.graph.safetensors")
    row = graph.nodes.logits.start
    for direction, expected in (("in", graph.incoming(graph.nodes[row])), ("out", graph.outgoing(graph.nodes[0]))):
        node = row if direction == "in" else 0
        found = page.get(f"/api/graphs/ours/edges?node={node}&direction={direction}").json()
        other = [edge.source.row if direction == "in" else edge.target.row for edge in expected]
        assert [edge[0] for edge in found["edges"]] == other
        assert [edge[1] for edge in found["edges"]] == pytest.approx([edge.weight for edge in expected])
        assert [edge[2] for edge in found["edges"]] == pytest.approx([edge.share for edge in expected])
        assert found["total"] == len(expected)
        assert found["weight_total"] == pytest.approx(sum(abs(edge.weight) for edge in expected))
    part = page.get(f"/api/graphs/ours/edges?node={row}&limit=2&offset=1").json()
    assert part["edges"] == page.get(f"/api/graphs/ours/edges?node={row}").json()["edges"][1:3]
    refused(page.get("/api/graphs/ours/edges?node=99999"), 404, "no node 99999")
    for query in (
        "",
        "node=-1",
        "node=x",
        "node=1&direction=up",
        "node=1&limit=1000000000",
        "node=1&offset=99999999999999999999",
    ):
        refused(page.get(f"/api/graphs/ours/edges?{query}"), 400, "")


@pytest.mark.skipif(not REAL.is_dir(), reason="the two real graphs are not here")
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "top"), [("dallas-austin", 322, 3506, " Austin"), ("opposite-of", 341, 2744, "large")]
)
def test_real_graphs_open_as_they_are(name, nodes, edges, top, tmp_path):
    path = REAL / f"gemma-2-2b-{name}.json"
    page = page_of(path)
    view = page.get(f"/api/graphs/{path.stem}").json()
    assert (len(view["nodes"]["id"]), view["shown_edges"], view["layers"]) == (nodes, edges, 26)
    assert top.strip() in view["nodes"]["label"][view["nodes"]["kind"].index(3)]
    assert 0 < view["scores"]["replacement_file"] < 1
    held = sum(value or 0 for value in view["nodes"]["influence"])
    assert held / view["influence_total"] == pytest.approx(0.8, abs=1e-3), "the file holds what its pruning says"
    assert page.get(f"/api/graphs/{path.stem}/annotations").json() == {"revision": 0, "annotations": {}}


def test_shares_of_influence_are_of_the_whole_graph(shelf, page, tiny):
    whole = unweave.attribute(tiny(), PROMPT)
    unweave.prune(whole, 0.7, 0.9).save(shelf / "pruned.graph.safetensors")
    whole.save(shelf / "whole.graph.safetensors")
    views = {name: page.get(f"/api/graphs/{name}").json() for name in ("pruned", "whole")}
    total = float(whole.influence().sum())
    for view in views.values():
        assert view["influence_total"] == pytest.approx(total, rel=1e-4)
    scores = [view["scores"] for view in views.values()]
    for name in ("replacement", "completeness"):
        assert scores[0][name] == scores[1][name], "of the whole graph in both"
        assert scores[0][f"{name}_peer"] == pytest.approx(getattr(whole.scores("drop"), name))
        assert scores[0][f"{name}_peer"] >= scores[0][name], "leaving errors out flatters"
        assert scores[1][f"{name}_peer"] == pytest.approx(scores[0][f"{name}_peer"]), "worked out where not stored"
    silent = document()
    for node in silent["nodes"]:
        node.pop("influence", None)
    (shelf / "silent.json").write_text(json.dumps(silent))
    assert page.get("/api/graphs/silent").json()["influence_total"] is None


def test_a_graph_with_a_cycle_is_shown_without_influence(shelf, page):
    looped = document()
    looped["links"].append({"source": "1_4_1", "target": "0_3_1", "weight": 1.0})
    (shelf / "loop.json").write_text(json.dumps(looped))
    view = page.get("/api/graphs/loop").json()
    assert len(view["edges"]["weight"]) == 7
    assert view["scores"]["replacement_file"] is None


def test_the_validation_report_is_passed_through(page, shelf):
    (shelf / "ours.validation.json").write_text('{"spearman": 0.9}')
    assert page.get("/api/graphs/ours").json()["validation"] == {"spearman": 0.9}
    (shelf / "ours.validation.json").write_text("not JSON")
    assert page.get("/api/graphs/ours").json()["validation"] is None


def test_etag_and_gzip(page):
    for address in ("/api/graphs", "/api/graphs/ours", "/api/graphs/theirs/annotations", "/", "/static/index.html"):
        if address == "/static/index.html":  # the document is given with the token alone
            assert page.get(address).status_code == 404
            continue
        first = page.get(address)
        assert first.status_code == 200, address
        again = page.get(address, headers={"If-None-Match": f"W/{first.headers['etag']}"})
        assert (again.status_code, again.content) == (304, b"")
        assert page.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    packed = page.get("/api/graphs/ours", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = page.get("/api/graphs/ours", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content  # unpacked by the client
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert "content-encoding" not in page.get("/api/graphs/ours", headers={"Accept-Encoding": "gzip;q=0"}).headers
    assert page.get("/api/graphs/ours?edges=5").headers["etag"] != plain.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/static/../../secret.txt", "/static/%2e%2e%2f%2e%2e%2fsecret.txt", "/static//etc/hostname",
        "/api/graphs/..%2f..%2fsecret",
        "/api/graphs/../../secret.txt", "/api/graphs/%2e%2e/secret", "/api/graphs/..%5csecret", "//etc/hostname",
        "/static/%00", "/api/graphs/%00",
        "/static/..%2fserver%2fapp.py",
    ],
)  # fmt: skip
def test_no_path_leads_out(shelf, path):
    (shelf.parent / "secret.txt").write_text("secret")
    (shelf.parent / "secret.json").write_text(json.dumps(document(prompt="secret")))
    with (
        listening(Server(open_library([shelf]))) as port,
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection,
    ):
        connection.putrequest("GET", path)  # as it is, not normalised by a client
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status in (400, 404)
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.example:8230", "", "localhost@evil.example", "[::1", "10.0.0.1"],
)
def test_other_host_names_are_refused(page, host):
    refused(page.get("/api/graphs", headers={"Host": host}), 403, "is not this server")


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8230", "LOCALHOST:8230"])
def test_names_of_this_machine_are_welcome(page, host):
    assert page.get("/api/graphs", headers={"Host": host}).status_code == 200


WRITES = [
    ("POST", "/api/graphs?name=x.json"), ("PUT", "/api/graphs/ours/annotations"), ("POST", "/api/trace"),
    ("DELETE", "/api/jobs/x"),
    ("POST", "/api/graphs/ours/steer"), ("PATCH", "/api/graphs"), ("OPTIONS", "/api/graphs"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "address"), WRITES)
def test_every_write_needs_the_token_and_this_origin(page, method, address):
    for headers, words in (
        ({"X-Unweave-Token": ""}, "X-Unweave-Token"),
        ({"X-Unweave-Token": "wrong"}, "X-Unweave-Token"),
        ({"X-Unweave-Token": "ü"}, "X-Unweave-Token"),
        ({"Origin": "http://evil.example"}, "evil.example"),
        ({"Origin": "null"}, "null"),
        ({"Origin": "https://127.0.0.1:8230"}, "https"),
        ({"Origin": "http://127.0.0.1:9999"}, "9999"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site"),
    ):
        encoded = {name: value.encode() for name, value in headers.items()}
        refused(page.request(method, address, headers=encoded, content=b"{}"), 403, words)
    allowed = page.request(
        method, address, headers={"Origin": "http://127.0.0.1:8230", "Sec-Fetch-Site": "same-origin"}, content=b"{}"
    )
    assert allowed.status_code != 403


def test_the_token_is_in_the_page_and_new_at_each_start(page, shelf):
    assert f'<meta name="unweave-token" content="{page.server.token}">' in page.get("/").text
    assert page_of(shelf).server.token != page.server.token


def test_every_answer_carries_the_policy(page):
    for answer in (
        page.get("/"),
        page.get("/api/graphs"),
        page.get("/nothing"),
        page.post("/api/graphs", headers={"X-Unweave-Token": "no"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy
        assert "unsafe" not in policy and "http:" not in policy and "https:" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    assert "http://" not in page.get("/").text and "https://" not in page.get("/").text


def test_uploads_are_checked_and_never_replace_a_file(page, shelf, graph):
    body = json.dumps(document(prompt="sent")).encode()
    assert page.post("/api/graphs?name=ours.json", content=body).json() == {"slug": "ours-2"}
    assert page.get("/api/graphs/ours-2").json()["prompt"] == "sent"
    ours = (shelf / "ours.graph.safetensors").read_bytes()
    assert page.post("/api/graphs?name=../../ours.graph.safetensors", content=ours).json() == {"slug": "ours-3"}
    before = sorted(os.listdir(shelf))
    for name, content, words in (
        ("bad.json", b"{", "not JSON"),
        ("bad.json", b"[1]", "not an attribution graph"),
        ("bad.json", b"[" * 100_000, "bad.json is not"),
        ("bad.json", b"\xff\xfe", "not JSON"),
        ("bad.graph.safetensors", body, "not a whole graph file"),
        ("bad.graph.safetensors", ours[:-10], "not a whole graph file"),
        ("bad.exe", body, "cannot tell what"),
        (
            "bad.json",
            json.dumps(document() | {"links": [{"source": "E_6_1", "target": "0_3_1", "weight": "1e999"}]}).encode(),
            "not finite",
        ),
        ("bad.json", b"", "empty"),
    ):
        answer = page.post(f"/api/graphs?name={name}", content=content)
        refused(answer, 422, words)
        assert str(shelf) not in answer.text
    assert sorted(os.listdir(shelf)) == before


def test_oversized_bodies_are_refused_before_they_are_held(page, monkeypatch, shelf):
    monkeypatch.setattr(security, "MOST_UPLOAD", 10_000)
    monkeypatch.setattr(security, "MOST_BODY", 10_000)
    for method, address in (("POST", "/api/graphs?name=x.json"), ("PUT", "/api/graphs/ours/annotations")):
        refused(page.request(method, address, content=b"x" * 10_001), 413, "larger than")
        sent = []

        def pieces(sent=sent):
            for _ in range(1000):
                sent.append(1)
                yield b"x" * 1000

        refused(page.request(method, address, content=pieces()), 413, "larger than")  # no length is given
    assert not list(shelf.glob("x*"))


def test_many_clients_at_once(shelf):
    with listening(Server(open_library([shelf]))) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]  # that say nothing

        def ask(number):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                connection.request(
                    "GET",
                    "/api/graphs/ours" if number % 2 else "/api/graphs/theirs",
                    headers={"Accept-Encoding": "gzip"},
                )
                answer = connection.getresponse()
                return answer.status, len(json.loads(gzip.decompress(answer.read()))["nodes"]["id"])

        with ThreadPoolExecutor(32) as pool:
            found = set(pool.map(ask, range(64)))
        for connection in held:
            connection.close()
    assert {status for status, _ in found} == {200} and len(found) == 2


def test_a_graph_is_read_once_for_many_who_ask(shelf, monkeypatch):
    from unweave.server import library

    reads, read = [], library.whole
    monkeypatch.setattr(library, "whole", lambda path: (reads.append(path), read(path))[1])
    page = page_of(shelf)
    threads = [threading.Thread(target=lambda: page.get("/api/graphs/ours")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_a_large_graph_is_served_strongest_first(tmp_path):
    graph = large_graph(2000, 400_000)
    graph.save(tmp_path / "large.graph.safetensors")
    page = page_of(tmp_path)
    view = page.get("/api/graphs/large?edges=20000").json()
    assert view["total_edges"] == graph.n_edges > 300_000
    assert 20_000 <= view["shown_edges"] < 20_000 + 8 * 2000
    assert min(view["edges"]["target"].count(row) for row in range(2000) if view["nodes"]["inputs"][row] >= 8) >= 8
