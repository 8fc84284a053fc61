"""Writing files whole or not at all, and the folder for what can be made again."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import FileError, UnweaveError


def cache_folder() -> Path:
    """Where converted models are kept: `$UNWEAVE_CACHE`, else `$XDG_CACHE_HOME/unweave`, else `~/.cache/unweave`."""
    own = os.environ.get("UNWEAVE_CACHE")
    return (
        Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "unweave"
    )


def write_atomically(path: str | Path, write: Callable[[str], object]) -> Path:
    """Call `write` with a temporary name beside `path`, then rename it to `path`; on any failure remove it.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder; give a file name")
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {path}: {error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def check_writable(path: str | Path) -> Path:
    """Refuse, before any work is done, a path that could not be written afterwards; makes its folder if it is missing.

    Raises:
        FileError: the folder cannot be made or written, or the path is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder; give a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    return path


@contextmanager
def locked(folder: Path, busy: UnweaveError) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go when the process ends, however it ends.

    Args:
        busy: raised where another process holds it.

    Raises:
        FileError: it cannot be made or written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps a second process out
        fcntl = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError as error:
            raise FileError(f"cannot lock {folder}: {error.strerror or error}") from error
        yield
