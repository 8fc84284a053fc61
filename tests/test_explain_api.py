"""Explanations on disk and on the server: stored, found by prompt, made as a job, and groups put to other values."""

import json

import pytest
import torch
from serving import Page, document

import unweave
from unweave.errors import FileError, OptionError
from unweave.explanation.off import without_groups
from unweave.explanation.stored import graph_of, read_explanation, write_explanation
from unweave.features.foreign import FeaturePages
from unweave.interventions.live import TokenPair, heads_of, look, run
from unweave.interventions.parts import Part
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server

PROMPT, INSTEAD = [0, 3, 7, 9, 4], [0, 3, 12, 9, 4]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", "jumprelu")


@pytest.fixture(scope="module")
def explained(model):
    return unweave.explain(model, PROMPT, instead=INSTEAD, draws=4)


@pytest.fixture(scope="module")
def traced(model):
    return unweave.attribute(model, PROMPT, max_features=20)


@pytest.fixture
def page(tmp_path, traced, explained, model):
    """A server over a graph, and another of the same prompt with its explanation."""
    traced.save(tmp_path / "features.graph.safetensors")
    graph_of(explained).save(tmp_path / "why.response.graph.safetensors")
    write_explanation(explained.facts, tmp_path / "why.response.explanation.json")
    (tmp_path / "theirs.json").write_text(json.dumps(document()))
    return Page(Server(open_library([tmp_path]), Live(model)))


def test_what_is_written_is_read_again(explained, tmp_path):
    path = write_explanation(explained.facts, tmp_path / "x.explanation.json")
    found = read_explanation(path.read_bytes(), path)
    assert found == json.loads(json.dumps(explained.facts))
    assert found["ids"] == PROMPT and found["baseline"]["ids"] == INSTEAD
    assert all(group["place"] and group["name"].startswith(group["place"]) for group in found["groups"])
    assert {number for sentence in found["sentences"] for number in sentence["groups"]} <= set(
        range(len(found["groups"]))
    )


DAMAGES = {
    "{": "is damaged",
    "[]": "is no explanation",
    '{"format": "unweave explanation", "version": 2}': "version 2",
    '{"format": "unweave explanation", "version": 1, "explanation": {"headline": 3}}': "headline",
    '{"format": "unweave explanation", "version": 1, "explanation": null}': "is damaged",
}


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_file_is_said_in_one_line(text, tmp_path, page):
    (tmp_path / "features.explanation.json").write_text(text)
    answer = page.get("/api/graphs/features/explanation")
    assert answer.status_code == 200 and answer.json()["explanation"] is None
    assert DAMAGES[text] in answer.json()["error"] and "\n" not in answer.json()["error"]


