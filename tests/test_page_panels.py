"""The page's panels in a real browser: details, steering, trust, comparison, export, tracing, and who can use it."""

import json
import re
import time
import xml.etree.ElementTree as ElementTree

import pytest
from browsing import UI, browser, cards, click, drawn, group, ids, pin, point, saved, selected, site, spot, until  # noqa: F401
from conftest import PROMPT
from serving import HOSTILE, write_document

import unweave

AXE = UI / "node_modules/axe-core/axe.min.js"


def test_feature_details_follow_the_pointer_and_take_labels(site):
    page = site.tab()
    one, other = ids(page, 0)[:2]
    click(page, one)
    pane = page.locator(".pane-feature")
    layer, index, _ = one.split("_")
    pane.get_by_text(f"L{layer}/{index}", exact=True).first.wait_for()
    pane.get_by_role("heading", name="Promotes").wait_for()
    assert pane.locator(".tokens li").count() > 5
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("capital cities")
    page.keyboard.press("Enter")
    pane.get_by_role("heading", name="capital cities").wait_for()
    assert saved(page)["labels"] == {f"{layer}_{index}": "capital cities"}
    point(page, other)
    until(page, "text => !document.querySelector('.pane-feature h3').textContent.includes(text)", "capital cities")
    page.keyboard.press("/")
    page.keyboard.type("capital cit")
    page.locator("#palette-list li").first.get_by_text("capital cities").wait_for()


def test_a_label_can_be_for_one_place_only(site):
    page = site.tab()
    one = ids(page, 0)[0]
    click(page, one)
    page.get_by_role("button", name="Edit label").click()
    page.get_by_label("only here").check()
    page.get_by_label("Label", exact=True).fill("just here")
    page.get_by_label("Label", exact=True).press("Enter")
    assert saved(page)["labels"] == {one: "just here"}


def test_feature_pages_are_shown(site):
    page = site.tab()
    details = {
        "layer": 0, "index": 1, "source": "page", "label": "", "density": 0.0123,
        "promoted": [["a", 1.5], ["b", None]], "suppressed": [["c", -1.0]],
        "histogram": {"edges": [0, 1, 2, 3], "counts": [90, 9, 1]}, "quantiles": None,
        "contexts": [
            {"quantile": "Top", "tokens": ["x", " <b>y</b>", "\n"], "activations": [0, 3000.0, 0.5], "peak": 1},
            {"quantile": "0.5", "tokens": ["z"], "activations": [1]},
        ],
    }  # fmt: skip
    page.route("**/features/**", lambda route: route.fulfill(json=details))
    click(page, ids(page, 0)[0])
    pane = page.locator(".pane-feature")
    pane.get_by_text("active on").wait_for()
    assert "1.23%" in pane.inner_text() and "Quantile 0.5" in pane.inner_text()
    assert pane.locator(".context .heat-8.peak").inner_text() == " <b>y</b>"
    assert pane.locator(".histogram .bin").count() == 3 and pane.locator(".histogram .here").count() == 1


def test_steering_shows_before_and_after_and_keeps_history(site):
    page = site.tab()
    one, other = ids(page, 0)[:2]
    pin(page, other)
    click(page, one)
    page.keyboard.press("s")
    page.get_by_role("group", name=re.compile("^Change")).get_by_role("button", name="scale").click()
    field = page.get_by_label(re.compile("^Value for"))
    field.fill("-3")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".result").wait_for()
    run = saved(page)["history"][0]
    assert run["request"]["changes"][0] == {
        "action": "scale",
        "nodes": [one],
        "value": -3,
        "name": run["request"]["changes"][0]["name"],
    }
    assert run["request"]["watch"] == [other] and run["facts"]["watched"][0]["node"] == other
    first = run["facts"]["next"][0]
    row = page.locator(".next tbody tr").first.inner_text()
    assert f"{first['probability_before'] * 100:.1f}%" in row and f"{first['probability_after'] * 100:.1f}%" in row
    assert page.locator(".watched li").count() == 1
    page.get_by_role("group", name=re.compile("^Change")).get_by_role("button", name="ablate").click()
    page.get_by_role("button", name="Run", exact=True).click()
    until(page, "() => document.querySelectorAll('.history li').length === 2")
    page.reload()
    page.wait_for_selector(".link-canvas")
    page.keyboard.press("s")
    page.locator(".history li").nth(1).get_by_role("button").first.click()
    assert f"{first['probability_after'] * 100:.1f}%" in page.locator(".next").inner_text()


