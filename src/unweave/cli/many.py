"""`unweave trace --prompts` and `unweave explain --prompts`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from .terminal import escaped, print_json, progress, stdout

SHOWN = 10
"""Prompts that failed and are shown; the index has all."""


def trace_prompts(prompts: Path, out: Path | None, *, as_json: bool, options: dict[str, Any], **source: Any) -> None:
    """Trace a file of prompts; exit code 1 if some could not be traced."""
    with progress(f"loading {source['model']}") as report:
        from ..many.lines import TraceOptions
        from ..many.run import trace_many

        run = trace_many(
            prompts, out or Path("graphs") / prompts.stem, **source, options=TraceOptions(**options), progress=report
        )
    if as_json:
        print_json({**asdict(run), "folder": str(run.folder), "index": str(run.index)})
    else:
        there = f", {run.there} there already" if run.there else ""
        stdout.print(
            f"{run.prompts} prompts: [bold]{run.traced} traced[/]{there}, {len(run.failed)} failed; {run.seconds:.1f} "
            f"s",
            highlight=False,
        )
        for one in run.failed[:SHOWN]:
            stdout.print(
                f"  line {one['line']}  {escaped(one['id'])}  [red]{escaped(one['error'])}[/]", highlight=False
            )
        if len(run.failed) > SHOWN:
            stdout.print(f"  and {len(run.failed) - SHOWN} more", highlight=False)
        stdout.print(
            f"Index in [bold]{escaped(str(run.index))}[/]; in the browser: unweave serve {escaped(str(run.folder))}",
            highlight=False,
        )
    if run.failed:
        raise typer.Exit(1)


def explain_prompts(prompts: Path, out: Path | None, *, as_json: bool, options: dict[str, Any], **source: Any) -> None:
    """Explain a file of prompts; exit code 1 if some could not be explained."""
    with progress(f"loading {source['model']}") as report:
        from ..explanation.picture import percent
        from ..many.explaining import ExplainOptions, explain_many

        folder = out or Path("explanations") / prompts.stem
        run = explain_many(prompts, folder, **source, options=ExplainOptions(**options), progress=report)
    if as_json:
        print_json({**asdict(run), "folder": str(run.folder)})
    else:
        for row in run.rows:
            if row["error"] is not None:
                said = f"[red]{escaped(row['error'])}[/]"
            elif row["hangs"] is None:
                said = f"{escaped(repr(row['answer']))}: {row['verdict']}"
            else:
                said = (
                    f"{escaped(repr(row['answer']))} hangs on {escaped(row['hangs'])} ({percent(row['share'])}, "
                    f"{row['verdict']}); all groups {percent(row['f'])}"
                )
            stdout.print(f"[bold]{escaped(row['id'])}[/]  {said}", highlight=False)
        if run.groups:
            stdout.print("\n[bold]Groups of several prompts[/]", highlight=False)
        for group in run.groups[:SHOWN]:
            count = f"{len(group['prompts'])} of {len(run.rows)} prompts, necessary in {group['necessary']}"
            how = "against" if group["against"] else "for"
            stdout.print(
                f"  {count}, {percent(group['share'])} {how} it: {escaped(', '.join(group['parts']))}", highlight=False
            )
        stdout.print(
            f"\n{run.explained} explained, {run.there} there already, {len(run.failed)} failed; in "
            f"[bold]{escaped(str(run.folder))}[/]; {run.seconds:.1f} s",
            highlight=False,
        )
    if run.failed:
        raise typer.Exit(1)
