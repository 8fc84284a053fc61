"""Groups that are read off a graph nobody explained, kept beside it; and names of features from files."""

import gzip
import json
from dataclasses import replace

import pytest
import torch
from serving import document, page_of, write_document

import unweave
from unweave.errors import FileError
from unweave.explanation.read_off import EVERYWHERE, MOST_GROUPS, answer_effects, groups_of
from unweave.features.foreign import open_pages
from unweave.features.label_files import read_labels
from unweave.graphs.nodes import NodeKind

LABELS = {(0, 3): "towns, of the south", (1, 4): "capitals"}


@pytest.fixture(scope="module")
def graph(tiny):
    return unweave.prune(unweave.attribute(tiny(), [0, 3, 7, 9, 4]), 0.9, 0.95)


def test_effects_are_the_sum_over_all_paths_of_signed_shares(graph):
    share = graph.dense().double() / graph.input_size.clamp_min(1e-10)[:, None]
    answer = int(graph.nodes.logits.start + graph.nodes.activation[graph.nodes.logits].argmax())
    start = torch.zeros(len(graph.nodes), dtype=torch.float64)
    start[answer] = 1.0
    paths = torch.linalg.solve((torch.eye(len(start)) - share).T, start) - start
    assert torch.allclose(answer_effects(graph), paths, atol=1e-6)


