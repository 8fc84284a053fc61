import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROMPT, SHARED
from jsonschema import Draft7Validator

import unweave
from unweave.base.words import slug_of
from unweave.errors import FileError, GraphError
from unweave.graphs.interchange import to_json, write_json
from unweave.graphs.nodes import NodeKind
from unweave.graphs.spelling import cantor, uncantor

SCHEMA = json.loads((Path(__file__).parent / "data" / "neuronpedia-graph-schema.json").read_text())


@pytest.fixture(scope="module")
def graphs(tiny):
    """(whole, pruned) graph of a tiny model, by dictionary kind."""
    made = {}

    def graph(kind="jumprelu"):
        if kind not in made:
            whole = unweave.attribute(tiny("llama", kind), PROMPT, max_logits=3)
            made[kind] = whole, unweave.prune(whole)
        return made[kind]

    return graph


def peer_document(**changes):
    """A small graph as circuit-tracer writes it, with the error ids of its earlier versions."""

    def node(node_id, layer, position, kind, **more):
        return {
            "node_id": node_id,
            "feature": None,
            "layer": str(layer),
            "ctx_idx": position,
            "feature_type": kind,
            "token_prob": 0.0,
            "is_target_logit": False,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": node_id,
            "clerp": "",
            "influence": 0.5,
            "activation": None,
        } | more

    return {
        "metadata": {
            "slug": "small",
            "scan": "toy-2l",
            "transcoder_list": ["a", "b"],
            "prompt_tokens": ["<s>", "hi"],
            "prompt": "<s>hi",
            "schema_version": 1,
            "node_threshold": 0.8,
            "pruning_settings": {"node_threshold": 0.8, "edge_threshold": 0.9},
            "feature_details": {"neuronpedia_source_set": "x"},
        },
        "qParams": {
            "pinnedIds": ["0_1_1"],
            "supernodes": [["two", "0_1_1", "1_4_1"]],
            "linkType": "both",
            "clickedId": "0_1_1",
            "sg_pos": "1 2",
        },
        "nodes": [
            node("E_2_0", "E", 0, "embedding", feature=0, clerp="Emb: <s>"),
            node("E_9_1", "E", 1, "embedding", feature=1),
            node("0_1_1", 0, 1, "cross layer transcoder", feature=cantor(0, 1), activation=2.5, clerp="greeting"),
            node("0_0_1", 0, 1, "mlp reconstruction error", feature=-1),
            node("0_1_1", 1, 1, "mlp reconstruction error", feature=-1, clerp="error of layer 1"),
            node("1_4_1", 1, 1, "cross layer transcoder", feature=cantor(1, 4), activation=1.5),
            node(
                "3_7_1",
                3,
                1,
                "logit",
                feature=7,
                token_prob=0.6,
                is_target_logit=True,
                clerp='Output " the "odd" one" (p=0.600)',
                influence=None,
            ),
            node("3_8_1", 3, 1, "logit", feature=8, token_prob=0.2, clerp='Output "b" (p=0.200)', influence=None),
        ],
        "links": [
            {"source": "E_2_0", "target": "0_1_1", "weight": 1.0},
            {"source": "E_9_1", "target": "0_1_1", "weight": -3.0},
            {"source": "0_1_1", "target": "1_4_1", "weight": 2.0},
            {"source": "0_0_1", "target": "1_4_1", "weight": 0.5},
            {"source": "1_4_1", "target": "3_7_1", "weight": 1.25},
            {"source": "0_1_1", "target": "3_8_1", "weight": -0.5},
            {"source": "left_out_9", "target": "3_8_1", "weight": 9.0},
        ],
    } | changes


def save(document, path):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize("kind", ["jumprelu", "clt"])
def test_documents_fit_the_schema(graphs, kind):
    for graph in graphs(kind):
        document = json.loads(json.dumps(to_json(graph, "a-slug", "tiny-llama"), allow_nan=False))
        assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(document)] == []


