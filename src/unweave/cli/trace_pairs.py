"""`unweave trace --response --prompts`: effects averaged over the prompts of a file."""

import json
from dataclasses import asdict
from pathlib import Path

from .terminal import escaped, print_json, progress, stdout
from .trace_response import ResponseOptions

SHOWN = 20


def trace_pairs(prompts: Path, options: ResponseOptions, out: Path | None, as_json: bool) -> None:
    """Average effects over a file of prompts and contrasts, and list the strongest units."""
    from ..base.files import check_writable, write_atomically

    out = None if out is None else check_writable(out)
    with progress(f"loading {options.model}") as report:
        from ..response.several import mean_effects, read_pairs

        pairs = read_pairs(prompts)
        found = mean_effects(
            options.load(), pairs, progress=lambda share: report(share, "averaging effects"), **options.words
        )
    facts = {"kind": "mean effects", "model": options.model, "file": str(prompts), **asdict(found)}
    if out is not None:
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        write_atomically(out, lambda name: Path(name).write_text(text, encoding="utf-8"))
    if as_json:
        return print_json(facts)
    stdout.print(
        f"[bold]{options.units.capitalize()} with the largest mean effects on {len(pairs)} prompts[/]", highlight=False
    )
    stdout.print("  [dim]effect: the target's change without them; how many prompts have its sign[/]", highlight=False)
    for one in found.strongest[:SHOWN]:
        stdout.print(
            f"  {f'{one.layer}_{one.index}':<12} {one.effect:+.3f} [dim]+- {one.error:.3f}[/]  "
            f"{one.same_sign} of {len(pairs)}",
            highlight=False,
        )
    if out is not None:
        stdout.print(f"\nWritten to [bold]{escaped(str(out))}[/]", highlight=False)
