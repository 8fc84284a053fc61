"""Listening on this machine's own address, and opening the browser."""

import socket
import webbrowser
from collections.abc import Callable
from typing import Any

from ..errors import OptionError
from .security import SECONDS_OF_SILENCE, App

ADDRESS = "127.0.0.1"
FIRST_PORT, PORTS_TRIED = 8230, 10


def listen(port: int | None) -> socket.socket:
    """A listening socket on 127.0.0.1; without a port the first free one from 8230 on, with 0 any free one.

    Raises:
        OptionError: the port is in use or may not be used.
    """
    for wanted in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((ADDRESS, wanted))
            found.listen(128)
        except (OSError, OverflowError) as error:
            found.close()
            if port is not None:
                raise OptionError(
                    f"cannot listen on port {port}: {getattr(error, 'strerror', None) or error}; give another with "
                    f"--port"
                ) from error
        else:
            return found
    raise OptionError(
        f"ports {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are all in use; give one with --port, or 0 for any "
        f"free one"
    )


def address_of(listening: socket.socket, slug: str | None = None) -> str:
    """The address to open."""
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/" + (f"#{slug}" if slug else "")


def run(
    app: App, listening: socket.socket, *, open_at: str | None = None, opener: Callable[[str], object] = webbrowser.open
) -> None:
    """Serve until Ctrl-C; `open_at` is an address for the browser."""
    if open_at is not None:  # the socket listens already, so the browser waits in line for the server
        opener(open_at)
    server_for(app).run(sockets=[listening])


def server_for(app: App) -> Any:
    """The application behind uvicorn; connections that ask for nothing are closed after a while."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        """One connection. uvicorn's own closes those that idle after an answer, but not those that never ask."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._look(None)

        def _look(self, last: Any) -> None:
            now = self.cycle
            if (now is None or now.response_complete) and now is last and self._looked:
                self.transport.close()
            elif not self.transport.is_closing():
                self._looked = True
                self.loop.call_later(SECONDS_OF_SILENCE, self._look, now)

        _looked = False

    return uvicorn.Server(
        uvicorn.Config(
            app, http=Connection, ws="none", log_level="warning", access_log=False, lifespan="off",
            timeout_graceful_shutdown=1, server_header=False,
        )
    )  # fmt: skip
