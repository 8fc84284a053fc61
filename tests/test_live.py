"""The page with a model: tracing in the background, cancelling, steering, what features do; two graphs compared."""

import http.client
import json
import math
import threading
import time
from contextlib import closing

import pytest
from conftest import PROMPT
from serving import Page, listening, page_of, write_document

import unweave
from unweave.attribution import attribution
from unweave.server.jobs import Jobs
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server


@pytest.fixture
def server(tmp_path, tiny):
    return Server(open_library([tmp_path]), Live(tiny()))


@pytest.fixture
def page(server):
    return Page(server)


@pytest.fixture
def traced(page, tmp_path, tiny):
    """The slug of a whole graph of the loaded model."""
    unweave.attribute(tiny(), PROMPT).save(tmp_path / "whole.graph.safetensors")
    return "whole"


def watched(page, job):
    """All events of a job until it ends, as (name, facts)."""
    text = page.get(f"/api/jobs/{job}/events").text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def start(page, **wanted):
    answer = page.post("/api/trace", json={"prompt": PROMPT, **wanted})
    assert answer.status_code == 200, answer.text
    return answer.json()["job"]


def test_a_trace_ends_in_a_graph(page, tmp_path, tiny):
    happened = watched(page, start(page, max_features=20, targets=[5], node_threshold=1, edge_threshold=1))
    name, facts = happened[-1]
    assert (name, facts) == ("done", {"slug": "0-7-3-41-7-12"})
    assert {name for name, _ in happened[:-1]} <= {"progress"}
    shares = [facts["share"] for _, facts in happened[:-1]]
    assert shares == sorted(shares)
    graph = unweave.Graph.load(tmp_path / "0-7-3-41-7-12.graph.safetensors")
    expected = unweave.attribute(tiny(), PROMPT, [5], max_features=20)
    assert graph.provenance.max_features == 20
    assert graph.dense().allclose(expected.dense())
    view = page.get("/api/graphs/0-7-3-41-7-12").json()
    assert view["live"] is True
    named = [words for words, kind in zip(view["nodes"]["promotes"], view["nodes"]["kind"], strict=True) if kind == 0]
    assert len(named) == 20 and all(len(words) == 3 for words in named)
    assert watched(page, start(page))[-1] == ("done", {"slug": "0-7-3-41-7-12-2"})  # nothing is replaced
    listed = page.get("/api/graphs").json()
    assert (listed["live"], listed["model"], len(listed["graphs"])) == (True, tiny().language_model.name, 2)


def test_progress_streams_while_it_works(server, monkeypatch):
    gate, reached = threading.Event(), threading.Event()
    attribute = attribution.answer

    def slow(*words, progress, **more):
        def held(share):
            progress(share)
            reached.set()
            gate.wait(20)

        return attribute(*words, progress=held, **more)

    monkeypatch.setattr("unweave.server.live.answer", slow)
    with listening(server) as port:
        job = start(Page(server))
        assert reached.wait(20)
        with (
            closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection,
            closing(connection_to(port, job)) as second,
        ):
            connection.request("GET", f"/api/jobs/{job}/events")
            answer = connection.getresponse()
            assert answer.getheader("content-type").startswith("text/event-stream")
            assert answer.getheader("content-encoding") is None
            assert answer.readline() == b"event: progress\n"  # before the work has ended
            assert json.loads(answer.readline().removeprefix(b"data: "))["title"] == "tracing"
            gate.set()
            assert b"event: done" in answer.read()
            assert b"event: done" in second.getresponse().read()  # another tab that watches


def connection_to(port, job):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", f"/api/jobs/{job}/events")
    return connection


