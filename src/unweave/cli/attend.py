"""`unweave attend`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.kinds import typed
from .terminal import AsJson, Model, escaped, print_json, progress, stdout


@typed
def attend(
    graph: Annotated[Path, typer.Argument(help="File of a response graph (unweave trace --response).")],
    model: Model = "smollm2",
    transcoders: Annotated[
        str | None, typer.Option("--transcoders", "-t", help="The transcoders, if the graph's units are features.")
    ] = None,
    most: Annotated[int, typer.Option(help="Number of heads.")] = 5,
    sources: Annotated[int, typer.Option(help="Sources to show on each side.")] = 4,
    check: Annotated[
        int, typer.Option(help="Ablate this many units in the real model and compare each head's pattern; 0: none.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Explain why the heads that matter most to a response graph's target attend where they do."""
    with progress(f"loading {model}") as report:
        from ..graphs.graph import Graph
        from ..models.loading import load_model
        from ..response.attending import attend as run
        from ..transcoders.replacement import load

        read = Graph.load(graph)
        dtype, features = read.provenance.dtype, read.provenance.units == "features"
        loaded: Any = (
            load(model, transcoders, dtype=dtype, device=device)
            if features
            else load_model(model, dtype=dtype, device=device)
        )
        report(0.5, "following heads")
        heads = run(loaded, read, most)
        facts = [_facts(read, looked, sources) for looked in heads]
        if check:
            from ..validation.looking import check_look

            for number, (told, looked) in enumerate(zip(facts, heads, strict=True)):
                report(0.5 + number / 2 / len(heads), "taking units away")
                found = check_look(loaded, read, looked, most=check)
                told["checked"] = {
                    "units": len(found.rows), "signed": found.signed._asdict(),
                    "sign_share": found.sign_share._asdict(), "together": list(found.together),
                }  # fmt: skip
    if as_json:
        return print_json({"file": str(graph), "heads": facts})
    for told in facts:
        stdout.print(
            f"[bold]L{told['layer']}H{told['head']}[/] from {told['query']} {escaped(repr(told['query_token']))} "
            f"looks at {told['key']} {escaped(repr(told['key_token']))}: {told['pattern']:.2f} of its attention, "
            f"carries {told['carried']:+.3f}",
            highlight=False,
        )
        for side in ("query", "key"):
            words = ", ".join(f"{one['node']} {one['effect']:+.3f}" for one in told[f"by_{side}"])
            stdout.print(f"  [dim]{side} side, change of the pattern without:[/] {words}", highlight=False)
        _show_account(told["account"])
        if "checked" in told:
            _show_check(told["checked"])


def _show_account(found: dict[str, Any]) -> None:
    """What the score's lead over the other keys is made of, on both sides."""
    stdout.print(f"  [dim]score above the mean of the keys it sees: {found['lead']:+.2f}, of which[/]", highlight=False)
    for side in ("query", "key"):
        parts = found[side]
        words = ", ".join(
            f"{name} {parts[name]:+.2f}" for name in ("units", "rests", "tokens", "kept", "heads", "bias")
        )
        stdout.print(f"  [dim]{side} side:[/] {words}", highlight=False)


def _show_check(found: dict[str, Any]) -> None:
    signed, (predicted, measured) = found["signed"], found["together"]
    stdout.print(
        f"  [dim]in the real model, {found['units']} units one by one:[/] rank correlation {signed['value']:.2f} "
        f"({signed['low']:.2f} to {signed['high']:.2f}), right sign {found['sign_share']['value']:.2f}; together "
        f"predicted {predicted:+.3f}, measured {measured:+.3f}",
        highlight=False,
    )


def _facts(graph: Any, looked: Any, most: int) -> dict[str, Any]:
    tokens = graph.provenance.tokens
    facts = {
        "layer": looked.layer, "head": looked.head, "query": looked.query, "query_token": tokens[looked.query],
        "key": looked.key, "key_token": tokens[looked.key], "pattern": looked.pattern, "carried": looked.carried,
    }  # fmt: skip
    facts["account"] = _account(graph.nodes, looked.account)
    for name in ("by_query", "by_key"):
        effects = getattr(looked, name)
        rows = [int(row) for row in effects.abs().argsort(descending=True)[:most] if float(effects[row])]
        facts[name] = [{"node": graph.nodes[row].id, "effect": float(effects[row])} for row in rows]
    return facts


def _account(nodes: Any, account: Any) -> dict[str, Any]:
    """Sums by kind of source; each side's add up to the lead."""
    found: dict[str, Any] = {"lead": account.lead}
    for number, side in enumerate(("query", "key")):
        found[side] = {
            "units": float(account.nodes[number, nodes.features].sum()),
            "rests": float(account.nodes[number, nodes.errors].sum()),
            "tokens": float(account.nodes[number, nodes.embeddings].sum()),
            "kept": float(account.kept[number]), "heads": float(account.heads[number].sum()),
            "bias": float(account.bias[number]),
            "strongest_heads": [
                {"layer": place // account.heads.shape[2], "head": place % account.heads.shape[2],
                 "adds": float(account.heads[number].flatten()[place])}
                for place in account.heads[number].flatten().abs().topk(min(3, account.heads[number].numel()))
                .indices.tolist()
            ],
        }  # fmt: skip
    return found
