"""Chat templates, and openings of chats that a dictionary asks to ignore."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import PROMPT, VOCAB
from test_cli import refused
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import unweave
from unweave import ablate, set_to
from unweave.errors import PromptError, TranscoderError
from unweave.models.chats import chat_text, conversation_text

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and m.content == 'forbidden' %}{{ raise_exception('no such "
    "system') }}{% endif %}"
    "w0 {{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w0 answer{% endif %}"
)


@pytest.fixture(scope="module")
def instruct(tiny_folders, tmp_path_factory):
    """A tiny model with a tokenizer of whole words and a chat template, and its dictionary."""
    model, dictionary = tiny_folders("llama", "skip")
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(model, folder)
    words = {f"w{number}": number for number in range(VOCAB - 3)} | {
        "user": VOCAB - 3,
        "system": VOCAB - 2,
        "answer": VOCAB - 1,
    }
    tokenizer = Tokenizer(WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", chat_template=TEMPLATE).save_pretrained(folder)
    return folder, dictionary


def test_the_template_frames_the_prompt(instruct):
    model = unweave.load(*map(str, instruct)).language_model
    assert chat_text(model, "w5 w6").split() == ["w0", "user", "w5", "w6", "w0", "answer"]
    assert chat_text(model, "w5", "w9").split() == ["w0", "system", "w9", "w0", "user", "w5", "w0", "answer"]
    assert model.tokenize(chat_text(model, "w5")).tolist() == [0, 47, 5, 0, 49]  # no second special token in front
    with pytest.raises(PromptError, match=r"the chat template of .* refuses this: no such system; leave --system out"):
        chat_text(model, "w5", "forbidden")


def test_no_template_is_said(tiny):
    with pytest.raises(PromptError, match="has no chat template; leave --chat and --system out"):
        chat_text(tiny().language_model, "w5")


def test_trace_and_steer_on_the_command_line(run, instruct):
    model, dictionary = instruct
    how = ("-m", model, "-t", dictionary, "--json")
    code, out, _ = run("trace", "w5", "--chat", *how)
    assert code == 0 and json.loads(out)["tokens"] == ["w0", "user", "w5", "w0", "answer"]
    code, out, _ = run("trace", "w5", "--system", "w9", *how)
    assert code == 0 and json.loads(out)["tokens"] == ["w0", "system", "w9", "w0", "user", "w5", "w0", "answer"]
    code, out, _ = run("steer", "w5", "--chat", "--set", "1_2_3=2", *how)
    assert code == 0 and json.loads(out)["tokens"] == ["w0", "user", "w5", "w0", "answer"]
    code, out, _ = run("steer", "w5", "--chat", "--swap-from", "w6", *how)
    assert code == 0
    refused(run("trace", "1 2", "--ids", "--chat", "-m", model, "-t", dictionary), "--chat and --system are about text")


def test_whole_conversations(instruct, tmp_path):
    model = unweave.load(*map(str, instruct)).language_model
    talk = [{"role": "user", "content": "w5"}, {"role": "answer", "content": "w6"}, {"role": "user", "content": "w7"}]
    assert conversation_text(model, talk).split() == "w0 user w5 w0 answer w6 w0 user w7 w0 answer".split()
    begun = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
    assert (
        conversation_text(model, begun).split() == "w0 user w5 w0 assistant w6".split()
    )  # goes on with what was said last
    lines = [
        {"messages": talk, "id": "talk"}, {"messages": begun, "id": "begun"},
        {"prompt": "w5", "chat": True, "id": "chat"},
        {"prompt": "w5", "system": "w9", "id": "system"}, {"prompt": "w5", "system": "forbidden", "id": "refused"},
        {"prompt": "w5", "id": "plain"},
    ]  # fmt: skip
    run = unweave.trace_many(lines, tmp_path / "out", *map(str, instruct))
    tokens = {
        name: list(unweave.Graph.load(run.folder / f"{name}.graph.safetensors").tokens)
        for name in ("talk", "chat", "system", "plain")
    }
    assert tokens["talk"] == "w0 user w5 w0 answer w6 w0 user w7 w0 answer".split()
    assert tokens["chat"] == ["w0", "user", "w5", "w0", "answer"] and tokens["plain"] == ["w0", "w5"]
    assert tokens["system"] == ["w0", "system", "w9", "w0", "user", "w5", "w0", "answer"]
    assert [(one["id"], one["line"]) for one in run.failed] == [("refused", 5)] and "no such system" in run.failed[0][
        "error"
    ]


# -- openings that a dictionary asks to ignore


@pytest.fixture(scope="module")
def careful(tiny_folders, tmp_path_factory):
    """A model and a dictionary that was not trained on the first three tokens of the prompt."""
    model, dictionary = tiny_folders("llama", "jumprelu")
    folder = tmp_path_factory.mktemp("careful") / "dictionary"
    shutil.copytree(dictionary, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"ignored_prefix": PROMPT[:3]}))
    return unweave.load(str(model), str(folder), dtype="float64")


@pytest.mark.parametrize("position_zero", ["error", "drop"])
def test_an_ignored_opening_has_no_features_and_the_graph_stays_exact(careful, tiny, position_zero):
    graph = unweave.attribute(careful, PROMPT, position_zero=position_zero)
    assert int(graph.nodes.position[graph.nodes.features].min()) == 3
    assert float(graph.residual().max()) <= 1e-9
    errors = graph.nodes.activation[graph.nodes.errors].view(3, len(PROMPT))
    assert bool((errors[:, :3] == 0).all()) == (position_zero == "drop")
    other = unweave.attribute(careful, [0, 7, 4, 41, 7, 12])
    assert int(other.nodes.position[other.nodes.features].min()) == 1
    usual = unweave.attribute(tiny("llama", "jumprelu", "float64"), [0, 7, 4, 41, 7, 12])
    assert torch.equal(other.dense(), usual.dense())


@pytest.mark.parametrize("how", [{}, {"mode": "open"}, {"mode": "frozen"}], ids=str)
def test_interventions_see_no_features_there_either(careful, how):
    part = careful.localize(PROMPT).features
    own = [
        set_to((int(part.layer[i]), int(part.position[i]), int(part.index[i])), float(part.activation[i]))
        for i in range(0, len(part), 7)
    ]
    outcome = unweave.intervene(
        careful, PROMPT, [*own, ablate([(1, 2, feature) for feature in range(10)])], **how, watch=["1_3_1", "1_3_2"]
    )
    assert torch.allclose(outcome.logits, outcome.baseline, atol=1e-9)
    assert not outcome.activations.any() or float(outcome.activations[0].abs().sum()) == float(
        outcome.activations[1].abs().sum()
    )


def test_openings_are_kept_and_checked(careful, tiny_folders, tmp_path):
    written = unweave.write_transcoders(careful.transcoders, tmp_path / "again")
    assert unweave.read_transcoders(str(written)).ignored_prefix == tuple(PROMPT[:3])
    config = yaml.safe_load((written / "config.yaml").read_text())
    (written / "config.yaml").write_text(yaml.safe_dump(config | {"ignored_prefix": "user"}))
    with pytest.raises(TranscoderError, match="ignored_prefix is 'user'; it must be a list of token ids"):
        unweave.read_transcoders(str(written))
    del config["ignored_prefix"]
    (written / "config.yaml").write_text(yaml.safe_dump(config | {"model_name": "google/gemma-3-1b-it"}))
    assert unweave.read_transcoders(str(written)).ignored_prefix == (2, 105, 2364, 107)


@pytest.mark.real
def test_the_default_model_has_a_template(smollm2):
    text = chat_text(smollm2.language_model, "Hi", "Be brief.")
    assert text.endswith("<|im_start|>assistant\n") and "Be brief." in text
    assert smollm2.language_model.tokenize(text)[0] == 1
