import math
from dataclasses import replace

import pytest
import torch
from conftest import DICTIONARIES, FAMILIES, GOLDEN, PROMPT, SHARED
from oracle import attribution as oracle
from safetensors.torch import load_file

import unweave
from unweave.attribution import sources
from unweave.errors import InexactAttribution
from unweave.transcoders.transcoders import JumpReLU

GOLDENS = sorted(
    {
        path.name: path
        for root in (GOLDEN, SHARED / "golden")
        if root.is_dir()
        for path in root.iterdir()
        if path.is_dir()
    }.items()
)


def listed(graph: unweave.Graph) -> torch.Tensor:
    part, nodes = graph.nodes.features, graph.nodes
    return torch.stack([nodes.layer[part], nodes.position[part], nodes.index[part]], dim=1)


@pytest.mark.parametrize(("name", "folder"), GOLDENS)
def test_golden_graphs_of_the_peer(name, folder):
    golden = load_file(folder / "graph.safetensors")
    model = unweave.load(str(folder / "model"), str(folder / "transcoders"))
    graph = unweave.attribute(model, golden["input_ids"].tolist(), max_logits=5, position_zero="drop")
    assert torch.equal(listed(graph), golden["active_features"])
    assert torch.equal(graph.nodes.index[graph.nodes.logits], golden["logit_tokens"])
    assert (graph.dense() - golden["adjacency"]).norm() <= 1e-5 * golden["adjacency"].norm()
    assert torch.allclose(torch.tensor(graph.scores()), golden["scores"], atol=1e-4)
    assert torch.allclose(graph.influence_rank().float(), golden["cumulative_scores"], atol=1e-3)
    kept = unweave.prune(graph)
    wanted = {node.id for node, keep in zip(graph.nodes, golden["node_mask"], strict=True) if keep}
    assert {node.id for node in kept.nodes} == wanted
    assert abs(kept.n_edges - int(golden["edge_mask"].sum())) <= 1  # one edge at the cut may fall either way


CASES = [(family, kind, False) for family in FAMILIES for kind in DICTIONARIES] + [
    (family, kind, True) for family in FAMILIES[:2] for kind in DICTIONARIES
]


@pytest.mark.parametrize(("family", "kind", "drop"), CASES)
def test_edges_equal_autograd_in_float64(tiny, tiny_folders, family, kind, drop):
    model = tiny(family, kind, "float64")
    graph = unweave.attribute(model, PROMPT, max_logits=4, position_zero="drop" if drop else "error")
    tokens = graph.nodes.index[graph.nodes.logits].tolist()
    truth = oracle(model.language_model.module, family, tiny_folders(family, kind)[1], PROMPT, tokens, drop)
    assert torch.equal(listed(graph), truth["features"])
    targets = torch.cat(
        [torch.arange(len(graph.nodes))[graph.nodes.features], torch.arange(len(graph.nodes))[graph.nodes.logits]]
    )
    edges = graph.dense()[targets, : truth["rows"].shape[1]]
    assert (edges - truth["rows"]).norm() <= 1e-9 * truth["rows"].norm()
    assert torch.allclose(graph.preactivation[targets], truth["preactivation"], atol=1e-9)
    assert float(graph.residual().max()) <= 1e-9
    assert graph.provenance.logits_error <= 1e-9


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_exact_to_rounding(tiny, family, kind):
    graph = unweave.attribute(tiny(family, kind), PROMPT)
    double = unweave.attribute(tiny(family, kind, "float64"), PROMPT)
    assert float(graph.residual().max()) <= 1e-4
    assert torch.equal(listed(graph), listed(double))
    assert (graph.dense() - double.dense()).norm() <= 1e-5 * double.dense().norm()


@pytest.mark.parametrize("kind", ["skip", "clt"])
def test_rows_do_not_depend_on_batch_size(tiny, monkeypatch, kind):
    whole = unweave.attribute(tiny("llama", kind), PROMPT).dense()
    monkeypatch.setattr(sources, "COLUMNS_PER_SWEEP", 1)
    monkeypatch.setattr(sources, "LEAST_BATCH", 3)
    assert torch.allclose(unweave.attribute(tiny("llama", kind), PROMPT).dense(), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["skip", "clt"])
def test_edges_equal_what_removing_a_source_does(tiny, kind):
    """In the frozen model, taking a source out changes every later pre-activation by exactly the edge."""
    model = tiny("gemma2", kind, "float64")
    local = model.localize(PROMPT)
    graph = unweave.attribute(model, PROMPT)
    dense, features = graph.dense(), local.features
    written = [local.errors[layer] + local.constants[layer] for layer in range(local.n_layers)]
    for source in range(len(features)):
        for at in local.transcoders.writes(int(features.layer[source])):
            written[at] = written[at].index_add(
                0, features.position[source, None], local.vectors(slice(source, source + 1), at)
            )
    for source in range(0, len(features), 5):
        without = list(written)
        for at in local.transcoders.writes(int(features.layer[source])):
            without[at] = without[at].index_add(
                0, features.position[source, None], -local.vectors(slice(source, source + 1), at)
            )
        before, after = preactivations(model, local, written), preactivations(model, local, without)
        assert torch.allclose(before - after, dense[: len(features), source], atol=1e-9)


