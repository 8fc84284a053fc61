"""Explanations: every figure measured again by other means, on tiny models; bad input refused by name."""

import json
from pathlib import Path

import pytest
import torch

import unweave
from unweave.errors import InterventionError, OptionError, PromptError, TargetError, UnsupportedModel, UnweaveError
from unweave.explanation.arrows import agreement_of_arrows
from unweave.explanation.choose import random_sets
from unweave.explanation.contrast import contrast_of
from unweave.explanation.groups import METHODS, PartGroup, Profiles, agreement, hidden
from unweave.explanation.maps import patching_maps, stages
from unweave.explanation.names import readable, with_names
from unweave.explanation.predict import predict
from unweave.explanation.stored import read_explanation
from unweave.interventions.live import NeuronPlaces, TokenPair, look, run
from unweave.interventions.parts import Part
from unweave.interventions.slopes import gradients
from unweave.response.means import other_contexts
from unweave.validation.claims import check_claims, read_claims

PROMPT, INSTEAD = [0, 3, 7, 9, 4], [0, 3, 12, 9, 4]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", "jumprelu").language_model


@pytest.fixture(scope="module")
def explained(model):
    return unweave.explain(model, PROMPT, instead=INSTEAD, draws=4)


def by_hand(model, ids, put):
    """Logits at the end with values put in by hooks of the test's own; `put` is {(module, position): (slice,
    value)}."""
    handles = []
    for (module, position), (entries, value) in put.items():

        def hook(module, args, position=position, entries=entries, value=value):
            x = args[0].clone()
            x[0, position, entries] = value
            return (x, *args[1:])

        handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


def test_a_swap_is_what_hooks_make_of_it(model):
    here, there = (look(model, torch.tensor(ids)) for ids in (PROMPT, INSTEAD))
    torch.testing.assert_close(here.logits, by_hand(model, PROMPT, {}), rtol=0, atol=1e-5)
    part = Part.parse(["1.mlp@4", "0.h1@3", "0_5_2"])
    down, attention = model.module.model.layers[1].mlp.down_proj, model.module.model.layers[0].self_attn.o_proj
    width = there.at["heads", 0].shape[1] // 4
    head = slice(width, 2 * width)
    wanted = by_hand(
        model,
        PROMPT,
        {
            (down, 4): (slice(None), there.at["neurons", 1][4]),
            (attention, 3): (head, there.at["heads", 0][3, head]),
            (model.module.model.layers[0].mlp.down_proj, 2): (5, there.at["neurons", 0][2, 5]),
        },
    )
    ran = run(model, torch.tensor(PROMPT), TokenPair(3, 8), [[], part.put(there, 4)])
    torch.testing.assert_close(ran.lead[1], wanted[3] - wanted[8], rtol=0, atol=1e-5)
    torch.testing.assert_close(ran.lead[0], here.logits[3] - here.logits[8], rtol=0, atol=1e-5)


def test_gradients_are_differences(model):
    ids, question = torch.tensor(PROMPT), TokenPair(3, 8)
    lead, values, slopes = gradients(model, ids, question, [], range(5))
    here = look(model, ids)
    assert lead == pytest.approx(float(question.lead(here.logits)), abs=1e-5)
    torch.testing.assert_close(values[1], here.at["neurons", 1], rtol=0, atol=1e-6)
    down, step = model.module.model.layers[1].mlp.down_proj, 1e-2
    up, below = (by_hand(model, PROMPT, {(down, 2): (3, values[1][2, 3] + sign * step)}) for sign in (1, -1))
    slope = (question.lead(up) - question.lead(below)) / (2 * step)
    torch.testing.assert_close(slopes[1][2, 3], slope, rtol=2e-2, atol=2e-3)


def test_swapping_everything_gives_the_other_prompt(model):
    contrast = contrast_of(model, PROMPT, None, INSTEAD)
    maps = patching_maps(contrast)
    assert contrast.positions == (2, 3, 4)
    stream = maps["stream"]
    assert float(stream.share[0, 0]) == pytest.approx(1.0, abs=1e-5)  # the only token that differs, before layer 0
    puts = contrast.there.put_cells("stream", [model.n_layers - 1], contrast.positions)
    puts += contrast.there.put_cells("heads", [model.n_layers - 1], contrast.positions)
    lead = run(model, contrast.ids, contrast.question, [puts]).lead
    assert float(contrast.share(lead)[0]) == pytest.approx(1.0, abs=1e-4)
    assert all(stage.position in contrast.positions for stage in stages(contrast, maps["neurons"]))


