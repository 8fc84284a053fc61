"""What a reader adds to a graph in a real browser is not lost: servers that stop, filters, running traces."""

import contextlib

import pytest
from browsing import Site, browser, cards, drawn, ids, pin, saved, site, until  # noqa: F401
from serving import listening

from unweave.server.library import open_library
from unweave.server.state import Server


@pytest.fixture
def restartable(browser, drawn, tmp_path):
    """A site whose server can be stopped and started anew, with another token, on the same port."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    for path in drawn.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    running = contextlib.ExitStack()

    def start(port=0):
        return running.enter_context(listening(Server(open_library([folder])), port))

    made = Site(browser, start(), folder)
    yield made, running.close, lambda: start(int(made.address.rsplit(":", 1)[1].strip("/")))
    for context in made.contexts:
        context.close()
    running.close()
    assert made.complaints == []


def test_work_survives_a_server_that_is_started_anew(restartable):
    made, stop, start = restartable
    page = made.tab()
    a, b, c = ids(page, 0)[:3]
    pin(page, a)
    saved(page)
    stop()
    pin(page, b)
    page.wait_for_selector(".saved-retrying")
    assert "does not answer" in page.locator(".saved").inner_text()
    assert "kept in this browser" in page.locator(".saved").inner_text()
    start()
    page.get_by_role("button", name="Save now").click()
    assert saved(page)["pins"] == [a, b], "the page took the new token by itself"
    pin(page, c)
    assert saved(page)["pins"] == [a, b, c]


def test_work_survives_a_page_that_is_closed_while_no_server_answers(restartable):
    made, stop, start = restartable
    page = made.tab()
    a, b = ids(page, 0)[:2]
    pin(page, a)
    saved(page)
    stop()
    pin(page, b)
    page.wait_for_selector(".saved-retrying")
    page.close(run_before_unload=False)
    start()
    again = made.tab()
    until(again, "count => document.querySelectorAll('.card').length === count", 2)
    assert saved(again)["pins"] == [a, b]
    assert again.evaluate("Object.keys(localStorage).filter(name => name.includes('draft'))") == []


def test_a_retry_needs_nobody(restartable):
    made, stop, start = restartable
    page = made.tab()
    stop()
    page.keyboard.press("f")
    page.get_by_text("− negative").click()
    page.wait_for_selector(".saved-retrying")
    start()
    assert saved(page)["thresholds"]["sign"] == -1


def test_every_filter_is_kept_and_undone(site):
    page = site.tab()
    before = page.locator(".status").inner_text()
    page.keyboard.press("f")
    page.get_by_text("− negative").click()
    page.get_by_label("first token").select_option("1")
    page.get_by_label("lowest layer").fill("1")
    page.get_by_label("lowest layer").press("Tab")
    page.get_by_label("Error nodes").uncheck()
    until(page, "before => document.querySelector('.status').innerText !== before", before)
    kept = saved(page)["thresholds"]
    assert (kept["sign"], kept["token_from"], kept["layer_from"], kept["errors"]) == (-1, 1, 1, 0)
    filtered = page.locator(".status").inner_text()
    page.reload()
    page.wait_for_selector(".status.filtered")
    assert page.locator(".status").inner_text() == filtered
    page.keyboard.press("f")
    assert page.get_by_label("first token").input_value() == "1"
    page.get_by_role("button", name="Show everything").click()
    assert page.locator(".status").inner_text() == before
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    until(page, "text => document.querySelector('.status').innerText === text", filtered)
    assert saved(page)["thresholds"]["sign"] == -1