def test_a_document_says_what_the_graph_is(graphs):
    whole, graph = graphs()
    document = to_json(graph)
    metadata = document["metadata"]
    assert metadata["prompt_tokens"] == [f"#{token}" for token in PROMPT]
    assert metadata["prompt"] == "".join(metadata["prompt_tokens"])
    assert metadata["slug"] == slug_of(metadata["prompt"])
    assert metadata["transcoder_list"] == [graph.provenance.transcoders]
    assert metadata["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    assert metadata["replacement_score"] == whole.scores().replacement
    assert metadata["info"]["generator"] == {"name": "unweave", "version": unweave.__version__}
    assert not set(metadata["scan"]) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_nodes_carry_the_fields_names_and_numbers(graphs):
    whole, graph = graphs()
    document = to_json(graph)
    assert [entry["node_id"] for entry in document["nodes"]] == [node.id for node in graph.nodes]
    assert len({entry["node_id"] for entry in document["nodes"]}) == len(graph.nodes)
    rank = whole.influence_rank()
    for node, entry in zip(graph.nodes, document["nodes"], strict=True):
        assert entry["ctx_idx"] == node.position
        assert (entry["reverse_ctx_idx"], entry["run_idx"]) == (0, 0)
        match node.kind:
            case NodeKind.FEATURE:
                assert uncantor(entry["feature"]) == (node.layer, node.index)
                assert (entry["feature_type"], entry["jsNodeId"]) == (
                    "cross layer transcoder",
                    f"{node.layer}_{node.index}-0",
                )
                assert (entry["layer"], entry["activation"], entry["clerp"]) == (str(node.layer), node.activation, "")
            case NodeKind.ERROR:
                assert (entry["feature"], entry["feature_type"], entry["activation"]) == (
                    -1,
                    "mlp reconstruction error",
                    None,
                )
                assert entry["node_id"] == f"{node.layer}_error_mlp_{node.position}"
            case NodeKind.EMBEDDING:
                assert (entry["layer"], entry["feature"], entry["feature_type"]) == ("E", node.position, "embedding")
            case NodeKind.LOGIT:
                assert (entry["layer"], entry["feature"], entry["feature_type"]) == (
                    str(graph.provenance.n_layers + 1),
                    node.index,
                    "logit",
                )
                assert entry["clerp"] == f'Output "#{node.index}" (p={node.activation:.3f})'
                assert (entry["token_prob"], entry["influence"]) == (node.activation, None)
        if node.kind != NodeKind.LOGIT:
            assert entry["token_prob"] == 0.0
            assert math.isclose(entry["influence"], rank[whole.nodes.rows[node.id]], abs_tol=1e-6)
    assert [entry["is_target_logit"] for entry in document["nodes"]].count(True) == 1


def test_links_join_listed_nodes(graphs):
    _, graph = graphs()
    document = to_json(graph)
    listed = {entry["node_id"] for entry in document["nodes"]}
    assert len(document["links"]) == graph.n_edges
    assert all(link["source"] in listed and link["target"] in listed for link in document["links"])
    dense, rows = graph.dense(), graph.nodes.rows
    assert all(link["weight"] == dense[rows[link["target"]], rows[link["source"]]] for link in document["links"])


@pytest.mark.parametrize(
    ("layer", "feature", "number"), [(0, 0, 0), (1, 0, 1), (0, 1, 2), (0, 12284, 75466754), (25, 1_000_003, None)]
)
def test_cantor_numbers(layer, feature, number):
    assert number is None or cantor(layer, feature) == number
    assert uncantor(cantor(layer, feature)) == (layer, feature)


@pytest.mark.parametrize(
    ("text", "slug"),
    [("", "graph"), ("日本", "graph"), ("a/../b", "a-b"), ("x" * 60, "x" * 48), ("a" * 47 + " b", "a" * 47)],
)
def test_slugs_are_file_names(text, slug):
    assert slug_of(text) == slug


def test_the_index_beside_the_files(graphs, tmp_path):
    _, graph = graphs()
    index = tmp_path / "graph-metadata.json"

    def listed():
        return [entry["slug"] for entry in json.loads(index.read_text())["graphs"]]

    write_json(graph, tmp_path / "one.json")
    write_json(graph, tmp_path / "two.json")
    assert listed() == ["one", "two"]
    write_json(graph, tmp_path / "one.json", scan="other")
    assert listed() == ["two", "one"]
    assert json.loads(index.read_text())["graphs"][1]["scan"] == "other"
    assert json.loads((tmp_path / "one.json").read_text())["metadata"]["slug"] == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph-metadata.json", "one.json", "two.json"]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"graphs": 3}', '{"graphs": {"a": 1}}', '{"graphs": ["a"]}', '{"graphs": null}']
)
def test_a_corrupt_index_is_left_alone(graphs, tmp_path, content):
    index = save(content, tmp_path / "graph-metadata.json")
    with pytest.raises(GraphError, match=r"graph-metadata\.json is not a list of graphs .* move it away"):
        write_json(graphs()[1], tmp_path / "one.json")
    assert index.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["graph-metadata.json"]


