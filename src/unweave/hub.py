"""Finding files: a local path, or a reference to a Hugging Face repository."""

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import TranscoderError


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
            raise TranscoderError(f"{text!r} is neither a local folder nor a reference like 'org/repo[/folder][@revision]'")
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


def download(reference: Reference, patterns: list[str]) -> Path:
    """The local snapshot of the files of a reference that match `patterns`, fetched if they are not cached.

    Raises:
        TranscoderError: missing, gated, offline, or an unknown revision, in one line with what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    prefix = f"{reference.path}/" if reference.path else ""
    where = f"{reference.repository}@{reference.revision}" if reference.revision else reference.repository
    try:
        root = snapshot_download(reference.repository, revision=reference.revision, allow_patterns=[prefix + pattern for pattern in patterns])
    except GatedRepoError as error:
        raise TranscoderError(f"{where} is gated: accept its terms on its page, then log in with `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise TranscoderError(f"{reference.repository} has no revision {reference.revision!r}") from error
    except RepositoryNotFoundError as error:
        raise TranscoderError(f"no repository {reference.repository} on the hub (or it is private: `hf auth login`)") from error
    except LocalEntryNotFoundError as error:
        raise TranscoderError(f"{where} is not in the local cache and the hub cannot be reached; connect once, or give a local folder") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TranscoderError(f"cannot fetch {where}: {first}") from error
    return Path(root) / reference.path