def test_groups_are_of_one_token_and_sign_and_the_largest_come_first(graph):
    effect, groups = answer_effects(graph), groups_of(graph)
    assert 1 < len(groups) <= MOST_GROUPS
    assert groups == groups_of(graph), "the same graph has the same groups"
    sizes = [abs(group.effect) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    seen = [row for group in groups for row in group.rows]
    assert len(seen) == len(set(seen))
    for group in groups:
        rows = list(group.rows)
        assert len(set(graph.nodes.position[rows].tolist())) == 1
        assert set(graph.nodes.kind[rows].tolist()) == {int(NodeKind.FEATURE)}
        assert len({value > 0 for value in effect[rows].tolist()}) == 1
        assert effect[rows].abs().tolist() == sorted(effect[rows].abs().tolist(), reverse=True)
        assert group.effect == pytest.approx(float(effect[rows].sum()))


def test_features_of_nearly_every_token_are_left_out(graph):
    nodes = graph.nodes
    rows = [row for group in groups_of(graph, 100) for row in group.rows]
    where: dict[tuple[int, int], set[int]] = {}
    for row in range(len(nodes)):
        if nodes.kind[row] == NodeKind.FEATURE:
            where.setdefault((int(nodes.layer[row]), int(nodes.index[row])), set()).add(int(nodes.position[row]))
    tokens = len(set(nodes.position.tolist()))
    often = {key for key, places in where.items() if len(places) > max(2, EVERYWHERE * tokens)}
    assert not often & {(int(nodes.layer[row]), int(nodes.index[row])) for row in rows}


def test_effects_of_a_response_graph_are_its_own():
    model = unweave.load_model("organism")
    graph = unweave.response_graph(model, "the capital of Texas is", most=12)
    assert torch.allclose(answer_effects(graph), -graph.effect.double())
    assert groups_of(graph)


def test_a_graph_in_a_circle_and_one_without_outputs(tmp_path):
    content = document()
    content["links"].append({"source": "1_4_1", "target": "0_3_1", "weight": 1.0})
    (tmp_path / "circle.json").write_text(json.dumps(content))
    graph = unweave.Graph.load(tmp_path / "circle.json")
    told = {graph.nodes[group.rows[0]].id: group.effect for group in groups_of(graph)}
    assert told == pytest.approx({"0_3_1": -1 / 4.5, "1_4_1": 3 / 4.5}), "direct shares"
    content["nodes"] = [node for node in content["nodes"] if node["feature_type"] != "logit"]
    content["links"] = [link for link in content["links"] if link["target"] != "3_7_1"]
    (tmp_path / "none.json").write_text(json.dumps(content))
    assert groups_of(unweave.Graph.load(tmp_path / "none.json")) == []


def test_they_are_kept_beside_the_graph_and_made_anew_when_it_or_they_change(tmp_path, monkeypatch):
    path, kept = write_document(tmp_path / "x.json"), tmp_path / "x.groups.json"
    page = page_of(tmp_path)
    first = page.get("/api/graphs/x/explanation").json()["groups"]
    assert first and kept.is_file()
    assert [entry["slug"] for entry in page.get("/api/graphs").json()["graphs"]] == ["x"], "it is no graph"
    with monkeypatch.context() as patch:
        patch.setattr("unweave.server.explanations.groups_of", lambda graph: pytest.fail("made twice"))
        assert page_of(tmp_path).get("/api/graphs/x/explanation").json()["groups"] == first
    for damage in ("{", "[]", kept.read_text().replace("0_3_1", "9_9_9")):
        kept.write_text(damage)
        assert page_of(tmp_path).get("/api/graphs/x/explanation").json()["groups"] == first
    content = document()
    content["links"].append({"source": "E_5_0", "target": "3_7_1", "weight": 100.0})
    path.write_text(json.dumps(content))
    assert page_of(tmp_path).get("/api/graphs/x/explanation").json()["groups"] != first


def test_they_are_told_where_nothing_can_be_written(tmp_path, monkeypatch):
    write_document(tmp_path / "x.json")

    def refuse(path, write):
        raise FileError("read-only")

    monkeypatch.setattr("unweave.server.explanations.write_atomically", refuse)
    assert page_of(tmp_path).get("/api/graphs/x/explanation").json()["groups"]


def test_files_that_open_anywhere_have_them(tmp_path, graph):
    write_document(tmp_path / "x.json")
    for text in (page_of(tmp_path).get("/api/graphs/x/export.html").text, unweave.show(graph).document):
        data = json.loads(text.split('id="unweave-data">')[1].split("</script>")[0])
        assert data["explanation"] is None
        size = len(data["view"]["nodes"]["id"])
        assert data["groups"] and all(row < size for group in data["groups"] for row in group["rows"])


WRITTEN = {
    "named.json": json.dumps({"0_3": LABELS[0, 3], "L1/4": LABELS[1, 4]}),
    "list.json": json.dumps([{"layer": key[0], "index": key[1], "label": text} for key, text in LABELS.items()]),
    "theirs.jsonl": "\n".join(
        json.dumps({"modelId": "toy", "layer": f"{key[0]}-clt-hp", "index": str(key[1]), "description": text})
        for key, text in [*LABELS.items(), ((0, 3), "a second explanation"), ((0, 5), "")]
    ),
    "table.csv": "\ufefflayer,feature,label\n" + "".join(f'{a},{b},"{text}"\n' for (a, b), text in LABELS.items()),
    "table.tsv": "layer\tindex\tlabel\n" + "".join(f"{a}\t{b}\t{text}\n" for (a, b), text in LABELS.items()),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("packed", [False, True])
def test_names_come_from_files(tmp_path, name, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(WRITTEN[name].encode()) if packed else WRITTEN[name].encode())
    assert read_labels(path) == LABELS
    write_document(tmp_path / "x.json")
    page = page_of(tmp_path / "x.json", pages=open_pages(path))
    view = page.get("/api/graphs/x").json()
    assert dict(zip(view["nodes"]["id"], view["nodes"]["label"], strict=True))["0_3_1"] == LABELS[0, 3]
    assert page.get("/api/graphs/x/features/1/4").json()["label"] == LABELS[1, 4]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.txt", "0_3: towns", "must end in"),
        ("x.json", "{", "cannot read"),
        ("x.json", '{"towns": "0_3"}', "no LAYER_INDEX"),
        ("x.json", '["towns"]', "cannot read"),
        ("x.jsonl", '{"layer": "first", "index": 3, "label": "a"}', "no layer"),
        ("x.csv", "a,b\n1,2\n", "cannot read"),
        ("x.json", "{}", "names no feature"),
        ("x.json.gz", "no gzip", "cannot read"),
    ],
)
def test_files_that_name_nothing_say_so(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=said):
        open_pages(tmp_path / name)


def test_a_name_stands_beside_what_the_decoder_says(tmp_path, tiny):
    from unweave.server.live import Live

    model = tiny()
    graph = unweave.prune(unweave.attribute(model, [0, 3, 7]), 0.9, 0.95)
    graph.save(tmp_path / "g.graph.safetensors")
    layer, index = int(graph.nodes.layer[0]), int(graph.nodes.index[0])
    (tmp_path / "names.json").write_text(json.dumps({f"{layer}_{index}": "mine"}))
    page = page_of(tmp_path / "g.graph.safetensors", live=Live(model), pages=open_pages(tmp_path / "names.json"))
    found = page.get(f"/api/graphs/g/features/{layer}/{index}").json()
    assert found["label"] == "mine" and found["source"] == "decoder" and found["promoted"]
    assert replace(page.server, live=None).details(graph, [(layer, index)])[layer, index]["label"] == "mine"
