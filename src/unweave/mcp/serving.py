"""The protocol: requests on stdin, answers on stdout, each call in a thread of its own, all errors in one line."""

import os
import threading
import time
from functools import partial
from typing import Any

import anyio
import mcp_types as types
from anyio.lowlevel import EventLoopToken, current_token
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from ..errors import OptionError, UnweaveError
from ..page.template import to_bytes
from ..server.jobs import Cancelled
from ..version import __version__
from .calls import checked
from .tools import TOOLS, Workplace, answer

SECONDS = 0.5
"""Between two notifications of progress."""
ABOUT = (
    "Explains what a language model says next, by measurements in the model itself. Begin with explain, or trace a "
    "prompt and try its features with steer and validate. Calls run one after another on one loaded model."
)


def serve(place: Workplace) -> None:
    """Answer until stdin ends; what anything prints meanwhile goes to stderr."""
    anyio.run(_serve, place)


async def _serve(place: Workplace) -> None:
    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=described())

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await _call(place, context, params.name, params.arguments or {})

    server = Server(
        "unweave", version=__version__, instructions=ABOUT, on_list_tools=list_tools, on_call_tool=call_tool
    )
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def described() -> list[types.Tool]:
    """The tools as the protocol lists them."""
    return [
        types.Tool(
            name=name,
            description=tool.work.__doc__,
            input_schema=tool.takes.model_json_schema(),
            annotations=types.ToolAnnotations(read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False),
        )
        for name, tool in TOOLS.items()
    ]


async def _call(place: Workplace, context: Any, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
    """The answer to a call; whatever goes wrong is its text."""
    told = _Told(context.session, current_token())
    try:
        if name not in TOOLS:
            raise OptionError(f"no tool is called {name[:60]!r}; there are: {', '.join(TOOLS)}")
        call = checked(TOOLS[name].takes, arguments)
        facts = await anyio.to_thread.run_sync(partial(answer, place, name, call, told), abandon_on_cancel=True)
        return _said(to_bytes(facts).decode())
    except UnweaveError as error:
        return _said(str(error), wrong=True)
    except MemoryError:
        return _said("there is not enough memory for this; trace takes max_features", wrong=True)
    except OSError as error:
        return _said(f"cannot read or write: {error.strerror or error}", wrong=True)
    except Exception as error:
        if os.environ.get("UNWEAVE_DEBUG"):
            raise
        return _said(f"unweave failed on this, which is a defect ({type(error).__name__}: {error})"[:400], wrong=True)
    finally:
        told.over.set()


def _said(text: str, *, wrong: bool = False) -> types.CallToolResult:
    line = " ".join(text.split()) if wrong else text
    content = types.TextContent(type="text", text=line.encode("utf-8", "replace").decode())
    return types.CallToolResult(content=[content], is_error=wrong)


class _Told:
    """Progress of one call, from whichever thread, for a client that asked to hear of it; grows, as it has to."""

    def __init__(self, session: Any, loop: EventLoopToken) -> None:
        self.session, self.loop = session, loop
        self.over = threading.Event()
        self.share, self.said = 0.0, time.monotonic()

    def __call__(self, share: float | None, title: str | None = None) -> None:
        """Say it.

        Raises:
            Cancelled: nobody waits for the answer any more.
        """
        if self.over.is_set():
            raise Cancelled
        now = time.monotonic()
        if share is not None and share > self.share and now - self.said >= SECONDS:
            self.share, self.said = share, now
            anyio.from_thread.run(partial(self.session.report_progress, share, 1.0, title), token=self.loop)
