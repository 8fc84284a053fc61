"""Finding files: a local path, or a reference to a Hugging Face repository."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import TranscoderError


@dataclass(frozen=True)
class Reference:
    """A place in a Hugging Face repository: `org/repo[/path][@revision]` or `hf://org/repo/path[?revision=rev]`.

    >>> Reference.parse("mntss/gemma-scope-transcoders@main")
    Reference(repository='mntss/gemma-scope-transcoders', path='', revision='main')
    >>> Reference.parse("hf://google/gemma-scope-2b-pt-transcoders/layer_0/params.npz").path
    'layer_0/params.npz'
    """

    repository: str
    path: str
    revision: str | None

    @staticmethod
    def parse(text: str) -> "Reference":
        """Read a reference.

        Raises:
            TranscoderError: not of that form.
        """
        match = re.fullmatch(r"(?:hf://)?([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)/?(?:(?:@|\?revision=)([\w./-]+))?", text)
        if match is None:
            raise TranscoderError(
                f"{text!r} is neither a local folder nor a reference like 'org/repo[/folder][@revision]'"
            )
        return Reference(match[1], match[2].strip("/"), match[3])


def local_folder(name: str) -> Path | None:
    """The local folder of that name; None if the name is a hub reference.

    Raises:
        TranscoderError: a name that can only be a path, and nothing is there.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith(("/", "./", "../", "~")) or "/" not in name:
        raise TranscoderError(f"no dictionary at {name}: neither a local folder nor a reference like 'org/repo'")
    return None


def explained(error: BaseException, where: str, revision: str | None = None) -> str | None:
    """What the hub's error, or one that it caused, means and what to do; None: it is none of the usual ones."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case GatedRepoError():
                return (
                    f"{where} is gated: accept its terms on its page on the hub, then log in with `hf auth login` "
                    f"(or set HF_TOKEN)"
                )
            case RevisionNotFoundError():
                return f"{where.partition('@')[0]} has no revision {revision!r}"
            case RepositoryNotFoundError():
                return (
                    f"no repository {where.partition('@')[0]} on the hub (or it is private: log in with `hf auth "
                    f"login`)"
                )
            case LocalEntryNotFoundError() | OfflineModeIsEnabled():
                return (
                    f"{where} is not in the local cache and the hub cannot be reached (offline?); connect once, or "
                    f"give a local folder"
                )
        cause = cause.__cause__ or cause.__context__
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
