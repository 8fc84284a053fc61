"""`unweave trace`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..attribution.question import Question
from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD
from ..base.parsing import prompt_of, target_of
from ..errors import OptionError
from .many import trace_prompts
from .terminal import AsJson, Chat, Dictionary, Model, System, escaped, print_json, progress, stdout, wants_chat
from .trace_pairs import trace_pairs
from .trace_response import trace_response


def trace(
    prompt: Annotated[str | None, typer.Argument(help="The text whose next token is to be explained.")] = None,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Token to explain, as text (' Paris') or #id; repeatable. Default: the likely ones."),
    ] = None,
    minus: Annotated[str | None, typer.Option(help="With one --target: explain its logit minus this token's.")] = None,
    position: Annotated[
        int, typer.Option(help="The position whose next token is explained; negative counts from the end.")
    ] = Question.position,
    max_logits: Annotated[
        int, typer.Option(help="Without --target: explain at most this many of the likeliest tokens.")
    ] = Question.max_logits,
    logit_mass: Annotated[
        float, typer.Option(help="Without --target: no more tokens than together have this probability.")
    ] = Question.logit_mass,
    max_features: Annotated[
        int | None,
        typer.Option(help="Keep at most this many features, the most influential; the others count as error."),
    ] = Question.max_features,
    node_threshold: Annotated[
        float, typer.Option(help="Keep nodes with this share of the influence; 1 keeps all.")
    ] = NODE_THRESHOLD,
    edge_threshold: Annotated[
        float, typer.Option(help="Keep edges with this share of their influence; 1 keeps all.")
    ] = EDGE_THRESHOLD,
    position_zero: Annotated[
        str, typer.Option(help="error: the first position's MLP outputs are error nodes; drop: constants.")
    ] = Question.position_zero,
    precision: Annotated[str, typer.Option(help="exact, or fast (bfloat16 products).")] = Question.precision,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            "-f",
            help="Folder of feature pages, for labels. Default: those that ship, if they are of these transcoders.",
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="PROMPT is a list of token ids, such as '1 504 3575'.")] = False,
    chat: Chat = False,
    system: System = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL file of prompts, one per line, to trace into the folder --out."),
    ] = None,
    workers: Annotated[str, typer.Option(help="With --prompts: the number of processes, or ray, or ray:N.")] = "1",
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Use at most this much memory, such as 2GB."),
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Estimate time, memory and disk, and stop.")] = False,
    response: Annotated[
        bool, typer.Option("--response", help="A response graph: what would happen without a unit, to first order.")
    ] = False,
    units: Annotated[str, typer.Option(help="With --response: neurons, or the transcoders' features.")] = "neurons",
    instead: Annotated[
        str | None, typer.Option(metavar="PROMPT", help="With --response: the prompt to contrast with.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="With --response: auto, zero, mean or resampled.")] = "auto",
    most: Annotated[int, typer.Option(help="With --response: the number of units.")] = 300,
    attention: Annotated[str, typer.Option(help="With --response: live or held attention patterns.")] = "live",
    out: Annotated[
        Path | None, typer.Option(help="File for the kept graph: .graph.safetensors, or .json for other viewers.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without --out: replace an existing trace, even one with other transcoders.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Open the graph in the browser afterwards, with the model loaded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Trace a prompt: find the features, errors and tokens that caused the next token."""
    begin = time.perf_counter()
    from ..base.files import check_graph_name, check_writable
    from ..base.words import name_of_question
    from ..graphs.interchange import write_json

    framed = wants_chat(chat, system, ids)
    if minus is not None and len(target or []) != 1:
        raise OptionError("--minus needs exactly one --target")
    if response:
        if estimate or open_ or framed:
            raise OptionError("--response goes without --estimate, --open and chat templates")
        if prompts is not None:
            if prompt is not None or target or instead is not None or ids:
                raise OptionError("with --response --prompts, prompts, targets and contrasts stand in the file alone")
            return trace_pairs(
                prompts, model=model, transcoders=transcoders, dtype=dtype, device=device, units=units,
                baseline=baseline, most=most, attention=attention, out=out, as_json=as_json,
            )  # fmt: skip
        return trace_response(
            prompt, model=model, transcoders=transcoders, dtype=dtype, device=device, target=target or [], minus=minus,
            position=position, ids=ids, instead=instead, units=units, baseline=baseline, most=most,
            attention=attention, out=out, as_json=as_json,
        )  # fmt: skip
    if instead is not None:
        raise OptionError("--instead is for response graphs; add --response")
    options: dict[str, Any] = {
        "targets": tuple(map(target_of, target or ())), "minus": None if minus is None else target_of(minus),
        "position": position, "max_logits": max_logits, "logit_mass": logit_mass, "max_features": max_features,
        "position_zero": position_zero, "precision": precision, "node_threshold": node_threshold,
        "edge_threshold": edge_threshold, "chat": framed, "system": system,
    }  # fmt: skip
    if prompts is not None:
        if prompt is not None or ids or open_ or estimate:
            raise OptionError(
                "--prompts takes the place of PROMPT, and goes without --ids, --open and --estimate; a line may hold "
                "ids, and unweave serve shows the graphs"
            )
        trace_prompts(
            prompts, out, model=model, transcoders=transcoders, dtype=dtype, device=device, features=features,
            workers=workers, max_memory=max_memory, as_json=as_json, options=options,
        )  # fmt: skip
        return
    if prompt is None:
        raise OptionError("nothing to trace; give a PROMPT, or --prompts FILE")
    given = prompt_of(prompt, ids)
    named = [target_of(text) for text in target or []]
    same = [text for text in (*named, *([] if minus is None else [target_of(minus)])) if text in named]
    if len(same) > len(named) or len(set(named)) < len(named):
        raise OptionError("two of the targets are the same token; give each once, and --minus another one")
    question = {
        "model": model, "transcoders": transcoders, "dtype": dtype, "target": target, "minus": minus,
        "position": position, "max_logits": max_logits, "logit_mass": logit_mass, "max_features": max_features,
        "thresholds": [node_threshold, edge_threshold], "position_zero": position_zero, "precision": precision,
        "ids": ids, "system": system if framed else None, "chat": framed,
    }  # fmt: skip
    named_by_us, out = out is None, out or Path("graphs") / f"{name_of_question(prompt, question)}.graph.safetensors"
    check_writable(check_graph_name(out))
    with progress(f"loading {model}") as report:
        from ..attribution.work import bounded
        from ..explanation.summary import summarize
        from ..explanation.traced import traced
        from ..features.pages import pages_of
        from ..many.lines import TraceOptions
        from ..transcoders.replacement import load
        from .show_trace import show

        asked = TraceOptions(**options).question(given, max_memory)
        loaded = load(model, transcoders, dtype=dtype, device=device)
        if named_by_us and not force and out.exists():
            _check_same(out, loaded)
        asked = bounded(asked, loaded.transcoders)
        if framed:
            from ..models.chats import chat_text

            asked = replace(asked, prompt=chat_text(loaded.language_model, prompt, system))
        pages = pages_of(loaded.transcoders, features)
        if estimate:
            report(0.0, "estimating")
            return _print_estimate(loaded, asked, time.perf_counter() - begin, as_json)
        graph, pruned = traced(
            loaded, asked, node_threshold, edge_threshold,
            pages=pages, partial=out.parent / f".{out.name}.partial", progress=report,
        )  # fmt: skip
        (write_json if out.suffix == ".json" else _save)(pruned, out)
        report(None, "summing up")
        facts = summarize(graph, pruned, loaded)
    facts |= {"file": str(out), "seconds": round(time.perf_counter() - begin, 3)}
    if as_json:
        print_json(facts)
    else:
        show(facts, stdout)
        stdout.print(f"\nWritten to [bold]{escaped(str(out))}[/] in {facts['seconds']:.1f} s.", highlight=False)
    if open_:
        from ..server.run import listen
        from .serve import open_server

        with listen(None) as listening:
            open_server([out], listening, loaded)
    elif not as_json:
        stdout.print(f"[dim]Show the file's facts: unweave info {escaped(str(out))}[/]", highlight=False)
        stdout.print(
            f"[dim]In the browser: unweave serve {escaped(str(out.parent))} --model {escaped(model)}[/]",
            highlight=False,
        )