def test_cancelling_stops_the_work_and_those_that_wait(page, monkeypatch, tmp_path):
    reached, steps = threading.Event(), []

    def endless(*_, progress, **__):
        while True:
            reached.set()
            steps.append(1)
            progress(0.1)
            time.sleep(0.005)

    monkeypatch.setattr("unweave.server.live.answer", endless)
    first, waiting = start(page), start(page)
    assert reached.wait(20)
    assert page.delete(f"/api/jobs/{waiting}").json() == {"state": "cancelled"}
    assert watched(page, waiting) == [("cancelled", {})]
    assert page.delete(f"/api/jobs/{first}").json()["state"] in ("cancelling", "cancelled")
    assert watched(page, first)[-1] == ("cancelled", {})
    done = len(steps)
    time.sleep(0.05)
    assert len(steps) == done
    monkeypatch.undo()
    assert watched(page, start(page))[-1][0] == "done"  # the model is free again
    assert page.delete(f"/api/jobs/{first}").json() == {"state": "cancelled"}
    assert [path.name for path in tmp_path.iterdir()] == ["0-7-3-41-7-12.graph.safetensors"]


def test_what_cannot_be_traced_is_said_in_one_line(page, monkeypatch):
    for wanted, status, words in (
        ({"prompt": []}, 400, "prompt: List should have at least 1 item"),
        ({"prompt": ""}, 400, "prompt: String should have at least 1 character"),
        ({"prompt": "words"}, 422, "without a tokenizer"),
        ({"prompt": [999]}, 422, "outside the model's vocabulary"),
        ({"prompt": [-1]}, 400, ""),
        ({}, 400, "prompt: Field required"),
        ({"prompt": PROMPT, "max_features": 0}, 400, "max_features"),
        ({"prompt": PROMPT, "position_zero": "x"}, 400, "position_zero"),
        ({"prompt": PROMPT, "node_threshold": 0}, 400, "node_threshold"),
    ):
        answer = page.post("/api/trace", json=wanted)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), (wanted, answer.text)
        assert words in answer.json()["error"]
    name, facts = watched(page, start(page, targets=[999]))[-1]
    assert name == "failed" and "999" in facts["error"]

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("unweave.server.live.answer", broken)
    name, facts = watched(page, start(page))[-1]
    assert name == "failed" and "defect" not in facts["error"]
    for answer in (page.get("/api/jobs/nothing/events"), page.delete("/api/jobs/nothing")):
        assert answer.status_code == 404


