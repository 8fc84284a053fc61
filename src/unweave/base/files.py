"""Writing files whole or not at all, and the folder for what can be made again."""

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import FileError, OptionError, UnweaveError


def cache_folder() -> Path:
    """Where converted models are kept: `$UNWEAVE_CACHE`, else `$XDG_CACHE_HOME/unweave`, else `~/.cache/unweave`."""
    own = os.environ.get("UNWEAVE_CACHE")
    return (
        Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "unweave"
    )


def write_atomically(path: str | Path, write: Callable[[str], object]) -> Path:
    """Call `write` with a temporary name beside `path`, then rename it to `path`; on any failure remove it.

    A link stays a link: what it points at is replaced. Permissions of a file that is replaced are kept. Temporary files
    that an earlier write of the same name left behind when its process was killed are cleared.

    Raises:
        FileError: `path` is a folder, a device or a pipe, its folder is missing or not writable, or the disk is full.
    """
    given = Path(path).expanduser()
    path = _target(given)
    temporary, handle = None, -1
    try:
        _clear_leftovers(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _hold(handle)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {given}: {error}") from error
    finally:
        if handle >= 0:
            os.close(handle)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return given


def _target(path: Path) -> Path:
    """The file that is to be replaced: what a link points at.

    Raises:
        FileError: there is something that is no file, or no name of a file.
    """
    try:
        if "\0" in str(path):
            raise ValueError("a name of a file holds no zero byte")
        real = path.resolve() if path.is_symlink() else path
        if real.is_symlink():  # from Python 3.13 on, a circle is no error
            raise ValueError("its links form a circle")
        if real.is_dir():
            raise FileError(f"cannot write {path}: it is a folder; give a file name")
        system = Path("/dev"), Path("/proc")
        if (real.exists() and not real.is_file()) or any(part in system for at in (path, real) for part in at.parents):
            raise FileError(f"cannot write {path}: it is a device or a pipe; give a file name")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a circle of links, a zero byte
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    return real


def _mode(path: Path) -> int:
    """The permissions of a file that is there, else those of a new one."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _hold(handle: int) -> bool:
    """Lock an open file for this process, which lets go however it ends; False: another holds it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return False
    except OSError:
        return False
    return True


def _clear_leftovers(path: Path) -> None:
    """Remove temporary files of this name that no process holds any more."""
    with os.scandir(path.parent) as entries:
        begin = f".{path.name}."
        found = [entry.path for entry in entries if entry.name.startswith(begin)]
    for name in found:
        if re.fullmatch(r"[a-z0-9_]{8}", name.rpartition(".")[2]):
            with suppress(OSError), open(name, "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _hold(file.fileno()):
                    os.unlink(name)


def check_writable(path: str | Path) -> Path:
    """Refuse, before any work is done, a path that could not be written afterwards; makes its folder if it is missing.

    Raises:
        FileError: the folder cannot be made or written, or the path is no file.
    """
    path = Path(path).expanduser()
    real = _target(path)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=real.parent):
            pass
        with suppress(FileNotFoundError):  # a name too long with what is put to it while it is written is refused now
            os.stat(real.parent / f".{real.name}.12345678")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def check_graph_name(path: str | Path) -> Path:
    """Refuse a name for a graph that does not say its format.

    Raises:
        OptionError: another ending than `.safetensors` and `.json`.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".json", ".safetensors"):
        raise OptionError(f"cannot tell the format of {path}; end it in .json or .graph.safetensors")
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