def test_what_cannot_be_steered_is_said(site):
    page = site.tab()
    click(page, ids(page, 0)[0])
    page.keyboard.press("s")
    page.get_by_text("Swap from another prompt").click()
    page.get_by_label("Swap in the features of this prompt").fill("too short")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".steer .error").wait_for()
    assert "Traceback" not in page.locator(".steer .error").inner_text()


def test_trust_shows_scores_exactness_and_any_validation(site):
    report = {
        "verdict": {"text": "Holds <up>", "level": "good", "reasons": ["Because of <this>."]},
        "prompts": 3,
        "detail": {"left": "out"},
        "figures": [
            {"name": "agreement", "value": 0.9123, "low": 0.8, "high": 0.95, "note": "of signs"},
            {"name": "unknown", "value": None},
            {"group": "control: ranks", "name": "influence and KL", "value": 0.4321},
            {"group": "neurons: signs", "name": "signed", "value": 0.8765},
        ],
    }
    (site.folder / "one.validation.json").write_text(json.dumps(report))
    (site.folder / "two.validation.json").write_text('{"verdict": "Only words"}')
    page = site.tab()
    page.get_by_role("button", name="Trust").click()
    text = page.locator(".drawer").inner_text()
    scores = unweave.Graph.load(site.folder / "one.graph.safetensors").provenance.scores
    assert (
        f"{scores[0]:.3g}" in text
        and f"{scores[1]:.3g}" in text
        and "Peer style" in text
        and "largest residual" in text
    )
    assert "Holds <up>" in text and "0.912 0.8 to 0.95" in text and "of signs" in text and "prompts" in text
    assert "Because of <this>." in text and "0.432" not in text
    page.get_by_text("Random dictionary: Does influence say which features matter?").click()
    page.get_by_text("The model's own neurons: Does the graph say which way they push?").click()
    assert "0.432" in page.locator(".drawer").inner_text() and "0.876" in page.locator(".drawer").inner_text()
    page.goto(site.address + "#two")
    page.get_by_text("Only words").wait_for()


def test_two_graphs_side_by_side(site):
    page = site.tab()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_label("Compare with").select_option("two")
    page.locator(".other-graph").wait_for()
    facts = page.evaluate("fetch('/api/compare?a=one&b=two').then(answer => answer.json())")
    view = page.evaluate("fetch('/api/graphs/one').then(answer => answer.json())")
    features = [a for a, _ in facts["shared"] if view["nodes"]["kind"][a] == 0]
    assert page.locator(".compare .status-text").inner_text().startswith(f"{len(features)} features shared")
    row, twin = next(pair for pair in facts["shared"] if view["nodes"]["kind"][pair[0]] == 0)
    point(page, view["nodes"]["id"][row])
    until(page, "() => document.querySelectorAll('.tooltip').length === 2")
    other = page.evaluate("fetch('/api/graphs/two').then(answer => answer.json())")["nodes"]["id"][twin]
    page.mouse.move(*page.evaluate("id => document.querySelector('.other-graph .link-canvas').nodeAt(id)", other))
    until(page, "() => document.querySelectorAll('.tooltip').length === 2")
    assert "in both graphs" in page.locator(".other-graph .tooltip").inner_text()
    page.locator("summary", has_text="Only in A").click()
    only = [a for a in facts["only_a"] if view["nodes"]["kind"][a] == 0]
    assert page.locator("details", has_text="Only in A").locator("li").count() == len(only)
    point(page, view["nodes"]["id"][row])
    click(page, view["nodes"]["id"][row])
    assert page.locator(".pane-connections .selected-head").is_visible(), "connections stay while comparing"
    page.locator(".pane-connections").get_by_role("button", name="Maximise Connections").click()
    assert (
        not page.locator(".other-graph").is_visible()
        and page.locator(".pane-connections").bounding_box()["width"] > 900
    )
    page.get_by_role("button", name="Restore Connections").click()
    page.get_by_role("button", name="Close the comparison").click()
    page.locator(".pane-connections").wait_for()


