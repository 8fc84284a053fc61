"""`unweave steer`."""

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ..base.choices import Mode, choice
from ..base.parsing import layer_range, prompt_of, target_of
from ..errors import OptionError
from .terminal import AsJson, Chat, Dictionary, Model, System, escaped, print_json, progress, stdout, wants_chat

MOST_DOSES = 1000
"""In a sweep; each is a run of the model."""


def steer(
    prompt: Annotated[
        str | None, typer.Argument(help="The text whose next token is changed. Default: the graph's.")
    ] = None,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    ablate: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Ablate a feature (12_345_5, 12_345_*) or supernode; repeatable."),
    ] = None,
    scale: Annotated[
        list[str] | None, typer.Option(metavar="NODE=FACTOR", help="Multiply its activation; repeatable.")
    ] = None,
    set_to: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE=VALUE", help="Set its activation; repeatable.")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="NODE=AMOUNT", help="Add to its activation; repeatable.")
    ] = None,
    swap_from: Annotated[
        str | None, typer.Option(metavar="PROMPT", help="Replace the features of PROMPT by those of this prompt.")
    ] = None,
    swap_factor: Annotated[
        float, typer.Option(help="With --swap-from: how far to go; 1 is the other prompt's features, 2 twice as far.")
    ] = 1.0,
    swap_at: Annotated[
        list[int] | None,
        typer.Option(metavar="POSITION", help="With --swap-from: swap only features at this position; repeatable."),
    ] = None,
    swap_only: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="With --swap-from: swap only these features; repeatable.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="frozen_attention, open (all live), frozen (all held), replacement[_frozen|_open].")
    ] = "frozen_attention",
    layers: Annotated[
        str | None, typer.Option(metavar="A-B", help="Hold the MLP outputs of these layers, first and last included.")
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Show this feature's activation before and after; repeatable."),
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="Report this token too, as text (' Paris') or #id; repeatable.")
    ] = None,
    generate: Annotated[
        int | None, typer.Option(metavar="N", help="Generate N tokens, with and without the changes.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="With --generate: 0 takes the likeliest token; above 0, tokens are sampled.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --temperature: the random seed.")] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="A:B[:N]", help="Repeat the changes at N factors (default 9) from A to B, such as -4:4."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --sweep: plot it to a .svg, .png or .pdf file.")
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A graph of this model and these transcoders; only its nodes can be named."),
    ] = None,
    supernodes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Names for sets of features, as JSON: {"Texas": ["12_345_5", ...]}.'),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Prompts are lists of token ids, such as '1 504 3575'.")] = False,
    chat: Chat = False,
    system: System = None,
    as_json: AsJson = False,
) -> None:
    """Change features in the real model and see how its prediction changes."""
    begin = time.perf_counter()
    asked = _asked(ablate, scale, set_to, add)
    factors = None if sweep is None else _factors(sweep)
    held = None if layers is None else layer_range(layers, "--layers")
    _check_options(
        asked or swap_from is not None,
        (plot, sweep, "--plot needs --sweep"),
        (swap_only, swap_from, "--swap-only needs --swap-from"),
        (swap_at, swap_from, "--swap-at needs --swap-from"),
        (temperature, generate, "--temperature needs --generate"),
    )
    _check_prompts(ids, prompt, swap_from)
    framed = wants_chat(chat, system, ids)
    _check_drawing(generate, temperature, seed)
    how: dict[str, Any] = {"mode": choice("--mode", mode, Mode), "layers": held}
    with progress(f"loading {model}") as report:
        from ..interventions.described import describe
        from ..interventions.interventions import record
        from ..interventions.naming import Names
        from ..transcoders.replacement import load
        from .sweep_plot import plot_sweep

        _check_plot(plot)
        named, traced = _read(supernodes, graph)
        loaded = load(model, transcoders, dtype=dtype, device=device)
        _check_graph(traced, graph, loaded)
        if framed:
            prompt, swap_from = (_framed(loaded.language_model, text, system) for text in (prompt, swap_from))
        recording = record(loaded, _prompt(prompt, ids, traced))
        names = Names(loaded, named, traced)
        changes = sweepable = _changes(names, asked)
        if swap_from is not None:
            other = _prompt(swap_from, ids)
            whole, part = _swapped(loaded, recording, other, _features(names, swap_only), swap_at, swap_factor)
            sweepable, changes = [*changes, *whole], [*changes, *part]
        tokens = [target_of(text) for text in token or ()]
        report(0.0, "running")
        run = _Run(loaded, recording, how, report)
        outcome = run.outcome(changes, _features(names, watch), generating=generate is not None)
        swept = None if factors is None else run.sweep(sweepable, factors, tokens)
        if plot is not None and swept is not None:
            plot_sweep(swept, plot, prompt or "")
        written = None if generate is None else run.generate(changes, generate, temperature or 0.0, seed or 0)
        facts = {
            "prompt": prompt or (traced and traced.prompt),
            **describe(
                loaded, recording, changes, how["mode"], held, outcome, tokens, written, swept,
                labels=_labels(loaded),
            ),
        }  # fmt: skip
    _tell(
        facts | {"plot": None if plot is None else str(plot), "seconds": round(time.perf_counter() - begin, 3)}, as_json
    )


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(facts)
    from .show_effects import show_effects

    show_effects(facts, stdout)
    drawn = "" if facts["plot"] is None else f"Drawn to [bold]{escaped(facts['plot'])}[/]. "
    stdout.print(f"\n{drawn}[dim]{facts['seconds']:.1f} s[/]", highlight=False)


class _Typed(NamedTuple):
    """A change as it was typed: what to do with which node or supernode, and how much."""

    action: str
    node: str
    value: float


