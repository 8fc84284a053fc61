"""`unweave trace --response`: what a prediction depends on, told in a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.parsing import target_of, token_ids
from ..errors import OptionError
from ..graphs.limits import known_limits
from .terminal import escaped, print_json, progress, stdout

STRONGEST = 12


@dataclass(frozen=True)
class ResponseOptions:
    """What response graphs are computed of, and how."""

    model: str
    transcoders: str | None
    dtype: str
    device: str
    units: Any
    baseline: Any
    most: int
    attention: Any

    def load(self) -> Any:
        """The model, with its dictionary where units are features."""
        from ..models.loading import load_model
        from ..transcoders.replacement import load

        if self.units == "features":
            return load(self.model, self.transcoders, dtype=self.dtype, device=self.device)
        return load_model(self.model, dtype=self.dtype, device=self.device)

    @property
    def words(self) -> dict[str, Any]:
        """As `response_graph` and `mean_effects` take them."""
        return {"units": self.units, "baseline": self.baseline, "most": self.most, "attention": self.attention}


def trace_response(
    prompt: str | None,
    options: ResponseOptions,
    target: list[str],
    minus: str | None,
    instead: str | None,
    *,
    position: int,
    ids: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compute a response graph, write it, and say what matters most."""
    from ..base.files import check_graph_name, check_writable
    from ..base.words import name_of_question
    from ..graphs.interchange import write_json

    if prompt is None:
        raise OptionError("nothing to trace; give a PROMPT")
    if len(target) > 1:
        raise OptionError("--response explains one target; give one --target, with --minus for a difference")
    question = {
        "model": options.model, "transcoders": options.transcoders, "dtype": options.dtype, "target": target,
        "minus": minus, "position": position, "ids": ids, "instead": instead, **options.words,
    }  # fmt: skip
    out = out or Path("graphs") / f"{name_of_question(prompt, question)}.response.graph.safetensors"
    check_writable(check_graph_name(out))
    with progress(f"loading {options.model}") as report:
        from ..response.response import response_graph

        loaded = options.load()
        wanted: Any = None if not target else target_of(target[0])
        if minus is not None:
            wanted = (wanted, target_of(minus))
        report(0.0, "tracing")
        given: str | list[int] = token_ids(prompt) if ids else prompt
        other = token_ids(instead) if ids and instead else instead
        graph = response_graph(loaded, given, wanted, other, position=position, **options.words)
        if out.suffix == ".json":
            write_json(graph, out)
        else:
            graph.save(out)
    facts = response_facts(graph) | {"file": str(out)}
    if as_json:
        print_json(facts)
    else:
        show_response(facts)


def response_facts(graph: Any) -> dict[str, Any]:
    """What people ask of a response graph first; plain data, fit for JSON."""
    from ..graphs.nodes import NodeKind

    facts, nodes, effect = graph.provenance, graph.nodes, graph.effect
    order = [int(row) for row in effect.abs().argsort(descending=True) if float(effect[row])]
    last = len(nodes) - 1

    def told(row: int) -> dict[str, Any]:
        node = nodes[row]
        return {
            "node": node.id, "kind": node.kind.name.lower(), "layer": node.layer, "position": node.position,
            "token": facts.tokens[node.position], "activation": node.activation, "effect": float(effect[row]),
        }  # fmt: skip

    units = [row for row in order if nodes[row].kind == NodeKind.FEATURE][:STRONGEST]
    tokens = [row for row in order if nodes[row].kind == NodeKind.EMBEDDING]
    routes = []
    if graph.router is not None:
        for row in units[:3]:
            edges = [edge for edge in graph.incoming(nodes[row]) if edge.source.kind == NodeKind.FEATURE][:1]
            routes += [
                {
                    "source": edge.source.id, "target": edge.target.id, "weight": edge.weight,
                    "routes": graph.routes(edge.target, edge.source).strongest(4),
                }
                for edge in edges
            ]  # fmt: skip
    return {
        "kind": "response", "prompt": facts.prompt, "tokens": list(facts.tokens), "model": facts.model,
        "units": facts.units, "baseline": facts.baseline, "attention": facts.attention, "instead": facts.instead,
        "target": {"token": facts.logit_labels[0], "value": float(graph.preactivation[last]), "node": nodes[last].id},
        "strongest": [told(row) for row in units], "prompt_tokens": [told(row) for row in tokens], "edges": routes,
        "agreement": facts.agreement, "mediated": facts.mediated, "mediated_by_layer": list(facts.mediated_by_layer),
        "known_circuits": list(known_limits(facts)),
        "graph": {"units": facts.max_features, "units_there": facts.active_features, "edges": graph.n_edges},
    }  # fmt: skip


def show_response(facts: dict[str, Any]) -> None:
    """Print the facts."""
    put = {
        "zero": "put to zero",
        "mean": "put to their mean over text",
        "resampled": "given another text's values",
        "contrast": "given the other prompt's values",
    }
    goal = facts["target"]
    stdout.print(f"[bold]{escaped(repr(goal['token']))}[/] is {goal['value']:.2f}", highlight=False)
    if facts["instead"] is not None:
        stdout.print(f"contrasted with {escaped(repr(facts['instead']))}", highlight=False)
    stdout.print(f"\n[bold]{facts['units'].capitalize()} it depends on most[/]", highlight=False)
    stdout.print(f"  [dim]effect: the target's change when they are {put[facts['baseline']]}[/]", highlight=False)
    for told in facts["strongest"]:
        stdout.print(
            f"  {told['node']:<14} at {escaped(repr(told['token'])):<14} effect {told['effect']:+.3f}", highlight=False
        )
    stdout.print("\n[bold]Tokens[/]", highlight=False)
    for told in facts["prompt_tokens"]:
        stdout.print(
            f"  {told['position']:>3} {escaped(repr(told['token'])):<14} effect {told['effect']:+.3f}", highlight=False
        )
    if facts["edges"]:
        stdout.print("\n[bold]How it gets there[/]", highlight=False)
        for edge in facts["edges"]:
            ways = ", ".join(f"{name} {weight:+.3f}" for name, weight in edge["routes"])
            stdout.print(
                f"  {edge['source']} to {edge['target']}: {edge['weight']:+.3f} [dim]({ways})[/]", highlight=False
            )
    stdout.print("\n[bold]How far to trust it[/]", highlight=False)
    stdout.print(f"  agrees with one backward pass within {facts['agreement']:.1e}", highlight=False)
    for note in facts["known_circuits"]:
        stdout.print(f"  [dim]measured: {escaped(note)}[/]", highlight=False)
    stdout.print(
        f"  {facts['mediated']:.0%} of the units' effects pass through other units of the graph; the rest is direct, "
        "or through what is no unit",
        highlight=False,
    )
    stdout.print("  first order: large changes, and many at once, need not add up", highlight=False)
    stdout.print(f"\nWritten to [bold]{escaped(facts['file'])}[/]", highlight=False)