def test_a_graph_may_not_take_the_name_of_the_index(graphs, tmp_path):
    with pytest.raises(FileError, match=r"graph-metadata\.json is the list of graphs"):
        write_json(graphs()[1], tmp_path / "graph-metadata.json")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(graphs, tmp_path):
    with pytest.raises(FileError, match="cannot write"):
        write_json(graphs()[1], tmp_path / "no" / "one.json")


@pytest.mark.parametrize("kind", ["jumprelu", "clt"])
def test_round_trip_through_json(graphs, tmp_path, kind):
    _, graph = graphs(kind)
    first = json.loads(write_json(graph, tmp_path / "one.json", scan="tiny").read_text())
    back = unweave.Graph.load(tmp_path / "one.json")
    assert [node.id for node in back.nodes] == [node.id for node in graph.nodes]
    assert torch.equal(back.dense().float(), graph.dense().float())
    assert back.provenance.n_layers == graph.provenance.n_layers
    assert back.provenance.logit_labels == graph.provenance.logit_labels
    assert back.provenance.input_ids == tuple(PROMPT)
    assert (back.provenance.pruning, back.provenance.origin) == ((0.8, 0.98), "json")
    assert back.bias.isnan().all()
    assert torch.allclose(
        back.influence_rank()[: graph.nodes.logits.start].float(),
        graph.influence_rank()[: graph.nodes.logits.start].float(),
    )
    assert to_json(back, "one", "tiny") == first
    back.save(tmp_path / "one.graph.safetensors")
    assert to_json(unweave.Graph.load(tmp_path / "one.graph.safetensors"), "one", "tiny") == first


def test_a_document_of_the_peer_is_read(tmp_path):
    graph = unweave.Graph.load(save(peer_document(), tmp_path / "small.json"))
    assert [node.id for node in graph.nodes] == [
        "0_1_1",
        "1_4_1",
        "0_error_mlp_1",
        "1_error_mlp_1",
        "E_2_0",
        "E_9_1",
        "3_7_1",
        "3_8_1",
    ]
    assert graph.n_edges == 6  # the link of a node that is not listed is left out
    facts = graph.provenance
    assert (facts.model, facts.n_layers, facts.input_ids, facts.tokens) == ("toy-2l", 2, (2, 9), ("<s>", "hi"))
    assert facts.logit_labels == (' the "odd" one', "b")
    assert (facts.transcoders, facts.pruning) == ("a, b", (0.8, 0.9))
    assert [(edge.target.id, edge.weight) for edge in graph.outgoing("1_error_mlp_1")] == [
        ("1_4_1", 2.0),
        ("3_8_1", -0.5),
    ]  # what comes from an id that two claim is unexplained
    assert graph.outgoing("0_1_1") == [] and graph.provenance.extra["ambiguous"] == ["0_1_1"]
    assert graph.nodes.find("1_-1_1").id == "1_error_mlp_1"
    assert graph.nodes.find("0_0_1").id == "0_error_mlp_1"
    assert graph.influence().isfinite().all()
    assert all(0 <= score <= 1 for score in graph.scores())


