"""`unweave eval`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .terminal import AsJson, Dictionary, Model, escaped, print_json, progress, stdout


def eval_(
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=SOURCE or SOURCE: file, folder, JSONL, Parquet or dataset; repeatable. Default: what ships."
        ),
    ] = None,
    short: Annotated[
        bool,
        typer.Option("--short", help="Also short texts about the world, like typical prompts, reported as `short`."),
    ] = False,
    tokens: Annotated[int, typer.Option(help="Tokens to evaluate on, shared by all kinds of text.")] = 20_000,
    context: Annotated[
        int | None, typer.Option(help="Tokens in a block; default: 128, or fewer where the model takes fewer.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(help="How many of the prompts to trace; 0: none; default: all.")
    ] = None,
    prompts_from: Annotated[
        Path | None,
        typer.Option(help="File with a prompt on each line; default: the 20 fixed ones, or the model's own."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Use only documents that training with this --held-out did not see; 0: all.")
    ] = 0.0,
    neurons: Annotated[bool, typer.Option(help="Also evaluate the model's own neurons, for comparison.")] = True,
    card: Annotated[Path | None, typer.Option(help="Folder for the card: Markdown, plots and JSON.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Random seed for blocks of text, directions and perturbations.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate transcoders: how well they replace the MLPs, against baselines, and what their graphs explain."""
    from ..evaluation.prompts import prompts_of

    known = prompts_of(model, prompts_from)
    if prompts is not None and not 0 <= prompts <= len(known):
        raise OptionError(f"--prompts is {prompts}; there are {len(known)}, give 0 to {len(known)}")
    with progress(f"loading {model}") as report:
        from ..corpus.blocks import SHORT, named_sources, read_texts
        from ..corpus.text import usual_context
        from ..evaluation.card import card_files, write_card
        from ..evaluation.evaluate import evaluate
        from ..transcoders.replacement import load

        sources = named_sources(text or [], model)
        if short and sources.setdefault("short", str(SHORT)) != str(SHORT):
            raise OptionError("--short adds a kind called short, and --text gives one of that name; name yours apart")
        if card is not None:
            card_files(card)
        loaded = load(model, transcoders, device=device)
        report(0.0, "reading text")
        length = usual_context(loaded.language_model) if context is None else context
        texts, fit = read_texts(
            loaded.language_model, sources, tokens=tokens, context=length, held_out=held_out, seed=seed
        )
        found = evaluate(loaded, texts, fit, prompts=known[:prompts], neurons=neurons, seed=seed, progress=report)
        written = None if card is None else write_card(found, card)
    if as_json:
        print_json(found.facts())
        return
    from .show_evaluation import show

    show(found, stdout)
    if written is not None:
        stdout.print(f"\nCard in [bold]{escaped(str(written))}[/]", highlight=False)
