"""Fresh Python processes in 0.2 s: forks of one server that has imported torch, transformers and unweave, unlike the
tests with no check of shapes, so that a test that needs a process of its own does not pay 5 s of imports for it."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PRELOADED = (
    "torch",
    "transformers",
    "unweave.cli.main",
    "unweave.many.run",
    "unweave.training.loop",
    "unweave.server.app",
)


class Done(NamedTuple):
    """How a process ended (minus the signal that ended it, as in `subprocess`), and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Started(NamedTuple):
    """A process that runs; its output goes to files of a folder."""

    process: Any
    folder: tempfile.TemporaryDirectory

    def done(self, timeout: float = 300) -> Done:
        """Wait for its end."""
        self.process.join(timeout)
        late = self.process.is_alive()
        if late:
            self.process.kill()
            self.process.join()
        with self.folder as folder:
            out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
        assert not late, f"not done within {timeout} s:\n{err}"
        return Done(self.process.exitcode, out, err)


def start(code: str, words: Sequence[object] = (), env: Mapping[str, str] | None = None) -> Started:
    """Run `code` as `__main__` with `sys.argv[1:]` of `words`, beside the test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    folder = tempfile.TemporaryDirectory()
    for name in ("out", "err"):
        (Path(folder.name) / name).touch()
    asked = (code, list(map(str, words)), os.getcwd(), dict(env or {}), folder.name)
    process = context.Process(target=_child, args=asked)
    process.start()
    return Started(process, folder)


def run(code: str, words: Sequence[object] = (), env: Mapping[str, str] | None = None) -> Done:
    """The same, to its end."""
    return start(code, words, env).done()


def _child(code: str, words: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = ["-c", *words]
    exec(compile(code, "<fresh>", "exec"), {"__name__": "__main__"})
