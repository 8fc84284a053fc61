"""`unweave features build|show|search|like|label|score|export|carry|import`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.parsing import feature_of
from ..errors import OptionError
from .terminal import AsJson, Dictionary, Model, escaped, print_json, progress, stdout

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Feature pages: build, read and search them, label features, score the labels.",
)
Folder = Annotated[
    Path | None,
    typer.Option("--features", "-f", help="Folder of feature pages. Default: those of the default transcoders."),
]
Neurons = Annotated[bool, typer.Option("--neurons", help="Pages of the model's neurons, those that ship.")]
Text = Annotated[
    list[str] | None,
    typer.Option(help="Text file, folder, JSONL, Parquet or dataset; SOURCE=WEIGHT mixes; repeatable."),
]
Held = Annotated[
    list[str] | None,
    typer.Option("--text", help="Text to score on; every source counts the same; repeatable."),
]
Context = Annotated[int, typer.Option(help="Tokens in a block.")]


@app.command()
def build(
    text: Text = None,
    out: Annotated[Path, typer.Option(help="Folder for the pages; a stopped build there is resumed.")] = Path(
        "features"
    ),
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    tokens: Annotated[int, typer.Option(help="Stop after this many tokens, or at the end of the text.")] = 1_000_000,
    context: Context = 128,
    held_out: Annotated[
        float, typer.Option(help="Leave out this share of the documents, so that labels can be scored on them.")
    ] = 0.0,
    strongest: Annotated[
        int, typer.Option(help="How many of each feature's strongest contexts to keep, at most 8.")
    ] = 8,
    sampled: Annotated[
        int, typer.Option(help="How many contexts to sample evenly over each feature's activations, at most 32.")
    ] = 16,
    neurons: Annotated[
        Path | None, typer.Option(help="Build pages of the model's neurons too, from the same pass, in this folder.")
    ] = None,
    promoted: Annotated[
        str,
        typer.Option(
            help="How promoted tokens are found: causal (through the layers that follow, on average over contexts) or "
            "direct (decoder and unembedding alone)."
        ),
    ] = "causal",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Build feature pages: run the model over text and record what every feature does."""
    if not text:
        raise OptionError("no text; give --text FILE")
    if tokens < 1 or not 0 <= strongest <= 8 or not 0 <= sampled <= 32:
        raise OptionError("--tokens must be at least 1, --strongest 0 to 8, --sampled 0 to 32")
    if promoted not in ("causal", "direct"):
        raise OptionError(f"--promoted {promoted!r} is neither causal nor direct")
    folders = [folder.expanduser() for folder in (out, neurons) if folder is not None]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise OptionError(f"--out and --neurons are the same folder, {out}; give two")
    with progress(f"loading {model}") as report:
        from ..features.building import BuildOptions, build_pages

        build_pages(
            BuildOptions(
                model, transcoders, device, tuple(text), context, held_out, tokens, strongest, sampled, promoted
            ),
            folders,
            report,
        )
    for folder in folders:
        stdout.print(
            f"Pages in [bold]{escaped(str(folder))}[/]. [dim]Look: unweave features show 0_0 --features "
            f"{escaped(str(folder))}[/]",
            highlight=False,
        )


