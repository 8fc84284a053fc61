"""Tokens as people see them."""

SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """A token with all that leaves no mark on a screen shown: line breaks, tabs, blanks alone, nothing at all.

    >>> [visible(text) for text in ("a\\n", " Paris", "  ", "", "\\u200b", "\\x1b[")]
    ['a⏎', ' Paris', '␣␣', '∅', '‹200b›', '‹1b›[']
    """
    if not text:
        return "∅"
    if not text.strip(" "):
        return "␣" * len(text)
    return "".join(SIGNS.get(sign, sign if sign == " " or sign.isprintable() else f"‹{ord(sign):x}›") for sign in text)
