"""`unweave study list|run`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.catalogue import PAIRS
from ..errors import OptionError, StudyError, UnweaveError
from .terminal import AsJson, Dictionary, collect_garbage, escaped, print_json, progress, stdout

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True,
    help="Reproduce behaviours of a model and test by intervention how it produces them."
)  # fmt: skip
DEFAULT = "smollm2"
HERE = ("smollm2", "organism")
"""Models that ship, for which `--all` runs studies."""


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the studies that ship."""
    from ..studies.studyfile import read_study, shipped

    studies = [read_study(path) for path in shipped().values()]
    if as_json:
        from ..studies.protocols import PROTOCOLS

        protocols = {name: {"what": one.what, "figures": one.figures} for name, one in PROTOCOLS.items()}
        print_json({"studies": [_facts(study) for study in studies], "protocols": protocols})
        return
    rows = [("study", "meant for", "variants", "steps", "what")]
    rows += [
        (
            one.name,
            ", ".join(one.meant_for) or "any",
            str(len(one.variants)),
            ", ".join(step.name for step in one.steps),
            one.title,
        )
        for one in studies
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        stdout.print(line.rstrip(), highlight=False, markup=False, style="bold" if not number else None)


def _facts(study: Any) -> dict[str, Any]:
    names = ("name", "title", "question", "source", "meant_for")
    steps = [
        {
            "name": step.name,
            "protocol": step.protocol,
            "expect": {name: bound.text for name, bound in step.expect.items()},
        }
        for step in study.steps
    ]
    return {name: getattr(study, name) for name in names} | {
        "file": str(study.path),
        "variants": len(study.variants),
        "steps": steps,
    }


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Studies that ship (unweave study list), or study files."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="All studies for the model; without --model, all studies for the models that ship."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A short name, a folder, or a Hugging Face name. Default: the model that the study is for.",
        ),
    ] = None,
    transcoders: Dictionary = None,
    only: Annotated[list[str] | None, typer.Option(metavar="STEP", help="Run only this step; repeatable.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write pages, figures, graphs and facts to this folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run studies: exit code 0 if all hold, 1 if one fails."""
    if bool(names) == everything:
        raise OptionError("give the names of studies, or --all" if not names else "give names or --all, not both")
    if only and report is not None:
        raise OptionError(
            "--only runs a part of a study, which --report would write as the whole; leave one of them out"
        )
    studies = _asked(names or [], everything, model)
    for one in studies:
        _check_steps(one, only or [])
    found = _run(studies, model, transcoders, only or [], report, device)
    holds = all(one.holds for one in found)
    if as_json:
        from ..studies.results import facts

        print_json({"holds": holds, "studies": [facts(one) | {"seconds": one.seconds} for one in found]})
    else:
        for one in found:
            _show(one)
        if report is not None:
            stdout.print(
                f"\nReports in [bold]{escaped(str(report))}[/]: unweave serve {escaped(str(report))}", highlight=False
            )
    raise typer.Exit(0 if holds else 1)


def _asked(names: list[str], everything: bool, model: str | None) -> list[Any]:
    """The studies that are named, or all for the model or for those that ship."""
    from ..studies.studyfile import find_study, read_study, shipped

    if not everything:
        return [read_study(find_study(name)) for name in names]
    known = {model} if model else set(HERE)
    studies = [read_study(path) for path in shipped().values()]
    fitting = [one for one in studies if not one.meant_for or known & set(one.meant_for)]
    if not fitting:
        raise OptionError(f"no study is meant for {model}; give the names of studies to run them on it all the same")
    return fitting


def _check_steps(study: Any, only: list[str]) -> None:
    steps = [step.name for step in study.steps]
    missing = next((name for name in only if name not in steps), None)
    if missing is not None:
        raise OptionError(f"--only {missing}: {study.name} has the steps {', '.join(steps)}")


@app.command()
def repeat(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study that ships, or a study file.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="As for `study run`.")] = None,
    transcoders: Dictionary = None,
    dictionary: Annotated[
        list[str] | None,
        typer.Option(metavar="TRANSCODERS", help="Repeat it with these too, such as a second training; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, max=100, help="How many other seeds.")] = 2,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the report, and a Stability Card for each step, here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run a study again in other wordings, with other seeds and dictionaries: which findings survive?

    Exit code 1 if one does not."""
    from ..studies.studyfile import find_study, read_study
    from ..transcoders.formats import read_transcoders
    from ..transcoders.neurons import NEURONS, neurons
    from ..transcoders.replacement import ReplacementModel, load

    study = read_study(find_study(name))
    with progress("reading the study") as say:
        from ..studies.report import check_folder, write_stability
        from ..studies.stability import repeat_study, stability_facts, told

        folder = None if report is None else check_folder(report, [study.name])
        wanted = model or (study.meant_for[0] if study.meant_for else DEFAULT)
        say(0.0, f"loading {wanted}")
        loaded = load(wanted, transcoders, device=device)
        own = loaded.language_model
        others = [
            ReplacementModel(own, neurons(own) if one == NEURONS else read_transcoders(one)) for one in dictionary or ()
        ]
        found = repeat_study(study, loaded, seeds=seeds, others=others, progress=say)
        if folder is not None:
            write_stability(found, folder)
    if as_json:
        print_json(stability_facts(found))
    else:
        _show_table(found.table)
        stdout.print(escaped(told(found)), highlight=False)
    raise typer.Exit(0 if all(one.survives for one in found.findings) else 1)


def _show_table(table: Any) -> None:
    from rich.table import Table

    from ..studies.results import number

    shown = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*(escaped(number(value)) for value in row))
    stdout.print(shown)


def _run(
    studies: list[Any], model: str | None, transcoders: str | None, only: list[str], folder: Path | None, device: str
) -> list[Any]:
    """The reports, each written as soon as it is there; a model is loaded once for studies that follow one another."""
    loaded, current, found = None, None, []
    with progress("reading studies") as say:
        from ..studies.report import check_folder, write_report
        from ..studies.run import run_study
        from ..transcoders.replacement import load

        if folder is not None:
            folder = check_folder(folder, [one.name for one in studies])
        for one in studies:
            name = model or (one.meant_for[0] if one.meant_for else DEFAULT)
            if name != current:
                say(0.0, f"loading {name}")
                try:
                    loaded, current = load(name, transcoders, device=device), name
                except UnweaveError as error:
                    if model is not None or name in HERE:
                        raise
                    known = PAIRS[name].model if name in PAIRS else name
                    raise StudyError(
                        f"{one.name} is meant for {known}, which cannot be loaded here ({error}); give --model and "
                        f"--transcoders of one you have"
                    ) from error
            assert loaded is not None
            collect_garbage()
            found.append(run_study(one, loaded, only=only, progress=say))
            if folder is not None:
                write_report(found[-1], folder)
    return found


def _show(report: Any) -> None:
    from rich.table import Table

    from ..studies.results import number

    colour = "green" if report.holds else "bold red"
    stdout.print(
        f"\n[bold]{escaped(report.title)}[/]  [dim]{report.study}, {report.model}, {report.seconds:.0f} s[/]",
        highlight=False,
    )
    stdout.print(f"[dim]{escaped(report.question)}[/]", highlight=False)
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for heading in ("", "step", "figure", "measured", "wanted"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for step in report.steps:
        wanted = {check.figure: check for check in step.checks}
        for place, (name, value) in enumerate(step.result.figures.items()):
            check = wanted.get(name)
            mark = "" if check is None else "[green]✓[/]" if check.holds else "[bold red]✗[/]"
            table.add_row(mark, step.name if not place else "", name, number(value), check.wanted if check else "")
    stdout.print(table)
    for step in report.steps:
        stdout.print(escaped(step.result.summary), highlight=False)
    stdout.print(f"[{colour}]{escaped(report.verdict)}[/]", highlight=False)
