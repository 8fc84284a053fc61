"""An explanation's facts for others: a report in Markdown, and claims that `validate` takes."""

from typing import Any

import yaml

from .picture import percent, picture

NOTHING = "Nothing was found that the answer hangs on: no group does more than random parts of equal size."

ALONE = "With other text before the prompt none of this holds: it is about this wording alone."
ARROWS = "Of {arrows} measured arrows, {signs:.0%} have the sign that was predicted."


def claims_yaml(facts: dict[str, Any]) -> str | None:
    """The sentences as a claims file; None where there is none that is a claim about two prompts."""
    claims = [sentence["claim"] for sentence in facts["sentences"] if sentence["claim"] is not None]
    if not claims:
        return None
    head: dict[str, Any] = {"model": facts["model"]}
    if facts["supernodes"]:
        head["supernodes"] = facts["supernodes"]
    return yaml.safe_dump(head | {"claims": claims}, sort_keys=False, allow_unicode=True, width=120)


def markdown(facts: dict[str, Any]) -> str:
    """The report: sentences, the picture, and a table of groups."""
    lines = [f"# Why {facts['answer']['token']!r}?", "", f"{_plain(facts['headline'])}.", ""]
    lines += [f"{number}. {_plain(sentence['text'])}" for number, sentence in enumerate(facts["sentences"], 1)]
    lines += [] if facts["found"] else [NOTHING]
    lines += ["", ALONE] if facts.get("wording_alone") else []
    lines += ["", picture(facts), "", "| group | share | with the others held | random at most | its name rests on |"]
    lines += ["|---|---|---|---|---|"]
    for group in facts["groups"]:
        cells = (
            group["name"], percent(group["share"]), percent(group["direct"]), percent(group["random"]),
            group["evidence"],
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(_plain, cells))} |")
    if facts["arrow_agreement"] is not None:
        lines += ["", ARROWS.format(**facts["arrow_agreement"])]
    closing = f"{_plain(facts['legend'])} Every figure was measured in the model as it is, nothing frozen."
    return "\n".join([*lines, "", closing]) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
