"""One question, whoever asks: values are checked once, and no door has defaults of its own."""

import inspect
from dataclasses import fields

import pytest
import torch
from conftest import PROMPT

import unweave
from unweave import Question
from unweave.cli.trace import trace
from unweave.errors import OptionError, PromptError, TargetError
from unweave.server.live import TraceRequest

FACTS = {field.name: field.default for field in fields(Question) if field.name != "prompt"}


def test_no_door_has_defaults_of_its_own():
    signature = {name: one.default for name, one in inspect.signature(unweave.attribute).parameters.items()}
    assert {name: signature[name] for name in FACTS} == FACTS
    assert {name: TraceRequest.model_fields[name].default for name in FACTS} == FACTS
    shared = FACTS.keys() - {"device", "max_memory", "targets"}  # of a process; a tuple
    assert {name: getattr(unweave.TraceOptions(), name) for name in shared} == {name: FACTS[name] for name in shared}
    command = {name: one.default for name, one in inspect.signature(trace).parameters.items()}
    assert {name: command[name] for name in shared} == {name: FACTS[name] for name in shared}


def test_a_question_is_what_attribute_asks(tiny):
    how = {"max_features": 20, "position": -2, "position_zero": "drop", "logit_mass": 0.5}
    one = unweave.attribute(tiny(), PROMPT, **how)
    two = unweave.answer(tiny(), Question(PROMPT, **how))
    assert one.dense().equal(two.dense()) and one.nodes.ids == two.nodes.ids
    assert unweave.estimate(tiny(), Question(PROMPT, max_features=20)).rows <= 30
    assert unweave.estimate(tiny(), PROMPT).active_features == one.provenance.active_features + len(
        [node for node in unweave.attribute(tiny(), PROMPT).nodes if node.kind == 0 and node.position == 5]
    )


def test_what_is_alike_is_equal():
    assert Question([1, 2]) == Question((1, 2)) == Question(torch.tensor([1, 2]))
    assert Question("x", " a") == Question("x", [" a"])


WRONG = {
    "number": ((17,), {}, PromptError, "the prompt is 17; give text, or a list of token ids"),
    "words": ((["36"],), {}, PromptError, "'36' in the prompt is not a whole number"),
    "share": (([1.5],), {}, PromptError, "1.5 in the prompt is not a whole number"),
    "nothing": (("",), {}, PromptError, "the prompt is empty"),
    "no ids": (([],), {}, PromptError, "empty list of token ids"),
    "bytes": ((b"x",), {}, PromptError, "give text, or a list"),
    "targets": (("x", []), {}, TargetError, "the list of targets is empty"),
    "target": (("x", 1.5), {}, TargetError, "target 1.5 is none"),
    "position": (("x",), {"position": "end"}, OptionError, "position is 'end', which is not a whole number"),
    "max_logits": (("x",), {"max_logits": 0}, OptionError, "max_logits is 0; it must be at least 1"),
    "logit_mass": (("x",), {"logit_mass": 0}, OptionError, "logit_mass is 0; it must lie above 0"),
    "no mass": (("x",), {"logit_mass": "all"}, OptionError, "logit_mass is 'all', which is not a number"),
    "nan": (("x",), {"logit_mass": float("nan")}, OptionError, "logit_mass is nan"),
    "max_features": (("x",), {"max_features": True}, OptionError, "max_features is True"),
    "position_zero": (("x",), {"position_zero": "x"}, OptionError, "position_zero 'x' is unknown; use 'error' or"),
    "precision": (("x",), {"precision": 3}, OptionError, "precision 3 is unknown"),
    "device": (("x",), {"device": 0}, OptionError, "device is 0; give a name"),
    "max_memory": (("x",), {"max_memory": "much"}, OptionError, "'much' is not a size of memory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_one_clear_line(tiny, unchecked, name):
    words, more, error, message = WRONG[name]
    with pytest.raises(error, match=message) as told:
        unweave.attribute(tiny(), *words, **more)
    assert "\n" not in str(told.value)


def test_wrong_models_and_prompts(tiny, unchecked):
    for model in ("organism", tiny().language_model, None):
        with pytest.raises(OptionError, match=r"as unweave.load\(...\) returns"):
            unweave.attribute(model, PROMPT)
        with pytest.raises(OptionError, match=r"as unweave.load\(...\) returns"):
            unweave.intervene(model, PROMPT, [])
    with pytest.raises(PromptError, match="is not a whole number"):
        unweave.intervene(tiny(), ["36"], [])


WRONG_TYPES = {
    "prune a number": (lambda model, graph: unweave.prune(3), "prune: graph is 3 (int); give Graph"),
    "threshold as text": (
        lambda model, graph: unweave.prune(graph, "0.8"),
        "node_threshold is '0.8' (str); give float",
    ),
    "save to a number": (lambda model, graph: graph.save(3), "save: path is 3 (int); give str or Path"),
    "load a number": (lambda model, graph: unweave.Graph.load(3), "load: path is 3 (int); give str or Path"),
    "most as text": (
        lambda model, graph: unweave.response_graph(model, PROMPT, most="9"),
        "most is '9' (str); give int",
    ),
    "most as truth": (lambda model, graph: unweave.response_graph(model, PROMPT, most=True), "most is True (bool)"),
    "explain by name": (lambda model, graph: unweave.explain("x", "y"), "explain: model is 'x' (str); give Rep"),
    "validate a file": (lambda model, graph: unweave.validate(model, "a.graph"), "validate: graph is 'a.graph' (str)"),
    "show a name": (lambda model, graph: unweave.show("graph"), "show: graph is 'graph' (str); give Graph"),
    "long": (lambda model, graph: unweave.prune(list(range(99))), "... (list); give Graph"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_types_are_one_clear_line(tiny, unchecked, name):
    call, message = WRONG_TYPES[name]
    with pytest.raises(OptionError) as told:
        call(tiny(), unweave.attribute(tiny(), PROMPT, max_features=5))
    assert message in str(told.value) and "\n" not in str(told.value)


def test_numbers_of_other_libraries_are_numbers(tiny, unchecked):
    graph = unweave.attribute(tiny(), PROMPT, max_features=5)
    assert len(unweave.prune(graph, torch.tensor(0.5)).nodes) == len(unweave.prune(graph, 0.5).nodes)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        unweave.prune()
