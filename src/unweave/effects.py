"""An intervention in words and numbers: one set of facts, shown to people or given to machines."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .edits import Change, Feature, Push
from .features import promoted_tokens
from .generation import Generation
from .interventions import Outcome
from .models import Recording
from .plans import MODES
from .replacement import ReplacementModel
from .steering import Sweep

SHOWN = 10
"""Changed features that are listed for people."""


def describe(
    model: ReplacementModel,
    recording: Recording,
    changes: list[Change],
    mode: str,
    layers: range | None,
    outcome: Outcome | None,
    tokens: list[str | int],
    generation: Generation | None = None,
    sweep: Sweep | None = None,
) -> dict[str, Any]:
    """The facts about an intervention; plain data, fit for JSON.

    Args:
        outcome: None if only generated tokens were changed.
        tokens: those to be reported in any case.
    """
    language_model = model.language_model
    words = [language_model.token_text(int(token)) for token in recording.input_ids]
    facts: dict[str, Any] = {
        "tokens": words,
        "model": language_model.name,
        "transcoders": {"name": model.transcoders.name, "sha256": model.transcoders.sha256},
        "mode": mode,
        "layers": None if layers is None else [layers.start, layers.stop - 1],
        "changes": [_change_facts(change) for change in changes],
    }
    if outcome is not None:
        changed = sorted(outcome.changed, key=lambda change: -abs(change.after - change.before))
        shown = [(change.feature.layer, change.feature.index) for change in changed[:SHOWN]]
        named = dict(zip(shown, promoted_tokens(model, shown), strict=True)) if shown else {}
        facts["changed"] = [
            {**_feature_facts(change.feature, words), "before": change.before, "after": change.after,
             "promotes": named.get((change.feature.layer, change.feature.index), [])}
            for change in changed
        ]  # fmt: skip
        facts["idle"] = [feature.id for feature in outcome.idle]
        facts["watched"] = [
            {**_feature_facts(feature, words), "before": before, "after": after, "preactivation_before": low, "preactivation_after": high}
            for feature, before, after, low, high in zip(
                outcome.watched, *outcome.activations.tolist(), *outcome.preactivations.tolist(), strict=True
            )
        ]  # fmt: skip
        facts["next"] = [{**token._asdict(), "logit_change": token.logit_change} for token in outcome.tokens(tokens)]
        facts["kl"] = outcome.kl()
    if generation is not None:
        facts["generation"] = {name: {"text": part.text, "ids": list(part.ids)} for name, part in vars(generation).items()}
    if sweep is not None:
        named_tokens = [{"id": token, "text": text} for token, text in zip(sweep.tokens, sweep.texts, strict=True)]
        facts["sweep"] = {"tokens": named_tokens, "rows": [row._asdict() for row in sweep.rows]}
    return facts


def _change_facts(change: Change) -> dict[str, Any]:
    if isinstance(change, Push):
        return {"action": "push", "layer": change.layer, "position": change.position, "at": change.at, "norm": float(change.vector.norm())}
    return {"action": change.action, "value": change.value, "name": change.name, "features": [feature.id for feature in change.features]}


def _feature_facts(feature: Feature, words: list[str]) -> dict[str, Any]:
    return {"node": feature.id, "token": words[int(feature.position)]}


def show_effects(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `describe` for a person."""
    console.print("\n[bold]Prompt[/]  " + " ".join(f"[reverse]{_token(token)}[/]" for token in facts["tokens"]) + "\n", highlight=False)
    held = MODES[facts["mode"]]
    if facts["layers"] is not None:
        held += f"; MLP outputs of layers {facts['layers'][0]} to {facts['layers'][1]} held"
    if "next" in facts:
        _show_changed(facts, console)
        _show_watched(facts, console)
        _show_next(facts, console)
        console.print(f"\n  KL {facts['kl']:.3f} nats  [dim]({held})[/]", highlight=False)
    if "sweep" in facts:
        _show_sweep(facts["sweep"], console)
    if "generation" in facts:
        _show_generation(facts, console)


def _token(text: str) -> str:
    return escape(text.replace("\n", "⏎").replace("\t", "⇥")) or "∅"