def test_what_the_peer_wrote_is_written_back(tmp_path):
    before = peer_document()
    after = to_json(unweave.Graph.load(save(before, tmp_path / "small.json")), "small", "toy-2l")
    assert after["qParams"] == before["qParams"]
    assert after["metadata"]["feature_details"] == before["metadata"]["feature_details"]
    labels = {entry["node_id"]: entry["clerp"] for entry in after["nodes"]}
    assert labels["0_1_1"] == "greeting"
    assert labels["1_error_mlp_1"] == "error of layer 1"
    assert labels["E_2_0"] == "Emb: <s>"
    assert labels["3_7_1"] == 'Output " the "odd" one" (p=0.600)'
    errors = ("0_0_1", "0_1_1", "1_error_mlp_1")  # by an id that is also a feature's, and as it is written back
    wanted, named = (
        sorted((link["source"], link["target"], link["weight"]) for link in links if link["source"] not in errors)
        for links in (before["links"][:3] + before["links"][4:6], after["links"])
    )
    assert named == wanted
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(after)] == []


def test_an_imported_graph_is_pruned_and_scored(tmp_path):
    graph = unweave.Graph.load(save(peer_document(), tmp_path / "small.json"))
    assert unweave.prune(graph, 0.9, 0.95) is graph  # it was pruned further already
    small = unweave.prune(graph, 0.5, 0.5)
    assert len(small.nodes) <= len(graph.nodes)
    assert small.provenance.pruning == (0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "nodes", "links", "prompt"),
    [
        ("gemma-2-2b-dallas-austin.json", 322, 3506, "<bos>The capital of state containing Dallas is"),
        ("gemma-2-2b-opposite-of.json", 341, 2744, '<bos>The opposite of "small" is "'),
    ],
)
def test_published_graphs_open(name, nodes, links, prompt):
    path = SHARED / "graphs" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    graph = unweave.Graph.load(path)
    document = json.loads(path.read_text())
    assert (len(graph.nodes), graph.n_edges, graph.prompt) == (nodes, links, prompt)
    assert graph.provenance.n_layers == 26
    errors = {
        entry["node_id"] for entry in document["nodes"] if "error" in entry["feature_type"]
    }  # of the earlier form, 0_layer_position
    assert {node.id for node in graph.nodes if node.kind != NodeKind.ERROR} == {
        entry["node_id"] for entry in document["nodes"]
    } - errors
    assert {graph.nodes.find(name).id for name in errors} == {
        node.id for node in graph.nodes if node.kind == NodeKind.ERROR
    }
    assert graph.influence().isfinite().all()
    assert graph.influence().sum() > 0
    assert all(math.isfinite(score) and 0 < score < 1 for score in graph.scores())
    again = to_json(graph)
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(again)] == []
    weights = {(link["source"], link["target"]): link["weight"] for link in document["links"]}
    assert {(link["source"], link["target"]): link["weight"] for link in again["links"]} == weights


def changed_node(number=2, **changes):
    document = peer_document()
    document["nodes"][number] |= changes
    return {
        **document,
        "nodes": [{key: value for key, value in node.items() if value is not ...} for node in document["nodes"]],
    }


def changed_link(**changes):
    document = peer_document()
    document["links"][0] |= changes
    return {
        **document,
        "links": [{key: value for key, value in link.items() if value is not ...} for link in document["links"]],
    }


