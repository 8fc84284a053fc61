"""What became of claims, in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..validation.claimfile import ClaimsFile
from ..validation.claimfile import read_claims as read_claims
from ..validation.claims import ClaimVerdict


def show_claims(file: ClaimsFile, verdicts: Sequence[ClaimVerdict], console: Console) -> None:
    """Print for a person what became of the claims."""
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for heading in ("", "claim", "measured on", "wanted", "measured"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for verdict in verdicts:
        for number, check in enumerate(verdict.checks):
            mark = "[green]✓[/]" if check.holds else "[bold red]✗[/]"
            measured = repr(check.measured) if isinstance(check.measured, str) else f"{check.measured:.4g}"
            colour = "" if check.holds else "[red]"
            table.add_row(
                mark,
                escape(verdict.name) if not number else "",
                escape(check.what),
                escape(check.wanted),
                f"{colour}{escape(measured)}",
            )
    console.print(table)
    failed = [verdict for verdict in verdicts if not verdict.holds]
    what = (
        "[green]all hold[/]"
        if not failed
        else f"[bold red]{len(failed)} of {len(verdicts)} fail[/]: lines {', '.join(str(v.line) for v in failed)}"
    )
    console.print(
        f"\n{len(verdicts)} claim{'s' * (len(verdicts) != 1)} of {escape(str(file.path))}: {what}", highlight=False
    )
