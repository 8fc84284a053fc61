"""Shared by tests of studies: a tiny random model that knows words, and study files about it."""

import re
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from conftest import tiny_config, write_tiny_dictionary
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import unweave

WORDS = [*"0123456789", *"the a of is to and in say sun moon sea sky red blue green cat dog bird fish tree + =".split()]


def write_worded_model(folder: Path, words=WORDS, seed: int = 0) -> tuple[Path, Path]:
    """A tiny random model whose tokens are these words, and a dictionary for it."""
    config = tiny_config("llama")
    config.vocab_size = len(words) + 2
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(
            parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2 if parameter.dim() == 1 else 0.35
        )
    model.save_pretrained(folder)
    tokenizer = Tokenizer(
        WordLevel({"<s>": 0, "<unk>": 1, **{word: place for place, word in enumerate(words, 2)}}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    return folder, write_tiny_dictionary("jumprelu", "llama", folder.with_name(folder.name + "-dictionary"))


def likeliest(model, prompt: str) -> str:
    """The word the model says after a prompt."""
    language_model = model.language_model
    return language_model.token_text(int(language_model.record(language_model.tokenize(prompt)).logits[-1].argmax()))


def answered(study, model):
    """The same study with the model's own answers for the right ones; rivals, if any, are the least likely words."""
    language_model = model.language_model
    variants = []
    for variant in study.variants:
        logits = language_model.record(language_model.tokenize(variant.prompt)).logits[-1]
        foil = None if variant.foil is None else language_model.token_text(int(logits.argmin()))
        variants.append(replace(variant, answer=language_model.token_text(int(logits.argmax())), foil=foil))
    return replace(study, variants=tuple(variants))


def words_of(study) -> list[str]:
    """All words of a study's prompts, as the tiny tokenizer cuts them."""
    return sorted({word for variant in study.variants for word in re.findall(r"\w+|[^\w\s]+", variant.prompt)})


def write_study(path: Path, **content) -> Path:
    head = {"title": "A tiny study", "question": "Does it work?"}
    path.write_text(yaml.safe_dump(head | content, sort_keys=False, allow_unicode=True))
    return path


def load(folders):
    return unweave.load(str(folders[0]), str(folders[1]))
