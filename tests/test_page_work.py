"""What a reader adds to a graph in a real browser is not lost: servers that stop, filters, running traces."""

import contextlib
import itertools
import json

import pytest
from browsing import Site, browser, cards, click, drawn, ids, pin, saved, site, until  # noqa: F401
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


def test_running_work_is_seen_after_a_reload_and_the_list_follows(site):
    page = site.tab("")
    jobs = [{"job": "j1", "what": "trace of “long”", "share": 0.25, "title": "tracing"}]
    page.route("**/api/jobs", lambda route: route.fulfill(json={"jobs": jobs}))
    page.reload()
    page.get_by_label("Running on the server").get_by_text("trace of “long”").wait_for()
    assert "tracing, 25%" in page.locator(".jobs").inner_text()
    (site.folder / "new.graph.safetensors").write_bytes((site.folder / "one.graph.safetensors").read_bytes())
    del jobs[:]
    page.wait_for_selector(".jobs", state="detached")
    page.get_by_text("new.graph.safetensors").wait_for()


def test_graphs_are_searched_and_sorted(site):
    for number in range(70):
        (site.folder / f"many-{number}.graph.safetensors").write_bytes(
            (site.folder / "two.graph.safetensors").read_bytes()
        )
    page = site.tab("")
    until(page, "() => document.querySelector('.list-tools')?.textContent.includes('72 of 72')")
    assert page.locator(".graph-card").count() == 60, "not all are drawn at once"
    page.get_by_label("Search graphs").fill("one.graph")
    until(page, "() => document.querySelectorAll('.graph-card').length === 1")
    assert (
        "one.graph.safetensors" in page.locator(".graph-card").inner_text() and "→" in page.locator("h2").inner_text()
    )
    page.get_by_label("Search graphs").fill("")
    page.get_by_label("Order").select_option("name")
    page.get_by_role("button", name="Show more").click()
    until(page, "() => document.querySelectorAll('.graph-card').length === 72")


def test_a_graph_of_a_study_opens_with_its_verdict(site):
    facts = {
        "title": "Capitals", "question": "Which?", "verdict": "holds: 2 of 2", "holds": True, "stopped": "",
        "steps": [{"name": "swap", "holds": True, "summary": "It moves."}],
        "graphs": ["one.graph.safetensors", "one.2.graph.safetensors", "gone.graph.safetensors"],
    }  # fmt: skip
    (site.folder / "one.study.json").write_text(json.dumps(facts))
    (site.folder / "one.md").write_text(
        "# Capitals <b>report</b>\n\nIt **holds**.\n\n![x](x.svg)\n\n| a | b |\n| --- | ---: |\n| one \\| two | 0.5 |\n"
    )
    (site.folder / "one.2.graph.safetensors").write_bytes((site.folder / "one.graph.safetensors").read_bytes())
    page = site.tab()
    drawer = page.get_by_label("Study").first
    page.get_by_text("holds: 2 of 2").wait_for()
    text = page.locator(".study").inner_text()
    assert "Capitals" in text and "✓ swap: It moves." in text and "gone" not in text
    page.get_by_text("The whole report").click()
    assert page.locator(".report h4").inner_text() == "Capitals <b>report</b>"
    assert (
        page.locator(".report td").all_inner_texts() == ["one | two", "0.5"] and page.locator(".report b").count() == 1
    )
    page.get_by_label("Graphs of this study").get_by_text("one.2").click()
    until(page, "() => location.hash === '#one.2'")
    page.get_by_text("holds: 2 of 2").wait_for()
    assert drawer.is_visible()


def test_a_phone_reads_the_panes_one_below_the_other(site):
    page = site.tab()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    boxes = [page.locator(f".pane-{name}").bounding_box() for name in ("link", "connections", "subgraph", "feature")]
    for above, below in itertools.pairwise(boxes):
        assert below["y"] >= above["y"] + above["height"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_exported_file_has_no_dead_buttons(site, tmp_path):
    page = site.tab()
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as got:
        page.get_by_role("button", name="One HTML file").click()
    got.value.save_as(tmp_path / "graph.html")
    file = site.tab((tmp_path / "graph.html").as_uri(), site.context(offline=True))
    click(file, ids(page, 0)[0])
    assert file.get_by_role("button", name="Steer").count() == 0
    assert file.get_by_role("button", name="Compare").count() == 0


def test_texts_of_cards_stay_inside_them_and_cards_apart(site):
    page = site.tab()
    nodes = [*ids(page, 0)[:9], *ids(page, 3)[:1], *ids(page, 2)[:3]]
    pin(page, *nodes)
    for width, height in ((1440, 900), (1280, 720)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        found = page.evaluate(
            """() => [...document.querySelectorAll('.card')].map(card => {
              const frames = [...card.querySelectorAll('rect')].map(rect => rect.getBoundingClientRect());
              const texts = [...card.querySelectorAll('text')].map(text => text.getBoundingClientRect());
              const size = [...card.querySelectorAll('text[x="24"]')].map(text =>
                parseFloat(text.getAttribute('font-size')) * text.getScreenCTM().a);
              const box = rect => [rect.left, rect.top, rect.right, rect.bottom];
              return {frame: box(frames.at(-1)), texts: texts.map(box), size: Math.min(...size)};
            })"""
        )
        for card in found:
            left, top, right, bottom = card["frame"]
            assert card["size"] >= 11.99, "texts of cards are 12 px at least"
            for one in card["texts"]:
                assert left <= one[0] and one[2] <= right + 1 and top - 1 <= one[1] and one[3] <= bottom + 1
        for a, b in itertools.combinations([card["frame"] for card in found], 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_what_runs_on_the_server_is_seen_beside_a_graph_and_stopped_there(site):
    page = site.tab()
    jobs = [{"job": "j1", "what": "trace of “long”", "share": 0.25, "title": "tracing"}]
    stopped = []
    page.route("**/api/jobs", lambda route: route.fulfill(json={"jobs": jobs}))
    page.route("**/api/jobs/j1", lambda route: (stopped.append(1), jobs.clear(), route.fulfill(json={"state": "x"})))
    page.reload()
    page.locator(".jobs", has_text="tracing, 25%").wait_for()
    page.locator(".jobs").get_by_role("button", name="Cancel").click()
    page.locator(".jobs").wait_for(state="detached")
    assert stopped


def test_subgraphs_are_saved_by_name_and_taken_up_in_another_browser(site):
    page = site.tab()
    a, b, c = ids(page, 0)[:3]
    pin(page, a, b)
    page.get_by_role("button", name="Saved subgraphs").click()
    page.get_by_label("Name of this subgraph").fill("two")
    page.get_by_role("button", name="Save", exact=True).click()
    pin(page, c)
    click(page, a, "Control")
    page.locator(f'[data-card="{a}"]').wait_for(state="detached")
    assert saved(page)["views"][0]["pins"] == [a, b]
    other = site.tab("#one", site.context())
    other.get_by_role("button", name="Saved subgraphs").click()
    other.get_by_role("button", name="two", exact=True).click()
    other.locator(f'[data-card="{a}"]').wait_for()
    assert set(cards(other)) == {a, b}
    saved(other)
    other.get_by_role("button", name="Delete two").click()
    until(other, "() => !document.querySelector('.views li')")
    assert saved(other)["views"] == []