@app.command()
def show(
    feature: Annotated[
        str, typer.Argument(metavar="FEATURE", help="layer_index, such as 12_345; a position after it is ignored.")
    ],
    features: Folder = None,
    neurons: Neurons = False,
    contexts: Annotated[int, typer.Option(help="Show at most this many contexts.")] = 12,
    when: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Show where the feature is active in this text; repeatable."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="With --when: read at most this many tokens.")] = 20_000,
    context: Context = 128,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    as_json: AsJson = False,
) -> None:
    """Show the page of one feature, or when it is on and off in a text; of a neuron, both signs."""
    from .show_features import show_page, show_when

    layer, index = feature_of(feature)
    if when:
        with progress(f"loading {model}") as report:
            from ..corpus.documents import mixed, parse_source
            from ..corpus.text import token_blocks
            from ..features.like import when as when_on
            from ..transcoders.replacement import load

            loaded = load(model, "neurons" if neurons else transcoders)
            levels = _pages(features, loaded.transcoders.of_neurons).levels if loaded.transcoders.of_neurons else ()
            text = mixed([parse_source(source) for source in when])
            blocks = token_blocks(loaded.language_model, text, context, min_characters=1, shorter=True)
            facts = when_on(
                loaded, blocks, layer, index, tokens=tokens, levels=levels,
                progress=lambda share: report(share, "reading"),
            )  # fmt: skip
        print_json(facts) if as_json else show_when(facts, stdout)
        return
    from ..features.details import feature_pages

    pages = _pages(features, neurons)
    found = feature_pages(pages, [(layer, pages.unit(layer, index, sign)) for sign in (1.0, -1.0)]).values()
    if as_json:
        print_json({"pages": list(found)} if pages.of_neurons else next(iter(found)))
        return
    for page in found:
        show_page(page, stdout, contexts=contexts)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="A word or part of one, taken literally, in any case.")],
    features: Folder = None,
    neurons: Neurons = False,
    field: Annotated[
        list[str] | None,
        typer.Option("--in", help="label, token, promoted, suppressed or context; repeatable. Default: all."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many features.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find features by label, by tokens they fire on or promote, and by contexts."""
    from ..features.pages import FIELDS, search_features
    from .show_features import show_found

    rows = search_features(_pages(features, neurons), text, fields=field or FIELDS, limit=limit)
    if as_json:
        print_json({"text": text, "features": rows})
    else:
        show_found(rows, stdout)


@app.command()
def like(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or several example texts.")],
    features: Folder = None,
    neurons: Neurons = False,
    graph: Annotated[
        Path | None, typer.Option(metavar="GRAPH", help="Look among the features of this graph alone.")
    ] = None,
    supernode: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --graph: make what is found a supernode of the graph.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many features.")] = 20,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    as_json: AsJson = False,
) -> None:
    """Find features that are more active on the given texts than on other text."""
    from .show_features import show_like

    if supernode is not None and (graph is None or not supernode.strip()):
        raise OptionError("--supernode names a group of the nodes of a graph; give --graph, and a name")
    with progress(f"loading {model}"):
        from ..features.graphs import in_graph
        from ..features.like import as_rows
        from ..features.like import like as like_texts
        from ..features.pages import open_pages
        from ..graphs.graph import Graph
        from ..transcoders.replacement import load

        given = None if graph is None else Graph.load(graph)
        loaded = load(model, "neurons" if neurons else transcoders)
        pages = open_pages(features, loaded.transcoders)
        nodes = None if given is None else in_graph(given, pages)
        rows = as_rows(pages, like_texts(loaded, pages, text, limit=limit, among=nodes), nodes)
        members = [name for row in rows for name in row.get("nodes", ())]
        if supernode is not None and graph is not None and given is not None and members:
            from ..server.annotations import add_supernode

            add_supernode(graph, given, supernode, members)
    if as_json:
        print_json({"texts": text, "features": rows})
        return
    show_like(rows, len(text), stdout)
    if supernode is not None:
        said = f"Supernode [bold]{escaped(supernode)}[/] of {len(members)} nodes is saved beside {escaped(str(graph))}"
        stdout.print(said if rows else "[dim]Nothing was found, so no supernode was made[/]", highlight=False)


@app.command()
def label(
    feature: Annotated[list[str], typer.Argument(metavar="FEATURE...", help="Features to label, such as 12_345.")],
    endpoint: Annotated[
        str,
        typer.Option(help="Address of an OpenAI-compatible service, up to /v1; the key comes from UNWEAVE_API_KEY."),
    ],
    endpoint_model: Annotated[str, typer.Option(help="The name of the model at the service.")] = "default",
    features: Folder = None,
    text: Held = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to score on.")] = 10_000,
    context: Context = 128,
    save: Annotated[bool, typer.Option("--save", help="Write the labels into the pages.")] = False,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    as_json: AsJson = False,
) -> None:
    """Label features with a language model of your choice; with --text, score the labels on that text."""
    with progress(f"loading {model}") as report:
        from ..features.endpoint import Endpoint
        from ..features.judge import ask_for_labels
        from ..features.pages import open_pages
        from ..features.write import relabel
        from ..transcoders.replacement import load

        service = Endpoint(endpoint, endpoint_model)
        loaded = load(model, transcoders)
        pages = open_pages(features, loaded.transcoders)
        places = [feature_of(name) for name in feature]
        for place in places:
            pages.check_feature(*place)
        blocks = _held_out(loaded, pages, text, tokens, context) if text else None
        rows = ask_for_labels(service, loaded, pages, blocks, places, report=lambda share: report(share, "asking"))
        if save:
            found = {(row["layer"], row["index"]): (row["label"], row["detection"]) for row in rows}
            relabel(pages.folder, found, endpoint_model)
    if as_json:
        print_json({"features": rows})
        return
    for row in rows:
        score = "" if row["detection"] is None else f"  [dim]F1 {row['detection']['f1']:.2f}[/]"
        stdout.print(f"{row['layer']}_{row['index']}  {escaped(row['label'])}{score}", highlight=False)


@app.command()
def score(
    features: Folder = None,
    text: Held = None,
    count: Annotated[int, typer.Option(help="This many random features among those that were active.")] = 1000,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to score on.")] = 20_000,
    context: Context = 128,
    seed: Annotated[int, typer.Option(help="Random seed for the choice of features.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Write the scores into the pages.")] = False,
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    as_json: AsJson = False,
) -> None:
    """Score labels: do they predict on which held-out contexts the features are active?"""
    with progress(f"loading {model}") as report:
        from ..features.judge import judge, sample_live
        from ..features.pages import open_pages
        from ..features.write import rescore
        from ..transcoders.replacement import load

        if count < 1:
            raise OptionError(f"--count is {count}; give at least 1")
        loaded = load(model, transcoders)
        pages = open_pages(features, loaded.transcoders)
        blocks = _held_out(loaded, pages, text, tokens, context)
        facts, found = judge(
            loaded, pages, blocks, sample_live(pages, count, seed), lambda share: report(share, "scoring")
        )
        if save:
            rescore(pages.folder, {place: (one.precision, one.recall, one.f1) for place, one in found.items()})
    if as_json:
        print_json(facts)
        return
    stdout.print(
        f"{facts['scored']} of {facts['features']} features fire in {facts['contexts']:,} contexts of "
        f"{facts['context']} held-out tokens",
        highlight=False,
    )
    for name, title in (("label", "label"), ("baseline", "most frequent token")):
        for unit in ("contexts", "positions"):
            one = facts[name][unit]
            figures = (
                f"precision {one['precision']:.3f}  recall {one['recall']:.3f}  F1 {one['f1']:.3f}  median F1 "
                f"{one['median_f1']:.3f}"
            )
            stdout.print(f"  {title:<20} {unit:<10} {figures}", highlight=False)
    stdout.print(
        f"  the label has the better F1 for {facts['better']:.0%} of features (ties count half)", highlight=False
    )


@app.command()
def export(
    out: Annotated[
        Path,
        typer.Argument(
            help="A folder, for all pages in circuit-tracer's format; NAME.json, for some in Neuronpedia's."
        ),
    ],
    features: Folder = None,
    feature: Annotated[list[str] | None, typer.Option(help="With NAME.json: this feature; repeatable.")] = None,
    source_set: Annotated[
        str, typer.Option(help="With NAME.json: Neuronpedia's name for the transcoders.")
    ] = "unweave",
) -> None:
    """Export pages in the formats of other tools."""
    from ..base.files import check_writable
    from ..features.exchange import export_neuronpedia, export_peer
    from ..features.pages import open_pages

    pages = open_pages(features)
    if out.suffix == ".json":
        if not feature:
            raise OptionError("no features; give --feature 12_345 for each that is wanted")
        export_neuronpedia(pages, [feature_of(name) for name in feature], check_writable(out), source_set)
    else:
        check_writable(out / "index.json.gz")
        with progress("writing pages") as report:
            export_peer(pages, out.expanduser(), lambda share: report(share, "writing pages"))
    stdout.print(f"Written to [bold]{escaped(str(out))}[/]", highlight=False)


@app.command()
def carry(
    source: Annotated[Path, typer.Argument(help="Folder of pages of another dictionary with the same encoders.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pages.")],
    of: Annotated[str, typer.Option("--from", help="The dictionary they were built with.")],
    model: Model = "smollm2",
    transcoders: Dictionary = None,
) -> None:
    """Carry pages over to transcoders of which `train --train decoders` changed only the decoders."""
    with progress(f"loading {model}") as report:
        from ..features.carry import carry as carry_over
        from ..features.pages import open_pages
        from ..transcoders.formats import read_transcoders
        from ..transcoders.replacement import load

        old, out = read_transcoders(of), out.expanduser()
        pages = open_pages(source.expanduser(), old)
        carry_over(pages, old, load(model, transcoders), out, report)
    stdout.print(f"Pages in [bold]{escaped(str(out))}[/]", highlight=False)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="A folder with index.json.gz, or a JSON file of Neuronpedia's records.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the pages.")],
    transcoders: Dictionary = None,
) -> None:
    """Import pages from other tools."""
    from ..base.files import check_writable
    from ..features.importing import import_pages
    from ..transcoders.formats import read_transcoders

    dictionary = read_transcoders(transcoders or "smollm2")
    check_writable(out / "pages.json")
    count = import_pages(source.expanduser(), out.expanduser(), dictionary)
    stdout.print(f"{count:,} pages in [bold]{escaped(str(out))}[/]", highlight=False)


def _pages(folder: Path | None, neurons: bool) -> Any:
    """The pages of a folder, or those that ship, of features or of neurons."""
    from ..base.catalogue import default_neuron_pages
    from ..features.pages import open_pages

    return open_pages(default_neuron_pages() if neurons and folder is None else folder)


def _held_out(model: Any, pages: Any, text: list[str] | None, tokens: int, context: int) -> Any:
    """Blocks of text that the pages were not made from: documents they left out, and all of other text."""
    from ..features.held_out import held_out_blocks

    return held_out_blocks(model.language_model, pages, text, tokens, context)