def preactivations(model, local, written):
    resid_mid, _ = local.frozen.run(local.recording.embeddings, written)
    out = []
    for layer, position, index in zip(local.features.layer, local.features.position, local.features.index, strict=True):
        x = local.frozen.layers[layer].read_forward(resid_mid[layer])
        part = model.transcoders.layers[layer]
        out.append(part.encoder.dense(x.dtype)[index] @ x[position] + part.encoder_bias[index])
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["jumprelu", "clt", "topk"])
def test_max_features_folds_the_rest_into_errors(tiny, kind):
    whole = unweave.attribute(tiny("llama", kind, "float64"), PROMPT)
    small = unweave.attribute(tiny("llama", kind, "float64"), PROMPT, max_features=12)
    n = whole.nodes
    assert small.nodes.features == slice(0, 12)
    assert small.provenance.active_features == n.features.stop
    assert float(small.residual().max()) <= 1e-9
    rows = [whole.nodes.rows[node.id] for node in small.nodes]
    kept, dense, full = set(rows), small.dense(), whole.dense()
    for target in [*range(12), *range(small.nodes.logits.start, small.nodes.logits.stop)]:
        for error in list(small.nodes)[small.nodes.errors]:
            folded = sum(
                full[rows[target], f] for f in range(n.features.stop)
                if f not in kept and n.layer[f] == error.layer and n.position[f] == error.position
            )  # fmt: skip
            assert math.isclose(dense[target, error.row], full[rows[target], rows[error.row]] + folded, abs_tol=1e-9)
    assert small.scores().replacement <= whole.scores().replacement
    top = torch.topk(whole.influence()[n.features], 6).indices.tolist()
    assert len(kept & set(top)) >= 4
    assert unweave.attribute(tiny("llama", kind, "float64"), PROMPT, max_features=10**6).nodes.features == n.features


def test_targets_at_any_position_and_of_any_kind(tiny):
    model = tiny("llama", "skip", "float64")
    short = unweave.attribute(model, PROMPT[:4], [5, 9])
    cut = unweave.attribute(model, PROMPT, [5, 9], position=3)
    assert torch.allclose(short.dense(), cut.dense())
    assert cut.provenance.input_ids == tuple(PROMPT)
    difference = unweave.attribute(model, PROMPT[:4], unweave.Difference(5, 9))
    edges = short.dense()[short.nodes.logits]
    assert torch.allclose(difference.dense()[-1][:-1], (edges[0] - edges[1])[:-2], atol=1e-9)
    assert float(difference.residual().max()) <= 1e-9
    vector = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pointed = unweave.attribute(model, PROMPT, unweave.Direction(vector, "anything"))
    assert float(pointed.residual().max()) <= 1e-9
    assert pointed.provenance.logit_labels == ("anything",)


def test_salient_logits_are_the_fewest_that_hold_the_mass(tiny):
    model = tiny("qwen3", "relu")
    graph = unweave.attribute(model, PROMPT, max_logits=50, logit_mass=0.7)
    local = model.localize(PROMPT)
    probabilities = torch.sort(local.recording.logits[-1].softmax(-1), descending=True).values
    count = graph.nodes.logits.stop - graph.nodes.logits.start
    assert probabilities[:count].sum() >= 0.7 > probabilities[: count - 1].sum()
    assert (
        unweave.attribute(model, PROMPT, max_logits=2).nodes.logits.stop
        - unweave.attribute(model, PROMPT, max_logits=2).nodes.logits.start
        == 2
    )


def test_fast_precision_stays_within_a_hundredth(tiny, monkeypatch):
    from unweave.attribution import work

    exact = unweave.attribute(tiny("llama", "skip"), PROMPT).dense()
    monkeypatch.setattr(work, "has_bfloat16_units", lambda: True)
    fast = unweave.attribute(tiny("llama", "skip"), PROMPT, precision="fast")
    assert fast.provenance.precision == "fast"
    assert 0 < (fast.dense() - exact).norm() / exact.norm() <= 1e-2


def test_fast_precision_says_when_it_cannot_be_had(tiny, monkeypatch, caplog):
    from unweave.attribution import work

    monkeypatch.setattr(work, "has_bfloat16_units", lambda: False)
    assert unweave.attribute(tiny(), PROMPT, precision="fast").provenance.precision == "exact"
    assert "bfloat16 units" in caplog.text


def test_a_prompt_that_switches_no_feature_on(tiny):
    part = tiny("llama", "jumprelu")
    silent = tuple(
        replace(layer, activation=JumpReLU(torch.full((layer.width,), 1e9))) for layer in part.transcoders.layers
    )
    model = unweave.ReplacementModel(part.language_model, replace(part.transcoders, layers=silent))
    graph = unweave.attribute(model, PROMPT)
    assert graph.nodes.features == slice(0, 0) and float(graph.residual().max()) <= 1e-4


def test_progress_ends_at_one(tiny):
    seen = []
    unweave.attribute(tiny(), PROMPT, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_edges_that_are_not_finite_are_refused(tiny, monkeypatch):
    whole = sources.Sources._contract

    def overflowing(self, layer, g, out, work):
        whole(self, layer, g * (math.inf if layer == 0 else 1.0), out, work)

    monkeypatch.setattr(sources.Sources, "_contract", overflowing)
    with pytest.raises(InexactAttribution, match="gradients outgrow float32; load it with --dtype float64"):
        unweave.attribute(tiny("llama", "clt"), PROMPT)


def test_rows_folded_one_by_one_give_the_same_graph(tiny, monkeypatch):
    model = tiny("llama", "jumprelu", "float64")
    together = unweave.attribute(model, PROMPT, max_features=12)
    monkeypatch.setattr("unweave.attribution.limited.NUMBERS_AT_ONCE", 1)
    alone = unweave.attribute(model, PROMPT, max_features=12)
    assert torch.equal(together.rows.column, alone.rows.column)
    assert torch.allclose(together.rows.value, alone.rows.value, rtol=1e-12)