def test_every_sentence_holds_as_a_claim_of_its_own(explained, tiny, tmp_path):
    assert explained.found and explained.sentences
    path = tmp_path / "claims.yaml"
    path.write_text(explained.claims)
    verdicts = check_claims(read_claims(path), tiny("llama", "jumprelu"))
    assert len(verdicts) == len(explained.sentences) and all(verdict.holds for verdict in verdicts)
    again = explained.check()
    for verdict, sentence, (_, value, holds) in zip(verdicts, explained.sentences, again, strict=True):
        measured = float(verdict.checks[0].measured)
        share = measured if sentence.test.watch is not None else -measured / explained.contrast.whole
        assert holds and value == pytest.approx(sentence.test.value, abs=1e-4)
        assert share == pytest.approx(sentence.test.value, abs=1e-3)


def test_controls_are_in_every_sentence_and_random_groups_do_not_pass(explained):
    for sentence in explained.sentences:
        assert "random parts" in sentence.text
        assert abs(sentence.control) < abs(sentence.test.bound)
    for arrow in explained.measured.arrows:
        assert arrow.passed == (abs(arrow.moved) > arrow.control and abs(arrow.carried) >= 0.05)


def test_the_same_input_gives_the_same_explanation(explained, model):
    again = unweave.explain(model, PROMPT, instead=INSTEAD, draws=4)
    assert again.facts == explained.facts
    assert again.picture == explained.picture and explained.picture.startswith("<svg")
    assert json.loads(json.dumps(explained.facts)) and explained.markdown.startswith("# Why '#")


def test_random_sets_are_of_the_same_places_and_of_other_neurons(explained):
    contrast, units = explained.contrast, explained.chosen.units.select(torch.tensor([0, 1, -1]))
    for drawn in random_sets(contrast, units, 3):
        assert drawn.layer.tolist() == units.layer.tolist() and drawn.position.tolist() == units.position.tolist()
        assert not set(drawn.triples) & set(units.triples) and len(set(drawn.triples)) == len(units)


def profiles(n: int = 9) -> Profiles:
    generator = torch.Generator().manual_seed(0)
    moved = torch.rand(n, n, generator=generator).triu(1)
    units = NeuronPlaces.of([(layer, 1 + layer // 5, layer) for layer in range(n)])
    return Profiles(units, torch.rand(n, generator=generator) - 0.3, moved, n)


@pytest.mark.parametrize("method", METHODS)
def test_groups_are_partitions_of_one_token_and_sign(method):
    made = profiles()
    partition = METHODS[method](made, 5)
    assert sorted(unit for group in partition for unit in group) == list(range(9))
    for group in partition:
        assert len({int(made.units.position[unit]) for unit in group}) == 1
        assert len({bool(made.effect[unit] < 0) for unit in group}) == 1
    assert 0 <= hidden(made, partition) <= 1 and -1 <= agreement(made, partition) <= 1


def test_segments_are_the_best_of_all_cuts():
    """Against every way to cut one line into at most 3 pieces."""
    from itertools import combinations, pairwise

    from unweave.explanation.groups import _cost, by_segments

    made = profiles()
    made = Profiles(NeuronPlaces.of([(layer, 1, layer) for layer in range(7)]), torch.ones(7), made.moved[:7, :7], 7)

    def cost(cuts):
        edges = [0, *cuts, 7]
        return sum(_cost(made, list(range(a, b))) for a, b in pairwise(edges))

    best = min(cost(cuts) for count in range(3) for cuts in combinations(range(1, 7), count))
    assert sum(_cost(made, group) for group in by_segments(made, 3)) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"instead": [0, 3, 12, 9]}, PromptError, "4; give one of equal"),
        ({"instead": PROMPT}, PromptError, "is the same prompt"),
        ({"instead": [0, 3, 10, 9, 4]}, PromptError, "same answer"),
        ({"target": 4000}, TargetError, "4000"),
        ({"units": "heads"}, OptionError, "'heads'"),
        ({"baseline": "noise"}, OptionError, "'noise'"),
        ({"method": "best"}, OptionError, "'best'"),
        ({"groups": 0}, OptionError, "at least 1"),
        ({"groups": 5000, "instead": INSTEAD}, OptionError, "only"),
        ({"draws": 0}, OptionError, "at least 1"),
        ({"baseline": "mean"}, OptionError, "no tokenizer"),
    ],
)
def test_bad_input_is_refused_by_name(model, options, error, message):
    with pytest.raises(error, match=message):
        unweave.explain(model, PROMPT, **options)