def changed(facts, change):
    copied = json.loads(json.dumps(facts))
    change(copied)
    return {"format": "unweave explanation", "version": 1, "explanation": copied}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts["sentences"][0].update(groups=[99]), "names group 99"),
        (lambda facts: facts["arrows"].append(facts["arrows"][0] | {"target": 50}), "names group 50"),
        (lambda facts: facts["groups"][0].update(position=77), "token that the prompt does not have"),
        (lambda facts: facts["ids"].pop(), "token that the prompt does not have"),
        (lambda facts: facts["groups"][0].update(share=float("nan")), "finite"),
        (lambda facts: facts["baseline"].update(ids=[1]), "another length"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(explained, tmp_path, change, said):
    with pytest.raises(FileError, match=said):
        read_explanation(json.dumps(changed(explained.facts, change)).encode(), tmp_path / "x.explanation.json")


def test_every_graph_of_the_prompt_finds_it_and_no_other(page, explained, tmp_path):
    for slug in ("why.response", "features"):
        answer = page.get(f"/api/graphs/{slug}/explanation").json()
        assert answer["explanation"]["headline"] == explained.headline and answer["live"]
    theirs = page.get("/api/graphs/theirs/explanation").json()
    assert theirs.pop("groups") and theirs == {"explanation": None, "error": None, "live": False}
    listed = {entry["slug"]: entry for entry in page.get("/api/graphs").json()["graphs"]}
    assert set(listed) == {"why.response", "features", "theirs"}
    assert [listed[slug]["has_explanation"] for slug in ("why.response", "features")] == [True, False]
    assert (listed["why.response"]["kind"], listed["why.response"]["units"]) == ("response", "neurons")
    assert listed["theirs"]["kind"] == "attribution"
    (tmp_path / "theirs.explanation.json").write_bytes((tmp_path / "why.response.explanation.json").read_bytes())
    assert "another prompt" in page.get("/api/graphs/theirs/explanation").json()["error"]


def test_two_graphs_are_compared_by_their_explanations(page, explained):
    told = page.get("/api/compare", params={"a": "why.response", "b": "why.response"}).json()["explanations"]
    assert sorted(one["groups"] for one in told["shared"]) == [[n, n] for n in range(len(explained.groups))]
    assert not told["only_a"] and told["answers"][0] == told["answers"][1]
    theirs = page.get("/api/compare", params={"a": "theirs", "b": "theirs"}).json()
    assert theirs["explanations"] is None


def test_a_traced_prompt_is_explained_as_a_job(page, tmp_path):
    for file in tmp_path.glob("*.explanation.json"):
        file.unlink()
    assert page.get("/api/graphs/features/explanation").json()["explanation"] is None
    job = page.post("/api/graphs/features/explain", json={"instead": INSTEAD}).json()["job"]
    events = page.get(f"/api/jobs/{job}/events").text
    assert 'event: done\ndata: {"slug": "features"}' in events and "measuring" in events
    facts = page.get("/api/graphs/features/explanation").json()["explanation"]
    assert facts["groups"] and facts["ids"] == PROMPT and (tmp_path / "features.explanation.json").is_file()
    job = page.post("/api/graphs/features/explain", json={"instead": [0, 3]}).json()["job"]
    assert "equal length" in page.get(f"/api/jobs/{job}/events").text.replace("\\n", " ")


def test_off_is_the_swap_that_the_explanation_measured(page, explained, model):
    for number, group in enumerate(explained.facts["groups"]):
        told = page.post("/api/graphs/why.response/explanation/off", json={"groups": [number]}).json()
        assert told["answer"]["after"] == pytest.approx(group["probability"], abs=1e-5)
        assert told["answer"]["before"] == pytest.approx(explained.facts["answer"]["probability"], abs=1e-5)
        assert told["moved"][number] is None


def test_off_to_zero_is_what_hooks_make_of_it(explained, model):
    language_model = model.language_model
    told = without_groups(language_model, explained.facts, [0], "zero")
    part, ids = Part.parse(explained.facts["groups"][0]["parts"]), torch.tensor(PROMPT)
    inside = look(language_model, ids)
    nothing = type(inside)({key: torch.zeros_like(value) for key, value in inside.at.items()}, inside.logits)
    answer = explained.facts["answer"]["id"]
    variant = part.put(nothing, heads_of(language_model))
    ran = run(language_model, ids, TokenPair(answer, explained.facts["rival"]["id"]), [variant])
    assert told["answer"]["after"] == pytest.approx(float(ran.answer[0]), abs=1e-6)
    with pytest.raises(OptionError, match="no group 99"):
        without_groups(language_model, explained.facts, [99])


def test_what_cannot_be_explained_or_put_is_said(page, tmp_path, traced):
    refusals = [
        ("/api/graphs/theirs/explain", {}, 409, "theirs"),
        ("/api/graphs/nothing/explain", {}, 404, "no graph"),
        ("/api/graphs/features/explain", {"groups": 0}, 400, "groups"),
        ("/api/graphs/features/explain", {"instead": ""}, 400, "instead"),
        ("/api/graphs/why.response/explanation/off", {"groups": [99]}, 422, "no group 99"),
        ("/api/graphs/why.response/explanation/off", {"groups": []}, 400, "groups"),
        ("/api/graphs/why.response/explanation/off", {"groups": [0], "to": "one"}, 400, "to"),
    ]
    for address, body, status, words in refusals:
        answer = page.post(address, json=body)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
        assert words in answer.json()["error"]
    asleep = Page(Server(open_library([tmp_path])))
    assert asleep.get("/api/graphs/features/explanation").json()["live"] is False
    assert asleep.post("/api/graphs/features/explain", json={}).status_code == 409


def test_a_neuron_is_not_described_by_the_page_of_a_feature(page):
    told = FeaturePages(lambda keys: {key: {"label": "a feature", "promoted": []} for key in keys}, lambda keys: {})
    page.server.__dict__["pages"] = told
    sources = [page.get(f"/api/graphs/{slug}/features/0/1").json()["source"] for slug in ("why.response", "features")]
    assert sources == ["none", "page"]


def test_edges_of_a_response_graph_travel_by_routes(page, model):
    graph = page.server.library.graph(page.server.library.path("why.response"))[0]
    answer = graph.nodes[graph.nodes.logits.start]
    for edge in graph.incoming(answer)[:3]:
        asked = {"target": answer.row, "source": edge.source.row}
        told = page.get("/api/graphs/why.response/routes", params=asked).json()
        expected = unweave.routes(model.language_model, graph, answer, edge.source)
        assert told["weight"] == pytest.approx(edge.weight, rel=1e-3, abs=1e-6)
        assert told["routes"] == [list(route) for route in expected.strongest(8)]
    heads = page.get("/api/graphs/why.response/heads?most=2").json()["heads"]
    (first, *_) = unweave.attend(model.language_model, graph, 2)
    assert len(heads) == 2 and [heads[0][key] for key in ("layer", "head", "query", "key")] == [
        first.layer, first.head, first.query, first.key,
    ]  # fmt: skip
    assert heads[0]["pattern"] == pytest.approx(first.pattern)
    assert all(effect == pytest.approx(float(first.by_query[row])) for row, effect in heads[0]["by_query"])
    refusals = [
        ("features/routes?target=0&source=1", 409, "attribution graph"),
        ("why.response/routes?target=99999&source=1", 404, "no node 99999"),
        (f"why.response/routes?target={graph.nodes.embeddings.start}&source=0", 422, "no incoming"),
        ("features/heads", 409, "attribution graph"),
        ("why.response/heads?most=0", 400, "most"),
    ]
    for address, status, words in refusals:
        refused = page.get(f"/api/graphs/{address}")
        assert (refused.status_code, list(refused.json())) == (status, ["error"]), refused.text
        assert words in refused.json()["error"]


def test_a_head_tells_its_row_pairs_and_sides(page, explained):
    listed = page.get("/api/graphs/why.response/heads").json()["heads"]
    assert listed and all(len(one["row"]) == one["query"] + 1 for one in listed)
    none = [not one["by_query"] and not one["by_key"] for one in listed]
    assert none == sorted(none), "heads that hang on no node come last"
    one = listed[0]
    asked = f"/api/graphs/why.response/heads/{one['layer']}/{one['head']}?query={one['query']}"
    told = page.get(f"{asked}&key={one['key']}").json()
    assert {name: told[name] for name in ("by_query", "by_key", "row", "pattern")} == {
        name: one[name] for name in ("by_query", "by_key", "row", "pattern")
    }
    sizes = [abs(value) for *_, value in told["pairs"]]
    assert sizes == sorted(sizes, reverse=True)
    free = page.get(asked).json()
    assert free["row"][free["key"]] == max(free["row"][1:] or free["row"])
    for wrong in (
        "heads/99/0?query=1",
        "heads/0/99?query=1",
        f"heads/0/0?query={len(PROMPT)}",
        "heads/0/0?query=1&key=2",
    ):
        refused = page.get(f"/api/graphs/why.response/{wrong}")
        assert refused.status_code == 422 and "\n" not in refused.json()["error"]
    assert page.get("/api/graphs/features/heads/0/0?query=1").status_code == 409
