"""`unweave explain`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.parsing import prompt_of, target_of
from ..errors import OptionError, PromptError
from .many import explain_prompts
from .terminal import AsJson, Model, escaped, print_json, progress, stderr, stdout

BASELINES = ("auto", "mean", "zero")
SUFFIXES = {".json": "facts", ".md": "report", ".svg": "picture", ".yaml": "claims"}


def explain(
    prompt: Annotated[str | None, typer.Argument(help="The text whose next token is explained.")] = None,
    instead: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="A prompt of the same length with another answer. Default: one is found."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Token to explain, as text (' Paris') or #id; if it is not the predicted one: why not. Default: "
            "that one."
        ),
    ] = None,
    model: Model = "smollm2",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    units: Annotated[str, typer.Option(help="What groups consist of: neurons.")] = "neurons",
    groups: Annotated[int | None, typer.Option(metavar="N", help="At most this many groups. Default: 12.")] = None,
    features: Annotated[
        Path | None, typer.Option("--features", "-f", help="Folder of feature pages of the model's neurons, for names.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Without --instead: auto (a prompt if one is found, otherwise mean), mean or zero.")
    ] = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL file of prompts, one per line, to explain into the folder --out."),
    ] = None,
    workers: Annotated[str, typer.Option(help="With --prompts: the number of processes, or ray, or ray:N.")] = "1",
    ids: Annotated[bool, typer.Option("--ids", help="Prompts are lists of token ids, such as '1 504 3575'.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a report with picture (.md), the picture (.svg), claims (.yaml) or facts (.json); "
            "any other name: all four.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--no-keep", help="Keep the explanation and a response graph in ./graphs, for unweave serve."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Explain a prediction: what the answer depends on, how it gets there and what works against it, all measured."""
    begin = time.perf_counter()
    _check(units, groups, baseline)
    wanted = None if target is None else target_of(target)
    if prompts is not None:
        if prompt is not None or instead is not None or ids or features is not None:
            raise OptionError(
                "--prompts takes the place of PROMPT, and goes without --instead, --ids and --features; a line may "
                "hold instead, and ids in place of text"
            )
        return explain_prompts(
            prompts, out, model=model, dtype=dtype, device=device, workers=workers, as_json=as_json,
            options={"target": wanted, "groups": groups, "baseline": baseline},
        )  # fmt: skip
    if prompt is None:
        raise OptionError("nothing to explain; give a PROMPT, or --prompts FILE")
    files = {} if out is None else _files(out)
    asked: list[Any] = [None if text is None else prompt_of(text, ids) for text in (prompt, instead)]
    if asked[0] == asked[1]:
        raise PromptError("--instead is the same prompt; give one with another answer")
    question = {
        "model": model, "dtype": dtype, "target": target, "instead": instead, "units": units, "groups": groups,
        "baseline": baseline, "ids": ids,
    }  # fmt: skip
    kept = _kept(prompt, question) if keep else None
    with progress(f"loading {model}") as report:
        from ..base.files import check_writable
        from ..explanation.explaining import explain as explained
        from ..models.loading import load_model

        for path in (*files.values(), *(() if kept is None else (kept,))):
            check_writable(path)
        loaded = load_model(model, dtype=dtype, device=device)
        found = explained(
            loaded, asked[0], wanted, asked[1],
            units=units, groups=groups, baseline=baseline, features=features, progress=report,
        )  # fmt: skip
        written = _write(found, files)
        if kept is not None:
            report(None, "keeping it with its graph")
            written += _keep(found, kept)
    facts = found.facts | {"files": written, "seconds": round(time.perf_counter() - begin, 3)}
    if as_json:
        return print_json(facts)
    _show(facts)
    if kept is not None:
        stdout.print(f"[dim]In the browser: unweave serve --model {escaped(model)}[/]", highlight=False)


def _write(found: Any, files: dict[str, Path]) -> list[str]:
    """Write what was asked for, each file by its kind; the names of those there was something for."""
    from ..base.files import write_atomically

    texts = {path: _content(found, kind) for kind, path in files.items()}
    return [
        str(write_atomically(path, lambda name, text=text: Path(name).write_text(text, "utf-8")))
        for path, text in texts.items()
        if text is not None
    ]


def _show(facts: dict[str, Any]) -> None:
    from .show_explanation import show_explanation

    show_explanation(facts, stdout)
    if facts["files"]:
        stdout.print(f"\nWritten to [bold]{escaped(', '.join(facts['files']))}[/].", highlight=False)
    stdout.print(f"\n[dim]{facts['seconds']:.1f} s[/]", highlight=False)


def _kept(prompt: str, question: dict[str, Any]) -> Path:
    from ..base.words import name_of_question

    return Path("graphs") / f"{name_of_question(prompt, question)}.response.graph.safetensors"


def _keep(found: Any, path: Path) -> list[str]:
    """Write the response graph of the same question, and the explanation beside it, where the page looks for both."""
    from ..errors import UnweaveError
    from ..explanation.stored import SUFFIX, graph_of, write_explanation
    from ..server.library import beside

    written = [str(write_explanation(found.facts, beside(path, SUFFIX)))]
    try:
        graph_of(found).save(path)
    except UnweaveError as error:  # shown then with any other graph of the prompt
        stderr.print(f"[yellow]No response graph was made:[/] {escaped(str(error))}", highlight=False)
        return written
    return [*written, str(path)]


def _check(units: str, groups: int | None, baseline: str) -> None:
    """Refuse what no model could answer, before one is loaded."""
    if units != "neurons":
        raise OptionError(f"--units {units!r} cannot be explained; use neurons")
    if groups is not None and groups < 1:
        raise OptionError(f"--groups is {groups}; it must be at least 1")
    if baseline not in BASELINES:
        raise OptionError(f"--baseline {baseline!r} is none of {', '.join(BASELINES)}")


def _files(out: Path) -> dict[str, Path]:
    if out.suffix in SUFFIXES:
        return {SUFFIXES[out.suffix]: out}
    if out.suffix and out.suffix[1:].isalpha():
        raise OptionError(f"--out {out}: give a name that ends in {', '.join(SUFFIXES)}, or in none for all of them")
    return {kind: out.with_name(f"{out.name}{suffix}") for suffix, kind in SUFFIXES.items()}


def _content(found: Any, kind: str) -> str | None:
    import json

    match kind:
        case "facts":
            return json.dumps(found.facts, indent=2, ensure_ascii=False) + "\n"
        case "report":
            return found.markdown
        case "picture":
            return found.picture + "\n"
        case _:
            return found.claims
