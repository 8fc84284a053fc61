"""`unweave organism train | eval | text`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from ..organism.config import OrganismConfig
from .terminal import AsJson, Model, escaped, print_json, progress, stdout

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="The organism: a small model trained on a world whose structure is known.",
)
_DEFAULTS = OrganismConfig()


@app.command()
def train(
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints and the model; a stopped run there is resumed.")
    ] = Path("organism-training"),
    steps: Annotated[int, typer.Option(help="Steps to take.")] = _DEFAULTS.steps,
    rows: Annotated[int, typer.Option(help="Rows of sentences per step.")] = _DEFAULTS.rows,
    length: Annotated[int, typer.Option(help="Tokens in a row.")] = _DEFAULTS.length,
    layers: Annotated[int, typer.Option(help="Layers of the model.")] = _DEFAULTS.layers,
    width: Annotated[int, typer.Option(help="Width of its residual stream.")] = _DEFAULTS.width,
    heads: Annotated[int, typer.Option(help="Its attention heads.")] = _DEFAULTS.heads,
    mlp: Annotated[int, typer.Option(help="Neurons of each MLP.")] = _DEFAULTS.mlp,
    seed: Annotated[
        int, typer.Option(help="Random seed for initial weights and the choice of sentences.")
    ] = _DEFAULTS.seed,
    checkpoint: Annotated[int, typer.Option(help="Steps between checkpoints.")] = _DEFAULTS.checkpoint,
) -> None:
    """Train the organism, or resume a stopped run. The defaults reproduce the one that ships."""
    config = OrganismConfig(
        steps=steps,
        rows=rows,
        length=length,
        layers=layers,
        width=width,
        heads=heads,
        mlp=mlp,
        seed=seed,
        checkpoint=checkpoint,
    )
    with progress("reading the world") as report:
        from ..organism.train import train_organism

        folder = train_organism(
            config,
            out,
            lambda step, loss, rate: report(
                step / config.steps, f"step {step}  loss of answers {loss:.4f}  {rate:,.0f} tokens/s"
            ),
        )
    stdout.print(
        f"Model in [bold]{escaped(str(folder))}[/]. [dim]Ask it: unweave organism eval --model "
        f"{escaped(str(folder))}[/]",
        highlight=False,
    )


@app.command("eval")
def eval_(
    behaviours: Annotated[list[str] | None, typer.Argument(help="Names of behaviours; default: all.")] = None,
    model: Model = "organism",
    limit: Annotated[int, typer.Option(help="At most this many instances of each, drawn at random; 0: all.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the organism's accuracy by behaviour, on held-out instances."""
    from ..organism.instances import BEHAVIOURS, TAUGHT_ONLY, instances

    if limit < 0:
        raise OptionError(f"--limit is {limit}; give 0 (all) or more")
    wanted = list(dict.fromkeys(behaviours or BEHAVIOURS))
    for behaviour in wanted:
        instances(behaviour)  # refuses an unknown one before anything is loaded
    with progress(f"loading {model}") as report:
        from ..models.loading import load_model
        from ..organism.accuracy import accuracies, check_organism

        loaded, found = load_model(model), {}
        check_organism(loaded)
        for number, behaviour in enumerate(wanted):
            report(number / len(wanted), behaviour)
            found |= accuracies(loaded, [behaviour], limit or None)
    if as_json:
        rows = [
            {"behaviour": name, "accuracy": share, "instances": count, "held_out": name not in TAUGHT_ONLY}
            for name, (share, count) in found.items()
        ]
        print_json({"model": model, "behaviours": rows})
        return
    width = max(map(len, found))
    stdout.print(f"{'behaviour'.ljust(width)}  right   instances", style="bold", highlight=False)
    for name, (share, count) in found.items():
        stdout.print(
            f"{name.ljust(width)}  {share:6.1%}  {count:6d} {'taught' if name in TAUGHT_ONLY else 'held out'}",
            highlight=False,
        )


@app.command()
def text(
    out: Annotated[Path, typer.Argument(help="NAME.jsonl to write.")],
    documents: Annotated[int, typer.Option(help="Documents to write.")] = 30_000,
    length: Annotated[
        int,
        typer.Option(
            help="Tokens in each; train transcoders with a --context of one more, so that a block is a document."
        ),
    ] = 47,
    seed: Annotated[int, typer.Option(help="Random seed for the choice of sentences.")] = 1,
    held_out: Annotated[bool, typer.Option("--held-out", help="Write held-out sentences instead.")] = False,
) -> None:
    """Write training sentences, to train transcoders on, or held-out ones, to evaluate them on."""
    from ..organism.sentences import write_text

    path = write_text(out, documents, length, seed, held_out)
    stdout.print(f"Written to [bold]{escaped(str(path))}[/]", highlight=False)
