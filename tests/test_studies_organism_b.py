"""Features in common, transplanted features, plans and inhibition: on a model whose every weight is known, where a
wrong claim must fail."""

import random
from itertools import pairwise
from typing import Any

import pytest
import torch

import unweave
from unweave import attribute
from unweave.errors import StudyError
from unweave.interventions.steering import activations
from unweave.models.architectures import architecture_of
from unweave.models.language_model import LanguageModel
from unweave.studies import inhibit, planning, shared, transplant
from unweave.studies.bench import Bench, Variant
from unweave.studies.groups import Activity, Dose, dose, positions, random_like, right, starts, strongest, written
from unweave.studies.studyfile import find_study, read_study
from unweave.transcoders.replacement import ReplacementModel
from unweave.transcoders.transcoders import Matrix, ReLU, TranscoderLayer, Transcoders

D, LAYERS = 64, 3
CONCEPTS, LANGUAGES = 4, 3
NAMES, STRANGERS, LINES = 4, 4, 4
KNOWN = 30
"""The direction that known names write."""


def unit(*places: int) -> torch.Tensor:
    """The sum of some unit vectors."""
    vector = torch.zeros(D)
    vector[list(places)] = 1.0
    return vector


def words() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What each word is, and after what it comes: the next word is the one whose second vector is most like the
    first of the last word."""
    meaning = {name: torch.zeros(D) for name in ("<s>", "ask", "tell")}
    after: dict[str, torch.Tensor] = {}
    for concept in range(CONCEPTS):
        for language in range(LANGUAGES):
            meaning[f"w{concept}{language}"] = unit(concept, 8 + language)
            after[f"w{concept}{language}"] = unit(
                (concept + 1) % CONCEPTS, 8 + language
            )  # the answer has the next concept in the same language
    for place in range(NAMES):
        meaning[f"k{place}"], after[f"v{place}"] = unit(12 + place, 20), unit(12 + place, KNOWN, KNOWN) * 1.5
    for place in range(STRANGERS):
        meaning[f"u{place}"] = unit(16 + place, 20)
    after["cannot"] = unit(20) * 1.2 - unit(KNOWN)
    for line in range(LINES):
        chain = [f"e{line}", f"x{line}", f"y{line}", f"z{line}", "."]
        for place, (one, following) in enumerate(pairwise(chain)):
            meaning[one] = unit(32 + 4 * line + place)
            after[following] = after.get(following, torch.zeros(D)) + unit(32 + 4 * line + place)
        meaning[f"e{line}"] += 0.3 * unit(32 + 4 * ((line + 1) % LINES))  # the next best line
    return meaning, after


def language_model() -> LanguageModel:
    """Attention and MLPs add nothing but one thing: layer 0 writes a direction on known names."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    meaning, after = words()
    numbers = {word: place for place, word in enumerate(dict.fromkeys([*meaning, *after, "<unk>"]))}
    config: Any = LlamaConfig(
        vocab_size=len(numbers), hidden_size=D, intermediate_size=NAMES, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=0, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    config._attn_implementation = "eager"
    module: Any = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    for word, vector in meaning.items():
        module.model.embed_tokens.weight[numbers[word]] = vector
    for word, vector in after.items():
        module.lm_head.weight[numbers[word]] = vector
    mlp = module.model.layers[0].mlp
    for place in range(NAMES):
        mlp.gate_proj.weight[place], mlp.up_proj.weight[place] = 4 * unit(12 + place), unit(12 + place)
        mlp.down_proj.weight[:, place] = 0.02 * unit(KNOWN)
    whole = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    whole.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    return LanguageModel("planted", module, tokenizer, architecture_of(config.to_dict()))


def dictionary(*layers: list[tuple[torch.Tensor, float, torch.Tensor]]) -> Transcoders:
    """Features by layer, each with what it reads, its bias and what it writes."""
    made = []
    for rows in layers:
        read, bias, write = (torch.stack([torch.as_tensor(row[place]) for row in rows]) for place in range(3))
        made.append(TranscoderLayer(Matrix(read), bias, Matrix(write), torch.zeros(D), ReLU()))
    return Transcoders("per-layer", tuple(made), "mlp_in", "mlp_out", "planted", "planted", "0" * 64)


def directions(*places: int) -> list[tuple[torch.Tensor, float, torch.Tensor]]:
    """Features that read and write one direction each; a norm makes about 4 of 1."""
    return [(unit(place), 0.0, unit(place) / 4) for place in places]


def pairs() -> list[tuple[torch.Tensor, float, torch.Tensor]]:
    """A feature for each word: active on one concept in one language alone."""
    found = []
    for concept in range(CONCEPTS):
        for language in range(LANGUAGES):
            vector = unit(concept, 8 + language)
            found.append((vector, -6.0, vector / 4))
    return found


NOTHING = [(unit(63), 0.0, unit(63))]
PARTS = directions(*range(CONCEPTS), *range(8, 8 + LANGUAGES), 60, 61)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return language_model()


def bench(model: LanguageModel, transcoders: Transcoders, variants: list[Variant]) -> Bench:
    return Bench(ReplacementModel(model, transcoders), tuple(variants))


def word_variants() -> list[Variant]:
    return [
        Variant(
            {"concept": f"c{concept}", "language": f"l{language}", "kind": "next"},
            f"ask w{concept}{language}",
            f"w{(concept - 1) % CONCEPTS}{language}",
        )
        for concept in range(CONCEPTS)
        for language in range(LANGUAGES)
    ]


def name_variants() -> list[Variant]:
    known = [Variant({"known": "yes", "name": f"k{n}", "what": "v"}, f"ask k{n}", f"v{n}") for n in range(NAMES)]
    return known + [
        Variant({"known": "no", "name": f"u{n}", "what": "v"}, f"ask u{n}", "cannot") for n in range(STRANGERS)
    ]


def line_variants() -> list[Variant]:
    return [
        Variant({"last": f"z{n}", "side": str(n % 2)}, f"{first} e{n}", f"x{n} y{n} z{n}")
        for n in range(LINES)
        for first in ("ask", "tell")
    ]


def test_the_planted_model_answers_as_planted(model):
    whole = bench(model, dictionary(NOTHING, NOTHING, NOTHING), [*word_variants(), *name_variants()])
    assert right(whole, whole.variants) == list(whole.variants)
    alone = Bench(whole.model, whole.variants)
    assert all(alone.said(one).right for one in alone.variants)  # the same one by one


def test_activity_is_what_the_encoders_give(tiny):
    model = tiny("llama", "relu")
    made = Bench(model, (Variant({}, "x", "y"),))
    made.text = lambda variant: [0, 7, 3, 41, 7, 12]  # pyright: ignore[reportAttributeAccessIssue]
    recording = model.language_model.record(torch.tensor([0, 7, 3, 41, 7, 12]))
    found = Activity(made, (-1, -3)).of(made.variants)[0]
    wanted = torch.cat([activations(model, recording, layer)[[5, 3]] for layer in range(3)], -1)
    torch.testing.assert_close(found, wanted)
    everywhere = Activity(made, ()).of(made.variants)[0]
    torch.testing.assert_close(everywhere[[4, 2]], wanted)


def test_places(model):
    made = bench(model, dictionary(NOTHING, NOTHING, NOTHING), name_variants())
    first = made.variants[0]
    assert positions(made, first, (-1, "name", -2)) == [2, 2, 1] and positions(made, first, ()) == [1, 2]
    with pytest.raises(StudyError, match="place -4 is not in the prompt"):
        positions(made, first, (-4,))
    with pytest.raises(StudyError, match="what 'v' does not stand"):
        positions(made, first, ("what",))
    with pytest.raises(StudyError, match="no field 'nothing'"):
        positions(made, first, ("nothing",))


def test_random_features_write_as_much_and_are_never_the_same():
    generator = torch.Generator().manual_seed(0)
    norms, begins = torch.rand(40, generator=generator) + 0.5, [0, 15, 40]
    own, ever = (
        torch.rand(2, 40, generator=generator) * (torch.rand(2, 40, generator=generator) < 0.5),
        torch.ones(2, 40),
    )
    one = dose(strongest(torch.randn(2, 40, generator=generator), norms, 12), own, 2.0)
    other = random_like(one, own, ever, norms, begins, random.Random(0))
    assert other.size == one.size > 6 and not bool(((one.amounts != 0) & (other.amounts != 0)).any())
    for place in range(2):
        for layer in (slice(0, 15), slice(15, 40)):
            for sign in (-1, 1):
                sizes = [
                    sorted((part.amounts[place, layer] * norms[layer])[part.amounts[place, layer] * sign > 0].tolist())
                    for part in (one, other)
                ]
                assert sizes[0] == pytest.approx(sizes[1])
    out = other.amounts < 0
    assert bool((own[out] > 0).all())  # what is taken out was there


def test_strongest_counts_what_is_written():
    kept = strongest(torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([1.0, 2.0, 10.0]), 2)
    assert kept.tolist() == [[0.0, -2.0, 1.0]]


def test_written_is_the_norm_over_all_layers(tiny):
    model = tiny("llama", "clt")
    found, begins = written(model), starts(model)
    rows = [model.transcoders.decoder_rows(1, torch.tensor([4]), at, torch.float32) for at in (1, 2)]
    assert float(found[begins[1] + 4]) == pytest.approx(float(torch.cat(rows, -1).norm()))


def test_features_in_common(model):
    options = shared.Shared.model_validate(dict(meaning="concept", language="language", keys=("kind",)))
    found = shared.run(bench(model, dictionary(pairs(), PARTS, pairs()), word_variants()), options)
    assert (
        found.figures["peak"] == 1 and found.figures["same"] == pytest.approx(1 / 3) and found.figures["other"] == 0
    )  # of 3, the concept's
    assert found.figures["gain_low"] > 0.3 and found.figures["middle_low"] > 0.3
    nowhere = shared.run(bench(model, dictionary(pairs(), pairs(), pairs()), word_variants()), options)
    assert nowhere.figures["gain"] == 0 and nowhere.figures["middle"] == 0
    at_end = shared.run(bench(model, dictionary(pairs(), pairs(), PARTS), word_variants()), options)
    assert at_end.figures["peak"] == 2 and at_end.figures["middle_low"] < 0
    with pytest.raises(StudyError, match="only 0 variants"):
        shared.run(
            bench(
                model,
                dictionary(PARTS, PARTS, PARTS),
                [one for one in word_variants() if one.fields["language"] == "l0"],
            ),
            options,
        )


CONCEPT = transplant.Transplant.model_validate(
    dict(field="concept", keys=("language",), across=("language",), at=(-1,), features=8, factor=1.5, draws=4)
)
LANGUAGE = transplant.Transplant.model_validate(
    dict(field="language", keys=("concept",), across=("concept",), at=(-1,), features=8, factor=1.5, draws=4)
)


@pytest.mark.parametrize("options", [CONCEPT, LANGUAGE])
def test_a_transplant_reaches_the_counterpart_only_with_the_right_features_in_the_right_place(model, options):
    parts = bench(model, dictionary(NOTHING, PARTS, NOTHING), word_variants())
    found = transplant.run(parts, options)
    assert found.figures["reached"] == 1 and found.figures["reached_low"] > 0.7 and found.figures["controls"] < 0.3
    assert found.figures["targets"] == 12 and found.figures["moved"] == 1
    elsewhere = transplant.run(parts, options.model_copy(update={"at": (-2,)}))
    assert elsewhere.figures["reached"] == 0 and elsewhere.figures["changed"] == 0


def test_features_of_single_words_cannot_be_transplanted_between_languages(model):
    apart = [(read, bias, unit(40 + place)) for place, (read, bias, _) in enumerate(pairs())]
    found = transplant.run(bench(model, dictionary(NOTHING, apart, NOTHING), word_variants()), CONCEPT)
    assert found.figures["reached"] == 0 and found.figures["features"] > 0


def test_what_is_transplanted_is_found_on_other_prompts(model):
    made = bench(model, dictionary(NOTHING, PARTS, NOTHING), word_variants())
    for target in transplant.chosen(made, CONCEPT):
        here = target.variant.fields
        assert {one.fields["concept"] for one in target.old} == {here["concept"]} and {
            one.fields["concept"] for one in target.new
        } == {target.value}
        assert all(one.fields["language"] != here["language"] for one in (*target.old, *target.new))
    only = transplant.chosen(made, CONCEPT.model_copy(update={"found_on": {"language": "l1"}}))
    assert (
        only
        and all(one.fields["language"] == "l1" for target in only for one in target.old)
        and all(t.variant.fields["language"] != "l1" for t in only)
    )


KNOWN_NAMES = [[(unit(12 + place), 0.0, 0.4525 * unit(KNOWN)) for place in range(NAMES)] + directions(*range(50, 62))]
DEFAULT = [(unit(20) - 2 * unit(KNOWN), 0.0, unit(20)), *directions(60, 61)]


def test_inhibition_is_seen_in_edges_and_by_ablation(model):
    made = bench(model, dictionary(KNOWN_NAMES[0], NOTHING, DEFAULT), name_variants())
    options = inhibit.Inhibit.model_validate(dict(field="known", on="yes", off="no", at=(-1,), defaults=1, features=4))
    found = inhibit.run(made, options)
    assert found.figures["inhibited"] == 1 and found.figures["negative"] == 1 and found.figures["edges"] < 0
    assert found.figures["before"] == 0 and found.figures["restored"] > 0.9 and found.figures["controls"] < 0.5
    other_way = inhibit.run(made, options.model_copy(update={"on": "no", "off": "yes"}))
    assert not other_way.figures["inhibited"] > 0  # strangers' features write nothing that known names' read


def test_edges_into_features_are_the_graphs(tiny):
    model = tiny("llama", "clt")
    prompt = [0, 7, 3, 41, 7, 12]
    graph, local = attribute(model, prompt), model.localize(prompt)
    features = [row for row in range(graph.nodes.features.stop) if graph.nodes[row].layer == 2][:5]
    places = [(graph.nodes[row].layer, graph.nodes[row].position, graph.nodes[row].index) for row in features]
    found = inhibit.edges_into(local, places)
    wanted = graph.dense()[features].sum(0)
    for row in range(graph.nodes.features.stop):
        node = graph.nodes[row]
        assert found.get((node.layer, node.position, node.index), 0.0) == pytest.approx(float(wanted[row]), abs=1e-5)


def plan_options(**changes: object) -> planning.Planning:
    return planning.Planning.model_validate(
        dict(word="last", sides=("side",), each=2, targets=6, features=4, out=2, suppress=(1.0, 2.0), inject=2.0)
        | changes
    )


def test_a_plan_is_read_taken_out_and_put_in(model):
    made = bench(
        model,
        dictionary(NOTHING, directions(*(32 + 4 * line for line in range(LINES)), 60, 61), NOTHING),
        line_variants(),
    )
    found = planning.run(made, plan_options())
    assert found.figures["read"] == 1 and found.figures["read_before"] < 0.5
    assert found.figures["injected"] == found.figures["injected_last"] == found.figures["injected_middle"] == 1
    assert (
        found.figures["inject_elsewhere"]
        == found.figures["inject_controls"]
        == found.figures["suppress_elsewhere"]
        == 0
    )
    assert found.figures["suppressed"] > found.figures["suppress_controls"] == 0


def test_without_features_of_the_plan_lines_stay(model):
    made = bench(model, dictionary(NOTHING, directions(60, 61), NOTHING), line_variants())
    found = planning.run(made, plan_options())
    assert found.figures["injected"] == found.figures["suppressed"] == 0 and found.figures["read"] < 0.5


def test_a_plan_needs_lines_that_are_written_rightly(model):
    wrong = [Variant(one.fields, one.template, "x0 y1 z2") for one in line_variants()]
    made = bench(model, dictionary(NOTHING, PARTS, NOTHING), wrong)
    with pytest.raises(StudyError, match="none of 8 lines rightly"):
        planning.run(made, plan_options())
    with pytest.raises(StudyError, match="three or more values"):
        planning.run(bench(model, dictionary(NOTHING, PARTS, NOTHING), wrong[:2]), plan_options())


def test_a_dose_takes_out_no_more_than_there_is():
    assert Dose(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).size == 2
    amounts, own = torch.tensor([[1.0, -2.0, -2.0]]), torch.tensor([[0.5, 5.0, 1.0]])
    assert dose(amounts, own, 1.0, "out").amounts.tolist() == [[0.0, -2.0, -1.0]]
    assert dose(amounts, own, 3.0, "in").amounts.tolist() == [[3.0, 0.0, 0.0]]


def test_planning_on_the_organism():
    study = read_study(find_study("organism-planning"))
    options = study.steps[0].options
    assert isinstance(options, planning.Planning)
    small = options.model_copy(update={"each": 4, "targets": 8, "draws": 1})
    found = planning.run(Bench(unweave.load("organism"), study.variants), small).figures
    assert found["read"] >= 0.9 and found["suppressed"] >= 0.7 and found["injected"] >= 0.5
    assert (
        max(found[f"{what}_{where}"] for what in ("suppress", "inject") for where in ("elsewhere", "controls")) <= 0.2
    )


@pytest.mark.parametrize("name", ["organism-languages", "organism-planning", "organism-names"])
def test_the_studies_can_be_read(name):
    study = read_study(find_study(name))
    assert study.meant_for == ("organism",) and all(step.expect for step in study.steps)