def _print_estimate(model: Any, question: Question, loading: float, as_json: bool) -> None:
    from ..attribution.estimate import estimate

    found = estimate(model, question, resumable=True)
    facts = {**found._asdict(), "loading_seconds": loading, "seconds": found.seconds + loading}
    if as_json:
        return print_json(facts)
    stdout.print(
        f"{found.rows:,} rows over {found.active_features:,} active features and {found.tokens:,} tokens",
        highlight=False,
    )
    stdout.print(f"time    {facts['seconds']:,.1f} s, of which {loading:.1f} s to load the model", highlight=False)
    stdout.print(f"memory  {found.memory / 1e9:.2f} GB", highlight=False)
    stdout.print(f"disk    {found.disk / 1e9:.2f} GB while it runs", highlight=False)


def _check_same(path: Path, loaded: Any) -> None:
    """Refuse to replace a trace of the same question put to another model or dictionary under the same name."""
    from ..errors import FileError, GraphError
    from ..graphs.graph import Graph

    try:
        facts = Graph.load(path).provenance
    except GraphError as error:
        raise FileError(f"{path} is there and cannot be read; give --out FILE, or --force to replace it") from error
    if facts.origin != "unweave" or not loaded.transcoders.is_of(facts.transcoders_sha256):
        raise FileError(f"{path} is a trace with another dictionary; give --out FILE, or --force to replace it")


def _save(graph: Any, path: Path) -> None:
    graph.save(path)
