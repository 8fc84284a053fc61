"""Fetching from the hub: the repository is listed first, sizes are checked against the disk, and then named files alone
are fetched. Where the hub cannot be reached, what is cached serves."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TranscoderError, UnweaveError
from .hub import Reference, explained, first_line

Choose = Callable[[list[str]], list[str]]
"""From the names of a place's files, relative to it, to those that are wanted."""
Told = Callable[[float | None, str | None], object]
"""Hears how far a fetch is: a share, and words; None twice when it is over."""
ASK_ABOVE = 10e9
"""Bytes above which commands want to be told `--yes`."""
SECONDS = 0.5
"""Between two looks at how much has come."""


BUSY = 3
"""How often a hub that is busy (429) is asked again."""


class _Ways:
    """How this process fetches: what may be fetched without being asked for, and who hears of it."""

    most: float | int | None = None
    """Bytes; None: any number."""
    told: Told | None = None


class Listing(NamedTuple):
    """The files of a repository, and the commit they are of."""

    sizes: dict[str, int]
    commit: str
    gated: bool = False
    licence: str | None = None


def ask_above(most: float | int | None) -> None:
    """From now on, refuse to fetch more bytes than this at a time; None: fetch whatever is asked for."""
    _Ways.most = most


@contextmanager
def heard(told: Told) -> Iterator[None]:
    """Let someone hear how far fetches are."""
    before, _Ways.told = _Ways.told, told
    try:
        yield
    finally:
        _Ways.told = before


def fetch(reference: Reference, choose: Choose) -> Path:
    """The local folder of a reference with the files that `choose` wants of it, fetched if they are not cached.

    Raises:
        TranscoderError: missing, gated, not cached and out of reach, an unknown revision, too large for the disk or to
            be fetched unasked, in one line with what to do.
        UnweaveError: as `choose` raises it.
    """
    where = f"{reference.repository}@{reference.revision}" if reference.revision else reference.repository
    try:
        return _fetched(reference, where, choose)
    except UnweaveError:
        raise
    except Exception as error:  # of the hub, of the network below it, of the disk
        reason = explained(error, where, reference.revision)
        advice = "; what has come whole is kept, and the same command goes on from there"
        raise TranscoderError(reason or f"cannot fetch {where}: {first_line(error)}{advice}") from error


def _fetched(reference: Reference, where: str, choose: Choose) -> Path:
    from huggingface_hub import snapshot_download

    listed = listing(reference.repository, reference.revision)
    if listed is None:
        return _cached(reference, where, choose)
    names = _below(reference, list(listed.sizes))
    if not names:
        raise TranscoderError(
            f"{where} has no {reference.path or 'files of a dictionary'}; look at its files on the hub, or see "
            f"`unweave models`"
        )
    prefix = f"{reference.path}/" if reference.path else ""
    wanted = [prefix + name for name in choose(names)]
    snapshot = _storage(reference.repository) / "snapshots" / listed.commit
    missing = [name for name in wanted if not (snapshot / name).exists()]
    size = sum(listed.sizes[name] for name in missing)
    if missing:
        _check(where, size, len(missing))
    with _watched(where, reference.repository, size, len(missing)):
        root = snapshot_download(reference.repository, revision=reference.revision, allow_patterns=wanted)
    return Path(root) / reference.path


