"""`unweave compare`."""

from typing import Annotated, Any

import typer

from ..base.parsing import prompt_of
from ..errors import OptionError
from .terminal import AsJson, Model, escaped, print_json, progress, stdout

UNITS = 8
"""Single parts that are shown, at most."""


def compare(
    prompt: Annotated[str, typer.Argument(help="The text whose next token is explained.")],
    other: Annotated[str | None, typer.Argument(metavar="PROMPT_B", help="The prompt to compare it with.")] = None,
    models: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Compare two models of the same architecture on one prompt instead."),
    ] = None,
    instead: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="With --models: a prompt with another answer that both are held against."),
    ] = None,
    model: Model = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    baseline: Annotated[
        str, typer.Option(help="auto (a contrast prompt found for each, otherwise mean), mean or zero.")
    ] = "auto",
    ids: Annotated[bool, typer.Option("--ids", help="Prompts are lists of token ids, such as '1 504 3575'.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two explanations: groups they share, groups that only one has, arrows that differ."""
    if (other is None) == (models is None):
        raise OptionError("give either a second prompt or --models A B")
    if other == prompt:
        raise OptionError("both prompts are the same; give two, or --models A B")
    if instead is not None and models is None:
        raise OptionError("--instead goes with --models; two prompts are each held against one of their own")
    prompts = [prompt_of(prompt, ids), prompt_of(prompt if other is None else other, ids)]
    names = list(models or (model, model))
    with progress(f"loading {names[0]}") as report:
        from ..explanation.comparing import check_one_layout, compare_explanations
        from ..explanation.explaining import explain
        from ..models.loading import load_model

        loaded = [load_model(names[0], dtype=dtype, device=device)]
        loaded.append(load_model(names[1], dtype=dtype, device=device) if models else loaded[0])
        check_one_layout(*loaded)
        found = []
        for number in range(2):
            known = found[0].contrast.other_ids if models and found else None
            asked: Any = None if known is None else known.tolist()
            if instead is not None:
                asked = prompt_of(instead, ids)
            found.append(
                explain(
                    loaded[number], prompts[number], instead=asked, baseline=baseline,
                    progress=lambda share, what, n=number: report((n + share) / 2, what),
                )
            )  # fmt: skip
        facts = compare_explanations(*found)
    if as_json:
        return print_json(facts)
    show(facts)


def show(facts: dict[str, Any]) -> None:
    """Print a comparison."""
    from ..explanation.picture import percent

    def line(text: str) -> None:
        stdout.print(text, highlight=False)

    same = facts["models"][0] == facts["models"][1]
    for letter, headline, model in zip("AB", facts["headlines"], facts["models"], strict=True):
        line(f"[bold]{letter}[/] {escaped(headline)}" + ("" if same else f" [dim]({escaped(model)})[/]"))
    line("\n[bold]In both[/] (share of the difference in A, in B)")
    for pair in facts["shared"]:
        line(f"  {percent(pair['share'][0]):>6} {percent(pair['share'][1]):>6}  {escaped(pair['names'][0])}")
        if pair["names"][1] != pair["names"][0]:
            line(f"                 [dim]in B: {escaped(pair['names'][1])}[/]")
    for letter, other, key in (("A", "B", "only_a"), ("B", "A", "only_b")):
        line(f"\n[bold]In {letter} alone[/] (share in {letter}; the same parts swapped in {other})")
        for group in facts[key]:
            there = "no such token" if group["share_other"] is None else percent(group["share_other"])
            line(f"  {percent(group['share']):>6} {there:>6}  {escaped(group['name'])}")
    if facts["units"]:
        line(f"\n[bold]Single parts that differ most[/] (share in A, in B; of {len(facts['units'])})")
        for unit in facts["units"][:UNITS]:
            a, b = map(percent, unit["share"])
            line(f"  {a:>6} {b:>6}  {escaped(unit['part'])}")
    differ = [arrow for arrow in facts["arrows"] if arrow["differs"]]
    line(f"\n[bold]Arrows that differ[/] ({len(differ)} of {len(facts['arrows'])} between groups of both)")
    for arrow in differ:
        a, b = map(percent, arrow["moved"])
        line(f"  {a:>6} {b:>6}  {escaped(arrow['source'])} -> {escaped(arrow['target'])}")
