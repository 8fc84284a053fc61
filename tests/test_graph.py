import os
import resource
import sys

import fresh
import pytest
import torch
from conftest import PROMPT
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unweave
from unweave.graphs.graph import Graph
from unweave.graphs.influence import Rows, influence, keep_share
from unweave.graphs.nodes import NodeKind, NodeTable
from unweave.graphs.provenance import Provenance


def dense_influence(weights: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The closed form: `w ((I - N)^-1 - I)`."""
    size = weights.abs().double()
    shares = size / size.sum(1, keepdim=True).clamp_min(1e-10)
    identity = torch.eye(len(weights), dtype=torch.float64)
    return start.double() @ (torch.linalg.inv(identity - shares) - identity)


def rows_of(matrix: torch.Tensor) -> Rows:
    row, column = matrix.nonzero(as_tuple=True)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=len(matrix)).cumsum(0)])
    return Rows(start, column.to(torch.int32), matrix[row, column])


recipes = st.fixed_dictionaries({
    "layers": st.integers(1, 4), "n": st.integers(1, 4), "count": st.integers(0, 12), "logits": st.integers(1, 3),
    "density": st.floats(0.1, 1.0), "seed": st.integers(0, 10**6),
})  # fmt: skip


def random_graph(layers: int, n: int, count: int, logits: int, density: float, seed: int) -> Graph:
    """A random attribution graph: features in layers, errors, embeddings, logits; edges go up."""
    random = torch.Generator().manual_seed(seed)
    features = torch.stack([torch.randint(0, high, (count,), generator=random) for high in (layers, n, 1000)], 1)
    features = torch.unique(features, dim=0)
    nodes = NodeTable.build(
        n_layers=layers, features=features, activations=torch.rand(len(features), generator=random),
        errors=torch.cartesian_prod(torch.arange(layers), torch.arange(n)), embeddings=torch.arange(n) + 5,
        logits=torch.stack([torch.arange(logits), torch.full((logits,), n - 1)], 1),
        probabilities=torch.rand(logits, generator=random),
    )  # fmt: skip
    target = (nodes.kind == NodeKind.FEATURE) | (nodes.kind == NodeKind.LOGIT)
    allowed = target[:, None] & (nodes.layer[None] < nodes.layer[:, None]) & (nodes.kind[None] != NodeKind.LOGIT)
    weights = (
        torch.randn(len(nodes), len(nodes), generator=random)
        * allowed
        * (torch.rand(len(nodes), len(nodes), generator=random) < density)
    )
    bias = torch.randn(len(nodes), generator=random) * target
    facts = Provenance(
        model="random", n_layers=layers, prompt="é", tokens=("a",) * n, input_ids=(0,) * n, logit_labels=("x",) * logits
    )
    nothing = torch.zeros(len(nodes))
    return Graph(nodes, rows_of(weights), bias, weights.sum(1) + bias, nothing, nothing, None, None, facts)


@given(recipes)
def test_influence_is_the_closed_form(recipe):
    graph = random_graph(**recipe)
    assert torch.allclose(graph.influence(), dense_influence(graph.dense(), graph.logit_weight), atol=1e-9)


def test_influence_of_the_field_s_small_graph():
    """A diamond of known answer: 3/4 and 1/4 of the target's input, the first passing all of its on."""
    matrix = torch.tensor([[0.0, 0, 0, 0], [2, 0, 0, 0], [-1, 1, 0, 0], [0, 3, 1, 0]])
    received = influence(rows_of(matrix), torch.arange(4), torch.tensor([0.0, 0, 0, 1]))
    assert torch.allclose(received, torch.tensor([0.75 + 0.125 + 0.125, 0.75 + 0.125, 0.25, 0.0], dtype=torch.float64))


@given(recipes, st.floats(0.05, 1), st.floats(0.05, 1))
def test_pruning_keeps_rows_on_account_and_is_idempotent(recipe, node_threshold, edge_threshold):
    graph = random_graph(**recipe)
    small = unweave.prune(graph, node_threshold, edge_threshold)
    again = unweave.prune(small, node_threshold, edge_threshold)
    assert [node.id for node in again.nodes] == [node.id for node in small.nodes]
    assert torch.equal(again.rows.value, small.rows.value)
    gap = small.rows.row_sums() + small.bias.double() + small.removed.double() - small.preactivation.double()
    assert float(gap.abs().max()) <= 1e-4
    kept = {node.id for node in small.nodes}
    assert {node.id for node in graph.nodes if node.kind in (NodeKind.EMBEDDING, NodeKind.LOGIT)} <= kept
    if small is not graph:
        fed, feeding = set(small.rows.row_numbers().tolist()), set(small.rows.column.tolist())
        assert all(node.row in fed and node.row in feeding for node in small.nodes if node.kind == NodeKind.FEATURE)
    assert small.scores().completeness <= graph.scores().completeness + 1e-6


@given(recipes, st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1))
def test_pruning_is_monotone_in_the_edge_threshold(recipe, node_threshold, a, b):
    graph = random_graph(**recipe)

    def edges(threshold: float) -> set[tuple[str, str]]:
        small = unweave.prune(graph, min(node_threshold, 0.99), threshold)
        ids = [node.id for node in small.nodes]
        return {
            (ids[s], ids[t]) for s, t in zip(small.rows.column.tolist(), small.rows.row_numbers().tolist(), strict=True)
        }

    assert edges(min(a, b)) <= edges(max(a, b))