def test_experts_are_refused(tiny_folders):
    folder, _ = tiny_folders("gpt_oss", "jumprelu")
    with pytest.raises(UnsupportedModel, match="experts"):
        unweave.explain(unweave.load_model(str(folder)), PROMPT)


def test_without_a_contrast_zero_stands_in(model):
    found = unweave.explain(model, PROMPT, baseline="zero", draws=3)
    assert found.contrast.kind == "zero" and found.claims is None and "against zero" in found.headline


def test_a_token_that_is_not_said_is_a_question_why_not(model):
    said = int(look(model, torch.tensor(INSTEAD)).logits.argmax())
    found = unweave.explain(model, PROMPT, target=said, instead=INSTEAD, draws=3)
    assert found.contrast.lead < 0 < found.contrast.other
    assert found.contrast.question.answer == said and found.headline.count("why not")
    (change,) = [sentence for sentence in found.sentences if sentence.kind == "change"]
    contrast = found.contrast
    ran = run(contrast.model, contrast.ids, contrast.question, [change.test.swap.put(contrast.there, 4)])
    assert ("comes first (of" in change.text) == (int(ran.rank[0]) == 1)
    assert float(contrast.share(ran.lead)[0]) == pytest.approx(change.test.value, abs=1e-5)
    if int(ran.rank[0]) == 1:
        for group in change.groups:  # none can be left out
            less = [found.groups[other].part for other in change.groups if other != group]
            puts = [put for part in less for put in part.put(contrast.there, 4)]
            assert int(run(contrast.model, contrast.ids, contrast.question, [puts]).rank[0]) > 1


def test_parts_by_words():
    part = Part.parse(["all", "2.h1@3"], {"all": ["0_5_2", "0-1.mlp@4"]})
    assert part.words == ("0-1.mlp@4", "2.h1@3", "0_5_2") and part.positions == (2, 3, 4) and len(part) == 4
    assert Part.parse(part.words).words == part.words
    assert part.moved({4: 7, 2: 5}).words == ("0-1.mlp@7", "0_5_5")
    with pytest.raises(InterventionError, match=r"'3\.h2' is no part"):
        Part.parse(["3.h2"])


@pytest.mark.parametrize("word", ["9.mlp@1", "0.h9@1", "0_5_9", "0_4000_1", "7_1_1"])
def test_parts_that_are_not_there(model, word):
    with pytest.raises(InterventionError, match=r"does not exist|has no neuron"):
        Part.parse([word]).check(model, 5)


def test_claims_about_parts_say_what_is_wrong(tiny, tmp_path):
    head = "claims:\n  - {name: a, prompt: ['0', '3', '7'], mode: open, swap_from: ['0', '3', '9'], "
    wrong = {
        "swap_parts: 0_1_1, expect: [{parts: 0_1_1}]": "what of the parts. give moved",
        "swap_parts: 0_1_1, expect: [{token: '#1', minus: '#2', rank: '<= 2'}]": "rank does not go with token",
        "hold_parts: 0_1_1, expect: [{top: '#1'}]": "hold_parts needs swap_parts",
        "swap_parts: 0_1_1, swap_factor: 2, expect: [{top: '#1'}]": "swap_factor does not go with swap_parts",
        "expect: [{parts: 0_1_1, moved: '>= 1'}]": "of swap_parts alone",
        "swap_parts: 0.h9@1, expect: [{top: '#1'}]": "head 9 does not exist",
        "swap_parts: nothing, expect: [{top: '#1'}]": "'nothing' is no part",
    }
    for content, message in wrong.items():
        path = tmp_path / "c.yaml"
        path.write_text(f"{head}{content}}}\n")
        with pytest.raises(UnweaveError, match=message):
            check_claims(read_claims(path), tiny("llama", "jumprelu"))


