"""Pictures of the first screen of real graphs, compared with those that were looked at.

A picture is reduced to tiles of grey: fonts and the last pixel do not matter, what stands where does. With
UNWEAVE_SCREENS=write the pictures in `tests/data/screens` are written anew; look at them then (a page that is wrong is
written as well).
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from browsing import WAIT, browser  # noqa: F401
from conftest import SHARED
from serving import listening

from unweave.server.library import open_library
from unweave.server.state import Server

SCREENS = Path(__file__).parent / "data" / "screens"
STUDIES = Path(__file__).parents[1] / "docs" / "studies"
TILES = (64, 36)
BLOCKS = (3, 4)
MOST = 0.4
"""Of what stands in a twelfth of a picture may differ: the sum of differences of greys, as a share of all that differs
from the background there (or on average, where that is more)."""
REAL = (
    "france",
    "capitals",
    "indirect-object",
    "opposites",
    "sums",
    "gemma-2-2b-dallas-austin",
    "gemma-2-2b-opposite-of",
)
VIEWS = {
    "light": ("light", (1280, 720), None),
    "dark": ("dark", (1440, 900), None),
    "drawer": ("light", (1280, 720), "Filters"),
    "phone": ("light", (390, 844), None),
}
BROKEN = {
    "no styles": "document.querySelectorAll('link[rel=stylesheet]').forEach(one => one.remove())",
    "nothing drawn": "document.querySelector('.why-drawing svg').style.display = 'none'",
    "one column": "document.querySelector('.why-main').style.display = 'block'",
    "no evidence": "document.querySelector('.why-side').style.display = 'none'",
    "cards in a heap": "document.querySelectorAll('.why-card').forEach(one => one.style.translate = '0 150px')",
}


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    """Opens a graph in a fresh tab; each graph lies in a folder of its own, so that none is explained by another's."""
    root, made = tmp_path_factory.mktemp("real"), []
    folders = []
    for name in REAL:
        (root / name).mkdir()
        sources = [STUDIES / f"{name}.graph.safetensors", SHARED / "graphs" / f"{name}.json"]
        sources += [SCREENS / f"{name}{end}" for end in (".graph.safetensors", ".explanation.json")]
        for source in sources:
            if source.exists():
                shutil.copy(source, root / name)
        folders.append(root / name)
    with listening(Server(open_library(folders))) as port:

        def tab(name, view):
            if not any((root / name).iterdir()):
                pytest.skip("the shared graphs are not here")
            theme, (width, height), drawer = VIEWS[view]
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            context.set_default_timeout(WAIT)
            made.append(context)
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/#{name}")
            page.locator(".why-card").first.wait_for()
            if drawer:
                page.get_by_role("button", name=drawer).click()
                page.locator(".drawer").wait_for()
            page.wait_for_timeout(400)
            return page

        yield tab
        for context in made:
            context.close()


def tiles(page) -> np.ndarray:
    """Mean greys of what is seen, in rows of tiles."""
    from PIL import Image

    seen = Image.open(io.BytesIO(page.screenshot())).convert("L")
    return np.asarray(seen.resize(TILES, Image.Resampling.BOX), dtype=np.int16)


def differing(one: np.ndarray, other: np.ndarray) -> float:
    """In the twelfth that differs most."""
    (rows, columns), (height, width) = BLOCKS, other.shape

    def sums(values: np.ndarray) -> np.ndarray:
        return values.reshape(rows, height // rows, columns, width // columns).sum((1, 3))

    ink = sums(np.abs(other - np.median(other)))
    return float((sums(np.abs(one - other)) / np.maximum(ink, ink.mean())).max())


def kept(name: str, view: str) -> Path:
    return SCREENS / f"{name}.{view}.png"


@pytest.mark.parametrize(
    ("name", "view"), [*((name, "light") for name in REAL), *(("france", view) for view in VIEWS if view != "light")]
)
def test_the_first_screen_looks_as_it_did(shown, name, view):
    from PIL import Image

    page = shown(name, view)
    seen, file = tiles(page), kept(name, view)
    if os.environ.get("UNWEAVE_SCREENS") == "write":
        Image.fromarray(seen.astype(np.uint8)).save(file, optimize=True)
        if folder := os.environ.get("UNWEAVE_SCREENS_WHOLE"):
            page.screenshot(path=Path(folder) / f"{name}.{view}.png")
    then = np.asarray(Image.open(file), dtype=np.int16)
    assert differing(seen, then) <= MOST, f"{name} in {view}: {differing(seen, then):.0%} of a part differs"


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_layout_is_seen(shown, what):
    from PIL import Image

    page = shown("france", "light")
    page.evaluate(BROKEN[what])
    page.wait_for_timeout(300)
    then = np.asarray(Image.open(kept("france", "light")), dtype=np.int16)
    print(what, differing(tiles(page), then))
    assert differing(tiles(page), then) > 1.5 * MOST
