"""A real browser on a real server for tests of the page; says why where there is none."""

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT
from serving import listening

import unweave
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server

UI = Path(__file__).parents[1] / "ui"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
OPENS_ON_THE_GRAPH = "sessionStorage.getItem('unweave.screen') ?? sessionStorage.setItem('unweave.screen', 'graph')"
"""As for a reader who has unfolded the whole graph in this tab; tests of the first screen fold it again."""
WAIT = 30_000
"""Milliseconds that a test waits for what should happen."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if find_spec("playwright") is None:
        pytest.skip("no browser tests: the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no browser tests: chromium is not installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def drawn(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two graphs of one tiny model, of prompts that differ in one token."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, prompt in (("one", PROMPT), ("two", [*PROMPT[:3], 9, *PROMPT[4:]])):
        unweave.prune(unweave.attribute(tiny(), prompt), 0.9, 0.95).save(folder / f"{name}.graph.safetensors")
    return folder


class Site:
    """A server over a fresh folder, and tabs of one reader on it; a tab's complaints fail the test."""

    def __init__(self, browser: Any, port: int, folder: Path):
        self.browser, self.folder, self.address = browser, folder, f"http://127.0.0.1:{port}/"
        self.complaints: list[str] = []
        self.contexts: list[Any] = []
        self.reader = self.context()

    def context(self, **options: Any) -> Any:
        made = self.browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True, **options)
        self.contexts.append(made)
        made.add_init_script(f"try {{ {OPENS_ON_THE_GRAPH} }} catch {{}}")
        made.set_default_timeout(WAIT)
        return made

    def tab(self, where: str = "#one", context: Any = None) -> Any:
        """A tab on an address of the server (or any), loaded."""
        page = (context or self.reader).new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type == "error" and "Failed to load resource" not in said.text
                else None
            ),
        )
        page.goto(where if "://" in where else self.address + where)
        page.wait_for_selector(".link-canvas" if "#" in where or "://" in where else ".start")
        return page


@pytest.fixture
def site(browser: Any, drawn: Path, tmp_path: Path, tiny: Callable) -> Iterator[Site]:
    folder = tmp_path / "graphs"
    shutil.copytree(drawn, folder)
    server = Server(open_library([folder]), Live(tiny()))
    with listening(server) as port:
        made = Site(browser, port, folder)
        yield made
        for context in made.contexts:
            context.close()
    assert made.complaints == []


def ids(page: Any, kind: int) -> list[str]:
    """Node ids of a kind in the open graph, the most influential first."""
    slug = page.evaluate("location.hash.slice(1).split('/')[0]")
    columns = page.evaluate(
        "slug => fetch(`/api/graphs/${slug}`).then(answer => answer.json()).then(view => view.nodes)", slug
    )
    rows = [row for row, found in enumerate(columns["kind"]) if found == kind]
    strength = columns["activation"] if kind == 3 else columns["influence"]
    return [columns["id"][row] for row in sorted(rows, key=lambda row: -(strength[row] or 0))]


def spot(page: Any, node: str) -> tuple[float, float]:
    """Where a node is drawn."""
    page.wait_for_function("id => document.querySelector('.link-canvas').nodeAt?.(id)", arg=node)
    x, y = page.evaluate("id => document.querySelector('.link-canvas').nodeAt(id)", node)
    return x, y


def point(page: Any, node: str) -> None:
    page.mouse.move(*spot(page, node))


def click(page: Any, node: str, *keys: str) -> None:
    """Click a node of the link graph with keys held."""
    place = spot(page, node)
    page.mouse.move(*place)
    for key in keys:
        page.keyboard.down(key)
    page.mouse.click(*place)
    for key in keys:
        page.keyboard.up(key)


def selected(page: Any) -> str | None:
    """The id in the address."""
    return page.evaluate("decodeURIComponent(location.hash.split('/')[1] ?? '') || null")


def saved(page: Any) -> dict[str, Any]:
    """The annotations on the server, once the page has saved."""
    page.wait_for_selector(".saved-saved")
    slug = page.evaluate("location.hash.slice(1).split('/')[0]")
    return page.evaluate("slug => fetch(`/api/graphs/${slug}/annotations`).then(answer => answer.json())", slug)[
        "annotations"
    ]


def until(page: Any, check: str, argument: Any = None) -> None:
    """Wait for a JavaScript function to hold."""
    page.wait_for_function(check, arg=argument)


def cards(page: Any) -> list[str]:
    """Ids of the cards in the subgraph."""
    return page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.card)")


def pin(page: Any, *nodes: str) -> None:
    for node in nodes:
        click(page, node, "Control")
        page.wait_for_selector(f'[data-card="{node}"]')


def group(page: Any, *nodes: str, name: str = "") -> str:
    """Hold g, click cards, let go, and name the supernode; its id."""
    before = set(cards(page))
    page.keyboard.down("g")
    for node in nodes:
        page.locator(f'[data-card="{node}"]').click()
    page.keyboard.up("g")
    field = page.get_by_label("Name of the supernode")
    field.wait_for()
    if name:
        field.fill(name)
    field.press("Enter")
    return next(iter(set(cards(page)) - before))