def _table(*headings: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for heading, justify in headings:
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    return table


def _bar(share: float, width: int = 16, colour: str = "cyan") -> str:
    filled = round(max(0.0, min(1.0, share)) * width * 8)
    return f"[{colour}]{'█' * (filled // 8)}{' ▏▎▍▌▋▊▉'[filled % 8] if filled % 8 else ''}[/]"


def _show_changed(facts: dict[str, Any], console: Console) -> None:
    changed = facts["changed"]
    for push in [change for change in facts["changes"] if change["action"] == "push"]:
        console.print(f"  direction of norm {push['norm']:.2f} added at layer {push['layer']}, position {push['position']} ({push['at']})", highlight=False)
    if not changed:
        return
    console.print(f"[bold]Changed[/]  [dim]{len(changed)} feature{'s' if len(changed) > 1 else ''}[/]")
    table = _table(("", "left"), ("node", "left"), ("on token", "left"), ("activation", "right"), ("", "left"), ("now", "right"), ("promotes", "left"))
    for change in changed[:SHOWN]:
        words = ", ".join(_token(word) for word in change["promotes"])
        note = "[red]writes nowhere in these layers[/] " if change["node"] in facts["idle"] else ""
        now = f"[bold]{change['after']:.2f}[/]"
        table.add_row("", change["node"], _token(change["token"]), f"{change['before']:.2f}", "→", now, f"{note}[italic]{words}[/]")
    console.print(table)
    if len(changed) > SHOWN:
        console.print(f"  [dim]and {len(changed) - SHOWN} more, with smaller changes[/]", highlight=False)


def _show_watched(facts: dict[str, Any], console: Console) -> None:
    if not facts["watched"]:
        return
    console.print("\n[bold]Watched[/]")
    table = _table(("", "left"), ("node", "left"), ("on token", "left"), ("before", "right"), ("", "left"), ("after", "right"), ("pre-activation", "right"))
    for row in facts["watched"]:
        pre = f"[dim]{row['preactivation_before']:.2f} → {row['preactivation_after']:.2f}[/]"
        table.add_row("", row["node"], _token(row["token"]), f"{row['before']:.2f}", "→", f"[bold]{row['after']:.2f}[/]", pre)
    console.print(table)


def _show_next(facts: dict[str, Any], console: Console) -> None:
    console.print("\n[bold]What comes next[/]")
    table = _table(("", "left"), ("token", "left"), ("before", "right"), ("", "left"), ("after", "right"), ("", "left"), ("logit", "right"))
    for token in facts["next"]:
        table.add_row(
            "", f"[bold]{_token(token['text'])}[/]", f"{token['probability_before']:.1%}", _bar(token['probability_before'], colour='dim cyan'),
            f"{token['probability_after']:.1%}", _bar(token['probability_after']), f"{token['logit_change']:+.2f}",
        )  # fmt: skip
    console.print(table)


def _show_sweep(sweep: dict[str, Any], console: Console) -> None:
    console.print("\n[bold]Dose[/]  [dim]probability of the next token by factor[/]")
    headings = [column for token in sweep["tokens"] for column in ((_token(token["text"]), "right"), ("", "left"))]
    table = _table(("", "left"), ("factor", "right"), *headings, ("KL", "right"))
    for row in sweep["rows"]:
        cells = [cell for share in row["probabilities"] for cell in (f"{share:.1%}", _bar(share, 10))]
        table.add_row("", f"[bold]{row['factor']:+g}[/]", *cells, f"{row['kl']:.2f}")
    console.print(table)


def _show_generation(facts: dict[str, Any], console: Console) -> None:
    table = Table(box=None, padding=(0, 3, 0, 2), pad_edge=False, header_style="bold", expand=False)
    width = max(24, min(56, (console.width - 8) // 2))
    table.add_column("Default", width=width)
    table.add_column("[cyan]Steered[/]", width=width)
    default, steered = (escape(facts["generation"][name]["text"].strip()) for name in ("default", "steered"))
    table.add_row(f"[dim]…[/]{default}", f"[dim]…[/]{steered}")
    console.print()
    console.print(table)
