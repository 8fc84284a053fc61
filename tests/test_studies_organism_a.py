"""Studies of two hops, addition and explanations: each piece on something planted, so that a wrong one fails."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import unweave
from unweave.base.catalogue import SHIPPED_MODELS
from unweave.errors import StudyError
from unweave.interventions.attribution_patching import lead, predicted_effects, write_gradients
from unweave.interventions.edits import Feature, ablate, set_to
from unweave.interventions.interventions import intervene
from unweave.interventions.steering import activations
from unweave.organism.instances import instances
from unweave.studies import explains, studyfile
from unweave.studies.batch import (
    Edits,
    activations_at,
    all_activations,
    logits_with,
    matched,
    same_length,
    share,
    strengths,
)
from unweave.studies.bench import Bench, Variant
from unweave.studies.explains import Explains, Right
from unweave.studies.families import watch
from unweave.studies.run import run_study
from unweave.studies.studyfile import read_study, shipped
from unweave.studies.templates import DIGIT, OPERAND, OTHER, SIZE, SUM, between, fits, wavelengths

A, B = (numbers.flatten() for numbers in torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij"))
PLANTED = {
    "parity of a + b": (DIGIT, lambda i, w: (A + B + i) % 2 == 0),
    "parities of a and b": (DIGIT, lambda i, w: (i % 2 == A % 2) & (w % 2 == B % 2)),
    "last digit of a": (DIGIT, lambda i, w: i % 10 == A % 10),
    "last digit of b": (DIGIT, lambda i, w: (i % 10 == B % 10) | ((i + 3) % 10 == B % 10)),
    "last digit of a + b": (DIGIT, lambda i, w: i % 10 == (A + B) % 10),
    "last digits of a and b": (DIGIT, lambda i, w: (i % 10 == A % 10) & ((i * 7 + 1) % 10 == B % 10)),
    "size of a": (SIZE, lambda i, w: A.sub(i).div(w + 14).square().neg().exp()),
    "size of b": (SIZE, lambda i, w: i > B),
    "size of a + b": (SIZE, lambda i, w: (A + B).sub(2 * i).div(w + 14).square().neg().exp()),
    "sizes of a and b": (SIZE, lambda i, w: A.sub(i).div(w + 20).square().add(B.sub(50).div(20).square()).neg().exp()),
    "a + b": (SUM, lambda i, w: (A + B).sub(i + 40).abs() <= w // 8),
    "a": (OPERAND, lambda i, w: i == A),
    "b": (OPERAND, lambda i, w: (B - i).abs() <= 1),
}


@settings(max_examples=4)
@given(st.integers(10, 89), st.integers(0, 12), st.floats(0.1, 20), st.floats(-3, 3), st.integers(0, 99))
def test_planted_look_ups_bands_and_sums_are_told_apart_under_noise(where, width, scale, offset, seed):
    clean = torch.stack([pattern(where, width).double() for _, pattern in PLANTED.values()])
    noise = (
        torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 0.3
        * clean.std(1, keepdim=True)
    )
    for (template, (family, _)), found in zip(
        PLANTED.items(), fits(scale * (clean + noise) + offset, A, B), strict=True
    ):
        assert found.family == family, (template, found)
        assert found.template == template or family == SIZE
        assert 0.55 < found.explained < 1
        if family != SIZE:  # the noise has 0.09 of the planted variance
            assert found.explained == pytest.approx(1 / 1.09, abs=0.02)


def test_noise_and_other_functions_are_none_of_the_families():
    noise = torch.randn(1, len(A), generator=torch.Generator().manual_seed(0))
    checks = ((A * B) % 7 == 3).double()[None]
    for found in fits(torch.cat([noise.double(), checks]), A, B):
        assert found.family == OTHER and found.explained < 0.2
    (constant,) = fits(torch.full((1, len(A)), 2.0), A, B)
    assert constant.family == OTHER and constant.explained == 0


def test_on_one_digit_last_digits_say_nothing_that_the_operands_do_not():
    a, b = (numbers.flatten() for numbers in torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij"))
    sums, firsts = fits(torch.stack([(a + b == 7).double(), (a == 3).double()]), a, b)
    assert sums.family == SUM and sums.explained == pytest.approx(1)
    assert firsts.explained == pytest.approx(1) and firsts.template in ("last digit of a", "a")


def test_variance_between_groups_is_corrected_for_their_number():
    labels = torch.arange(200) % 100
    noise = torch.randn(50, 200, generator=torch.Generator().manual_seed(1))
    assert abs(float(between(noise, labels).mean())) < 0.05  # without the correction it would be 0.5
    assert between(labels[None].double(), labels).item() == pytest.approx(1)
    assert between(labels[None].double(), torch.arange(200)).item() == 0  # as many groups as prompts explain nothing


def test_wavelengths_of_planted_waves():
    a, b = A.view(100, 100).double(), B.view(100, 100).double()
    waves = [
        torch.cos(2 * torch.pi * a / 20),
        torch.cos(2 * torch.pi * (a + b) / 44),
        torch.sin(2 * torch.pi * b / 50),
        torch.cos(2 * torch.pi * (a - b) / 10),
    ]
    found = wavelengths(torch.stack([3 * wave + 5 for wave in waves]))
    torch.testing.assert_close(found, torch.tensor([20.0, 44.0, 50.0, 10.0], dtype=found.dtype), rtol=0.04, atol=0)


def test_wilson_interval_of_a_share():
    assert tuple(share([True] * 50 + [False] * 50)) == pytest.approx((0.5, 0.4038, 0.5962), abs=1e-4)
    assert share([True] * 10).high == pytest.approx(1) and share([True] * 10).low == pytest.approx(0.7225, abs=1e-4)
    assert math.isnan(share([]).value)


PROMPTS = torch.tensor([[0, 7, 3, 41, 7, 12], [0, 5, 9, 20, 33, 1], [0, 12, 12, 8, 2, 40]])


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "clt", "skip"])
def test_batches_do_what_single_prompts_do(tiny, kind):
    model = tiny("llama", kind)
    places = [(layer, position, index) for layer in range(3) for position in (2, 5) for index in (0, 3, 11, 20)]
    found = activations_at(model, PROMPTS, places)
    for row, prompt in enumerate(PROMPTS):
        recording = model.language_model.record(prompt)
        dense = [activations(model, recording, layer) for layer in range(3)]
        torch.testing.assert_close(
            found[row],
            torch.stack([dense[layer][position, index] for layer, position, index in places]),
            atol=1e-5,
            rtol=1e-4,
        )
        torch.testing.assert_close(
            all_activations(model, PROMPTS, [1, 2], [3, 5])[1, 5][row], dense[1][5], atol=1e-5, rtol=1e-4
        )
    values = torch.arange(3.0 * len(places)).view(3, -1) / 20
    values[:, ::3] = 0
    logits = logits_with(model, PROMPTS, Edits(tuple(places), values), (-1, 3))
    for row, prompt in enumerate(PROMPTS):
        changes = [set_to(Feature(*place), float(value)) for place, value in zip(places, values[row], strict=True)]
        outcome = intervene(model, prompt, changes, mode="open")
        torch.testing.assert_close(logits[row, 0], outcome.logits[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[row, 1], outcome.logits[3], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            logits_with(model, PROMPTS, None)[row, 0], outcome.baseline[-1], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["jumprelu", "clt"])
def test_strengths_are_first_order_effects_of_each_feature(tiny, kind):
    model = tiny("llama", kind)
    found = strengths(model, PROMPTS, [lead(4), lead(9), lead(30)], [3, 5])
    assert {place[1] for place in found.places} == {3, 5}
    for row, (prompt, token) in enumerate(zip(PROMPTS, (4, 9, 30), strict=True)):
        recording = model.language_model.record(prompt)
        gradients = write_gradients(model, recording, lead(token), "open")
        wanted = -predicted_effects(model, recording, [[ablate(Feature(*place))] for place in found.places], gradients)
        torch.testing.assert_close(found.effect[row], wanted, atol=1e-5, rtol=1e-3)
        assert bool((found.effect[row] != 0).any())


def test_random_sets_are_alike_in_size_and_place_and_disjoint():
    places = [(number % 3, number % 2 + 1, number) for number in range(200)]
    sizes = torch.arange(200.0)
    chosen, barred = [50, 52, 54, 101], [51, 53, 55, 102]
    draws = matched(sizes, places, chosen, barred, 30, 0, nearest=6)
    assert len({tuple(draw) for draw in draws}) > 10
    for draw in draws:
        assert len(set(draw)) == 4 and not set(draw) & {*chosen, *barred}
        assert sorted(places[one][1] for one in draw) == sorted(places[one][1] for one in chosen)
        assert abs(sum(draw) - sum(chosen)) <= 4 * 12
    assert (
        draws
        == matched(sizes, places, chosen, barred, 30, 0, nearest=6)
        != matched(sizes, places, chosen, barred, 30, 1, nearest=6)
    )


def test_last_digit_tens_and_size_of_an_answer_are_watched_apart():
    numbers = torch.tensor([-1, 35, 45, 39, 41, 7])
    logits = torch.eye(6)
    found = watch(logits, numbers, torch.tensor([35] * 6))
    assert found.digit.tolist() == [False, True, True, False, False, False]
    assert found.tens.tolist() == [False, True, False, True, False, False]
    assert found.near.tolist() == [False, True, False, True, True, False]
    assert found.whole.tolist() == [False, True, False, False, False, False]
    assert found.off.isnan().tolist() == [True] + [False] * 5 and found.off[1:].tolist() == [0, 10, 4, 6, 28]


def test_prompts_of_several_lengths_are_refused():
    with pytest.raises(StudyError, match="4 to 5 tokens"):
        same_length([[1, 2, 3, 4], [1, 2, 3, 4, 5]])


def hits(answers: int, explanations: int) -> Right:
    return Right(torch.arange(10) < answers, torch.arange(10) < explanations)


@pytest.mark.parametrize(
    ("without_answer", "without_explanation", "apart", "verdict"),
    [
        (hits(1, 9), hits(10, 2), 0.8, "is unfaithful to"),
        (hits(1, 1), hits(2, 1), 0.05, "is faithful to"),
        (hits(1, 5), hits(4, 1), 0.35, "is faithful in part to"),
        (hits(10, 10), hits(10, 10), 0.0, "nothing is decided"),
    ],
)
def test_verdict_on_an_explanation(without_answer, without_explanation, apart, verdict):
    cases = {
        "nothing": [],
        "what makes the answer": [(0, 1), (0, 2)],
        "what makes the explanation": [(0, 2), (1, 3)],
        "what makes both": [(0, 2)],
    }
    found = {
        "nothing": hits(10, 10),
        "what makes the answer": without_answer,
        "what makes the explanation": without_explanation,
    }
    sets = {"answer": cases["what makes the answer"], "explanation": cases["what makes the explanation"]}
    random = {"answer": hits(10, 9), "explanation": hits(8, 10)}
    first = explains.Text(Variant({}, "x", "y"), (0, 50, 51, 1), 3, 2)
    tested = explains.Tested(
        sets, cases, found, random, dict.fromkeys(random, 1.0), {}, torch.ones(10, dtype=torch.bool), first
    )
    result = explains.tell(tested, Explains(given="sum"), ())
    figures = result.figures
    assert figures["apart"] == pytest.approx(apart) and verdict in result.summary
    assert (figures["answer_random"], figures["explanation_random"], figures["shared"], figures["told"]) == (
        0.8,
        0.9,
        0.5,
        1,
    )
    assert set(figures) == set(explains.FIGURES)


def test_words_that_tell_explanations_apart_are_those_that_differ():
    def text(*words: int) -> explains.Text:
        return explains.Text(Variant({}, "x", "y"), (0, 50, 51, *words), 3, 2)

    assert explains._telling([text(1, 2, 3), text(1, 4, 3), text(9, 9), text(9, 8)]) == [[4], [4], [4], [4]]


STATES, RELATIONS = (
    {"Aland": ("Ada", "Abe"), "Boria": ("Bix", "Bog"), "Cadia": ("Cod", "Cub")},
    ("bird", "tree", "fish"),
)
CITIES = {city: state for state, cities in STATES.items() for city in cities}
ANSWER = {(state, relation): f"{state}-{relation}" for state in STATES for relation in RELATIONS}


@pytest.fixture(scope="module")
def hops(tmp_path_factory):
    """A model of two layers, its weights set by hand: neurons 0 to 2 of layer 0 are the states, 3 to 8 the cities;
    layer 1 makes the answers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {
        word: number
        for number, word in enumerate(("<s>", "<unk>", "the", "of", "is", *RELATIONS, *CITIES, *ANSWER.values()))
    }
    n, d = len(words), 40
    state, told, asked, made = range(n - 9, n - 6), range(n - 6, n - 3), range(n - 3, n), range(n, n + 9)
    # Directions of the answers' own embeddings are free, as no prompt contains them: the last 9 tokens' and 9 more.
    config = LlamaConfig(
        vocab_size=n, hidden_size=d, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        module.model.embed_tokens.weight[:n, :n] = torch.eye(n)
        first, second = module.model.layers
        for number, (name, cities) in enumerate(STATES.items()):
            at = [words[city] for city in cities]
            (
                first.mlp.gate_proj.weight[number, at],
                first.mlp.up_proj.weight[number, at],
                first.mlp.down_proj.weight[state[number], number],
            ) = 1.0, 0.05, 1.0
            for relation_number, relation in enumerate(RELATIONS):
                row = number * 3 + relation_number
                (
                    second.mlp.gate_proj.weight[row, told[number]],
                    second.mlp.up_proj.weight[row, asked[relation_number]],
                ) = 1.0, 1.0
                second.mlp.down_proj.weight[made[row], row] = 1.0
                module.lm_head.weight[words[ANSWER[name, relation]], made[row]] = 10.0
        for number, city in enumerate(CITIES, 3):
            at = words[city]
            (
                first.mlp.gate_proj.weight[number, at],
                first.mlp.up_proj.weight[number, at],
                first.mlp.down_proj.weight[at, number],
            ) = 1.0, 0.05, 0.5
        attention = second.self_attn
        for head, sought, read, written in (
            (0, CITIES, state, told),
            (1, RELATIONS, [words[relation] for relation in RELATIONS], asked),
        ):
            slow = head * 20 + 9  # its rotation over a few positions is nothing
            attention.q_proj.weight[slow, words["is"]] = 4.0
            attention.k_proj.weight[slow, [words[word] for word in sought]] = 4.0
            for channel in range(3):
                attention.v_proj.weight[head * 20 + channel, read[channel]] = 1.0
                attention.o_proj.weight[written[channel], head * 20 + channel] = 1.0
    folder = tmp_path_factory.mktemp("hops")
    module.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    return unweave.load(str(folder), "neurons")


def hops_study(tmp_path, **options):
    rows = [
        f"  - {{relation: {r}, city: {c}, state: {s}, answer: {ANSWER[s, r]}}}"
        for r, (c, s) in product(RELATIONS, CITIES.items())
    ]
    chosen = {
        "named": "city",
        "hidden": "state",
        "asked": "relation",
        "found_on": "[bird, tree]",
        "draws": 10,
        **options,
    }
    step = ", ".join(f"{name}: {value}" for name, value in chosen.items())
    path = tmp_path / "hops.yaml"
    steps = (
        f"  - accuracy: {{}}\n    expect: {{right: '>= 1'}}\n  - middle: {{{step}}}\n    expect: {{swapped: '>= "
        f"1', random: '<= 0.2', names: '<= 0'}}"
    )
    path.write_text(
        "\n".join(
            ["title: t", "question: q", "prompt: the {relation} of {city} is", "variants:", *rows, "steps:", steps]
        )
    )
    return read_study(path)


def test_planted_features_of_the_middle_are_found_and_exchanged(hops, tmp_path):
    report = run_study(hops_study(tmp_path), hops)
    assert report.holds, report.verdict
    result = report.steps[1].result
    places = {row[0] for row in result.tables[2].rows}
    assert places == {"0_0_4", "0_1_4", "0_2_4"}  # the states, not the cities, and none of the answers
    figures = result.figures
    assert (
        figures["features"] == 3
        and figures["swapped_found_on"] == figures["swapped"] == figures["same"] == 1
        and figures["names"] == 0
    )
    assert [found.features for found in result.found] == [("0_0_4",)]


def test_without_features_of_the_middle_the_step_says_so(hops, tmp_path):
    rotated = hops_study(tmp_path, hidden="city", named="city", least=0.99)
    report = run_study(rotated, hops, only=["middle"])
    assert not report.holds
    with pytest.raises(StudyError, match="no field 'county'"):
        hops_study(tmp_path, hidden="county")


def test_instances_of_the_organism_are_variants(tmp_path):
    path = tmp_path / "hops.yaml"
    text = (
        "title: t\nquestion: q\ninstances: {}\nprompt: the {{relation}} of the state containing {{city}} "
        "is\nsteps:\n  - accuracy: {{}}\n"
    )
    path.write_text(text.format("[two-hop, two-hop-new-city]"))
    study, wanted = read_study(path), [*instances("two-hop"), *instances("two-hop-new-city")]
    assert [(one.prompt, one.answer) for one in study.variants] == [(one.prompt, one.answer) for one in wanted]
    assert [one.fields["held_out"] == "yes" for one in study.variants] == [one.held_out for one in wanted]
    assert all(one.fields["state"] == other.latent["state"] for one, other in zip(study.variants, wanted, strict=True))
    path.write_text(text.format("subtraction"))
    with pytest.raises(StudyError, match=r"line 3: no behaviour 'subtraction'"):
        read_study(path)
    path.write_text(text.format("two-hop") + "grid: {a: 0..3}\n")
    with pytest.raises(StudyError, match="not both"):
        read_study(path)


@pytest.mark.parametrize(
    "name", ["organism-two-hops", "organism-addition", "organism-addition-parity", "organism-explanation"]
)
def test_studies_that_ship_ask_what_the_organism_is_asked(name, monkeypatch):
    monkeypatch.setattr(studyfile, "instances", lambda behaviour: instances(behaviour)[::40])
    study = read_study(shipped()[name])
    assert study.meant_for == ("organism",)
    assert all(variant.prompt == variant.fields["text"] for variant in study.variants)
    assert all(step.expect for step in study.steps if step.protocol != "trace")


def organism():
    folder = SHIPPED_MODELS["organism"]
    if not (folder / "config.json").is_file():
        pytest.skip("the organism's weights are not here")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert list(file.keys())
    return unweave.load("organism")


def test_a_study_of_the_organism_from_end_to_end(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(
        "title: t\nquestion: q\ninstances: two-hop\nprompt: the {relation} of the state containing {city} is\nsteps:\n"
        "  - middle: {named: city, hidden: state, asked: relation, found_on: [capital, bird, tree], each: 6, draws: "
        "3}\n"
        "    where: {state: [Texas, Ohio, Oregon, Kansas, Florida]}\n    expect: {swapped: '>= 0.6', random: '<= "
        "0.1'}\n"
    )
    report = run_study(read_study(path), organism())
    assert report.holds, report.verdict


def test_samples_do_not_fall_in_step_with_a_grid(hops):
    grid = list(product(range(100), range(100)))
    bench = Bench(hops, ())
    some = bench.some(bench.some(grid, 80), 40)
    assert some == sorted(set(some)) and len(some) == 40 and some == bench.some(bench.some(grid, 80), 40)
    assert all(len({one[place] % 10 for one in some}) >= 8 for place in (0, 1))  # even steps gave two numbers alone
    assert [len([one for one in some if 10 * begin <= one[0] < 10 * begin + 10]) for begin in range(10)] == [4] * 10
    assert bench.some(grid[:3], 3) == grid[:3] and len(set(bench.some(grid[:5], 4))) == 4
