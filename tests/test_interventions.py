"""Interventions: equal to the peer's in every mode, equal to the graph's edges where all is frozen, and lawful."""

import itertools
import random

import pytest
import torch
from conftest import FAMILIES, GOLDEN, LAYERS, PROMPT, SHARED, VOCAB, WIDTHS, D
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import unweave
from unweave import Feature, ablate, add, add_direction, scale, set_to, shift
from unweave.cli.sweep_plot import plot_sweep
from unweave.errors import InterventionError, OptionError, TargetError
from unweave.graphs.comparison import aligned
from unweave.interventions.edits import dosed
from unweave.interventions.interventions import record
from unweave.interventions.patching import patched
from unweave.interventions.plans import prompt_edits
from unweave.transcoders.formats import write_transcoders

GOLDENS = sorted(
    {
        path.name: path
        for root in (GOLDEN, SHARED / "golden")
        if root.is_dir()
        for path in root.iterdir()
        if path.is_dir()
    }.items()
)
MODES = (
    {},
    {"mode": "open"},
    {"layers": range(0, 2)},
    {"mode": "frozen"},
    {"mode": "open", "layers": range(1, LAYERS)},
)
IDS = ("frozen_attention", "open", "constrained", "frozen", "open_constrained")
EVERY_MODE = pytest.mark.parametrize("how", MODES, ids=IDS)
PAIRS = (
    ("llama", "skip"),
    ("gemma2", "clt"),
    ("qwen3", "topk"),
    ("gpt2", "skip"),
    ("gpt2", "clt"),
    ("gemma2", "skip"),
    ("llama", "relu"),
    ("gemma2", "jumprelu"),
    ("olmo2", "skip"),
    ("granite", "clt"),
    ("gpt_oss", "clt"),
    ("gpt_neox", "skip"),
    ("gpt_neox", "clt"),
    ("phi3", "jumprelu"),
    ("gemma3", "skip"),
)
OTHER = [0, 7, 3, 20, 7, 12]


def active(model, prompt=PROMPT) -> list[tuple[Feature, float]]:
    """Active features in a random order that is always the same, and their activations."""
    part = model.localize(prompt).features
    found = [
        (Feature(int(layer), int(position), int(index)), float(value))
        for layer, position, index, value in zip(part.layer, part.position, part.index, part.activation, strict=True)
    ]
    random.Random(3).shuffle(found)
    return found


def same(left, right, tolerance=1e-9):
    assert torch.allclose(left.logits, right.logits, atol=tolerance, rtol=0), float(
        (left.logits - right.logits).abs().max()
    )


