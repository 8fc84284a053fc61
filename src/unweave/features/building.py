"""Building pages as the command asks for them: of a dictionary, and of the model's neurons from the same pass."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.files import check_writable, locked
from ..base.progress import Progress
from ..errors import FileError
from ..transcoders.neurons import neurons
from ..transcoders.replacement import ReplacementModel, load
from .collect import Reading, Wanted, collect_together, discard
from .pages import already_built
from .readout import Readout
from .write import META, write_pages


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build."""

    model: str
    transcoders: str | None
    device: str
    text: tuple[str, ...]
    context: int
    held_out: float
    tokens: int
    strongest: int
    sampled: int
    promoted: str
    """`causal` or `direct`."""


def build_pages(asked: BuildOptions, folders: Sequence[Path], report: Progress) -> None:
    """Build pages of the dictionary in the first folder, and of the neurons in the second, if there is one; what is
    finished stays as it is.

    Raises:
        FileError: a folder cannot be written, is in use, or holds pages of something else.
        TextError, ModelError, TranscoderError: as reading and loading do.
    """
    for folder in folders:
        check_writable(folder / META)
    model = load(asked.model, asked.transcoders, device=asked.device)
    language_model = model.language_model
    models = [model, replace(model, transcoders=neurons(language_model))][: len(folders)]
    with ExitStack() as stack:
        wanted = []
        for one, folder in zip(models, folders, strict=True):
            busy = FileError(f"another process builds pages in {folder}; wait for it, or give another folder")
            stack.enter_context(locked(folder, busy))
            names = (language_model.name, one.transcoders.name, one.transcoders.sha256)
            reading = Reading(*names, asked.text, asked.context, asked.held_out)
            if not already_built(folder, reading, asked.tokens):
                wanted.append(Wanted(one, reading, folder))
        if wanted:
            _build(wanted, asked, report)


def _build(wanted: Sequence[Wanted], asked: BuildOptions, report: Progress) -> None:
    found = collect_together(wanted, tokens=asked.tokens, report=lambda share, title: report(0.7 * share, title))
    model: ReplacementModel = wanted[0].model
    readout = None
    if asked.promoted == "causal":
        readout = Readout.of(model.language_model, lambda share: report(0.7 + 0.1 * share, "what directions do"))
    for number, (part, collection) in enumerate(zip(wanted, found, strict=True)):
        begin, share = 0.8 + 0.2 * number / len(wanted), 0.2 / len(wanted)
        write_pages(
            collection, part.model, part.folder, strongest=asked.strongest, sampled=asked.sampled, readout=readout,
            report=lambda done, title, begin=begin, share=share: report(begin + share * done, title),
        )  # fmt: skip
        discard(part.folder)