@given(st.lists(st.floats(0, 100, width=32), max_size=30), st.floats(0.01, 1), st.floats(0.01, 1))
def test_kept_share_is_enough_and_monotone(values, a, b):
    tensor = torch.tensor(values, dtype=torch.float64)
    small, large = keep_share(tensor, min(a, b)), keep_share(tensor, max(a, b))
    assert not bool((small & ~large).any())
    assert float(tensor[large].sum()) >= max(a, b) * float(tensor.sum()) * (1 - 1e-9)


@given(recipe=recipes, pruned=st.booleans())
def test_save_and_load_are_inverse(tmp_path_factory, recipe, pruned):
    graph = random_graph(**recipe)
    graph = unweave.prune(graph, 0.7, 0.9) if pruned else graph
    path = graph.save(tmp_path_factory.mktemp("graph") / "x.graph.safetensors")
    same = Graph.load(path)
    assert same.provenance == graph.provenance
    assert torch.equal(same.dense(), graph.dense())
    for name in ("bias", "preactivation", "removed", "removed_size"):
        assert torch.equal(getattr(same, name), getattr(graph, name))
    assert [node.id for node in same.nodes] == [node.id for node in graph.nodes]
    assert torch.allclose(same.influence(), graph.influence())
    assert torch.allclose(same.influence_rank(), graph.influence_rank())


def brute_force_paths(graph: Graph, target: int) -> list[float]:
    shares = graph.dense().abs().double()
    shares /= graph.input_size.clamp_min(1e-10)[:, None]
    found = []

    def walk(at: int, share: float) -> None:
        if graph.nodes.kind[at] == NodeKind.EMBEDDING:
            found.append(share)
        for source in shares[at].nonzero().flatten().tolist():
            walk(source, share * float(shares[at, source]))

    walk(target, 1.0)
    return sorted(found, reverse=True)


@given(recipes)
def test_strongest_paths_are_the_strongest(recipe):
    graph = random_graph(**recipe)
    embeddings = [node for node in graph.nodes if node.kind == NodeKind.EMBEDDING]
    target = graph.nodes[graph.nodes.logits.start]
    found = unweave.strongest_paths(graph, embeddings, target, 6)
    truth = brute_force_paths(graph, target.row)[:6]
    assert torch.allclose(torch.tensor([path.share for path in found]), torch.tensor(truth), atol=1e-9)
    for path in found:
        assert path.nodes[-1].row == target.row
        assert all(a.target.row == b.source.row for a, b in zip(path.edges, path.edges[1:], strict=False))
        assert path.sign == (-1) ** sum(edge.weight < 0 for edge in path.edges)
    assert all(len(path.edges) > 1 for path in unweave.strongest_paths(graph, embeddings, target, 3, direct=False))