@pytest.mark.parametrize("folder", [path for _, path in GOLDENS], ids=[name for name, _ in GOLDENS])
def test_the_peers_logits_in_all_four_modes(folder):
    golden, ids = load_file(folder / "interventions.safetensors"), load_file(folder / "graph.safetensors")["input_ids"]
    model = unweave.load(str(folder / "model"), str(folder / "transcoders"))
    changes = [
        set_to((layer, place, index), value)
        for (layer, place, index), value in zip(
            golden["interventions"].tolist(), golden["values"].tolist(), strict=True
        )
    ]
    modes = {
        "frozen_attention": {},
        "open": {"mode": "open"},
        "constrained_0_1": {"layers": range(0, 2)},
        "direct": {"mode": "frozen"},
    }
    found = {}
    for name, how in modes.items():
        outcome = unweave.intervene(model, ids, changes, **how)
        assert torch.allclose(outcome.baseline, golden["clean"], atol=1e-4, rtol=0)
        assert torch.allclose(outcome.logits, golden[f"logits_{name}"], atol=1e-4, rtol=0)
        found[name] = outcome.logits
    for one, other in itertools.combinations(found, 2):
        assert (found[one] - found[other]).abs().max() > 1e-3, (one, other)
    whole = unweave.intervene(model, ids, changes, layers=range(model.language_model.n_layers))
    assert torch.equal(whole.logits, found["direct"])


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_where_all_is_frozen_effects_are_the_graphs_edges(tiny, family, kind):
    """Ablating a feature takes its column out of every row; adding an error or embedding once more adds its column."""
    model = tiny(family, kind, "float64")
    local = model.localize(PROMPT)
    graph = unweave.attribute(model, local.recording.input_ids, max_logits=VOCAB, logit_mass=1.0)
    edges, nodes = graph.dense(), list(graph.nodes)
    features, logits = nodes[graph.nodes.features], nodes[graph.nodes.logits]
    chosen = (
        random.Random(1).sample(features, 12)
        + random.Random(1).sample(nodes[graph.nodes.errors], 5)
        + random.Random(1).sample(nodes[graph.nodes.embeddings], 3)
    )
    variants, signs = [], []
    for node in chosen:
        match node.kind:
            case unweave.NodeKind.FEATURE:
                variants.append([ablate(node)])
            case unweave.NodeKind.ERROR:
                variants.append([add_direction(local.errors[node.layer, node.position], node.layer, node.position)])
            case _:
                variants.append([add_direction(local.recording.embeddings[node.position], -1, node.position)])
        signs.append(-1 if node.kind == unweave.NodeKind.FEATURE else 1)
    outcomes = unweave.intervene_each(model, local.recording, variants, "frozen", watch=features)
    for node, sign, outcome in zip(chosen, signs, outcomes, strict=True):
        change = outcome.preactivations[1] - outcome.preactivations[0]
        effect = outcome.raw_logits[-1] - local.recording.logits[-1]
        effect = (effect - effect.mean())[[target.index for target in logits]]
        for measured, rows in ((change, graph.nodes.features), (effect, graph.nodes.logits)):
            predicted = sign * edges[rows, node.row]
            assert (measured - predicted).norm() <= 1e-5 * predicted.norm() + 1e-9, node.id
    assert edges[graph.nodes.logits][:, [node.row for node in chosen]].norm(dim=0).count_nonzero() > len(chosen) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_in_float32(tiny, family):
    model = tiny(family, "skip")
    graph = unweave.attribute(model, PROMPT, max_logits=5)
    features = list(graph.nodes)[graph.nodes.features]
    for node in features[:40:20]:
        outcome = unweave.intervene(model, PROMPT, [ablate(node)], "frozen", watch=features)
        change, edges = (
            outcome.preactivations[1] - outcome.preactivations[0],
            graph.dense()[graph.nodes.features, node.row],
        )
        assert (change + edges).norm() <= 1e-5 * max(float(edges.norm()), float(outcome.preactivations[0].norm()))


@EVERY_MODE
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("gemma2", "clt"),
        ("qwen3", "topk"),
        ("gpt2", "skip"),
        ("gpt_neox", "skip"),
        ("granite", "clt"),
        ("gpt_oss", "skip"),
        ("olmo2", "clt"),
        ("phi3", "relu"),
    ],
)
def test_a_feature_set_to_its_own_value_changes_nothing(tiny, family, kind, how):
    model = tiny(family, kind, "float64")
    own = [change for feature, value in active(model)[:9] for change in (set_to(feature, value), add(feature, 0.0))]
    outcome = unweave.intervene(model, PROMPT, own, **how)
    assert torch.allclose(outcome.logits, outcome.baseline, atol=1e-9)
    assert all(outcome.kl(position) <= 1e-9 for position in range(len(PROMPT)))
    assert all(change.before == pytest.approx(change.after) for change in outcome.changed)
    same(unweave.intervene(model, PROMPT, [], **how), outcome)


