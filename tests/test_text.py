"""Reading text and cutting it into blocks: order, sizes, the held-out part, and one clear line for everything that
can be wrong."""

import hashlib
import json
import sys
from dataclasses import replace
from itertools import islice
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from unweave.corpus.documents import Chat, documents, mixed, parse_source
from unweave.corpus.text import is_held_out, token_blocks
from unweave.errors import OptionError, TextError
from unweave.models.architectures import architecture_of
from unweave.models.language_model import LanguageModel

START, END = 0, 1
TEMPLATE = "{% for m in messages %}<end>{{ m.role }}: {{ m.content }}\n{% endfor %}"


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = ["<start>", "<end>", *sorted(ByteLevel.alphabet())]
    inner = Tokenizer(BPE({token: i for i, token in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), Decoder()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def language_model(words: PreTrainedTokenizerFast | None = None) -> LanguageModel:
    config = SimpleNamespace(max_position_embeddings=64)
    words = words or tokenizer(bos_token="<start>", eos_token="<end>")
    return LanguageModel(
        "tiny", SimpleNamespace(config=config), words, architecture_of({"model_type": "llama", "hidden_act": "silu"})
    )


MODEL = language_model()
TEXTS = st.lists(st.text(alphabet="ab \N{SNOWMAN}", min_size=20, max_size=150), min_size=1, max_size=8)


def ids(text: str) -> list[int]:
    return MODEL.tokenizer(text)["input_ids"]


(BREAK,) = ids("\n")


def decoded(blocks: list) -> str:
    return MODEL.tokenizer.decode([i for block in blocks for i in block.tolist() if i != START])


# -- sources


def test_a_weight_follows_the_last_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b=2").write_text("")
    assert [parse_source(spec) for spec in ("a=0.3", "a=b", "a=b=2", "b=2", "a")] == [
        ("a", 0.3),
        ("a=b", 1),
        ("a=b", 2),
        ("b=2", 1),
        ("a", 1),
    ]
    for number in ("0", "-1", "nan", "inf"):
        with pytest.raises(TextError, match=f"weight of a is {number}"):
            parse_source(f"a={number}")


def test_a_folder_is_all_text_beneath_it_in_the_order_of_paths(tmp_path):
    for name, data in {
        "b.txt": b"two",
        "a/z.md": b"one",
        ".git/x": b"no",
        "c.png": b"\x89PNG\0",
        "d.jsonl": b'{"text": "three"}\n\n{"text": "four"}',
        "e": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert list(documents(str(tmp_path))) == ["one", "two", "three", "four"]


def test_a_long_file_is_cut_at_paragraphs_and_loses_nothing(tmp_path):
    paragraphs = [f"paragraph {i} " * (5 + i % 40) for i in range(300)]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    pieces = list(documents(str(tmp_path / "long.txt")))
    assert [part for piece in pieces for part in piece.split("\n\n")] == paragraphs
    assert all(8000 <= len(piece) < 9000 for piece in pieces[:-1])
    (tmp_path / "short.txt").write_text("\n\n".join(paragraphs)[:20_000])
    assert len(list(documents(str(tmp_path / "short.txt")))) == 1
    (tmp_path / "endless.txt").write_text("a line without paragraphs\n" * 2000)
    assert max(map(len, documents(str(tmp_path / "endless.txt")))) <= 20_026


def test_json_lines_are_read_as_they_are_asked_for(tmp_path):
    file = tmp_path / "x.jsonl"
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "extra": 1}]}
    file.write_text(json.dumps(chat) + '\n{"text": "half a pair \\ud800"}\n{"text": tru\n')
    found = documents(str(file))
    assert next(found) == Chat((("user", "hi"), ("assistant", "ho")))
    assert next(found) == "half a pair \ufffd"
    with pytest.raises(TextError, match=r"x\.jsonl, line 3: not a line of JSON"):
        next(found)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", b'{"body": "a", "id": 1}', "line 1: neither 'text' nor 'messages' in it; it has 'body', 'id'"),
        ("x.jsonl", b'{"text": null}', "line 1: 'text' is None, not a string"),
        ("x.json", b'[\n{"text": "a"}]', "line 1: not a line of JSON"),
        ("x.jsonl", b'"text"', "line 1: str instead of an object"),
        ("x.jsonl", b'{"messages": "hello"}', "must be a list of objects"),
        ("x.jsonl", b'{"messages": [{"role": "user"}]}', "must be a list of objects"),
        ("x.jsonl", b'{"text": "\xff"}', "is not UTF-8 text"),
        ("x.txt", b"caf\xe9", "is not UTF-8 text"),
        ("x.txt", b" \n\n", "holds no text"),
        ("x.jsonl", b"", "holds no text"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TextError) as caught:
        list(documents(str(tmp_path / name)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source, message in {
        "data/x.jsonl": "no such file",
        "/nowhere": "no such file",
        "x": "no such file",
        "org/name": "install the datasets library",
    }.items():
        with pytest.raises(TextError, match=message):
            list(documents(source))
    with pytest.raises(TextError, match="holds no file of text"):
        list(documents(str(tmp_path)))
    with pytest.raises(TextError, match="no source"):
        next(mixed([]))


def test_a_dataset_is_streamed(monkeypatch):
    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        if name == "org/gone":
            raise FileNotFoundError("Dataset 'org/gone' doesn't exist\non the Hub")
        return iter([{"text": "one"}, {"text": "two"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(documents("org/name:test@v2")) == ["one", "two"]
    assert asked == {"name": "org/name", "split": "test", "revision": "v2", "streaming": True}
    with pytest.raises(TextError, match=r"cannot be read: Dataset 'org/gone' doesn't exist$"):
        list(documents("org/gone"))
    assert asked["split"] == "train"


def test_parquet_without_a_library_for_it(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet", "duckdb"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1\0PAR1")
    with pytest.raises(TextError, match="pip install pyarrow"):
        list(documents(str(tmp_path)))


def test_parquet_is_read_by_batches(tmp_path, monkeypatch):
    """The shape of pyarrow that is relied on; the real one is not among the requirements."""

    class ParquetFile:
        schema_arrow = SimpleNamespace(names=["id", "text"])

        def __init__(self, path):
            if path.name == "bad.parquet":
                raise ValueError("Parquet magic bytes not found in footer.")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def iter_batches(self, size, columns):
            assert columns == ["text"]
            for part in (["one", "two"], ["three"]):
                yield SimpleNamespace(column=lambda place, part=part: SimpleNamespace(to_pylist=lambda: part))

    module = ModuleType("pyarrow.parquet")
    module.ParquetFile = ParquetFile
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)
    (tmp_path / "x.parquet").write_bytes(b"")
    assert list(documents(str(tmp_path / "x.parquet"))) == ["one", "two", "three"]
    (tmp_path / "bad.parquet").write_bytes(b"")
    with pytest.raises(TextError, match="magic bytes"):
        list(documents(str(tmp_path / "bad.parquet")))


def test_sources_are_mixed_by_their_weights(tmp_path):
    for name, size in (("a", 100), ("b", 40)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name}{i}".ljust(size)}) + "\n" for i in range(200))
        )
    sources = [(str(tmp_path / "a.jsonl"), 3.0), (str(tmp_path / "b.jsonl"), 1.0)]
    found = list(islice(mixed(sources), 150))
    given = {name: sum(len(text) for text in found if text[0] == name) for name in "ab"}
    assert abs(given["a"] - 3 * given["b"]) <= 3 * 40 + 100
    everything = list(mixed(sources))
    assert everything[:150] == found and sorted(everything) == sorted(
        [*documents(sources[0][0]), *documents(sources[1][0])]
    )
    again = list(islice(mixed(sources, repeat=True), 2000))
    assert again[:150] == found and again.count(again[0]) > 1


# -- blocks


@given(TEXTS, st.integers(2, 64))
def test_blocks_give_back_the_documents_in_order(texts, context):
    words = [i for text in texts for i in ids(text)]
    try:
        blocks = list(token_blocks(MODEL, texts, context))
    except TextError:
        assert len(words) + 2 * (len(texts) - 1) < context - 1
        return
    assert all(
        len(block) == context and block.dtype == torch.int64 and block[0] == START and START not in block[1:]
        for block in blocks
    )
    found = [i for block in blocks for i in block.tolist() if i != START]
    kept = [i for i in found if i != BREAK]
    assert kept == words[: len(kept)] and len(words) - len(kept) < context - 1
    assert len(found) - len(kept) <= 2 * (len(texts) - 1)


def test_short_documents_share_a_block_and_long_ones_go_on():
    blocks = list(token_blocks(MODEL, ["first document, short", "x", "second document is longer " * 3], 40))
    assert (
        decoded(blocks) == ("first document, short\n\n" + "second document is longer " * 3)[: 39 * len(blocks)]
        and len(blocks) == 2
    )


@given(TEXTS, st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_train_and_held_out_partition_the_documents(texts, share):
    marked = [f"{i} {text}" for i, text in enumerate(texts)]
    sides = {text: is_held_out(text, share) for text in marked}
    for text, held in sides.items():
        assert held == (int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 16**16 < share)
    for part, wanted in (
        ("train", [text for text in marked if not sides[text]]),
        ("held-out", [text for text in marked if sides[text]]),
    ):
        if wanted or part == "held-out":
            same = list(token_blocks(MODEL, wanted, 8)) if wanted else []
            assert [b.tolist() for b in token_blocks(MODEL, marked, 8, held_out=share, part=part)] == [
                b.tolist() for b in same
            ]
        else:
            with pytest.raises(TextError, match="fall into the held-out part"):
                list(token_blocks(MODEL, marked, 8, held_out=share, part=part))


def test_a_chat_is_rendered_by_the_model_s_template_and_needs_no_leading_token():
    words = tokenizer(bos_token="<start>", eos_token="<end>", chat_template=TEMPLATE)
    chats = [
        Chat((("user", "a question asked"), ("assistant", "an answer given"))),
        Chat((("user", "one more of these questions"),)),
    ]
    blocks = list(token_blocks(language_model(words), chats, 10))
    text = "<end>user: a question asked\n<end>assistant: an answer given\n<end>user: one more of these questions\n"
    assert blocks[0].tolist() == words(text)["input_ids"][:10] and blocks[0][0] == END
    assert (
        words.decode([i for block in blocks for i in block.tolist() if i != START])
        == text[: len(words.decode([i for b in blocks for i in b.tolist() if i != START]))]
    )
    with pytest.raises(TextError, match="no chat template"):
        next(token_blocks(MODEL, chats, 10))
    refusing = tokenizer(bos_token="<start>", chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TextError, match="roles user, assistant: roles must alternate"):
        next(token_blocks(language_model(refusing), chats, 10))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["tiny", "small"], {}, "no document of at least 20 characters"),
        ([], {}, "no document of at least 20 characters"),
        (["exactly thirty characters long"], {"context": 64}, "the text has 30 tokens, less than one block of 64"),
        (["exactly thirty characters long"], {"context": 1}, "context is 1; tiny takes blocks of 2 to 64 tokens"),
        (["exactly thirty characters long"], {"context": 65}, "context is 65"),
        (["exactly thirty characters long"], {"held_out": 1.0}, "held_out is 1.0"),
    ],
)
def test_what_is_wrong_with_the_text_is_said_in_one_line(texts, options, message):
    with pytest.raises((TextError, OptionError), match=message):
        list(token_blocks(MODEL, texts, **{"context": 16} | options))


def test_a_model_without_words_takes_no_text():
    for words in (None, tokenizer()):
        with pytest.raises(TextError, match="cannot be turned into blocks"):
            next(token_blocks(replace(MODEL, tokenizer=words), ["exactly thirty characters long"], 16))


def test_documents_in_one_call_of_the_tokenizer_are_as_those_in_many(monkeypatch):
    texts = [f"document number {i} " * 4 for i in range(50)]
    together = [block.tolist() for block in token_blocks(MODEL, texts, 32)]
    monkeypatch.setattr("unweave.corpus.text.AT_ONCE", 100)
    assert [block.tolist() for block in token_blocks(MODEL, texts, 32)] == together