def test_command(run, tiny_folders):
    folder, _ = tiny_folders("llama", "jumprelu")
    words = ["explain", " ".join(map(str, PROMPT)), "--instead", " ".join(map(str, INSTEAD)), "--ids", "-m", folder]
    code, out, err = run(*words, "--out", "why")
    assert code == 0, err
    kept = sorted(Path("graphs").iterdir())
    assert [path.name.split(".", 1)[1] for path in kept] == ["response.explanation.json", "response.graph.safetensors"]
    assert unweave.Graph.load(kept[1]).provenance.kind == "response"
    assert read_explanation(kept[0].read_bytes(), kept[0])["groups"]
    assert "What the answer hangs on" in out and "random parts" in out and "why.yaml" in out
    code, _, err = run("validate", "--claims", "why.yaml", "-m", folder, "-t", "neurons")
    assert code == 0, err
    for path in kept:
        path.unlink()
    code, out, _ = run(*words, "--json", "--no-keep")
    assert not list(Path("graphs").iterdir())
    facts = json.loads(out)
    assert code == 0 and facts["found"] and facts["groups"] and facts["maps"]["stream"]["share"]
    for extra, message in (
        (["--out", "why.txt"], "ends in"),
        (["--groups", "0"], "at least 1"),
        (["--target", "#9999"], "9999"),
    ):
        code, out, err = run(*words, *extra)
        assert code == 2 and message in " ".join(err.split()) and not out


def test_bad_input_is_refused_before_a_model_is_loaded(run):
    for words, message in (
        ([""], "the prompt is empty"),
        (["a", "--instead", ""], "the prompt is empty"),
        (["a", "--instead", "a"], "same prompt"),
        (["a", "--units", "heads"], "'heads'"),
        (["a", "--groups", "0"], "at least 1"),
        (["a", "--baseline", "noise"], "'noise'"),
        (["a", "--target", ""], "a target is empty"),
        (["1 two", "--ids"], "whole numbers"),
    ):
        code, out, err = run("explain", *words, "-m", "no such model")
        assert code == 2 and message in " ".join(err.split()) and not out


def test_predicted_arrows_are_the_edges_of_a_response_graph(model):
    """Groups of one neuron each, beside `response_graph`, whose derivatives are made by other means."""
    contrast = contrast_of(model, PROMPT, None, INSTEAD)
    question = contrast.question
    graph = unweave.response_graph(model, PROMPT, (question.answer, question.rival), instead=INSTEAD, most=6)
    nodes = list(graph.nodes)[graph.nodes.features]
    units = [NeuronPlaces.of([(node.layer, node.position, node.index)]) for node in nodes]
    predicted = predict(contrast, [PartGroup(Part(unit)) for unit in units])
    dense, target = graph.dense().double(), graph.nodes.logits.start
    rows = [node.row for node in nodes]
    apart = torch.cat([contrast.there.units(unit) - contrast.here.units(unit) for unit in units]).double()
    wanted = dense[rows][:, rows] / apart[:, None]
    torch.testing.assert_close(predicted.moved.T.double(), wanted, rtol=1e-3, atol=1e-4)
    direct = -dense[target, rows] / contrast.whole
    torch.testing.assert_close(predicted.direct.double(), direct, rtol=1e-3, atol=1e-4)


def test_predictions_stand_beside_what_was_measured(explained):
    measured = explained.measured
    agreement = agreement_of_arrows(measured.arrows)
    passed = [arrow for arrow in measured.arrows if arrow.passed]
    assert agreement is not None and agreement.arrows == len(passed) and agreement.signs > 0.5
    for effect in measured.effects:  # small swaps are what their slope says
        if abs(effect.share) < 0.05:
            assert effect.predicted == pytest.approx(effect.share, abs=0.05)
    facts = explained.facts
    assert facts["arrow_agreement"]["arrows"] == len(passed)
    assert all({"predicted", "predicted_carried"} <= set(arrow) for arrow in facts["arrows"])