@EVERY_MODE
@pytest.mark.parametrize("kind", ["clt", "topk"])
def test_equal_changes_are_equal(tiny, kind, how):
    """Ablated is scaled by 0 is set to 0; a scale is the set of that value; a shift is the set of the sum."""
    model = tiny("gemma2", kind, "float64")
    (first, value), (second, other), *_ = [entry for entry in active(model) if entry[0].layer == 1]
    outcomes = [
        unweave.intervene(model, PROMPT, [change], **how)
        for change in (ablate(first), scale(first, 0.0), set_to(first, 0.0), shift(first, -value))
    ]
    for again in outcomes[1:]:
        same(outcomes[0], again)
    assert not torch.allclose(outcomes[0].logits, outcomes[0].baseline, atol=1e-4)
    by_hand = [set_to(first, -1.5 * value), shift((second.layer, second.position, second.index), -2.5 * other)]
    several = ([scale([first, second], -1.5)], [scale(first, -1.5), scale(second.id, -1.5)], by_hand)
    together = [unweave.intervene(model, PROMPT, changes, **how) for changes in several]
    for again in together[1:]:
        same(together[0], again)
    same(
        unweave.intervene(model, PROMPT, [scale(first, 2.0), add(first, 0.5)], **how),
        unweave.intervene(model, PROMPT, [set_to(first, 2 * value + 0.5)], **how),
    )


@EVERY_MODE
def test_order_does_not_matter(tiny, how):
    model = tiny("gpt2", "clt", "float64")
    found = [feature for feature, _ in active(model)]
    vector = torch.ones(D, dtype=torch.float64)
    changes = [
        ablate(found[:3]), scale(found[3], -2.0), set_to(found[4], 3.0), add([found[3], found[5]], 1.0),
        add(found[5], 0.5), shift(found[6], 2.0),
        add_direction(vector, 0, 2), add_direction(vector, 1, "*", "mlp_out"),
    ]  # fmt: skip
    first = unweave.intervene(model, PROMPT, changes, **how)
    for seed in range(3):
        same(first, unweave.intervene(model, PROMPT, random.Random(seed).sample(changes, len(changes)), **how))


def test_additions_follow_the_activation_and_scales_the_clean_one(tiny):
    """With everything live, a change upstream moves a feature; a scale pins it, an addition rides on it."""
    model = tiny("llama", "jumprelu", "float64")
    late, value = next(entry for entry in active(model) if entry[0].layer == 2 and entry[0].position == len(PROMPT) - 1)
    early = scale([feature for feature, _ in active(model) if feature.layer == 0], -2.0)
    moved = unweave.intervene(model, PROMPT, [early], "open", watch=[late])
    assert moved.activations[0, 0] == pytest.approx(value)
    assert abs(moved.activations[1, 0] - value) > 1e-3
    added = unweave.intervene(model, PROMPT, [early, add(late, 1.0)], "open").changed[-1]
    assert (added.feature, added.before, added.after) == (
        late,
        pytest.approx(value),
        pytest.approx(float(moved.activations[1, 0]) + 1),
    )
    assert unweave.intervene(model, PROMPT, [early, scale(late, 3.0)], "open").changed[-1].after == pytest.approx(
        3 * value
    )
    held = unweave.intervene(model, PROMPT, [early, add(late, 1.0)], layers=range(1, 3)).changed[-1]
    assert held.after == pytest.approx(value + 1)


def test_all_positions_are_all_but_the_first(tiny):
    model = tiny("llama", "skip", "float64")
    everywhere = unweave.intervene(model, PROMPT, [set_to("1_5_*", 2.0)])
    listed = unweave.intervene(model, PROMPT, [set_to([(1, position, 5) for position in range(1, len(PROMPT))], 2.0)])
    same(everywhere, listed)
    same(
        unweave.intervene(model, PROMPT, [set_to("1_5_-1", 2.0)]),
        unweave.intervene(model, PROMPT, [set_to((1, len(PROMPT) - 1, 5), 2.0)]),
    )
    first = unweave.intervene(model, PROMPT, [set_to("1_5_0", 2.0)])
    assert [(change.before, change.after) for change in first.changed] == [(0.0, 2.0)]
    assert not torch.allclose(first.logits, first.baseline, atol=1e-3)
    same(unweave.intervene(model, PROMPT, [ablate("1_5_0")]), unweave.intervene(model, PROMPT, []))


@pytest.mark.parametrize("family", FAMILIES)
def test_another_tokens_embedding_gives_the_other_prompts_logits(tiny, family):
    model = tiny(family, "relu", "float64")
    here, there = record(model, PROMPT), record(model, OTHER)
    changed = unweave.intervene(model, here, [add_direction(there.embeddings[3] - here.embeddings[3], -1, 3)], "open")
    assert torch.allclose(changed.raw_logits, there.logits, atol=1e-9)
    final = unweave.intervene(model, here, [add_direction((there.final - here.final)[5], LAYERS - 1, 5)], "open")
    assert torch.allclose(final.raw_logits[5], there.logits[5], atol=1e-9)