@given(recipes)
def test_incoming_and_outgoing_agree_with_the_matrix(recipe):
    graph = random_graph(**recipe)
    dense = graph.dense()
    for node in graph.nodes:
        into, out = graph.incoming(node), graph.outgoing(node.id)
        assert {(edge.source.row, edge.weight) for edge in into} == {
            (s, float(dense[node.row, s])) for s in dense[node.row].nonzero().flatten().tolist()
        }
        assert {(edge.target.row, edge.weight) for edge in out} == {
            (t, float(dense[t, node.row])) for t in dense[:, node.row].nonzero().flatten().tolist()
        }
        assert [abs(edge.weight) for edge in into] == sorted((abs(edge.weight) for edge in into), reverse=True)


def test_dropping_position_zero_is_the_peer_s_score(tiny):
    model = tiny("llama", "jumprelu", "float64")
    honest = unweave.attribute(model, PROMPT)
    dropped = unweave.attribute(model, PROMPT, position_zero="drop")
    assert torch.allclose(torch.tensor(honest.scores("drop")), torch.tensor(dropped.scores()))
    assert honest.scores().replacement < dropped.scores().replacement
    with pytest.raises(unweave.UnweaveError, match="no errors at position 0"):
        dropped.scores("error")


def test_ids_of_the_peer_find_our_error_nodes(tiny):
    graph = unweave.attribute(tiny(), PROMPT)
    assert graph.nodes.find("2_-1_3") == graph.nodes.find("2_error_mlp_3")
    errors = [node for node in graph.nodes if node.kind == NodeKind.ERROR]
    free = next(node for node in errors if f"0_{node.layer}_{node.position}" not in graph.nodes.rows)
    taken = next(node for node in errors if f"0_{node.layer}_{node.position}" in graph.nodes.rows)
    assert graph.nodes.find(f"0_{free.layer}_{free.position}") == free
    assert graph.nodes.find(f"0_{taken.layer}_{taken.position}").kind == NodeKind.FEATURE
    feature = graph.nodes[0]
    assert graph.nodes.find((feature.layer, feature.position, feature.index)) == feature
    with pytest.raises(unweave.UnweaveError, match="no node '77_1_1'"):
        graph.nodes.find("77_1_1")


def test_a_newer_schema_and_damaged_files_are_refused(tiny, tmp_path):
    graph = unweave.prune(unweave.attribute(tiny(), PROMPT))
    path = graph.save(tmp_path / "a.graph.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    save_file(tensors, tmp_path / "new.safetensors", header | {"schema_version": "2"})
    save_file(tensors, tmp_path / "other.safetensors")
    save_file(tensors | {"bias": tensors["bias"][:-1]}, tmp_path / "short.safetensors", header)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "noise.safetensors").write_bytes(os.urandom(500))
    for name, words in {
        "new": "upgrade unweave",
        "other": "not a graph",
        "short": "damaged|not a whole graph",
        "cut": "not a whole graph",
        "noise": "not a whole graph",
    }.items():
        with pytest.raises(unweave.UnweaveError, match=words):
            Graph.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(unweave.UnweaveError, match="no graph file"):
        Graph.load(tmp_path / "nothing.safetensors")


def test_a_full_disk_leaves_no_half_file_and_keeps_the_old_one(tiny, tmp_path):
    """The limit on file size makes writes fail as a full disk does."""
    graph = unweave.attribute(tiny(), PROMPT)
    path = graph.save(tmp_path / "a.graph.safetensors")
    before = path.read_bytes()
    code = f"""
import resource, signal, unweave
graph = unweave.Graph.load({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for name in ({str(path)!r}, {str(tmp_path / "b.graph.safetensors")!r}):
    try:
        graph.save(name)
    except unweave.UnweaveError as error:
        print("refused", error)
"""
    assert (
        resource.getrlimit(resource.RLIMIT_FSIZE)[0] > 20000
        or resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    )
    done = fresh.run(code)
    assert done.stdout.count("refused cannot write") == 2, done.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.graph.safetensors"]


def test_the_average_path_length_is_that_of_all_paths_listed(tiny):
    import unweave

    for family, kind in (("llama", "jumprelu"), ("llama", "clt")):
        graph = unweave.attribute(tiny(family, kind), [0, 7, 3, 41])
        weights = graph.dense().double().abs()
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-10)
        carried, mass, total = graph.logit_weight.double(), 0.0, 0.0
        for length in range(1, 12):
            carried = carried @ weights
            arrived = float(carried[graph.nodes.embeddings].sum())
            mass, total = mass + arrived, total + length * arrived
        assert unweave.average_path_length(graph) == pytest.approx(total / mass, rel=1e-9)


