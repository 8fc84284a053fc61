"""Graphs that are not what they were: damaged, of other types, with two nodes in one id; and JSON there and back."""

import json
import logging
import tracemalloc

import pytest
import torch
from conftest import PROMPT
from safetensors import safe_open
from safetensors.torch import save_file
from serving import large_graph

import unweave
from unweave.errors import GraphError, InterventionError
from unweave.graphs.interchange import to_json, with_annotations, write_json
from unweave.interventions.naming import read_supernodes


@pytest.fixture(scope="module")
def traced(tiny_folders, tmp_path_factory):
    graph = unweave.attribute(unweave.load(*map(str, tiny_folders("llama", "relu"))), PROMPT, [5, 9])
    path = tmp_path_factory.mktemp("graph") / "x.graph.safetensors"
    graph.save(path)
    return graph, path


def parts(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def rewritten(traced, folder, tensors=None, checksums=False, **provenance):
    """The file with other content; without checksums as earlier versions wrote them."""
    kept, header = parts(traced[1])
    if not checksums:
        del header["checksums"]
    header["provenance"] = json.dumps(json.loads(header["provenance"]) | provenance)
    path = folder / "y.graph.safetensors"
    save_file({name: value for name, value in (kept | (tensors or {})).items() if value is not None}, path, header)
    return path


def test_any_flipped_bit_of_a_new_file_is_noticed(traced, tmp_path):
    tensors, _ = parts(traced[1])
    assert unweave.Graph.load(traced[1]).damage() is None
    for name in ("rows.value", "bias", "nodes.index", "removed"):
        changed = tensors[name].clone()
        changed[3] += 1
        with pytest.raises(GraphError, match=rf"is damaged: {name} changed since it was written"):
            unweave.Graph.load(rewritten(traced, tmp_path, {name: changed}, checksums=True))
    with pytest.raises(GraphError, match="is damaged: provenance changed"):
        unweave.Graph.load(rewritten(traced, tmp_path, checksums=True, residual=1e-9))


def test_a_changed_weight_of_an_older_file_is_said(traced, tmp_path, caplog):
    tensors, _ = parts(traced[1])
    assert unweave.Graph.load(rewritten(traced, tmp_path)).damage() is None
    assert not caplog.records
    changed = tensors["rows.value"].clone()
    entry = int(tensors["rows.start"][-2])
    changed[entry] += 5
    with caplog.at_level(logging.WARNING):
        graph = unweave.Graph.load(rewritten(traced, tmp_path, {"rows.value": changed}))
    last = graph.nodes[len(graph.nodes) - 1].id
    assert graph.damage().id == last and f"the weights into {last} do not add up" in caplog.text


N = 3


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"rows.value": torch.tensor(1.0)}, "rows.value holds float32 numbers in shape"),
        ({"nodes.kind": torch.ones(2, 2, dtype=torch.int64)}, "nodes.kind holds int64 numbers in shape"),
        ({"nodes.kind": lambda kind: kind * 0 - 1}, "not features, errors"),
        ({"nodes.kind": lambda kind: kind * 0 + 9}, "not features, errors"),
        ({"nodes.kind": lambda kind: kind.flip(0)}, "not features, errors"),
        ({"nodes.index": lambda index: index.float()}, "nodes.index holds float32 numbers"),
        ({"bias": lambda bias: bias.half()}, "bias holds float16"),
        ({"bias": lambda bias: bias[1:]}, "disagree in length"),
        ({"full_rank": torch.ones(2)}, "disagree in length"),
        ({"full_influence": torch.ones(2)}, "disagree in length"),
        ({"rows.column": lambda column: column - 99}, "disagree in length"),
        ({"rows.value": lambda value: value / 0}, "not finite"),
        ({"surprise": torch.ones(2)}, "it has surprise"),
        ({"removed": None}, "it lacks removed"),
        ({"nodes.index": lambda index: index * 0}, "names two nodes"),
    ],
)
def test_tables_that_are_none(traced, tmp_path, tensors, message):
    kept, _ = parts(traced[1])
    made = {name: value(kept[name]).contiguous() if callable(value) else value for name, value in tensors.items()}
    with pytest.raises(GraphError, match=message) as caught:
        unweave.Graph.load(rewritten(traced, tmp_path, made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "facts",
    [
        {"model": 3}, {"n_layers": "3"}, {"n_layers": True}, {"tokens": "abc"}, {"tokens": [1]}, {"input_ids": [0.5]},
        {"scores": 0.5}, {"scores": [0.5]}, {"extra": [1]}, {"extra": {"labels": []}}, {"position_zero": "maybe"},
        {"logit_labels": []}, {"target_tokens": [[1]]}, {"residual": "small"}, {"pruning": ["a", "b"]},
        {"tokens": ["a"]},
    ],
)  # fmt: skip
def test_provenance_of_other_types(traced, tmp_path, facts):
    with pytest.raises(GraphError, match=r"of another type|damaged|extra facts"):
        unweave.Graph.load(rewritten(traced, tmp_path, **facts))


# -- JSON


@pytest.fixture
def document(traced):
    graph, _ = traced
    return json.loads(json.dumps(to_json(graph, "x")))


def read(document, folder):
    (folder / "g.json").write_text(json.dumps(document))
    return unweave.Graph.load(folder / "g.json")


def test_json_is_written_in_pieces_as_it_was_whole(traced, document, tmp_path, monkeypatch):
    monkeypatch.setattr("unweave.graphs.interchange.LINKS_AT_ONCE", 7)
    write_json(traced[0], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == document


def peak(work):
    """The most bytes of Python's memory at a time."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_links_are_written_and_read_in_bounded_memory(tmp_path, monkeypatch):
    """As objects a link takes 414 bytes to write and 580 to read."""
    monkeypatch.setattr("unweave.graphs.interchange.LINKS_AT_ONCE", 1 << 8)
    small, large = (large_graph(150, edges) for edges in (2_000, 8_000))
    more = large.n_edges - small.n_edges
    wrote = [
        peak(lambda graph=graph: write_json(graph, tmp_path / f"{graph.n_edges}.json")) for graph in (small, large)
    ]
    read = [
        peak(lambda graph=graph: unweave.Graph.load(tmp_path / f"{graph.n_edges}.json")) for graph in (small, large)
    ]
    assert more > 4_000 and wrote[1] - wrote[0] < 5 * more and read[1] - read[0] < 250 * more
    assert torch.equal(unweave.Graph.load(tmp_path / f"{large.n_edges}.json").rows.value, large.rows.value)


def test_objects_like_links_elsewhere_stay_objects(document, tmp_path):
    link = {"source": "a", "target": "b", "weight": 1}
    document["metadata"]["own"] = document["qParams"]["own"] = [link, {"x": link}]
    extra = read(document, tmp_path).provenance.extra
    assert extra["metadata"]["own"] == extra["qParams"]["own"] == [link, {"x": link}]


def test_links_of_other_forms(document, tmp_path):
    plain = read(document, tmp_path)
    document["links"] = [link | {"color": "red"} for link in document["links"]]
    assert torch.equal(read(document, tmp_path).rows.value, plain.rows.value)
    document["links"].append({"source": "nowhere", "target": document["links"][0]["target"], "weight": 1})
    assert read(document, tmp_path).provenance.extra["links_left_out"] == 1
    for wrong in ([["a", "b", 1]], {}, None, ["a"], [{"source": "a", "target": "b"}], [None]):
        document["links"] = wrong
        with pytest.raises(GraphError, match="not an attribution graph"):
            read(document, tmp_path)


def test_the_same_node_twice(document, tmp_path):
    n = len(document["nodes"])
    document["nodes"].append(dict(document["nodes"][0]))
    assert len(read(document, tmp_path).nodes) == n
    document["nodes"][-1]["activation"] = 77.0
    with pytest.raises(GraphError, match=f"two different nodes have the id {document['nodes'][0]['node_id']}"):
        read(document, tmp_path)


def test_links_of_no_weight_and_links_twice(document, tmp_path):
    document["links"] = [link for link in document["links"] if link["weight"]]
    n = len(document["links"])
    document["links"] += [dict(document["links"][0]), document["links"][1] | {"weight": 0.0}]
    assert read(document, tmp_path).n_edges == n
    document["links"].append(document["links"][0] | {"weight": 123.0})
    with pytest.raises(GraphError, match="two links with other weights"):
        read(document, tmp_path)


def test_old_ids_of_errors_there_and_back(document, tmp_path):
    """Errors as `0_{layer}_{position}`; pins, groups and what is clicked name them."""
    old = {}
    for node in document["nodes"]:
        if node["feature_type"] == "mlp reconstruction error":
            old[node["node_id"]] = node["node_id"] = f"0_{node['layer']}_{node['ctx_idx']}"
            old[f"{node['layer']}_error_mlp_{node['ctx_idx']}"] = node["node_id"]
    for link in document["links"]:
        link["source"] = old.get(link["source"], link["source"])
    ids = [node["node_id"] for node in document["nodes"]]
    errors = [node["node_id"] for node in document["nodes"] if node["feature_type"] == "mlp reconstruction error"]
    pins = [name for name in errors if ids.count(name) == 1][:3]
    document["qParams"] = {"pinnedIds": pins, "supernodes": [["errors", *pins]], "clickedId": pins[0], "sg_pos": ""}
    graph = read(document, tmp_path)
    assert all(name in graph.nodes.rows for name in graph.provenance.extra["qParams"]["pinnedIds"])
    again = to_json(graph)
    alone = {name for name in ids if ids.count(name) == 1}
    assert {node["node_id"] for node in again["nodes"]} >= alone and len(again["nodes"]) == len(ids)
    assert again["qParams"] == document["qParams"]
    ours = graph.provenance.extra["qParams"]["pinnedIds"]
    given = with_annotations(again, {"pins": ours, "supernodes": [{"name": "e", "members": ours}]})
    assert given["qParams"]["pinnedIds"] == pins and given["qParams"]["supernodes"] == [["e", *pins]]
    graph.save(tmp_path / "g.graph.safetensors")
    assert to_json(unweave.Graph.load(tmp_path / "g.graph.safetensors"))["qParams"] == document["qParams"]


def test_an_id_of_a_feature_and_an_error_counts_as_unexplained(document, tmp_path):
    feature = next(node for node in document["nodes"] if node["node_id"].startswith("0_"))
    error = next(node for node in document["nodes"] if node["feature_type"] == "mlp reconstruction error")
    known = error["node_id"]
    error["node_id"] = feature["node_id"]
    document["links"] = [link for link in document["links"] if link["source"] != known]
    graph = read(document, tmp_path)
    assert graph.provenance.extra["ambiguous"] == [feature["node_id"]]
    name = feature["node_id"]
    sources = [link for link in document["links"] if link["source"] == name and link["weight"]]
    assert len(graph.outgoing(graph.provenance.extra and known)) == len(sources) and not graph.outgoing(
        feature["node_id"]
    )


def test_byte_order_marks(document, tmp_path):
    (tmp_path / "g.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert len(unweave.Graph.load(tmp_path / "g.json").nodes) == len(document["nodes"])
    (tmp_path / "s.json").write_bytes(b'\xef\xbb\xbf{"a": ["0_1_2"]}')
    assert list(read_supernodes(tmp_path / "s.json")) == ["a"]
    (tmp_path / "s.json").write_text('{"0_1_2": ["0_1_2"]}')
    with pytest.raises(InterventionError, match="named like a node"):
        read_supernodes(tmp_path / "s.json")