def test_names_say_by_how_many_members_they_are_borne(explained):
    for group in explained.groups:
        if group.pushes:
            assert group.support is not None and 2 * group.support >= len(group)
            assert all(repr(token) in group.name for token in group.pushes)
            assert len(group) == 1 or f"({group.support} of {len(group)} do)" in group.name
        else:
            assert group.support is None and "(unnamed)" in group.evidence
    assert len({group.name for group in explained.groups}) == len(explained.groups)


def test_pushed_tokens_are_what_the_whole_model_says(explained, model):
    """One group's push by hooks of the test's own, over the same contexts."""
    contrast = explained.contrast
    group = next(group for group in explained.groups if group.kind == "neurons" and group.pushes)
    prompts, rises = other_contexts(contrast.model, first=int(contrast.ids[0])), []
    for ids in prompts.tolist():
        here = look(model, torch.tensor(ids))
        put = {}
        for layer, position, index in group.part.units.triples:
            change = (contrast.here.at["neurons", layer] - contrast.there.at["neurons", layer])[position, index]
            down = model.module.model.layers[layer].mlp.down_proj
            entries, values = put.get((down, len(ids) - 1), ([], []))
            put[down, len(ids) - 1] = ([*entries, index], [*values, change])
        logits = _added(model, ids, put)
        rises.append((logits - here.logits) - (logits - here.logits).mean())
    rise = torch.stack(rises).mean(0)
    for token in group.pushes:
        assert float(rise[int(token[1:])]) > 0


def _added(model, ids, put):
    handles = []
    for (module, position), (entries, values) in put.items():

        def hook(module, args, position=position, entries=entries, values=values):
            x = args[0].clone()
            x[0, position, entries] += torch.stack(values)
            return (x, *args[1:])

        handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


def test_labels_of_pages_are_in_names(explained):
    contrast = explained.contrast
    group = next(group for group in explained.groups if group.kind == "neurons")
    labels = {(layer, index): "capital cities" for layer, _, index in group.part.units.triples}
    (named,) = with_names(contrast, [group], {}, labels)
    assert f"labelled 'capital cities' ({len(group)} of {len(group)})" in named.name and named.label


def test_pieces_of_a_character_are_called_by_it():
    names = readable([" a", "<0xE2><0x82>", "<0xAC>", "b", "<0xE2>"])
    assert names == ["' a'", "'€' (piece 1 of 2)", "'€' (piece 2 of 2)", "'b'", "'<0xE2>'"]


def test_keys_and_values_of_a_beginning_are_those_of_the_weights(model):
    """What was kept for one state of the weights is not used for another."""
    ids, question = torch.tensor(PROMPT), TokenPair(3, 8)
    last = [look(model, torch.tensor(INSTEAD)).put_cells("heads", [1], [4])]
    before = run(model, ids, question, last).lead
    weight = model.module.model.layers[0].self_attn.v_proj.weight
    with torch.no_grad():
        weight.mul_(1.5)
        changed = run(model, ids, question, last).lead
        wanted = by_hand(
            model, PROMPT, {(model.module.model.layers[1].self_attn.o_proj, 4): (slice(None), last[0][0].value[0])}
        )
        weight.div_(1.5)
    assert (
        float(changed) == pytest.approx(float(wanted[3] - wanted[8]), abs=1e-4) and abs(float(changed - before)) > 1e-3
    )


def test_an_answer_that_hangs_on_nothing_found_is_said_to(model, run, tiny_folders):
    found = unweave.explain(model, [3], baseline="zero")
    assert not found.found and not found.groups and json.loads(json.dumps(found.facts, allow_nan=False))
    assert found.markdown and found.picture and found.check() == []
    folder, _ = tiny_folders("llama", "jumprelu")
    code, out, err = run("explain", "3", "--ids", "-m", folder, "--baseline", "zero")
    assert code == 0 and "Nothing was found" in out, err


def test_a_contrast_that_changes_next_to_nothing_is_refused(model, monkeypatch):
    monkeypatch.setattr("unweave.explanation.explaining.LITTLE", 1e6)
    with pytest.raises(PromptError, match="by only"):
        unweave.explain(model, PROMPT, instead=INSTEAD)
    assert not unweave.explain(model, PROMPT, baseline="zero").found