@pytest.mark.parametrize("figure", ["Link graph", "Subgraph"])
def test_figures(site, figure):
    page = site.tab(context=site.context(color_scheme="dark"))
    pin(page, *ids(page, 0)[:3], ids(page, 3)[0])
    page.get_by_role("button", name="Export", exact=True).click()
    row = page.locator(".export-row", has_text=figure)
    with page.expect_download() as got:
        row.get_by_role("button", name="SVG").click()
    text = got.value.path().read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "NaN" not in text and "href" not in text
    assert root.find("{http://www.w3.org/2000/svg}rect").get("fill") == "#ffffff", "print colours whatever the theme"
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("of influence shown" in line for line in texts) if figure == "Link graph" else len(texts) >= 8
    with page.expect_download() as got:
        row.get_by_role("button", name="PNG").click()
    assert got.value.path().read_bytes().startswith(b"\x89PNG") and got.value.path().stat().st_size > 5000


def test_one_html_file_opens_from_disk_with_the_annotations(site, tmp_path):
    page = site.tab()
    a, b, c = ids(page, 0)[:3]
    pin(page, a, b)
    group(page, a, b, name="Kept")
    saved(page)
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as got:
        page.get_by_role("button", name="One HTML file").click()
    path = tmp_path / "graph.html"
    got.value.save_as(path)
    context = site.context(offline=True)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = site.tab(path.as_uri(), context)
    page.locator(".subgraph", has_text="Kept").wait_for()
    click(page, a)
    page.locator(".pane-feature").get_by_role("heading", name="Promotes").wait_for()
    click(page, c, "Control")
    page.wait_for_selector(f'[data-card="{c}"]')
    page.wait_for_selector(".saved-saved")
    page.wait_for_timeout(600)
    page.reload()
    page.wait_for_selector(f'[data-card="{c}"]')
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_prompt_is_traced_with_progress_or_cancelled(site):
    page = site.tab("")
    body = lambda route: {**json.loads(route.request.post_data), "prompt": PROMPT}  # noqa: E731  the tiny model reads token ids alone
    page.route("**/api/trace", lambda route: route.continue_(post_data=json.dumps(body(route))))
    page.get_by_role("button", name="Trace a prompt").click()
    page.get_by_role("textbox", name="Prompt").fill("any")
    page.get_by_label("Most features").fill("40")
    page.get_by_role("button", name="Trace", exact=True).click()
    page.wait_for_selector(".link-canvas")
    assert page.evaluate("location.hash").startswith("#0-7-3-41-7-12")
    assert unweave.Graph.load(next(site.folder.glob("0-7*.graph.safetensors"))).provenance.max_features == 40
    page.goto(site.address)
    page.route("**/api/trace", lambda route: route.fulfill(json={"job": "slow"}))
    events = 'event: progress\ndata: {"share": 0.4, "title": "edges into layer 1"}\n\n'
    page.route("**/jobs/slow/events", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    cancelled: list[str] = []
    page.route(
        "**/jobs/slow",
        lambda route: (cancelled.append(route.request.method), route.fulfill(json={"state": "cancelled"})),
    )
    page.get_by_role("button", name="Trace a prompt").click()
    page.get_by_role("textbox", name="Prompt").fill("again")
    page.get_by_role("button", name="Trace", exact=True).click()
    page.get_by_text("edges into layer 1").wait_for()
    assert page.locator("progress").get_attribute("value") == "0.4"
    page.get_by_role("button", name="Cancel").click()
    until(page, "() => true")
    page.wait_for_timeout(200)
    assert cancelled[0] == "DELETE"


def test_a_trace_that_fails_says_why(site):
    page = site.tab("")
    page.get_by_role("button", name="Trace a prompt").click()
    page.get_by_role("textbox", name="Prompt").fill("text for a model without a tokenizer")
    page.get_by_role("button", name="Trace", exact=True).click()
    page.locator("dialog .error").wait_for()


def test_files_are_added_and_broken_ones_explained(site, tmp_path):
    page = site.tab("")
    (site.folder / "broken.json").write_text("{}")
    page.reload()
    page.locator(".graph-card.broken").wait_for()
    bad = tmp_path / "bad.json"
    bad.write_text('{"nodes": 1}')
    page.locator("input[type=file]").set_input_files(bad)
    page.locator(".start .error[role=alert]").wait_for()
    page.locator("input[type=file]").set_input_files(write_document(tmp_path / "theirs.json"))
    page.wait_for_selector(".link-canvas")
    assert "6 of 6 nodes" in page.locator(".status").inner_text()
    assert len(cards(page)) == 1, "pins and groups of the file come along"


def test_hostile_text_stays_text(site):
    write_document(site.folder / "hostile.json", prompt=HOSTILE, tokens=(HOSTILE, HOSTILE), label=HOSTILE)
    page = site.tab("#hostile")
    page.on("dialog", lambda dialog: site.complaints.append(f"script ran: {dialog.message}"))
    for kind in (0, 2, 3):
        click(page, ids(page, kind)[0])
    page.keyboard.press("s")
    page.keyboard.press("/")
    page.keyboard.type("script")
    page.wait_for_timeout(200)
    page.keyboard.press("Escape")
    assert page.locator("img").count() == 0
    assert "<img src=x" in page.locator(".top-bar h1").inner_text()
    for name in ("SVG", "PNG"):
        page.get_by_role("button", name="Export", exact=True).click() if page.locator(
            ".export-row"
        ).count() == 0 else None
        with page.expect_download() as got:
            page.locator(".export-row", has_text="Link graph").get_by_role("button", name=name).click()
        assert name == "PNG" or b"<img" not in got.value.path().read_bytes()


def test_an_unknown_graph_is_said_and_leads_back(site):
    page = site.tab("")
    page.goto(site.address + "#nowhere")
    page.get_by_role("alert").get_by_text("nowhere").wait_for()

    def late(route):
        time.sleep(0.3)
        route.continue_()

    page.goto(site.address)
    page.route("**/api/graphs/elsewhere", late)  # refused for its annotations before its view comes
    page.goto(site.address + "#elsewhere")
    page.get_by_role("alert").get_by_text("elsewhere").wait_for()
    page.wait_for_timeout(600)
    page.get_by_role("alert").get_by_text("elsewhere").wait_for(timeout=1000)
    page.locator("a.graph-card").first.click()
    page.wait_for_selector(".link-canvas")
    page.get_by_role("button", name="All graphs").click()
    page.wait_for_selector(".start")


def test_light_and_dark(site):
    background = "getComputedStyle(document.body).backgroundColor"
    dark = site.tab(context=site.context(color_scheme="dark"))
    light = site.tab()
    assert (dark.evaluate(background), light.evaluate(background)) == ("rgb(15, 17, 22)", "rgb(243, 244, 247)")
    pixel = (
        "() => [...document.querySelector('.link-canvas canvas').getContext('2d').getImageData(700, 10, 1, "
        "1).data].slice(0, 3)"
    )
    until(dark, f"() => String(({pixel})()) === '23,26,33'")
    light.get_by_role("button", name="Theme: system").click()
    light.get_by_role("button", name="Theme: light").click()
    until(light, f"() => {background} === 'rgb(15, 17, 22)'")
    light.reload()
    light.wait_for_selector(".link-canvas")
    assert light.evaluate(background) == "rgb(15, 17, 22)", "the choice is kept"


def test_help_and_escape(site):
    page = site.tab()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Help").wait_for()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    for _ in range(3):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(site, scheme):
    if not AXE.exists():
        pytest.skip("axe-core is not installed: `npm ci` in ui/")
    page = site.tab("", site.context(color_scheme=scheme))

    def check(where):
        page.wait_for_timeout(250)  # colours in motion have no contrast yet
        found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        assert [
            (where, fault["id"], [node["html"][:160] for node in fault["nodes"]][:3]) for fault in found["violations"]
        ] == []

    page.evaluate(AXE.read_text())
    check("start")
    page.locator("a.graph-card", has_text="41").first.click()
    page.wait_for_selector(".link-canvas")
    nodes = ids(page, 0)[:3]
    pin(page, *nodes)
    check("first steps")
    group(page, *nodes[:2], name="Group")
    click(page, nodes[2])
    page.keyboard.press("Escape")
    page.locator(f'[data-card="{nodes[2]}"]').click()
    for drawer in ("Filters", "Steer", "Trust", "Compare", "Notes", "Export"):
        page.locator(".top-bar").get_by_role("button", name=drawer).click()
        page.locator(".drawer").wait_for()
        check(drawer)
    for key in ("/", "?"):
        page.keyboard.press(key)
        page.get_by_role("dialog").wait_for()
        check(key)
        page.keyboard.press("Escape")
