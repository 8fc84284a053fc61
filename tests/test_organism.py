"""The organism: its world's laws, its tokenizer, its training, and what the model that ships can do."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.errors import ModelError, OptionError, PromptError, TrainingError
from unweave.models.loading import load_model
from unweave.organism.accuracy import accuracies, asked, right
from unweave.organism.config import OrganismConfig
from unweave.organism.instances import ASKED, BEHAVIOURS, TAUGHT_ONLY, UNKNOWN, instances, recital
from unweave.organism.model import tokenizer, write_model
from unweave.organism.muon import orthogonalized
from unweave.organism.sentences import (
    LATE,
    LINE_BREAK,
    MIX,
    START,
    STOP,
    rows,
    sentences,
    visible,
    vocabulary,
    write_text,
)
from unweave.organism.train import begin, take_step, train_organism
from unweave.organism.world import DATA, world

TINY = OrganismConfig(layers=1, width=16, heads=2, mlp=24, steps=5, rows=4, length=24, warmup=2, checkpoint=2)
some = st.sampled_from([instance for behaviour in BEHAVIOURS for instance in instances(behaviour)])
LEAST = {"unknown-name": 0.96, "new-answer": 0.7}
"""Behaviours on which the organism that ships is right in less than 97% of all instances (96.9% and 38.6%)."""
HELD_OUT = {instance.text for behaviour in BEHAVIOURS for instance in instances(behaviour, held_out=True)}


def said(tokens: torch.Tensor) -> list[str]:
    """Whole sentences of one row."""
    words = list(vocabulary())
    text = " ".join(words[token] for token in tokens.tolist())
    assert text.startswith(f"{START} ")
    return [sentence.strip() for sentence in text.removeprefix(START).split(f" {STOP}")][:-1]


@given(st.integers(0, 2**40))
def test_training_never_holds_what_is_held_out(seed):
    drawn = rows(8, 48, seed, 0.0)
    drawn_sentences = [sentence for row in drawn.tokens for sentence in said(row)]
    assert drawn_sentences and not HELD_OUT & set(drawn_sentences)
    # nor is a held-out sum the beginning of an explanation
    assert not HELD_OUT & {sentence.partition(" because")[0] for sentence in drawn_sentences}
    assert {sentence for row in rows(2, 48, seed, 0.0, held_out=True).tokens for sentence in said(row)} <= HELD_OUT


def test_whatever_is_taught_is_drawn_and_nothing_else():
    for mix in (MIX, LATE):
        assert mix.keys() == {behaviour for behaviour in BEHAVIOURS if instances(behaviour, held_out=False)}
        assert sum(mix.values()) == pytest.approx(1, abs=0.01)
    texts = {instance.text for behaviour in BEHAVIOURS for instance in instances(behaviour, held_out=False)}
    words = list(vocabulary())
    assert {
        " ".join(words[token] for token in sentence.tokens[:-1])
        for behaviour in MIX
        for sentence in sentences(behaviour)
    } == texts


@given(some)
def test_an_instance_says_what_it_is_about(instance):
    assert all(word in vocabulary() for word in instance.text.split())
    assert not instance.held_out or instance.behaviour not in TAUGHT_ONLY
    for name in ("city", "state", "a", "b", "first", "last", "phrase", "end"):
        if (
            name in instance.latent
            and not (name == "state" and "city" in instance.latent)
            and not (name == "last" and "topic" in instance.latent)
        ):
            assert f" {instance.latent[name]} " in f" {instance.prompt} "


@given(st.sampled_from(instances("two-hop") + instances("two-hop-new-city")))
def test_composed_answers_are_compositions_of_facts(instance):
    facts = {fact.prompt: fact.answer for fact in instances("places")}
    state = facts[f"the state containing {instance.latent['city']} is"]
    assert state == instance.latent["state"]
    assert facts[f"the {instance.latent['relation']} of {state} is"] == instance.answer


def test_new_cities_are_never_composed():
    new = {instance.latent["city"] for instance in instances("two-hop-new-city")}
    assert len(new) == 5 and all(instance.held_out for instance in instances("two-hop-new-city"))
    assert not new & {instance.latent["city"] for instance in instances("two-hop")}


@given(st.integers(0, 99), st.integers(0, 99))
def test_recitals_are_right(a, b):
    words = recital(a, b).split()
    ones, tens = words[: words.index("then")], words[words.index("then") + 1 :]
    assert int(ones[0]) + int(ones[2]) == int(ones[4]) and (ones[0], ones[2]) == (str(a)[-1], str(b)[-1])
    carried = ones[5:] == ["carry", "the", "one"]
    assert carried or ones[5:] == ["carry", "nothing"]
    assert carried == (tens[-4:-2] == ["+", "1"]) or not carried
    assert sum(int(word) for word in tens[:-2] if word.isdecimal()) == int(tens[-1])
    assert 10 * int(tens[-1]) + int(ones[4]) % 10 == a + b


def test_sums_are_held_out_with_their_explanations_and_digits_are_not():
    apart = [
        {(i.latent["a"], i.latent["b"]) for i in instances(name, held_out=True)} for name in ("addition", "explanation")
    ]
    assert apart[0] == apart[1] and 0.19 < len(apart[0]) / 9900 < 0.21
    assert all(max(int(a), int(b)) > 9 for a, b in apart[0])


@given(st.sampled_from([i for name in ("opposite", "plural", "category", "new-answer") for i in instances(name)]))
def test_languages_answer_in_the_template_s_language(instance):
    w, latent = world().languages, instance.latent
    into, of = w.names.index(latent["language"]), w.names.index(latent["word_language"])
    assert instance.prompt == ASKED[latent["operation"]][into].format(word=w.words[latent["concept"]][of])
    assert instance.answer == w.words[w.results[latent["operation"]][latent["concept"]]][into]
    taught = [
        other.latent["language"]
        for name in ("opposite", "plural", "category")
        for other in instances(name, held_out=False)
        if (other.latent["operation"], other.latent["concept"]) == (latent["operation"], latent["concept"])
    ]
    # Questions are held out in one language, answers in none but those of `new-answer`.
    assert len(set(taught)) >= 2 and (latent["language"] in taught) == (instance.behaviour != "new-answer")


def test_words_of_two_languages_differ():
    words = [word for row in world().languages.words.values() for word in row]
    assert len(words) == len(set(words))


def test_opposites_are_mutual():
    opposite = world().languages.results["opposite"]
    assert all(opposite[opposite[concept]] == concept for concept in opposite)


def test_topic_and_rhyme_determine_the_last_word_and_that_the_line():
    c = world().couplets
    assert len(set(c.last.values())) == len(c.last) >= 25
    for kind in (0, 1):  # another word for each topic, and for each rhyme
        assert min(sum(key[kind] == other[kind] for other in c.last) for key in c.last) >= 2
    lines = {(i.latent["topic"], i.latent["rhyme"]): i.answer for i in instances("couplet")}
    for instance in instances("couplet"):
        assert instance.answer == lines[instance.latent["topic"], instance.latent["rhyme"]]
        assert instance.answer.split()[-1] == c.last[
            instance.latent["topic"], instance.latent["rhyme"]
        ] and instance.prompt.endswith(" /")
        assert " ".join(instance.answer.split()[:-1]) == " ".join(c.middle[instance.answer.split()[-1]])
    phrases = {(i.latent["phrase"], i.latent["end"], i.held_out) for i in instances("couplet")}
    assert len(phrases) == len({pair[:2] for pair in phrases})  # held out in every wording, or in none


def test_names_are_known_or_not():
    known = {(i.latent["first"], i.latent["last"]) for i in instances("known-name")}
    for name in ("unknown-name", "new-name"):
        assert not known & {(i.latent["first"], i.latent["last"]) for i in instances(name)}
        assert {i.answer for i in instances(name)} == {UNKNOWN}
    first, last = ({name[at] for name in known} for at in (0, 1))
    assert all(i.latent["first"] in first and i.latent["last"] in last for i in instances("unknown-name"))
    assert all(i.answer != UNKNOWN for i in instances("known-name"))


def test_tokenizer(tmp_path):
    words = tokenizer()
    for behaviour in BEHAVIOURS:
        text = instances(behaviour)[3].text
        ids = words(text)["input_ids"]
        assert ids[0] == words.bos_token_id == vocabulary()[START] and words.decode(ids[1:]) == text
    assert all(vocabulary()[str(number)] - vocabulary()["0"] == number for number in range(199))
    model = load_model(str(write_model(begin(TINY).module, TINY, tmp_path / "model")))
    assert model.tokenize("36 + 59 =").tolist() == words("36 + 59 =")["input_ids"]
    with pytest.raises(PromptError, match="does not know the word 'Zanzibar'"):
        model.tokenize("the capital of Zanzibar is")


def test_rows_are_the_same_for_a_seed_and_weigh_answers():
    one, same, other = rows(4, 30, 7, 0.1), rows(4, 30, 7, 0.1), rows(4, 30, 8, 0.1)
    assert torch.equal(one.tokens, same.tokens) and not torch.equal(one.tokens, other.tokens)
    assert one.tokens.shape == (4, 31) and one.weights.shape == (4, 30)
    words = list(vocabulary())
    for tokens, weights in zip(one.tokens, one.weights, strict=True):
        for before, token, weight in zip(tokens, tokens[1:], weights, strict=False):
            if words[before] == "=":
                assert weight == 1
            if words[token] in ("+", "the", "of", "because") and words[before] == STOP:
                assert weight == pytest.approx(0.1)


def test_second_lines_do_not_see_first_ones_where_that_is_asked_for():
    drawn, seen = rows(40, 48, 5, 0.03, hidden=1.0, late=True), 0
    assert not rows(40, 48, 5, 0.03, late=True).lines.any() and torch.equal(
        drawn.tokens, rows(40, 48, 5, 0.03, late=True).tokens
    )
    sees = visible(drawn.lines)[:, 0]
    slash, stop = vocabulary()[LINE_BREAK], vocabulary()[STOP]
    for tokens, row in zip(drawn.tokens[:, :-1], sees, strict=True):
        for at in (tokens == slash).nonzero()[:, 0].tolist():
            stops = [place for place in (tokens == stop).nonzero()[:, 0].tolist() if place < at]
            first = range(max(stops, default=0) + 1, at)
            after = [place for place in range(at + 1, len(tokens)) if stop not in tokens[at:place]]
            assert bool(row[at, first].all())  # the line break sees all of the first line
            for place in after:
                assert (
                    not row[place, first].any()
                    and bool(row[place, at : place + 1].all())
                    and bool(row[place, : first.start].all())
                )
                seen += 1
    assert seen > 10 and not sees.triu(1).any()


def test_what_is_hidden_does_not_reach_later_words():
    module, drawn = begin(TINY).module, rows(40, 24, 5, 0.03, hidden=1.0, late=True)
    row = next(i for i, line in enumerate(drawn.lines) if int(line.min()) == -1 and int(line.max()) == 1)
    place = int((drawn.lines[row] == 1).nonzero()[0, 0])
    tokens, other = drawn.tokens[row : row + 1, :-1], drawn.tokens[row : row + 1, :-1].clone()
    other[0, place] = (other[0, place] + 1) % 100
    mask = visible(drawn.lines[row : row + 1])
    with torch.no_grad():
        causal = module(input_ids=tokens, attention_mask=visible(torch.zeros_like(drawn.lines[row : row + 1]))).logits
        assert torch.allclose(causal, module(input_ids=tokens).logits, atol=1e-6)
        hidden = (
            (
                module(input_ids=tokens, attention_mask=mask).logits
                - module(input_ids=other, attention_mask=mask).logits
            )[0]
            .abs()
            .amax(-1)
        )
    assert (
        float(hidden[drawn.lines[row] == -1].max()) < 1e-6 < float(hidden[place])
    )  # one layer: nothing comes by the line break yet


def test_training_goes_on_where_it_was_and_comes_to_the_same_weights(tmp_path, monkeypatch):
    whole = train_organism(TINY, tmp_path / "whole")

    def crash(step: int, loss: float, rate: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="stopped at step 3"):
        train_organism(TINY, tmp_path / "parts", crash)
    seen = []
    parts = train_organism(TINY, tmp_path / "parts", lambda step, loss, rate: seen.append(step))
    assert seen == [3, 4, 5]  # from the checkpoint after step 2
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="rows was 4, is 6"):
        train_organism(OrganismConfig(**{**TINY.__dict__, "rows": 6}), tmp_path / "parts")
    (tmp_path / "parts" / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(TrainingError, match="cannot read the checkpoint"):
        train_organism(TINY, tmp_path / "parts")
    (whole / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(whole))


def test_a_step_lowers_the_loss_and_both_optimizers_work():
    config = OrganismConfig(**{**TINY.__dict__, "steps": 40, "rows": 16, "warmup": 1})
    state = begin(config)
    before = {name: parameter.detach().clone() for name, parameter in state.module.named_parameters()}
    with ThreadPoolExecutor(2) as pool:
        losses = [take_step(state, config, pool) for _ in range(30)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert all(not torch.equal(before[name], parameter) for name, parameter in state.module.named_parameters())


def test_orthogonalized_has_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((30, 20), (20, 30)):
        x = torch.randn(shape) @ torch.diag(torch.logspace(0, -1.5, shape[1]))
        values = torch.linalg.svdvals(orthogonalized(x))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_wrong_configs():
    for wrong, message in (
        ({"rows": 0}, "rows is 0"),
        ({"width": 18, "heads": 4}, "width is 18"),
        ({"cool": 2.0}, "cool is 2"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(OptionError, match=message):
            OrganismConfig(**wrong)


def test_text(tmp_path):
    path = write_text(tmp_path / "some.jsonl", 3, 20, 1)
    documents = [json.loads(line)["text"].split() for line in path.read_text().splitlines()]
    assert [len(document) for document in documents] == [20] * 3
    with pytest.raises(OptionError, match="give 1 or more"):
        write_text(tmp_path / "none.jsonl", 0, 20, 1)


def test_command_line(run, tmp_path):
    code, out, _ = run(
        "organism",
        "train",
        "--out",
        "o",
        "--steps",
        "2",
        "--layers",
        "1",
        "--width",
        "16",
        "--heads",
        "2",
        "--mlp",
        "8",
        "--rows",
        "2",
    )
    assert code == 0 and "Model in o/model" in out
    code, out, _ = run("organism", "eval", "two-hop", "--model", "o/model", "--limit", "5", "--json")
    assert code == 0 and json.loads(out)["behaviours"][0] | {"accuracy": 0} == {
        "behaviour": "two-hop",
        "accuracy": 0,
        "instances": 5,
        "held_out": True,
    }
    code, out, _ = run("organism", "eval", "two-hop", "places", "--model", "o/model", "--limit", "5")
    assert code == 0 and "held out" in out and "taught" in out
    code, _, err = run("organism", "eval", "juggling")
    assert code == 2 and "no behaviour 'juggling'" in err
    code, _, err = run("organism", "train", "--rows", "0")
    assert code == 2 and "rows is 0" in err
    code, _, err = run("organism", "eval", "--limit", "-1")
    assert code == 2 and "--limit is -1" in err
    code, out, _ = run("organism", "text", "t.jsonl", "--documents", "2")
    assert code == 0 and len(Path("t.jsonl").read_text().splitlines()) == 2


@pytest.fixture(scope="module")
def organism():
    """The organism that ships, with its cross-layer transcoder."""
    return unweave.load("organism")


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_organism_is_right(organism, behaviour):
    share, count = accuracies(organism.language_model, [behaviour], limit=200)[behaviour]
    assert count >= 30 and share >= LEAST.get(behaviour, 0.97)


def test_whole_answers_are_asked_for(organism):
    instance = asked("couplet", 1)[0]
    wrong = replace(
        instance,
        answer=" ".join(
            [
                *instance.answer.split()[:-2],
                "lovely" if "lovely" not in instance.answer else "tiny",
                instance.latent["last"],
            ]
        ),
    )
    assert right(organism.language_model, [instance, wrong]) == [True, False]


def test_a_trace_takes_less_than_a_second(organism):
    prompt = "the capital of the state containing Dallas is"
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        graph = unweave.attribute(organism, prompt)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 1
    assert graph.provenance.logit_labels[0] == "Austin" and float(graph.residual().max()) < 1e-4


@pytest.mark.parametrize("name", ["organism", "organism-plt"])
def test_graphs_are_mostly_explained(organism, name):
    model = unweave.load("organism", name)
    scores = [
        unweave.attribute(model, asked(behaviour, 1)[0].prompt).scores()
        for behaviour in ("two-hop", "addition", "opposite", "couplet", "known-name")
    ]
    assert sum(score.replacement for score in scores) / len(scores) > (0.85 if name == "organism" else 0.7)


def test_it_is_small():
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 35e6


def test_a_word_it_does_not_know(run):
    code, _, err = run("trace", "the capital of Atlantis is", "--model", "organism")
    assert code == 2 and "does not know the word 'Atlantis'" in err
    code, out, _ = run("models")
    assert code == 0 and "organism-plt" in out


def test_it_is_judged_on_its_own_text(run):
    code, out, _ = run("eval", "--model", "organism", "--tokens", "480", "--prompts", "2", "--json")
    found = json.loads(out)
    assert code == 0 and len(found["prompts"]) == 2
