"""`unweave validate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from .terminal import AsJson, Dictionary, escaped, print_json, progress, stdout
from .validate_response import validate_responses


def validate(
    graphs: Annotated[list[Path] | None, typer.Argument(metavar="GRAPH...", help="Graph files to test.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="smollm2 (default), a local folder, or a Hugging Face name.")
    ] = None,
    transcoders: Dictionary = None,
    ablations: Annotated[
        int, typer.Option(help="How many features to ablate: half the strongest, half at random.")
    ] = 300,
    pairs: Annotated[int, typer.Option(help="How many features' effects on later features to test; 0: none.")] = 40,
    reach: Annotated[int, typer.Option(help="With --pairs: at most this many layers apart.")] = 3,
    disturbances: Annotated[
        int, typer.Option(help="How many perturbations of each kind to follow through the replacement model; 0: none.")
    ] = 24,
    control: Annotated[
        bool,
        typer.Option(
            help="Repeat with random transcoders of the same sparsity, as a control; of response graphs: judge the "
            "attribution graph of the same units beside."
        ),
    ] = True,
    neurons: Annotated[bool, typer.Option(help="Repeat a third of it with the model's own neurons.")] = True,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to fit the random transcoders to: file, folder, JSONL, Parquet or dataset; repeatable."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Graphs: start no measurement after this long; run again to continue."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the choice of features.")] = 0,
    claims: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check a YAML file of claims instead: exit code 0 if all hold, 1 if not."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    everything: Annotated[bool, typer.Option("--all", help="Show every figure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Test graphs by intervention: do they predict what happens in the real model? Or check claims."""
    if claims is not None:
        if graphs:
            raise OptionError("give graphs or --claims, not both; a claims file names its own prompts")
        raise typer.Exit(0 if _check_claims(claims, model, transcoders, device, as_json) else 1)
    if not graphs:
        raise OptionError("nothing to validate; give a graph file or --claims FILE")
    if budget is not None and not budget > 0:
        raise OptionError(f"--budget {budget:g} is not a time; give a number of seconds above 0")
    from ..base.files import check_writable
    from ..validation.results import Settings, report_path

    settings = Settings(ablations, pairs, reach, disturbances, control, seed, neurons)
    targets = [check_writable(report_path(graph)) for graph in graphs]
    if len(set(targets)) < len(targets):
        raise OptionError("two of the graphs would have the same report; give each graph once")
    reports = []
    model = model or "smollm2"
    with progress(f"loading {model}") as report:
        from ..graphs.graph import Graph
        from ..interventions.naming import check_graph
        from ..transcoders.replacement import load
        from ..validation.control import Control
        from ..validation.validate import validate as run

        traced = [Graph.load(path) for path in graphs]
        if any(graph.is_response for graph in traced):
            return validate_responses(
                traced,
                graphs,
                model=model,
                transcoders=transcoders,
                device=device,
                ablations=ablations,
                attribution=control,
                seed=seed,
                as_json=as_json,
            )
        loaded = load(model, transcoders, device=device)
        for graph, path in zip(traced, graphs, strict=True):
            check_graph(graph, path, loaded)
        source = (
            Control.on_text(loaded, text or (), lambda share: report(share, "fitting a random dictionary"))
            if control
            else None
        )
        for graph, path, target in zip(traced, graphs, targets, strict=True):
            kept = target.with_suffix(".partial")
            found = run(
                loaded, graph, settings, control=source, keep=kept, budget=budget, name=str(path), progress=report
            )
            found.save(target)
            if found.complete:
                kept.unlink(missing_ok=True)
            reports.append(found)
    _show(reports, [str(target) for target in targets], everything, as_json)


def _show(reports: list[Any], files: list[str], everything: bool, as_json: bool) -> None:
    if as_json:
        facts = [{**found.facts(), "file": file} for found, file in zip(reports, files, strict=True)]
        print_json(facts[0]) if len(facts) == 1 else print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from .show_validation import show_report, show_summary

    for found, file in zip(reports, files, strict=True):
        show_report(found, stdout, everything=everything)
        stdout.print(f"\nWritten to [bold]{escaped(file)}[/] in {found.seconds:.1f} s.", highlight=False)
    if len(reports) > 1:
        show_summary(reports, stdout)


def _check_claims(path: Path, model: str | None, transcoders: str | None, device: str, as_json: bool) -> bool:
    """Whether all claims of a file hold."""
    with progress("reading claims") as report:
        from ..transcoders.replacement import load
        from ..validation.claims import check_claims, claims_facts, read_claims
        from .show_claims import show_claims

        file = read_claims(path)
        name = model or file.model or "smollm2"
        report(0.0, f"loading {name}")
        loaded = load(name, transcoders or file.transcoders, device=device)
        report(0.0, "checking")
        verdicts = check_claims(file, loaded, report)
    if as_json:
        print_json(claims_facts(file, verdicts))
    else:
        show_claims(file, verdicts, stdout)
    return all(verdict.holds for verdict in verdicts)