def test_a_full_disk_fails_the_job_alone(page, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    name, facts = watched(page, start(page, max_features=5))[-1]
    assert name == "failed" and "No space left" in facts["error"]
    assert page.get("/api/graphs").json()["graphs"] == []


def test_old_jobs_are_forgotten(monkeypatch):
    monkeypatch.setattr("unweave.server.jobs.JOBS_KEPT", 3)
    jobs, made = Jobs(), []
    for _ in range(6):
        made.append(jobs.start(lambda report: {}))
        begin = time.monotonic()
        while made[-1].event != "done" and time.monotonic() < begin + 20:
            time.sleep(0.001)
    assert [jobs.find(job.id) is not None for job in made] == [False, False, False, True, True, True]
    jobs.close()


def test_steering_is_what_the_library_says(page, traced, tiny, tmp_path):
    graph = unweave.Graph.load(tmp_path / "whole.graph.safetensors")
    nodes = [node.id for node in list(graph.nodes)[graph.nodes.features] if node.position == 5][:3]
    changes = [
        {"action": "ablate", "nodes": nodes[:2], "name": "pair"},
        {"action": "scale", "nodes": [nodes[2]], "value": -2},
    ]
    wanted = {"changes": changes, "watch": nodes, "tokens": [4], "generate": 3, "mode": "open"}
    answer = page.post(f"/api/graphs/{traced}/steer", json=wanted)
    assert answer.status_code == 200, answer.text
    facts = answer.json()
    made = [unweave.ablate(nodes[:2]), unweave.scale(nodes[2], -2.0)]
    expected = unweave.intervene(tiny(), PROMPT, made, "open")
    assert facts["kl"] == pytest.approx(expected.kl(), rel=1e-4)
    assert facts["next"][0]["id"] == 4
    for token in facts["next"]:
        assert token["logit_after"] == pytest.approx(float(expected.logits[-1, token["id"]]), abs=1e-5)
    assert [row["node"] for row in facts["watched"]] == nodes
    assert (facts["changes"][0]["action"], facts["changes"][0]["name"]) == ("scale", "pair")
    assert facts["inactive"] == [] and facts["changed"][0]["supernode"] in ("pair", None)
    for token in facts["next"]:
        ratio = token["probability_after"] / token["probability_before"]
        assert token["log_probability_change"] == pytest.approx(math.log(ratio), abs=1e-4)
    assert facts["generation"]["steered"]["ids"] == list(
        unweave.generate(tiny(), PROMPT, made, "open", max_new_tokens=3).steered.ids
    )
    swapped = page.post(f"/api/graphs/{traced}/steer", json={"swap_from": [0, 7, 3, 40, 7, 12]}).json()
    assert swapped["kl"] > 0 and len(swapped["changed"]) > 3


def test_what_cannot_be_steered_is_said_in_one_line(page, traced, tmp_path, tiny):
    node = unweave.Graph.load(tmp_path / "whole.graph.safetensors").nodes[0].id
    write_document(tmp_path / "theirs.json")
    for slug, wanted, status, words in (
        (traced, {}, 422, "nothing to change"),
        (traced, {"changes": [{"action": "ablate", "nodes": ["0_9999_1"]}]}, 422, "no node '0_9999_1'"),
        (traced, {"changes": [{"action": "ablate", "nodes": ["0_error_mlp_1"]}]}, 422, "only features can be changed"),
        (traced, {"changes": [{"action": "ablate", "nodes": []}]}, 400, "nodes"),
        (traced, {"changes": [{"action": "explode", "nodes": [node]}]}, 400, "action"),
        (traced, {"changes": [{"action": "scale", "nodes": [node], "value": "NaN"}]}, 400, "value"),
        (traced, {"changes": [{"action": "scale", "nodes": [node], "value": 1e300}]}, 422, "not finite"),
        (traced, {"swap_from": PROMPT}, 422, "differ in no feature"),
        (traced, {"changes": [{"action": "ablate", "nodes": [node]}], "generate": 500}, 422, "longer than"),
        ("theirs", {"changes": [{"action": "ablate", "nodes": ["0_3_1"]}]}, 409, "a graph of a model of 2 layers"),
        ("nothing", {"changes": [{"action": "ablate", "nodes": ["0_3_1"]}]}, 404, "no graph"),
    ):
        answer = page.post(f"/api/graphs/{slug}/steer", json=wanted)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), (wanted, answer.text)
        assert words in answer.json()["error"]
    other = Page(Server(open_library([tmp_path]), Live(tiny("llama", "relu"))))
    answer = other.post(f"/api/graphs/{traced}/steer", json={"changes": [{"action": "ablate", "nodes": [node]}]})
    assert answer.status_code == 409 and "another dictionary" in answer.json()["error"]
    assert other.get(f"/api/graphs/{traced}").json()["live"] is False


def test_without_a_model(tmp_path):
    write_document(tmp_path / "x.json")
    page = page_of(tmp_path)
    for answer in (page.post("/api/trace", json={"prompt": "a"}), page.post("/api/graphs/x/steer", json={})):
        assert answer.status_code == 409
        assert "unweave serve --model" in answer.json()["error"]