def _asked(
    ablate: list[str] | None, scale: list[str] | None, set_to: list[str] | None, add: list[str] | None
) -> list[_Typed]:
    assigned = (("scale", "--scale", scale), ("set", "--set", set_to), ("add", "--add", add))
    return [_Typed("ablate", text, 0.0) for text in ablate or ()] + [
        _Typed(action, name, value) for action, option, given in assigned for name, value in _assignments(option, given)
    ]


def _check_options(anything: Any, *needs: tuple[Any, Any, str]) -> None:
    """Options that say nothing, or nothing without another: (option, what it needs, complaint)."""
    if not anything:
        raise OptionError("nothing to change; give --ablate, --scale, --set, --add or --swap-from")
    for option, needed, complaint in needs:
        if option and needed is None:
            raise OptionError(complaint)


def _check_prompts(ids: bool, *prompts: str | None) -> None:
    for text in prompts:
        if text is not None:
            prompt_of(text, ids)


def _check_plot(path: Path | None) -> None:
    from ..base.files import check_writable
    from .sweep_plot import check_plot_suffix

    if path is not None:
        check_plot_suffix(check_writable(path))


def _labels(model: Any) -> Any:
    from ..features.pages import pages_of

    pages = pages_of(model.transcoders)
    return None if pages is None else pages.labels


def _check_drawing(generate: int | None, temperature: float | None, seed: int | None) -> None:
    if (temperature is not None or seed is not None) and generate is None:
        raise OptionError("--temperature and --seed draw the tokens of --generate N; give it too")
    if seed is not None and not temperature:
        raise OptionError("--seed chooses random numbers, and none are drawn without --temperature above 0")


def _read(supernodes: Path | None, graph: Path | None) -> tuple[dict[str, Any], Any]:
    from ..graphs.graph import Graph
    from ..interventions.naming import read_supernodes

    return {} if supernodes is None else read_supernodes(supernodes), None if graph is None else Graph.load(graph)


def _check_graph(traced: Any, path: Path | None, model: Any) -> None:
    from ..interventions.naming import check_graph

    if traced is not None and path is not None:
        check_graph(traced, path, model)


def _framed(model: Any, text: str | None, system: str | None) -> str | None:
    from ..models.chats import chat_text

    return None if text is None else chat_text(model, text, system)


def _features(names: Any, given: list[str] | None) -> list[Any]:
    return [feature for text in given or () for feature in names.features(text)[0]]


def _changes(names: Any, asked: list[_Typed]) -> list[Any]:
    from ..interventions import edits

    make = {"scale": edits.scale, "set": edits.set_to, "add": edits.add}
    changes: list[edits.Change] = []
    for action, node, value in asked:
        features, name = names.features(node)
        changes.append(edits.ablate(features, name) if action == "ablate" else make[action](features, value, name))
    return changes


def _swapped(
    model: Any, recording: Any, other: Any, only: list[Any], positions: list[int] | None, factor: float
) -> tuple[list[Any], list[Any]]:
    """The changes of a swap, as they are and as far as they are to go."""
    from ..interventions.edits import dosed
    from ..interventions.steering import swap

    changes = swap(model, recording, other, features=only or None, positions=positions)
    return changes, dosed(changes, factor)


class _Run(NamedTuple):
    """What all passes of one command share."""

    model: Any
    recording: Any
    how: dict[str, Any]
    report: Any

    def outcome(self, changes: list[Any], watched: list[Any], *, generating: bool) -> Any:
        from ..interventions.edits import only_generated
        from ..interventions.interventions import intervene

        if generating and only_generated(changes):
            return None
        return intervene(self.model, self.recording, changes, **self.how, watch=watched)

    def sweep(self, changes: list[Any], factors: list[float], tokens: list[Any]) -> Any:
        from ..interventions.steering import sweep

        curves = [*tokens, int(self.recording.logits[-1].argmax())] if tokens else []
        return sweep(self.model, self.recording, changes, factors, tokens=curves, **self.how, progress=self.report)

    def generate(self, changes: list[Any], count: int, temperature: float, seed: int) -> Any:
        from ..interventions.generation import generate

        self.report(0.0, "writing")
        return generate(
            self.model, self.recording, changes, **self.how, max_new_tokens=count, temperature=temperature, seed=seed,
            progress=self.report
        )  # fmt: skip


def _prompt(text: str | None, ids: bool, graph: Any = None) -> Any:
    """A prompt as text or ids; without one, the graph's."""
    if text is None:
        if graph is None:
            raise OptionError("no prompt; give a PROMPT or a --graph")
        return list(graph.provenance.input_ids)
    return prompt_of(text, ids)


def _assignments(option: str, given: list[str] | None) -> list[tuple[str, float]]:
    found = []
    for text in given or ():
        name, sign, value = text.rpartition("=")
        if not sign:
            raise OptionError(f"{option} {text}: give NODE=NUMBER, such as 12_345_5=-2")
        try:
            found.append((name, float(value)))
        except ValueError as error:
            raise OptionError(f"{option} {text}: {value!r} is not a number") from error
    return found


def _factors(text: str) -> list[float]:
    parts = text.split(":")
    try:
        low, high = float(parts[0]), float(parts[1])
        count = int(parts[2]) if len(parts) == 3 else 9
        if len(parts) > 3 or not 2 <= count <= MOST_DOSES or not abs(high - low) < float("inf"):
            raise ValueError
    except (ValueError, IndexError) as error:
        raise OptionError(
            f"--sweep {text[:60]}: give two factors and perhaps how many (at least 2, at most {MOST_DOSES}), such "
            f"as -4:4 or -4:4:17"
        ) from error
    return [low + (high - low) * step / (count - 1) for step in range(count)]
