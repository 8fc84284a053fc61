"""The picture of an explanation: tokens from left to right, layers from bottom to top, groups and measured arrows."""

from html import escape
from typing import Any

COLUMN, ROW, BOX, TALL, EDGE = 250, 92, 216, 52, 24
FOR, AGAINST = "#1f6f5c", "#b3402e"


def percent(value: float) -> str:
    """A share in words.

    >>> percent(0.749), percent(0.0031), percent(1e-5)
    ('75%', '0.3%', '0.0%')
    """
    return f"{100 * value:.0f}%" if abs(value) >= 0.0995 else f"{100 * value:.1f}%"


def picture(facts: dict[str, Any]) -> str:
    """The groups and the arrows that passed, as SVG; green for the answer, red against it."""
    groups, tokens = facts["groups"], facts["tokens"]
    positions = sorted({group["position"] for group in groups} | {len(tokens) - 1})
    column = {position: place for place, position in enumerate(positions)}
    rows: dict[int, int] = {}
    place: list[tuple[int, int]] = []
    for group in groups:
        rows[group["position"]] = rows.get(group["position"], 0) + 1
        place.append((column[group["position"]], rows[group["position"]]))
    tall = max([1, *rows.values()])
    width, height = EDGE * 2 + COLUMN * len(positions), EDGE * 2 + ROW * (tall + 2)

    def middle(number: int | str) -> tuple[float, float]:
        if isinstance(number, str):
            return EDGE + COLUMN * column[positions[-1]] + BOX / 2, EDGE + TALL / 2
        across, up = place[number]
        return EDGE + COLUMN * across + BOX / 2, EDGE + ROW * (tall + 1 - up) + TALL / 2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(facts["prompt"])}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for arrow in facts["arrows"]:
        if arrow["passed"]:
            parts.append(_arrow(arrow, middle(arrow["source"]), middle(arrow["target"])))
    answer, rival = facts["answer"]["token"], facts["rival"]["token"]
    parts.append(_box(*middle("answer"), f"answer {answer!r}", f"rather than {rival!r}", "#333333"))
    for number, group in enumerate(groups):
        colour = AGAINST if group["share"] < 0 else FOR
        parts.append(_box(*middle(number), group["name"], f"{percent(group['share'])} of the difference", colour))
    for position in positions:
        x, y = EDGE + COLUMN * column[position] + BOX / 2, EDGE + ROW * (tall + 1) + TALL / 2
        text = escape(repr(tokens[position]))
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" font-weight="bold">{text}</text>')
    return "\n".join([*parts, "</svg>"])


def _box(x: float, y: float, name: str, line: str, colour: str) -> str:
    short = name if len(name) <= 34 else f"{name[:33]}…"
    return (
        f'<g><title>{escape(name)}</title><rect x="{x - BOX / 2}" y="{y - TALL / 2}" width="{BOX}" height="{TALL}" '
        f'rx="6" fill="#fafafa" stroke="{colour}" stroke-width="1.5"/>'
        f'<text x="{x}" y="{y - 4}" text-anchor="middle">{escape(short)}</text>'
        f'<text x="{x}" y="{y + 14}" text-anchor="middle" fill="{colour}">{escape(line)}</text></g>'
    )


def _arrow(arrow: dict[str, Any], start: tuple[float, float], end: tuple[float, float]) -> str:
    colour = FOR if arrow["carried"] > 0 else AGAINST
    width = 1 + 6 * min(1.0, abs(arrow["carried"]))
    (x1, y1), (x2, y2) = start, end
    bend = 0.0 if x1 != x2 else BOX / 2 + 8 + 14 * abs(y2 - y1) / ROW / 4
    x, y = (x1 + x2) / 2 - bend, (y1 + y2) / 2
    moved, carried, random = (percent(arrow[key]) for key in ("moved", "carried", "random"))
    title = f"moved {moved}, carries {carried} (random: at most {random})"
    return (
        f'<path d="M {x1} {y1} Q {x} {y} {x2} {y2}" fill="none" stroke="{colour}" stroke-opacity="0.55" '
        f'stroke-width="{width:.1f}"><title>{escape(title)}</title></path>'
    )