def test_feature_details_come_from_the_decoder(page, traced, tiny, tmp_path):
    graph = unweave.Graph.load(tmp_path / "whole.graph.safetensors")
    node = graph.nodes[0]
    facts = page.get(f"/api/graphs/{traced}/features/{node.layer}/{node.index}").json()
    assert (facts["source"], facts["contexts"], len(facts["promoted"])) == ("decoder", [], 10)
    from unweave.attribution.promoted import logit_effects, promoted_tokens

    assert [word for word, _ in facts["promoted"]][:3] == promoted_tokens(tiny(), [(node.layer, node.index)])[0]
    import torch

    effects = logit_effects(tiny(), node.layer, torch.tensor([node.index]))[0]
    assert facts["promoted"][0][1] == pytest.approx(float(effects.max()))
    assert facts["suppressed"][0][1] == pytest.approx(float(effects.min()))
    for address, status in (
        ("0/9999", 422),
        ("99/1", 422),
        ("-1/1", 200),
        ("0/99999999999999999999999", 200),
        ("x/1", 400),
    ):
        assert page.get(f"/api/graphs/{traced}/features/{address}").status_code == status
    unknown = page_of(tmp_path).get(f"/api/graphs/{traced}/features/{node.layer}/{node.index}")
    assert unknown.json()["source"] == "none"
    named = watched(page, start(page))[-1][1]["slug"]
    known = page_of(tmp_path).get(f"/api/graphs/{named}").json()["nodes"]
    first = next(row for row, words in enumerate(known["promotes"]) if words)
    facts = (
        page_of(tmp_path).get(f"/api/graphs/{named}/features/{known['layer'][first]}/{known['index'][first]}").json()
    )
    assert (facts["source"], [word for word, _ in facts["promoted"]]) == ("graph", known["promotes"][first])


def test_two_graphs_are_compared(page, tiny, tmp_path):
    a, b = unweave.attribute(tiny(), [0, 7, 3, 41, 7, 12]), unweave.attribute(tiny(), [0, 7, 40, 41, 7, 12, 12])
    a.save(tmp_path / "a.graph.safetensors"), b.save(tmp_path / "b.graph.safetensors")
    same = page.get("/api/compare?a=a&b=a").json()
    assert same["shared"] == [[row, row] for row in range(len(a.nodes))]
    assert same["only_a"] == same["only_b"] == [] and set(same["delta_influence"]) == {0.0}
    facts = page.get("/api/compare?a=a&b=b").json()
    assert facts["tokens"] == [[0, 0], [1, 1], [2, 3], [3, 4], [4, 5], [5, 6]]
    assert sorted([i for i, _ in facts["shared"]] + facts["only_a"]) == list(range(len(a.nodes)))
    assert sorted([j for _, j in facts["shared"]] + facts["only_b"]) == list(range(len(b.nodes)))
    partner = dict(facts["tokens"])
    influence = a.influence(), b.influence()
    for (i, j), delta in zip(facts["shared"], facts["delta_influence"], strict=True):
        one, other = a.nodes[i], b.nodes[j]
        assert one.kind == other.kind
        assert delta == pytest.approx(float(influence[1][j] - influence[0][i]))
        if one.kind == unweave.NodeKind.FEATURE:
            assert (one.layer, one.index, partner[one.position]) == (other.layer, other.index, other.position)
    features = {(node.layer, node.index) for node in a.nodes if node.kind == 0} & {
        (node.layer, node.index) for node in b.nodes if node.kind == 0
    }
    assert {(layer, index) for layer, index, _, _ in facts["anywhere"]} == features
    for layer, index, rows_a, rows_b in facts["anywhere"]:
        assert rows_a == [node.row for node in a.nodes if (node.kind, node.layer, node.index) == (0, layer, index)]
        assert rows_b == [node.row for node in b.nodes if (node.kind, node.layer, node.index) == (0, layer, index)]


def test_graphs_of_different_models_are_not_compared(page, tiny, tmp_path):
    for name, model in (("a", tiny()), ("b", tiny("llama", "relu")), ("c", tiny("qwen3"))):
        unweave.attribute(model, PROMPT, max_features=5).save(tmp_path / f"{name}.graph.safetensors")
    for other, words in (("b", "different dictionaries"), ("c", "different models")):
        answer = page.get(f"/api/compare?a=a&b={other}")
        assert answer.status_code == 422 and words in answer.json()["error"]
    assert page.get("/api/compare?a=a&b=nothing").status_code == 404
    assert page.get("/api/compare?a=a").status_code == 400