MALFORMED = {
    "empty": ("", "is not JSON"),
    "no json": ("{", "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "a list": ([], "not an attribution graph"),
    "null": (None, "not an attribution graph"),
    "empty object": ({}, "not an attribution graph: 'metadata' is missing in it"),
    "no metadata": (peer_document(metadata=None), "not an attribution graph"),
    "metadata a list": (peer_document(metadata=[]), "not an attribution graph"),
    "no tokens": (peer_document(metadata={"slug": "x"}), "'prompt_tokens' is missing in it"),
    "nodes null": (peer_document(nodes=None), "not an attribution graph"),
    "nodes numbers": (peer_document(nodes=[1, 2]), "not an attribution graph"),
    "links null": (peer_document(links=None), "not an attribution graph"),
    "links words": (peer_document(links=["a"]), "not an attribution graph"),
    "no layer": (changed_node(layer=...), "'layer' is missing in it"),
    "layer a word": (changed_node(layer="first"), "not an attribution graph"),
    "no position": (changed_node(ctx_idx=...), "'ctx_idx' is missing in it"),
    "position null": (changed_node(ctx_idx=None), "not an attribution graph"),
    "position huge": (changed_node(ctx_idx=10**30), "not an attribution graph"),
    "no type": (changed_node(feature_type=...), "'feature_type' is missing in it"),
    "activation a word": (changed_node(activation="much"), "not an attribution graph"),
    "no weight": (changed_link(weight=...), "'weight' is missing in it"),
    "weight null": (changed_link(weight=None), "not an attribution graph"),
    "weight nan": (changed_link(weight=math.nan), "not an attribution graph.*not finite"),
    "weight infinite": (changed_link(weight=math.inf), "not an attribution graph.*not finite"),
    "probability nan": (changed_node(6, token_prob=math.nan), "not an attribution graph.*not finite"),
    "influence nan": (changed_node(influence=math.nan), "not an attribution graph.*not finite"),
    "no source": (changed_link(source=...), "'source' is missing in it"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_documents_are_refused(tmp_path, name):
    document, message = MALFORMED[name]
    with pytest.raises(GraphError, match=message) as caught:
        unweave.Graph.load(save("null" if document is None else document, tmp_path / "bad.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 10])
def test_files_that_are_no_text_are_refused(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(GraphError, match="is not JSON"):
        unweave.Graph.load(tmp_path / "bad.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(GraphError, match=r"cannot read .*No such file"):
        unweave.Graph.load(tmp_path / "none.json")


def test_a_graph_with_a_cycle_is_refused(tmp_path):
    document = peer_document()
    pairs = (("1_4_1", "3_8_1"), ("3_8_1", "1_4_1"))
    document["links"] = [{"source": source, "target": target, "weight": 1.0} for source, target in pairs]
    with pytest.raises(GraphError, match="cycle"):
        unweave.Graph.load(save(document, tmp_path / "cycle.json")).influence()


@pytest.mark.parametrize("left", [0, 2, 6])
def test_documents_without_logits_or_links_open(tmp_path, left):
    graph = unweave.Graph.load(
        save(peer_document(nodes=peer_document()["nodes"][:left], links=[]), tmp_path / "bare.json")
    )
    assert (len(graph.nodes), graph.n_edges) == (left, 0)
    assert graph.influence().sum() == 0


def test_models_of_the_hub_are_called_what_neuronpedia_calls_them(graphs):
    _, graph = graphs()
    known = replace(graph, provenance=replace(graph.provenance, model="gemma", transcoders="gemma"))
    metadata = to_json(known)["metadata"]
    assert metadata["scan"] == "gemma-2-2b"
    assert metadata["feature_details"] == {"neuronpedia_source_set": "gemmascope-transcoder-16k"}
    for name, scan in (("Qwen/Qwen3-4B", "qwen3-4b"), ("./My Folder", ".-My-Folder"), ("a/b/c", "a-b-c")):
        other = replace(graph, provenance=replace(graph.provenance, model=name))
        assert to_json(other)["metadata"]["scan"] == scan
        assert "feature_details" not in to_json(other)["metadata"]