@EVERY_MODE
def test_many_at_once_are_each_by_itself(tiny, how):
    model = tiny("gemma2", "skip")
    variants = [
        *[[ablate(feature)] for feature, _ in active(model) if feature.layer == 1][:3],
        [],
        [add_direction(torch.ones(D), 1, 4)],
    ]
    recording, seen = record(model, PROMPT), []
    together = list(
        unweave.intervene_each(model, recording, variants, **how, watch=["2_3_*"], batch=2, progress=seen.append)
    )
    assert seen == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    for changes, outcome in zip(variants, together, strict=True):
        alone = unweave.intervene(model, recording, changes, **how, watch=["2_3_*"])
        same(alone, outcome, 2e-5)
        assert torch.allclose(alone.activations, outcome.activations, atol=2e-5)
        assert [change.feature for change in outcome.changed] == [change.feature for change in alone.changed]


def test_watched_features_come_in_the_order_asked_for(tiny):
    model = tiny("qwen3", "topk", "float64")
    found = active(model)[:12]
    outcome = unweave.intervene(model, PROMPT, [], watch=[feature.id for feature, _ in found])
    assert outcome.watched == tuple(feature for feature, _ in found)
    assert outcome.activations[0].tolist() == pytest.approx([value for _, value in found])
    assert torch.allclose(outcome.activations[0], outcome.activations[1], atol=1e-9)


def hooks(model) -> int:
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.language_model.module.modules()
    )


@EVERY_MODE
def test_no_hook_is_left_behind(tiny, how, monkeypatch):
    model = tiny("llama", "skip")
    before = unweave.intervene(model, PROMPT, [])
    unweave.intervene(model, PROMPT, [ablate("1_2_3")], **how)
    unweave.generate(model, PROMPT, [set_to("1_2_*", 2.0)], **how, max_new_tokens=3)
    assert hooks(model) == 0
    with (
        pytest.raises(RuntimeError, match="stop"),
        patched(model, prompt_edits(model, record(model, PROMPT), [[ablate("1_2_3")]])),
    ):
        assert hooks(model) > 0
        raise RuntimeError("stop")
    assert hooks(model) == 0

    def broken(*args, **kwargs):
        raise RuntimeError("broken half-way")

    recording = record(model, PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(model.language_model.blocks[1].mlp, "forward", broken)
        for call in (unweave.intervene, unweave.generate):
            with pytest.raises(RuntimeError, match="half-way"):
                call(model, recording, [ablate("1_2_3")], **how)
    assert hooks(model) == 0
    assert torch.equal(unweave.intervene(model, PROMPT, []).logits, before.logits)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.lists(st.integers(0, 3), min_size=1, max_size=7))
def test_alignment_keeps_the_order_and_pairs_both_ends(prompt, other):
    pairs = aligned([9, *prompt], [9, *other])
    assert pairs[0] == 0
    assert list(pairs) == sorted(pairs)
    assert list(pairs.values()) == sorted(set(pairs.values()))
    assert len(pairs) == 1 + min(len(prompt), len(other))
    assert aligned([9, *other], [9, *prompt]) == {theirs: mine for mine, theirs in pairs.items()}
    if prompt != other and len(prompt) == len(other):
        assert pairs == {place: place for place in range(len(prompt) + 1)}


