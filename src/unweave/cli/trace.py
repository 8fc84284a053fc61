"""`unweave trace`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..attribution.question import Question
from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD
from ..base.parsing import prompt_of, target_of
from ..errors import OptionError
from .many import trace_prompts
from .options import question_options, taking
from .terminal import AsJson, Chat, Dictionary, Model, System, escaped, print_json, progress, stdout, wants_chat
from .trace_pairs import trace_pairs
from .trace_response import ResponseOptions, trace_response


@taking(question_options(Question), before="node_threshold")
def trace(
    prompt: Annotated[str | None, typer.Argument(help="The text whose next token is explained.")] = None,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Token to explain, as text (' Paris') or #id; repeatable. Default: the likely ones."),
    ] = None,
    minus: Annotated[str | None, typer.Option(help="With one --target: explain its logit minus this token's.")] = None,
    node_threshold: Annotated[
        float, typer.Option(help="Keep nodes with this share of the influence; 1 keeps all.")
    ] = NODE_THRESHOLD,
    edge_threshold: Annotated[
        float, typer.Option(help="Keep edges with this share of their influence; 1 keeps all.")
    ] = EDGE_THRESHOLD,
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
    estimate: Annotated[bool, typer.Option("--estimate", help="Estimate time, memory and disk, and stop.")] = False,
    response: Annotated[
        bool,
        typer.Option(
            "--response",
            help="A response graph instead: how the prediction would change without each unit, to first order.",
        ),
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
    **question: Any,
) -> None:
    """Trace a prompt: find the features, errors and tokens that caused the next token."""
    begin = time.perf_counter()
    framed = wants_chat(chat, system, ids)
    if minus is not None and len(target or []) != 1:
        raise OptionError("--minus needs exactly one --target")
    _check_together(
        prompt=prompt, target=target, instead=instead, ids=ids, chat=framed, prompts=prompts, estimate=estimate,
        open=open_, response=response,
    )  # fmt: skip
    source = {"model": model, "transcoders": transcoders, "dtype": dtype, "device": device}
    if response:
        wanted = ResponseOptions(**source, units=units, baseline=baseline, most=most, attention=attention)
        if prompts is not None:
            return trace_pairs(prompts, wanted, out, as_json)
        return trace_response(
            prompt, wanted, target or [], minus, instead, position=question["position"], ids=ids, out=out,
            as_json=as_json,
        )  # fmt: skip
    max_memory = question.pop("max_memory")
    options = question | {
        "targets": tuple(map(target_of, target or ())), "minus": None if minus is None else target_of(minus),
        "node_threshold": node_threshold, "edge_threshold": edge_threshold, "chat": framed, "system": system,
    }  # fmt: skip
    if prompts is not None:
        return trace_prompts(
            prompts, out, **source, features=features, workers=workers, max_memory=max_memory, as_json=as_json,
            options=options,
        )  # fmt: skip
    if prompt is None:
        raise OptionError("nothing to trace; give a PROMPT, or --prompts FILE")
    named = [*options["targets"], *([] if minus is None else [options["minus"]])]
    if len(set(named)) < len(named):
        raise OptionError("two of the targets are the same token; give each once, and --minus another one")
    told = {
        "model": model, "transcoders": transcoders, "dtype": dtype, "target": target, "minus": minus, **question,
        "thresholds": [node_threshold, edge_threshold], "ids": ids, "system": system if framed else None,
        "chat": framed,
    }  # fmt: skip
    task = _Task(prompt_of(prompt, ids), source, options, max_memory, features, *_file_of(prompt, told, out, force))
    loaded, facts = _estimated(task) if estimate else _traced(task)
    facts |= {"seconds": round(time.perf_counter() - begin, 3)}
    if as_json:
        print_json(facts)
    else:
        (_show_estimate if estimate else _show)(facts)
    if estimate:
        return
    if open_:
        from ..server.run import listen
        from .serve import open_server

        with listen(None) as listening:
            open_server([task.out], listening, loaded)
    elif not as_json:
        _show_next(task.out, model)


TOGETHER = (
    (("response",), ("estimate", "open", "chat"), "--response goes without --estimate, --open and chat templates"),
    (
        ("response", "prompts"), ("prompt", "target", "instead", "ids"),
        "with --response --prompts, prompts, targets and contrasts stand in the file alone",
    ),
    (
        ("prompts",), ("prompt", "ids", "open", "estimate"),
        "--prompts takes the place of PROMPT, and goes without --ids, --open and --estimate; a line may hold "
        "ids, and unweave serve shows the graphs",
    ),
)  # fmt: skip
"""Options, those that do not go with them all, and what to say."""


def _check_together(**given: Any) -> None:
    """Refuse options that do not go together.

    Raises:
        OptionError: some of them were given.
    """
    there = {name for name, value in given.items() if value not in (None, False, [])}
    for these, others, said in TOGETHER:
        if there.issuperset(these) and there.intersection(others):
            raise OptionError(said)
    if "instead" in there and "response" not in there:
        raise OptionError("--instead is for response graphs; add --response")


@dataclass(frozen=True)
class _Task:
    """One prompt to trace."""

    prompt: str | list[int]
    source: dict[str, Any]
    """What to load, as `load` takes it."""
    options: dict[str, Any]
    """As `TraceOptions` takes them."""
    max_memory: str | None
    features: Path | None
    """Feature pages."""
    out: Path
    replace: bool
    """Whether a trace with another dictionary may be replaced."""

    def load(self) -> Any:
        """The model, or the one line of what is wrong with the question before it is loaded."""
        from ..many.lines import TraceOptions
        from ..transcoders.replacement import load

        TraceOptions(**self.options).question(self.prompt, self.max_memory)
        loaded = load(**self.source)
        if not self.replace and self.out.exists():
            _check_same(self.out, loaded)
        return loaded

    def question(self, loaded: Any) -> Question:
        """What is asked of the loaded model."""
        from ..attribution.work import bounded
        from ..many.lines import TraceOptions

        asked = bounded(TraceOptions(**self.options).question(self.prompt, self.max_memory), loaded.transcoders)
        if not self.options["chat"]:
            return asked
        from ..models.chats import chat_text

        assert isinstance(self.prompt, str)  # chat templates are refused together with --ids
        return replace(asked, prompt=chat_text(loaded.language_model, self.prompt, self.options["system"]))


def _file_of(prompt: str, question: dict[str, Any], out: Path | None, force: bool) -> tuple[Path, bool]:
    """Where the graph goes, and whether whatever is there may be replaced."""
    from ..base.files import check_graph_name, check_writable
    from ..base.words import name_of_question

    file = out or Path("graphs") / f"{name_of_question(prompt, question)}.graph.safetensors"
    check_writable(check_graph_name(file))
    return file, force or out is not None


def _traced(task: _Task) -> tuple[Any, dict[str, Any]]:
    """Trace, write the graph, and say what is in it."""
    from ..graphs.interchange import write_json

    with progress(f"loading {task.source['model']}") as report:
        from ..explanation.summary import summarize
        from ..explanation.traced import traced
        from ..features.pages import pages_of

        loaded = task.load()
        graph, pruned = traced(
            loaded, task.question(loaded), task.options["node_threshold"], task.options["edge_threshold"],
            pages=pages_of(loaded.transcoders, task.features), partial=task.out.parent / f".{task.out.name}.partial",
            progress=report,
        )  # fmt: skip
        if task.out.suffix == ".json":
            write_json(pruned, task.out)
        else:
            pruned.save(task.out)
        report(None, "summing up")
        return loaded, summarize(graph, pruned, loaded) | {"file": str(task.out)}


def _estimated(task: _Task) -> tuple[Any, dict[str, Any]]:
    """What tracing would take, the time to load included."""
    begin = time.perf_counter()
    with progress(f"loading {task.source['model']}") as report:
        from ..attribution.estimate import estimate
        from ..features.pages import pages_of

        loaded = task.load()
        pages_of(loaded.transcoders, task.features)  # what tracing would refuse is refused now
        loading = time.perf_counter() - begin
        report(0.0, "estimating")
        found = estimate(loaded, task.question(loaded), resumable=True)
        return loaded, {**found._asdict(), "loading_seconds": loading, "seconds": found.seconds + loading}


def _show(facts: dict[str, Any]) -> None:
    from .show_trace import show

    show(facts, stdout)
    stdout.print(f"\nWritten to [bold]{escaped(facts['file'])}[/] in {facts['seconds']:.1f} s.", highlight=False)


def _show_next(out: Path, model: str) -> None:
    stdout.print(f"[dim]Show the file's facts: unweave info {escaped(str(out))}[/]", highlight=False)
    stdout.print(
        f"[dim]In the browser: unweave serve {escaped(str(out.parent))} --model {escaped(model)}[/]", highlight=False
    )


def _show_estimate(facts: dict[str, Any]) -> None:
    for line in (
        f"{facts['rows']:,} rows over {facts['active_features']:,} active features and {facts['tokens']:,} tokens",
        f"time    {facts['seconds']:,.1f} s, of which {facts['loading_seconds']:.1f} s to load the model",
        f"memory  {facts['memory'] / 1e9:.2f} GB",
        f"disk    {facts['disk'] / 1e9:.2f} GB while it runs",
    ):
        stdout.print(line, highlight=False)


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