@cache
def listing(repository: str, revision: str | None) -> Listing | None:
    """The files of a repository on the hub; None where the hub is not to be asked, or does not answer."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        told = _told(lambda: HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10))
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise
    except OfflineModeIsEnabled:
        return None
    except Exception as error:
        if any(word in type(error).__name__ for word in ("Connect", "Timeout", "Proxy", "Network", "Read")):
            return None
        raise
    sizes = {part.rfilename: part.size or 0 for part in told.siblings or ()}
    said = next((tag.partition(":")[2] for tag in told.tags or () if tag.startswith("license:")), None)
    return Listing(sizes, str(told.sha), bool(told.gated), said)


class HubFacts(NamedTuple):
    """What the hub says of a place."""

    gigabytes: float
    """Of its tensors."""
    gated: bool
    """Whether its terms have to be accepted first."""
    licence: str | None


def hub_facts(name: str) -> HubFacts | None:
    """Size, licence and gate of a model or dictionary on the hub, nothing fetched; None where the hub is not reached.

    Raises:
        TranscoderError: the hub has no such place.
    """
    reference = Reference.parse(name)
    try:
        listed = listing(reference.repository, reference.revision)
    except Exception as error:  # of the hub, or of the network below it
        raise TranscoderError(explained(error, reference.repository) or f"{name}: {first_line(error)}") from error
    if listed is None:
        return None
    below = [path for path in listed.sizes if path.startswith(f"{reference.path}/" if reference.path else "")]
    if not below:
        raise TranscoderError(f"{reference.repository} has nothing at {reference.path}")
    whole = sum(listed.sizes[path] for path in below if path.endswith((".safetensors", ".npz")))
    return HubFacts(whole / 1e9, listed.gated, listed.licence)


def _told(ask: Callable[[], Any]) -> Any:
    """What the hub says, asked again while it is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for again in range(BUSY, 0, -1):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != 429 or again == 1:
                raise
            wait = str(error.response.headers.get("Retry-After") or "")
            time.sleep(min(60.0, float(wait) if wait.isdigit() else 5.0))
    return ask()


def _cached(reference: Reference, where: str, choose: Choose) -> Path:
    """The same from the cache alone."""
    storage = _storage(reference.repository)
    ref = storage / "refs" / (reference.revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else reference.revision or ""
    snapshot, tree = storage / "snapshots" / commit, storage / "trees" / f"{commit}.json"
    apart = f"{where} is not in the local cache and the hub cannot be reached (offline?); connect once, or give a local"
    if not commit or not snapshot.is_dir():
        raise TranscoderError(f"{apart} folder")
    there = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    try:
        known = list(json.loads(tree.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):  # written by huggingface_hub 1 and newer
        known = there
    names = _below(reference, known)
    if not names and reference.path:
        raise TranscoderError(f"what is cached of {where} has no {reference.path}, and the hub cannot be reached")
    wanted = choose(names)
    prefix = f"{reference.path}/" if reference.path else ""
    lacking = [name for name in wanted if prefix + name not in set(there)]
    if lacking or not wanted:
        more = f": {len(lacking)} files, {lacking[0]} among them" if lacking else ""
        raise TranscoderError(f"{apart} folder{more}")
    return snapshot / reference.path


def _below(reference: Reference, names: list[str]) -> list[str]:
    prefix = f"{reference.path}/" if reference.path else ""
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _storage(repository: str) -> Path:
    """Where the hub's own cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / ("models--" + repository.replace("/", "--"))


def _check(where: str, size: int, files: int) -> None:
    """Refuse what the disk cannot hold, and what is too large to be fetched unasked."""
    from huggingface_hub import constants

    cache_at = Path(constants.HF_HUB_CACHE).expanduser()
    disk = next(folder for folder in (cache_at, *cache_at.absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    said = (
        f"{where}: {files} files of {in_words(size)} are to be fetched into {cache_at}, which has {in_words(free)} free"
    )
    if size > free:
        raise TranscoderError(f"{said}; make room, or set HF_HOME to a folder on a larger disk")
    if _Ways.most is not None and size > _Ways.most:
        raise TranscoderError(f"{said}; if that is meant, give the same command with --yes")


@contextmanager
def _watched(where: str, repository: str, size: int, files: int) -> Iterator[None]:
    """Tell how much has come, by looking at the cache."""
    told = _Ways.told
    if told is None or not size:
        yield
        return
    blobs, done = _storage(repository) / "blobs", threading.Event()
    begin, before = time.monotonic(), _bytes_in(blobs)

    def look() -> None:
        while not done.wait(SECONDS):
            come = max(0, _bytes_in(blobs) - before)
            speed = in_words(come / max(1e-9, time.monotonic() - begin))
            told(
                min(1.0, come / size),
                f"fetching {where}: {in_words(come)} of {in_words(size)}, {files} files, {speed}/s",
            )

    watcher = threading.Thread(target=look, name="fetching", daemon=True)
    told(0.0, f"fetching {where}: {in_words(size)}, {files} files")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        told(None, None)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed since
            continue
    return total


def in_words(size: float | int) -> str:
    """A number of bytes.

    >>> in_words(43_000_000_000), in_words(1_500_000), in_words(12)
    ('43.0 GB', '1.5 MB', '12 bytes')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} bytes"
