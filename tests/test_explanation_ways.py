"""The way by which most goes, and whether sentences hold with other text before the prompt."""

import pytest
import torch

import unweave
from unweave.explanation.arrows import Arrow
from unweave.explanation.contrast import same_question
from unweave.explanation.groups import PartGroup
from unweave.explanation.measure import random_parts
from unweave.explanation.names import listed
from unweave.explanation.say import elsewhere, run_tests
from unweave.explanation.way import Way, measured_way, strong_ways
from unweave.explanation.wordings import HERE_ALONE, nowhere, with_wordings
from unweave.interventions.live import NeuronPlaces, run
from unweave.interventions.parts import Part

PROMPT, INSTEAD = [0, 3, 7, 9, 4], [0, 3, 12, 9, 4]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", "jumprelu").language_model


@pytest.fixture(scope="module")
def explained(model):
    return unweave.explain(model, PROMPT, instead=INSTEAD, draws=3)


def arrow(source, target, carried, control=0.0):
    return Arrow(source, target, carried, carried, control, carried, carried)


def at(*layers):
    return [PartGroup(Part(NeuronPlaces.of([(layer, 2, layer)]))) for layer in layers]


def test_ways_are_found_from_the_answer_back():
    groups = at(0, 1, 2)
    arrows = [arrow(2, None, 0.6), arrow(1, None, 0.5), arrow(0, 2, 0.2), arrow(1, 2, 0.3), arrow(0, 1, 0.1)]
    assert strong_ways(groups, arrows) == [(0, 1, 2), (1, 2), (0, 1)]
    assert strong_ways(groups, [*arrows[:2], arrow(1, 2, 0.3, control=0.4)]) == [], "random parts did as much"
    assert strong_ways(groups, [arrow(1, 2, 0.3)]) == []
    assert strong_ways(groups, [arrow(2, None, -0.6), arrow(1, 2, 0.3)]) == [], "nothing speaks for the answer"


def test_a_way_is_measured_with_all_else_held(explained):
    contrast, groups = explained.contrast, explained.groups
    assert len(groups) >= 3
    arrows = [arrow(1, None, 0.6), arrow(0, 1, 0.3)]
    random = [[part.put(contrast.there, 4) for part in random_parts(contrast, g.part, 2)] for g in groups]
    way = measured_way(contrast, groups, arrows, random)
    held = [put for group in groups[2:] for put in group.part.put(contrast.here, 4)]
    variants = [held + swap for swap in (groups[0].part.put(contrast.there, 4), *random[0])]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    assert way.groups == (0, 1) and way.share == pytest.approx(float(share[0]), abs=1e-5)
    assert way.control == pytest.approx(float(share[1:].abs().max()), abs=1e-5)
    assert measured_way(contrast, groups, [], random) == Way()


def test_a_rephrasing_keeps_answer_and_rival(explained):
    moved = same_question(explained.contrast, [0, 5, *PROMPT[1:]], [0, 5, *INSTEAD[1:]])
    assert moved.question == explained.contrast.question and len(moved.ids) == 6
    held = explained.check([0, 5, *PROMPT[1:]], [0, 5, *INSTEAD[1:]])
    for sentence, value, holds in held:
        test = elsewhere(sentence.test, {0: 0, 1: 2, 2: 3, 3: 4, 4: 5})
        expected = run_tests(moved, [test])[0] if moved.whole * explained.contrast.whole > 0 else 0.0
        assert value == pytest.approx(expected, abs=1e-5) and holds == sentence.test.holds(expected)


def test_sentences_say_where_they_hold_on_this_wording_alone(explained):
    contrast, sentences = explained.contrast, explained.sentences
    assert all(sentence.wordings is None for sentence in sentences), "no tokenizer reads the beginnings"
    beginnings = ([0, 11], [0, 30, 31])
    told = with_wordings(contrast, sentences, beginnings)
    checks = [
        [holds for *_, holds in explained.check([*before, *PROMPT], [*before, *INSTEAD])] for before in beginnings
    ]
    for sentence, *held in zip(told, *checks, strict=True):
        assert sentence.wordings == (sum(held), 2)
        assert sentence.text.endswith(HERE_ALONE) == (not all(held) and not nowhere(told))
    assert with_wordings(contrast, [], beginnings) == ()


@pytest.mark.parametrize(
    ("words", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (list("abc"), "a, b and c")]
)
def test_words_one_after_another(words, text):
    assert listed(words) == text


def test_what_is_about_this_wording_alone_is_said_once(explained):
    from dataclasses import replace

    from unweave.explanation.report import ALONE, markdown

    lonely = tuple(replace(sentence, wordings=(0, 2)) for sentence in explained.sentences)
    assert nowhere(lonely) and not nowhere(explained.sentences) and not nowhere(())
    assert ALONE in markdown(replace(explained, sentences=lonely).facts) and ALONE not in explained.markdown
    assert torch.equal(explained.contrast.ids, torch.tensor(PROMPT))


def test_a_way_begins_where_it_can(explained):
    contrast, groups = explained.contrast, explained.groups
    order = sorted(range(len(groups)), key=lambda number: groups[number].order)
    first, middle, last = order[0], order[1], order[-1]
    arrows = [arrow(last, None, 0.6), arrow(middle, last, 0.3), arrow(first, middle, 0.3)]
    ways = strong_ways(groups, arrows)
    assert ways == [(first, middle, last), (middle, last)]
    shares = [measured_way(contrast, groups, arrows[: 2 + full], [[]] * len(groups)).share for full in (False, True)]
    found = measured_way(contrast, groups, arrows, [[]] * len(groups))
    assert found.groups in ways and found.control == 0.0 and found.share == shares[1]
    if found.groups == ways[1]:
        assert shares[0] > 0
