"""The tools: each takes checked arguments and gives the facts that the command line prints with --json."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

from pydantic import BaseModel

from ..base.catalogue import PAIRS
from ..base.fetching import heard
from ..base.files import check_writable, write_atomically
from ..base.parsing import feature_of, prompt_of, target_of
from ..base.progress import Progress
from ..base.words import name_of_question
from ..errors import ClaimError, OptionError, PromptError, UnweaveError
from ..features.details import feature_page
from ..features.pages import FIELDS, Pages, open_pages, pages_of, search_features
from ..graphs.graph import Graph
from ..interventions.naming import check_graph
from ..server.live import Live
from ..server.live import steer as steer_live
from .calls import ExplainCall, ModelsCall, SearchCall, ShowCall, SteerCall, TraceCall, ValidateCall

GRAPH = ".graph.safetensors"


@dataclass(frozen=True)
class Start:
    """What the server was started with."""

    model: str = "smollm2"
    transcoders: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    features: Path | None = None
    out: Path | None = None


@dataclass
class Workplace:
    """The model, loaded by the first call that needs it and kept; and the folder that files go to."""

    start: Start
    folder: Path
    """The one given, or a temporary one."""
    _loading: Lock = field(default_factory=Lock)
    _live: Live | None = None
    _pages: Pages | None = None

    def live(self, report: Progress) -> Live:
        """The loaded model.

        Raises:
            UnweaveError: it cannot be loaded.
        """
        with self._loading:
            if self._live is None:
                from ..transcoders.replacement import load

                title, start = f"loading {self.start.model}", self.start
                report(0.0, title)
                with heard(lambda share, said: report(share, said or title)):
                    model = load(start.model, start.transcoders, dtype=start.dtype, device=start.device)
                self._pages = pages_of(model.transcoders, start.features)
                self._live = Live(model)
            return self._live

    def pages(self, report: Progress) -> Pages:
        """The feature pages of the model's dictionary.

        Raises:
            FileError, TranscoderMismatch: there are none, or of another dictionary.
        """
        live = self.live(report)
        return open_pages(self.start.features, live.model.transcoders) if self._pages is None else self._pages

    def labelled(self) -> Pages | None:
        """The same, or None, once the model is loaded."""
        return self._pages

    def file(self, save: str | None, usual: str, suffix: str) -> Path:
        """Where a result goes: always in the folder, and never through a link.

        Raises:
            OptionError: a name was given, and the server may not write.
            FileError: the folder cannot be written.
        """
        if save is not None and self.start.out is None:
            raise OptionError("nothing can be saved: the server was started without --out FOLDER; leave 'save' out")
        path = self.folder / f"{save or usual}{suffix}"
        if path.is_symlink():
            raise OptionError(f"{path} is a link; results are not written through links")
        return check_writable(path)

    def graph(self, name: str, live: Live) -> tuple[Graph, Path]:
        """A graph of this model: one that was traced here, or a file.

        Raises:
            GraphError: there is none, or it is of another model or dictionary.
        """
        inside = self.folder / f"{name.removesuffix(GRAPH)}{GRAPH}"
        path = inside if "/" not in name and inside.is_file() else Path(name).expanduser()
        graph = Graph.load(path)
        if not graph.is_response:
            check_graph(graph, path, live.model)
        return graph, path


def explain(place: Workplace, call: ExplainCall, report: Progress) -> dict[str, Any]:
    """Say why: what the answer hangs on, by which way, what works against it; measured sentences."""
    from ..explanation.explaining import explain as explained
    from ..explanation.stored import SUFFIX, graph_of, write_explanation

    prompt, wanted = prompt_of(call.prompt, call.ids), None if call.target is None else target_of(call.target)
    instead = None if call.instead is None else prompt_of(call.instead, call.ids)
    if prompt == instead:
        raise PromptError("instead is the same prompt; give one with another answer")
    names = place.start.features if place.start.transcoders == "neurons" else None  # pages of this dictionary
    paths = [] if call.save is None else [place.file(call.save, "", suffix) for suffix in (SUFFIX, ".md", GRAPH)]
    live, written = place.live(report), []
    with live.lock:
        report(0.0, "explaining")
        found = explained(
            live.model, prompt, wanted, instead,
            groups=call.groups, baseline=call.baseline, features=names, progress=report,
        )  # fmt: skip
        if paths:
            written.append(write_explanation(found.facts, paths[0]))
            written.append(write_atomically(paths[1], lambda name: Path(name).write_text(found.markdown, "utf-8")))
            with suppress(UnweaveError):  # without one, the page shows the explanation with any graph of the prompt
                graph_of(found).save(paths[2])
                written.append(paths[2])
    return found.facts | {"files": [str(path) for path in written]}


def trace(place: Workplace, call: TraceCall, report: Progress) -> dict[str, Any]:
    """Trace a prompt: the features, errors and tokens that caused the next token; `graph_name` is for other tools."""
    from ..attribution.work import bounded
    from ..explanation.summary import summarize
    from ..explanation.traced import traced
    from ..many.lines import TraceOptions
    from ..models.chats import chat_text

    if call.minus is not None and len(call.targets) != 1:
        raise OptionError("minus needs exactly one target")
    if call.chat and call.ids:
        raise OptionError("chat is about text; leave ids out, or give the ids of the whole conversation")
    asked = call.model_dump(exclude={"prompt", "save", "ids", "targets", "minus"})
    named = {
        "targets": tuple(map(target_of, call.targets)),
        "minus": None if call.minus is None else target_of(call.minus),
    }
    question = TraceOptions(**asked, **named).question(prompt_of(call.prompt, call.ids))
    start = asdict(place.start) | {"out": None}
    path = place.file(call.save, name_of_question(call.prompt, call.model_dump() | start), GRAPH)
    live = place.live(report)
    with live.lock:
        if call.chat:
            question = replace(question, prompt=chat_text(live.model.language_model, call.prompt, None))
        graph, pruned = traced(
            live.model, bounded(question, live.model.transcoders), call.node_threshold, call.edge_threshold,
            pages=place.labelled(), partial=path.parent / f".{path.name}.partial", progress=report,
        )  # fmt: skip
        pruned.save(path)
        facts = summarize(graph, pruned, live.model)
    kept = place.start.out is not None
    return facts | {"graph_name": path.name.removesuffix(GRAPH), "file": str(path) if kept else None}


def steer(place: Workplace, call: SteerCall, report: Progress) -> dict[str, Any]:
    """Change features in the real model and see how its prediction changes."""
    if (call.prompt is None) == (call.graph is None):
        raise OptionError("give either prompt or graph")
    if not call.changes and call.swap_from is None:
        raise OptionError("nothing to change; give changes or swap_from")
    wanted = call.wanted()
    prompt = None if call.prompt is None else prompt_of(call.prompt, call.ids)
    live = place.live(report)
    asked = place.graph(call.graph, live)[0] if call.graph is not None else prompt
    assert asked is not None
    labels = place.labelled()
    report(0.0, "running")
    facts = steer_live(live, asked, wanted, None if labels is None else labels.labels)
    return {"prompt": asked.prompt if isinstance(asked, Graph) else call.prompt, **facts}


def validate(place: Workplace, call: ValidateCall, report: Progress) -> dict[str, Any]:
    """Test a graph by intervention: does it predict what happens in the real model? Or check claims."""
    from ..validation.control import Control
    from ..validation.results import Settings, report_path
    from ..validation.validate import validate as tested

    if (call.graph is None) == (call.claims is None):
        raise OptionError("give either graph or claims")
    if call.graph is None:
        return _check_claims(place, str(call.claims), report)
    asked = call.model_dump(include={"ablations", "pairs", "reach", "disturbances", "control", "seed", "neurons"})
    live = place.live(report)
    graph, path = place.graph(call.graph, live)
    if graph.is_response:
        raise OptionError(f"{call.graph} is a response graph; test it with: unweave validate {path}")
    ending = ".validation.json"
    target = place.file(call.save, report_path(path).name.removesuffix(ending), ending)
    kept = target.with_suffix(".partial")
    with live.lock:
        report(0.0, "testing")
        control = (
            Control.on_text(live.model, (), lambda share: report(share, "fitting a random dictionary"))
            if call.control
            else None
        )
        found = tested(
            live.model, graph, Settings(**asked), control=control, keep=kept, budget=call.budget, name=str(path),
            progress=report,
        )  # fmt: skip
        found.save(target)
        if found.complete:
            kept.unlink(missing_ok=True)
    return {**found.facts(), "file": str(target) if place.start.out is not None else None}


def _check_claims(place: Workplace, text: str, report: Progress) -> dict[str, Any]:
    from ..validation.claims import check_claims, claims_facts, read_claims

    with TemporaryDirectory(prefix="unweave-") as folder:
        path = Path(folder) / "claims.yaml"
        path.write_text(text, "utf-8", errors="replace")
        try:
            file = read_claims(path)
        except ClaimError as error:
            raise ClaimError(str(error).replace(str(path), "claims")) from error
    live = place.live(report)
    if file.model not in (None, place.start.model, live.name):
        raise OptionError(f"the claims are about {file.model}, and this server runs {place.start.model}")
    with live.lock:
        report(0.0, "checking")
        return claims_facts(file, check_claims(file, live.model, report))


def search(place: Workplace, call: SearchCall, report: Progress) -> dict[str, Any]:
    """Find features by label, by tokens they fire on or promote, and by contexts."""
    rows = search_features(place.pages(report), call.text, fields=call.fields or FIELDS, limit=call.limit)
    return {"text": call.text, "features": rows}


def show(place: Workplace, call: ShowCall, report: Progress) -> dict[str, Any]:
    """Show the page of one feature: when it fires, what it promotes, its label."""
    layer, index = feature_of(call.feature)
    facts = feature_page(place.pages(report), layer, index)
    return facts | {"contexts": facts["contexts"][: call.contexts]}


def models(place: Workplace, call: ModelsCall, report: Progress) -> dict[str, Any]:
    """List known models and their dictionaries, and the one that this server runs."""
    return {"models": [pair._asdict() for pair in PAIRS.values()], "served": place.start.model}


class ToolOf(NamedTuple):
    """A tool: what it takes, what it does, whether it changes nothing."""

    takes: type[BaseModel]
    work: Callable[[Workplace, Any, Progress], dict[str, Any]]
    reads: bool = True


TOOLS = {
    "explain": ToolOf(ExplainCall, explain, False),
    "trace": ToolOf(TraceCall, trace, False),
    "steer": ToolOf(SteerCall, steer),
    "validate": ToolOf(ValidateCall, validate, False),
    "search_features": ToolOf(SearchCall, search),
    "show_feature": ToolOf(ShowCall, show),
    "models": ToolOf(ModelsCall, models),
}


def answer(place: Workplace, name: str, call: Any, report: Progress) -> dict[str, Any]:
    """The facts of one call, with the seconds that it took.

    Raises:
        UnweaveError: it cannot be done as asked.
    """
    begin = time.perf_counter()
    facts = TOOLS[name].work(place, call, report)
    return facts if name == "models" else facts | {"seconds": round(time.perf_counter() - begin, 3)}
