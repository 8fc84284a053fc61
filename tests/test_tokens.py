"""What tokens are called, for every kind of tokenizer, and which token a name means."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from unweave.attribution.targets import _token
from unweave.base.words import visible
from unweave.errors import TargetError
from unweave.models.architectures import ARCHITECTURES
from unweave.models.language_model import LanguageModel

TEXT = [
    "The capital of France is Paris. The capital of Italy is Rome. def f(x): return x + 1\n\n 12 + 34 = 46 !",
    "Die Hauptstadt von Österreich ist Wien. 日本の首都は東京です。 naïve café , and more . yes !",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(tokenizer, **options):
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False, **options)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return trained(made, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def llama2():
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return trained(made, initial_alphabet=[f"<0x{byte:02X}>" for byte in range(256)][:0])


def gemma():
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return trained(made)


def metaspace():
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(made)


def wordpiece():
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return made


KINDS = (byte_level, llama2, gemma, metaspace, wordpiece)


def model(make):
    made = make()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens(["<|user|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=True,
    )
    size = len(tokenizer)
    head = SimpleNamespace(weight=torch.zeros(size + 5, 4))
    module = SimpleNamespace(get_output_embeddings=lambda: head, config=SimpleNamespace())
    return LanguageModel("tiny", module, tokenizer, ARCHITECTURES["llama"]), size


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "text", ["The capital of France is", "Wien , Rome . yes !", " def f(x): return", "cap<|user|>is Rome"]
)
def test_the_tokens_of_a_prompt_join_to_it(make, text):
    tiny, _ = model(make)
    if make is metaspace:
        text = text.strip()  # it puts no second blank before a text that begins with one
    if make is wordpiece:
        text = " ".join(text.split()).replace("cap<|user|>is ", "")
    texts = tiny.token_texts(tiny.tokenize(text))
    assert texts[0] == "<s>" and all(texts)
    assert "".join(texts[1:]).replace("▁", "", int(texts[1] == "▁")) == text


@pytest.mark.parametrize("make", KINDS)
def test_distinct_tokens_have_distinct_names_that_name_them(make):
    tiny, size = model(make)
    names = [tiny.token_text(token) for token in range(size + 5)]
    assert len(set(names)) == len(names) and all(names)
    assert names[-5:] == [f"#{token}" for token in range(size, size + 5)]
    for token, name in enumerate(names[:size]):
        if name not in SPECIAL and not name.startswith("<0x"):
            assert _token(tiny, name) == token


@pytest.mark.parametrize("make", KINDS)
def test_a_word_in_the_middle_of_a_text_can_be_named(make):
    tiny, _ = model(make)
    ids = tiny.tokenize("The capital is")
    assert _token(tiny, " capital") == int(ids[2]) and _token(tiny, " is") == int(ids[3])


def test_words_that_a_vocabulary_lacks_and_targets_given_twice(tiny_folders):
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "one": 2, "two": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tiny, _ = model(lambda: made)
    assert _token(tiny, "two") == 3 and _token(tiny, "<unk>") == 0
    with pytest.raises(TargetError, match="target 'flurble' is no word of tiny's vocabulary"):
        _token(tiny, "flurble")
    import unweave

    real = unweave.load(*map(str, tiny_folders("llama", "relu")))
    with pytest.raises(TargetError, match="target '#5' is given twice"):
        unweave.attribute(real, [0, 7, 3], [5, 9, 5])
    with pytest.raises(TargetError, match="difference of '#5' and itself"):
        unweave.attribute(real, [0, 7, 3], unweave.Difference(5, 5))


def test_all_that_leaves_no_mark_is_shown():
    seen = [visible(text) for text in ("", " ", "   ", "\n\n", "\t", "\u00a0", "\u200b", "\x00", " a", "é")]
    assert seen == ["∅", "␣", "␣␣␣", "⏎⏎", "⇥", "‹a0›", "‹200b›", "‹0›", " a", "é"]
