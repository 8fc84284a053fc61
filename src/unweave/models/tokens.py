"""What a token stands for, whatever the kind of tokenizer: its own text, by which it can be told from every other."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How tokenizers with byte fallback write a byte that is a token."""


@lru_cache(maxsize=1)
def _of_byte_level() -> dict[str, int]:
    """The byte that each sign of a byte-level vocabulary stands for (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


class Kind:
    """How a tokenizer's pieces become text: `byte-level`, `pieces` (SentencePiece), `words` (joined by blanks),
    `continued` (WordPiece) or `other`."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self.name, self.prefix, self.mark, self.strips = tokenizer, "other", "##", "▁", False
        backend = getattr(tokenizer, "backend_tokenizer", None)
        whole = {} if backend is None else json.loads(backend.to_str())
        found = whole.get("decoder")
        normalizer = whole.get("normalizer") or {}
        # whether a blank is put before the text after every added token, not only before the first word
        self.every = any(part["type"] == "Prepend" for part in normalizer.get("normalizers", [normalizer]) if part)
        if backend is not None and found is None:
            self.name = "words"
        parts = [] if found is None else found.get("decoders", [found])
        for part in parts:
            match part["type"]:
                case "ByteLevel":
                    self.name = "byte-level"
                case "WordPiece":
                    self.name, self.prefix = "continued", part["prefix"]
                case "Metaspace":
                    self.name, self.mark = "pieces", part["replacement"]
                    self.strips = part.get("prepend_scheme", "always") != "never"
                    self.every |= part.get("prepend_scheme", "always") == "always"
                case "Replace":
                    self.name = "pieces"
                case "Strip":
                    self.strips = True
        self.added = {id: token.content for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}

    def text(self, token: int) -> str:
        """The text of a token on its own; bytes that are no character as `<0xE6>`, ids without a piece as `#id`."""
        if token in self.added:
            return self.added[token] or f"#{token}"
        try:
            piece = self.tokenizer.convert_ids_to_tokens(token)
        except (IndexError, KeyError, ValueError, OverflowError):
            piece = None
        if not piece:
            return f"#{token}"
        if isinstance(piece, bytes):
            piece = piece.decode("utf-8", "replace")
        match self.name:
            case "byte-level":
                return _from_bytes(piece)
            case "pieces":
                return piece if _BYTE.fullmatch(piece) else piece.replace(self.mark, " ")
            case "continued":
                return piece.removeprefix(self.prefix) if piece.startswith(self.prefix) else f" {piece}"
            case "words":
                return piece
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False) or piece

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """The texts of a prompt's tokens: joined, they are the prompt, without the blank that some tokenizers put
        before the first word."""
        texts = [self.text(token) for token in tokens]
        begin = True
        for n, token in enumerate(tokens):
            if token in self.added:
                begin = begin or self.every
                continue
            if begin and (self.strips or self.name == "continued") and texts[n].startswith(" "):
                texts[n] = texts[n][1:] or self.mark  # the sign alone: a token that stands for no blank of the text
            begin = False
        return tuple(texts)

    def tokens(self, text: str) -> list[int]:
        """The tokens that a text may mean when it stands for one: the one that is called so, else how it is encoded."""
        encoded = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(encoded) == 1 and self.text(encoded[0]) == text:
            return encoded
        called = [token for token in self._candidates(text) if self.text(token) == text]
        return called[:1] or encoded

    def _candidates(self, text: str) -> list[int]:
        names = {text, text.replace(" ", self.mark), text[1:] if text.startswith(" ") else self.prefix + text}
        if self.name == "byte-level":
            signs = {byte: sign for sign, byte in _of_byte_level().items()}
            names.add("".join(signs[byte] for byte in text.encode("utf-8", "replace")))
        vocabulary = self.tokenizer.get_vocab()
        return [vocabulary[name] for name in sorted(names) if name in vocabulary]


def _from_bytes(piece: str) -> str:
    table = _of_byte_level()
    if any(sign not in table for sign in piece):
        return piece
    data = bytes(table[sign] for sign in piece)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)