@pytest.mark.parametrize(("family", "kind"), [("llama", "skip"), ("gemma2", "clt"), ("qwen3", "topk")])
def test_a_swap_makes_features_write_as_on_the_other_prompt(tiny, family, kind):
    model = tiny(family, kind, "float64")
    here, there = dict(active(model)), dict(active(model, OTHER))
    swapped = unweave.swap(model, PROMPT, OTHER)
    outcome = unweave.intervene(model, PROMPT, swapped, "open")
    assert {change.feature for change in outcome.changed} >= {
        feature for feature in {*here, *there} if feature.position == 3
    }
    assert min(change.feature.position for change in outcome.changed) == 3
    for change in outcome.changed:
        assert change.before == pytest.approx(here.get(change.feature, 0.0), abs=1e-9)
        assert change.after == pytest.approx(there.get(change.feature, 0.0), abs=1e-9)
    some = [change.feature for change in outcome.changed[:4]]
    assert [change.features[0] for change in unweave.swap(model, PROMPT, OTHER, features=some)] == sorted(
        some, key=lambda f: (f.layer, f.position)
    )
    assert {change.features[0].position for change in unweave.swap(model, PROMPT, OTHER, positions=[-1])} == {5}
    assert {change.features[0].layer for change in unweave.swap(model, PROMPT, OTHER, layers=range(1, 2))} == {1}
    same(unweave.intervene(model, PROMPT, dosed(swapped, 0.0)), unweave.intervene(model, PROMPT, []))
    with pytest.raises(InterventionError, match="differ in no feature"):
        unweave.swap(model, PROMPT, PROMPT)
    with pytest.raises(InterventionError, match="position 1 of the prompt has no counterpart"):
        unweave.swap(model, PROMPT, [0, 12], positions=[1])


def test_a_sweep_is_its_interventions_one_by_one(tiny, tmp_path):
    model = tiny("gemma2", "jumprelu", "float64")
    found = [feature for feature, _ in active(model)]
    changes = [
        ablate(found[0]),
        scale(found[1], 7.0),
        set_to(found[2], 0.5),
        add(found[3], 2.0),
        add_direction(torch.ones(D, dtype=torch.float64), 1, 3),
    ]
    factors = [-2.0, 0.0, 1.0, 3.0]
    sweep = unweave.sweep(model, PROMPT, changes, factors, tokens=[5, 9])
    assert sweep.tokens == (5, 9)
    assert sweep.texts == ("#5", "#9")
    for row, factor in zip(sweep.rows, factors, strict=True):
        vector = factor * torch.ones(D, dtype=torch.float64)
        by_hand = [
            scale(found[:2], factor),
            set_to(found[2], 0.5 * factor),
            add(found[3], 2.0 * factor),
            add_direction(vector, 1, 3),
        ]
        outcome = unweave.intervene(model, PROMPT, by_hand)
        assert row.factor == factor
        assert row.logits == pytest.approx(outcome.logits[-1, [5, 9]].tolist())
        assert row.probabilities == pytest.approx(outcome.logits[-1].softmax(-1)[[5, 9]].tolist())
        assert row.kl == pytest.approx(outcome.kl())
    clean = unweave.sweep(model, PROMPT, [ablate(found[0])], [1.0])
    assert clean.rows[0].kl <= 1e-9
    assert clean.tokens[0] == int(unweave.intervene(model, PROMPT, []).baseline[-1].argmax())
    for suffix, opening in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert plot_sweep(sweep, tmp_path / f"x{suffix}", "$dollar").read_bytes().startswith(opening)