@pytest.fixture(scope="module")
def traced(tiny):
    return unweave.attribute(tiny(), PROMPT, [5, 7])


def test_nodes_are_found_by_row_id_triple_and_slice(traced, unchecked):
    nodes = traced.nodes
    first = nodes[0]
    assert nodes[first.id] == nodes[first.layer, first.position, first.index] == nodes[first] == first
    assert nodes[nodes.logits] == [nodes[-2], nodes[-1]] and nodes[:3] == [nodes[0], nodes[1], nodes[2]]
    assert nodes[-1].token == traced.provenance.logit_labels[1]
    assert all(node.token == traced.tokens[node.position] for node in nodes[: nodes.logits.start])
    assert repr(first) == f"Node({first.id!r}: feature at {first.token!r}, activation {first.activation:.4g})"
    assert repr(nodes).startswith(f"NodeTable({nodes.features.stop} features, 18 errors, 6 embeddings, 2 logits")
    small = unweave.prune(traced, 0.5, 0.9)
    assert small.nodes[-1].token == nodes[-1].token and small.nodes.tokens == traced.tokens
    for wrong in (1.5, (1, 2), None, "text"):
        with pytest.raises(unweave.UnweaveError, match="'12_345_5'"):
            nodes[wrong]
    with pytest.raises(IndexError, match="node 10000 of"):
        nodes[10000]


def test_graphs_are_equal_when_all_in_them_is(traced, tiny, tmp_path):
    again = unweave.Graph.load(traced.save(tmp_path / "x.graph.safetensors"))
    assert again == traced and hash(again) == hash(traced) and again != "text"
    assert unweave.prune(traced, 0.5, 0.9) != traced
    assert traced.with_provenance(created="") != traced
    foreign = unweave.Graph.load(unweave.prune(traced, 0.5, 0.9).save(tmp_path / "x.json"))
    assert foreign == unweave.Graph.load(tmp_path / "x.json")  # what is not known, NaN, is the same


def test_labels(traced):
    first = traced.nodes[0]
    named = traced.with_provenance(extra={"labels": {first.id: "capitals"}})
    assert named.label(first) == named.label(first.id) == "capitals" and traced.label(first) == ""
    assert named.label(-1) == traced.provenance.logit_labels[1]
    assert named.label(named.nodes.embeddings.start) == traced.tokens[0]
    assert named.label(named.nodes.errors.start) == ""


def test_tables_and_networks(traced):
    pandas, networkx = pytest.importorskip("pandas"), pytest.importorskip("networkx")
    nodes, edges = traced.to_pandas()
    assert list(nodes.index) == traced.nodes.ids and len(edges) == traced.n_edges
    dense = traced.dense().double().numpy()
    back = pandas.DataFrame(0.0, index=nodes.index, columns=nodes.index)
    wide = edges.pivot(index="target", columns="source", values="weight")
    back.loc[wide.index, wide.columns] = wide.fillna(0.0)
    assert abs(back.to_numpy() - dense).max() == 0
    assert nodes.influence.to_numpy() == pytest.approx(traced.influence().numpy())
    shares = edges.groupby("target").share.sum()
    assert shares.to_numpy() == pytest.approx(1.0)
    network = traced.to_networkx()
    assert networkx.is_directed_acyclic_graph(network)
    assert abs(networkx.to_numpy_array(network, nodelist=traced.nodes.ids).T - dense).max() == 0
    assert network.nodes[traced.nodes[-1].id]["kind"] == "logit"


def test_a_missing_package_is_named(traced, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(unweave.UnweaveError, match="needs the package pandas; install it with: pip install pandas"):
        traced.to_pandas()


def test_paths_take_one_source(traced):
    source = traced.nodes[traced.nodes.embeddings][1]
    one = unweave.strongest_paths(traced, source.id, traced.nodes[-1])
    assert one == unweave.strongest_paths(traced, [source], traced.nodes[-1].id)
    assert one == unweave.strongest_paths(traced, source, traced.nodes[-1])
