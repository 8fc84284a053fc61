"""The `unweave` command from its first moment to its last: Ctrl-C, odd encodings, closed pipes and full disks included.

Nothing heavy is imported before Ctrl-C is taken care of.
"""

import codecs
import contextlib
import gc
import os
import signal
import sys
from typing import Any

from .codes import PIPE_CLOSED, REFUSED, STOPPED

_PLAIN = str.maketrans(
    {"→": "->", "‘": "'", "’": "'", "“": '"', "”": '"', "‹": "<", "›": ">", "·": ".", "−": "-", "…": "...", "█": "#",
     "⏎": "\\n", "⇥": "\\t", "∅": "''", "×": "x", "—": "-", "–": "-"}
    | dict.fromkeys("▏▎▍", "'") | dict.fromkeys("▌▋▊▉", "#")
)  # fmt: skip


def run() -> None:
    """The command: `main`, then leave at once, because taking torch and transformers down in order costs a second."""
    presses: list[int] = []
    _watch_keys(presses)
    _prepare_streams()
    # No collections while thousands of classes are made. One prompt makes little garbage; commands that go on for long
    # collect again once all is loaded (`terminal.collect_garbage`).
    gc.disable()
    code: Any = 0
    try:
        from .main import main

        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # Ctrl-C, or what a library made of it on the way
        if not presses:
            raise
        _say("stopped")
        code = STOPPED
    if presses and code in (0, 1, None):
        code = STOPPED
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    except OSError as error:
        _say(f"error cannot write the output: {error.strerror or error}")
        code = code or REFUSED
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code or 0)


def _watch_keys(presses: list[int]) -> None:
    """Let the first Ctrl-C end the command in order and the second at once; one that the caller ignores stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return

    def stop(number: int, frame: object) -> None:
        presses.append(number)
        if len(presses) > 1:
            os._exit(STOPPED)
        raise KeyboardInterrupt

    def lost(unraisable: Any) -> None:
        """Where Python would print an exception and go on, as in a finalizer, a Ctrl-C would be lost."""
        if presses:
            _say("stopped")
            os._exit(STOPPED)
        sys.__unraisablehook__(unraisable)

    signal.signal(signal.SIGINT, stop)
    sys.unraisablehook = lost


def _prepare_streams() -> None:
    """Let both streams take any text in whatever encoding; a stream that is closed takes it and forgets it."""
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as it runs
        elif hasattr(stream, "reconfigure"):
            unicode = (stream.encoding or "").lower().replace("-", "").startswith("utf")
            stream.reconfigure(errors="backslashreplace" if unicode else "plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(character if character.isascii() else "?" for character in text), error.end


def _say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