def test_tokens_and_divergence_are_those_of_the_capped_logits(tiny):
    model = tiny("gemma2", "jumprelu", "float64")
    outcome = unweave.intervene(model, PROMPT, [scale([feature for feature, _ in active(model)], -2.0)])
    before, after = outcome.baseline[-1].log_softmax(-1), outcome.logits[-1].log_softmax(-1)
    assert float(outcome.logits.abs().max()) <= 4.0 < float(outcome.raw_logits.abs().max())
    assert outcome.kl() == pytest.approx(
        float(torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum"))
    )
    tokens = outcome.tokens([9], count=3)
    assert tokens[0].id == 9
    assert {*before.topk(3).indices.tolist(), *after.topk(3).indices.tolist(), 9} == {token.id for token in tokens}
    for token in tokens:
        assert token.probability_after == pytest.approx(float(after[token.id].exp()))
        assert token.logit_change == pytest.approx(float(outcome.logits[-1, token.id] - outcome.baseline[-1, token.id]))
    assert "Outcome(1 changes, mode 'frozen_attention'" in repr(outcome)


def test_a_bfloat16_model(tiny):
    model = tiny("llama", "skip", "bfloat16")
    feature, value = next(entry for entry in active(model) if entry[0].layer == 1)
    for how in MODES:
        still = unweave.intervene(model, PROMPT, [set_to(feature, value)], **how)
        assert (still.logits - still.baseline).abs().max() < 0.1 * still.baseline.abs().max()
        assert still.logits.dtype == torch.float32


def greedy(model, changes, new, **how) -> list[int]:
    """Without a cache: every pass over the whole text, changes at the positions that are there by then."""
    ids = list(PROMPT)
    for _ in range(new):
        ids.append(int(unweave.intervene(model, ids, changes, **how).logits[-1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "skip"), ("gemma2", "clt"), ("qwen3", "topk"), ("gpt2", "jumprelu")]
)
def test_generation_with_a_cache_equals_generation_without(tiny, family, kind, monkeypatch):
    model = tiny(family, kind, "float64")
    monkeypatch.setattr(model.language_model.module.generation_config, "eos_token_id", None)
    for changes in (
        [set_to("1_5_*", 30.0), ablate("2_3_*"), add("0_7_*", 9.0)],
        [set_to("0_4_2", 25.0)],
        [add_direction(torch.linspace(-2, 2, D, dtype=torch.float64), 1, "*")],
    ):
        written = unweave.generate(model, PROMPT, changes, "open", max_new_tokens=5)
        assert list(written.default.ids) == greedy(model, [], 5)
        assert list(written.steered.ids) == greedy(model, changes, 5, mode="open")
        assert not torch.allclose(written.default.logits, written.steered.logits, atol=1e-2)
        assert written.steered.logits.argmax(-1).tolist() == list(written.steered.ids)
        assert written.default.text == " ".join(f"#{i}" for i in written.default.ids)


def test_changes_at_generated_tokens_leave_the_prompt_alone(tiny, monkeypatch):
    model = tiny("llama", "skip", "float64")
    monkeypatch.setattr(model.language_model.module.generation_config, "eos_token_id", None)
    written = unweave.generate(model, PROMPT, [set_to("1_5_+", 40.0)], max_new_tokens=6)
    assert written.default.ids[0] == written.steered.ids[0]
    assert written.default.ids != written.steered.ids
    explicit = [set_to([(1, position, 5) for position in range(len(PROMPT), len(PROMPT) + 5)], 40.0)]
    whole = unweave.intervene(model, [*PROMPT, *written.steered.ids[:-1]], explicit, "open")
    assert torch.allclose(whole.logits[len(PROMPT) - 1 :], written.steered.logits, atol=1e-5)
    with pytest.raises(InterventionError, match="use generate"):
        unweave.intervene(model, PROMPT, [set_to("1_5_+", 40.0)])


@EVERY_MODE
def test_the_first_token_is_that_of_the_mode(tiny, how):
    model = tiny("gemma2", "skip", "float64")
    changes = [scale([feature for feature, _ in active(model) if feature.layer == 1], -3.0)]
    written = unweave.generate(model, PROMPT, changes, **how, max_new_tokens=2)
    outcome = unweave.intervene(model, PROMPT, changes, **how)
    assert torch.allclose(written.steered.logits[0], outcome.logits[-1], atol=1e-9)
    assert torch.allclose(written.default.logits[0], outcome.baseline[-1], atol=1e-9)


def test_the_same_seed_draws_the_same_text(tiny):
    model = tiny("qwen3", "relu", "float64")
    drawn = [
        unweave.generate(model, PROMPT, [set_to("1_5_*", 9.0)], max_new_tokens=12, temperature=3.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert drawn[0].default.ids == drawn[1].default.ids
    assert drawn[0].steered.ids == drawn[1].steered.ids
    assert drawn[0].default.ids != drawn[2].default.ids
    still = unweave.generate(model, PROMPT, [add("1_5_*", 0.0)], max_new_tokens=12, temperature=3.0)
    assert still.default.ids == still.steered.ids
    cold = unweave.generate(model, PROMPT, [], max_new_tokens=5, temperature=1e-6)
    assert cold.default.ids == unweave.generate(model, PROMPT, [], max_new_tokens=5).default.ids


def test_generation_stops_at_an_end_token(tiny, monkeypatch):
    model, seen = tiny("llama", "relu", "float64"), []
    config = model.language_model.module.generation_config
    monkeypatch.setattr(config, "eos_token_id", None)
    whole = unweave.generate(model, PROMPT, [], max_new_tokens=6, progress=seen.append).default.ids
    assert seen == [pytest.approx((step + 1) / 6) for step in range(6)]
    monkeypatch.setattr(config, "eos_token_id", [VOCAB - 1, whole[2]])
    stopped = unweave.generate(model, PROMPT, [], max_new_tokens=6).default
    assert stopped.ids == whole[: whole.index(whole[2]) + 1]
    assert stopped.text == " ".join(f"#{i}" for i in stopped.ids[:-1])


REFUSED = {
    "no id": (lambda: ablate("texas"), "'texas' is not a feature; ids look like '12_345_5'"),
    "an error node": (lambda: ablate("1_error_mlp_2"), "1_error_mlp_2 is an error or embedding node"),
    "a triple of words": (lambda: ablate((1, "here", 2)), "a triple is"),
    "no features": (lambda: ablate([]), "without features"),
    "factor": (lambda: scale("1_2_3", float("nan")), "factor nan is not a finite number"),
    "infinite": (lambda: set_to("1_2_3", float("inf")), "not a finite number"),
    "nan": (lambda: add_direction(torch.full((D,), torch.nan), 1, 1), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_changes_that_cannot_be_made(name):
    make, message = REFUSED[name]
    with pytest.raises(InterventionError, match=message):
        make()


def test_directions_are_added_at_known_places(unchecked):
    with pytest.raises(OptionError, match="at 'attention' is unknown; use 'residual' or 'mlp_out'"):
        add_direction(torch.ones(D), 1, 1, "attention")


RUNS = {
    "layer": ([ablate("3_0_1")], {}, InterventionError, "3_0_1: layer 3 is outside the model's 3 layers"),
    "feature": ([ablate(f"1_{WIDTHS[1]}_1")], {}, InterventionError, "feature 26 is outside layer 1's 26 features"),
    "position": ([ablate("1_2_6")], {}, InterventionError, "1_2_6: position 6 is outside the prompt of 6 tokens"),
    "before": ([ablate("1_2_-7")], {}, InterventionError, "position -7 is outside"),
    "twice": ([ablate("1_2_3"), set_to("1_2_*", 1.0)], {}, InterventionError, "1_2_. is set or scaled twice"),
    "mode": ([], {"mode": "closed"}, OptionError, "mode 'closed' is unknown"),
    "empty range": ([], {"layers": range(2, 2)}, OptionError, "not a range within the model's layers 0 to 2"),
    "outside": ([], {"layers": range(1, 4)}, OptionError, "layers 1 to 3 are not a range"),
    "part of all": ([], {"mode": "frozen", "layers": range(2)}, OptionError, "holds all layers"),
    "writes nowhere": (
        [ablate("2_1_3")],
        {"layers": range(2)},
        InterventionError,
        "write nowhere in the constrained layers 0 to 1",
    ),
    "watched": ([], {"watch": ["1_99_1"]}, InterventionError, "feature 99"),
    "direction's layer": ([add_direction(torch.ones(D), 3, 1)], {}, InterventionError, "cannot be added at layer 3"),
    "direction's width": ([add_direction(torch.ones(5), 1, 1)], {}, InterventionError, "d_model is 24"),
    "direction's place": (
        [add_direction(torch.ones(D), 1, 9)],
        {},
        InterventionError,
        "the added direction: position 9",
    ),
    "too much": (
        [add_direction(torch.full((D,), 3e38), 0, 2), add_direction(torch.full((D,), 3e38), 0, 2)],
        {},
        InterventionError,
        "logits are not finite",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_questions_that_cannot_be_asked(tiny, name, unchecked):
    changes, how, error, message = RUNS[name]
    with pytest.raises(error, match=message):
        unweave.intervene(tiny("llama", "skip"), PROMPT, changes, **how)
    if not how.get("watch"):
        with pytest.raises(error, match=message):
            unweave.generate(tiny("llama", "skip"), PROMPT, changes, **how)


def test_other_limits(tiny):
    model = tiny()
    for words, message in (
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 60}, "longer than the 64"),
        ({"temperature": -1.0}, "temperature is -1"),
    ):
        with pytest.raises(OptionError, match=message):
            unweave.generate(model, PROMPT, [], **words)
    with pytest.raises(OptionError, match="batch is 0"):
        unweave.intervene_each(model, PROMPT, [[]], batch=0)
    with pytest.raises(OptionError, match="at least one factor"):
        unweave.sweep(model, PROMPT, [], [])
    with pytest.raises(OptionError, match="not both"):
        unweave.swap(model, PROMPT, OTHER, features=["1_2_3"], positions=[3])
    with pytest.raises(OptionError, match=r"must end in \.svg"):
        plot_sweep(unweave.sweep(model, PROMPT, [ablate("1_2_3")], [0.0]), "x.gif")
    with pytest.raises(TargetError, match="token id 50"):
        unweave.intervene(model, PROMPT, []).tokens([50])
    graph = unweave.attribute(model, PROMPT, max_logits=1)
    with pytest.raises(InterventionError, match="a node of kind logit"):
        ablate(graph.nodes[-1])


def test_features_left_out_of_a_dictionary_are_refused(tiny, tmp_path):
    whole = tiny("llama", "jumprelu")
    kept = [torch.tensor([feature for feature in range(width) if feature != 7]) for width in WIDTHS]
    write_transcoders(whole.transcoders, tmp_path / "small", compact=True, rows=kept)
    small = unweave.ReplacementModel(whole.language_model, unweave.read_transcoders(str(tmp_path / "small")))
    with pytest.raises(InterventionError, match="feature 7 of layer 1 never fires"):
        unweave.intervene(small, PROMPT, [add("1_7_3", 1.0)])
    outcomes = [unweave.intervene(model, PROMPT, [set_to("1_8_3", 5.0)]) for model in (small, whole)]
    same(*outcomes, 0.1)


@pytest.mark.real
def test_the_default_model(smollm2):
    """Nothing changed changes nothing; what is strongest at the last position matters; a swap overdone moves towards
    the other answer."""
    recording = record(smollm2, "The capital of France is")
    swapped = unweave.swap(smollm2, recording, "The capital of Germany is")
    last = sorted(
        (change for change in swapped if change.features[0].position == 5), key=lambda change: -abs(change.value)
    )
    strongest = [change.features[0] for change in last[:40]]
    variants = [[], [scale(strongest, -3.0)], swapped, dosed(swapped, 4.0)]
    still, pushed, there, beyond = unweave.intervene_each(smollm2, recording, variants, watch=strongest)
    assert still.tokens(count=1)[0].text == " Paris"
    assert still.kl() <= 1e-6 < 1e-2 < pushed.kl()
    assert torch.allclose(still.activations[0], still.activations[1], atol=1e-3)
    chances = [outcome.tokens([" Berlin"], count=0)[0].probability_after for outcome in (still, there, beyond)]
    assert chances[0] < chances[1] < chances[2]
    written = unweave.generate(smollm2, recording, [], max_new_tokens=3)
    assert written.default.text == written.steered.text
    assert written.default.text.startswith(" Paris")


def test_one_change_needs_no_list(tiny, unchecked):
    model, change = tiny(), ablate("1_2_3")
    assert unweave.intervene(model, PROMPT, change).logits.equal(unweave.intervene(model, PROMPT, [change]).logits)
    assert unweave.generate(model, PROMPT, change, max_new_tokens=2) is not None
    assert unweave.sweep(model, PROMPT, change, [0.0]) is not None
    for wrong in ("1_2_3", ["1_2_3"], 7):
        with pytest.raises(InterventionError, match=r"is not a change; give what unweave\.ablate"):
            unweave.intervene(model, PROMPT, wrong)
