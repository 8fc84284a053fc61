"""The first screen in a real browser: why, in one line, sentences, a picture and evidence; measured or read off a
graph."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from browsing import UI, Site, browser, cards, group, ids, pin, saved  # noqa: F401
from conftest import SHARED
from serving import HOSTILE, document, listening

import unweave
from unweave.explanation.explaining import explain
from unweave.explanation.stored import graph_of, write_explanation
from unweave.features.foreign import open_pages
from unweave.server import explain_api
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server

AXE = UI / "node_modules/axe-core/axe.min.js"
PROMPT, INSTEAD = [0, 3, 7, 9, 4], [0, 3, 12, 9, 4]
UNREADABLE = """() => {
    const own = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const texts = [...document.querySelectorAll('.why *')].filter((one) => own(one) && one.tagName !== 'title');
    const small = texts.filter((one) => parseFloat(getComputedStyle(one).fontSize) < 12);
    const outside = [];
    for (const card of document.querySelectorAll('.why-card')) {
        const box = card.querySelector('rect').getBoundingClientRect();
        for (const text of card.querySelectorAll('text')) {
            const { left, right } = text.getBoundingClientRect();
            if (left < box.left - 1 || right > box.right + 1) outside.push(text.textContent);
        }
    }
    return [small.map((one) => one.outerHTML.slice(0, 80)), outside];
}"""
"""Texts under 12 pixels, and texts that leave their card."""
FOLDED = "sessionStorage.setItem('unweave.screen', 'why')"


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", "jumprelu")


@pytest.fixture(scope="module")
def explained(model):
    return unweave.explain(model, PROMPT, instead=INSTEAD, draws=4)


@pytest.fixture(scope="module")
def told(model, explained, tmp_path_factory) -> Path:
    """A traced graph, the response graph with the explanation of the same prompt, one that is not explained, and one
    of another tool."""
    folder = tmp_path_factory.mktemp("told")
    unweave.prune(unweave.attribute(model, PROMPT), 0.9, 0.95).save(folder / "features.graph.safetensors")
    unweave.prune(unweave.attribute(model, [*PROMPT[:4], 5]), 0.9, 0.95).save(folder / "other.graph.safetensors")
    graph_of(explained).save(folder / "neurons.graph.safetensors")
    write_explanation(explained.facts, folder / "neurons.explanation.json")
    (folder / "theirs.json").write_text(json.dumps(document()))
    return folder


@pytest.fixture
def site(browser, told, tmp_path, model):
    folder = tmp_path / "graphs"
    shutil.copytree(told, folder)
    with listening(Server(open_library([folder]), Live(model))) as port:
        made = Site(browser, port, folder)
        yield made
        for context in made.contexts:
            context.close()
    assert made.complaints == []


def first_screen(site, slug, address=None, **options):
    """A new reader's tab: nothing is remembered, so it opens on why."""
    context = site.context(**options)
    context.add_init_script(f"try {{ {FOLDED} }} catch {{}}")
    page = context.new_page()
    page.on("pageerror", lambda error: site.complaints.append(str(error)))
    page.goto(address or f"{site.address}#{slug}")
    page.wait_for_selector(".why-drawing svg")
    return page


def shares(page):
    return page.eval_on_selector_all(".why-card", "cards => cards.map(card => card.querySelector('title').textContent)")


@pytest.mark.parametrize("slug", ["neurons", "features"])
def test_it_opens_on_why_for_every_graph_of_the_prompt(site, explained, slug):
    page, facts = first_screen(site, slug), explained.facts
    head = page.locator(".why-head").inner_text()
    assert f"{facts['answer']['probability']:.0%}" in head and "rather than" in head and "held against" in head
    assert page.locator(".why-card").count() == len(facts["groups"])
    assert page.locator(".why-arrow").count() == sum(arrow["passed"] for arrow in facts["arrows"])
    for one, label in zip(facts["groups"], shares(page), strict=True):
        assert label.startswith(one["name"]) and (one["share"] >= 0 or "works against it" in label)
    if page.locator(".why-said > .link").count():
        page.locator(".why-said > .link").click()
    said = page.locator(".why-said li")
    assert said.count() == len(facts["sentences"])
    for number, sentence in enumerate(facts["sentences"]):
        assert said.nth(number).locator("> span").get_attribute("title") == sentence["text"]
    assert page.locator(".kind").inner_text() == ("response graph" if slug == "neurons" else "attribution graph")
    assert page.locator(".link-canvas").count() == 0, "the whole graph is folded"
    page.get_by_role("button", name="The whole graph").click()
    page.locator(".link-canvas").wait_for()
    page.reload()
    page.locator(".why-drawing svg").wait_for()


def test_a_name_lights_its_group_in_every_pane(site):
    page = first_screen(site, "neurons")
    name = page.locator(".why-said .why-group").first
    name.hover()
    card = page.locator('.why-card[data-card="group-0"], .why-card').filter(has=page.locator("rect"))
    lit = "cards => cards.map(card => card.querySelector('rect').getAttribute('stroke'))"
    before = page.eval_on_selector_all(".why-card", lit)
    assert len(set(before)) > 1 and card.count() > 0
    name.click()
    assert page.locator(".why-evidence h2").inner_text().lower().startswith(name.inner_text().lower()[:12])
    page.get_by_role("button", name="The whole graph").click()
    page.locator(".link-canvas").wait_for()
    chosen = page.locator('.why-strip .why-group[aria-pressed="true"]')
    assert chosen.count() == 1, "what was chosen stays chosen"
    unmarked = page.evaluate("document.querySelector('.link-canvas canvas').toDataURL()")
    page.locator('.why-strip .why-group[aria-pressed="false"]').first.hover()
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('.link-canvas canvas').toDataURL()") != unmarked
    page.get_by_role("button", name="Why", exact=True).click()
    page.locator(".why-drawing svg").wait_for()


def test_what_if_it_were_off_runs_the_model(site, explained):
    page = first_screen(site, "neurons")
    first = explained.facts["groups"][0]
    page.get_by_role("button", name="What if it were off?").click()
    result = page.locator(".why-result")
    result.wait_for()
    assert f"→ {100 * first['probability']:.1f}%" in result.inner_text()
    assert ". off" in shares(page)[0]
    page.get_by_label("put to").select_option("zero")
    page.locator(".why-card title", has_text="put to zero").wait_for(state="attached")
    assert page.locator(".why-result tbody tr").count() >= 3


def test_the_keyboard_alone_chooses_and_switches_off(site):
    page = first_screen(site, "neurons")
    cards = page.locator(".why-card").count()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset?.card") == f"group-{cards - 1}":
            break
    page.keyboard.press("Enter")
    assert page.locator(f'[data-card="group-{cards - 1}"]').get_attribute("aria-pressed") == "true"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").startswith("What if"):
            break
    page.keyboard.press("Enter")
    page.locator(".why-result").wait_for()


def test_a_traced_prompt_is_explained_from_the_page(site, monkeypatch):
    monkeypatch.setattr(explain_api, "explain", lambda *asked, **more: explain(*asked[:3], [0, 3, 12, 9, 5], **more))
    page = first_screen(site, "other")
    assert "Nothing here was measured" in page.locator(".why-notice").inner_text()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator(".why-notice").wait_for(state="detached")
    assert "held against" in page.locator(".why-head").inner_text()
    assert (site.folder / "other.explanation.json").is_file()


def test_explaining_that_fails_says_why_and_damaged_files_are_named(site):
    (site.folder / "other.explanation.json").write_text("{")
    page = first_screen(site, "other")
    assert "other.explanation.json is damaged" in page.locator(".why-notice .error").inner_text()
    page.get_by_role("button", name="Explain", exact=True).click()  # the tiny model has no tokenizer, so no means
    page.locator(".message.error").wait_for()
    assert "tokenizer" in page.locator(".message.error").inner_text()


def test_a_graph_of_another_tool_is_grouped_and_says_that_nothing_was_measured(site):
    page = first_screen(site, "theirs")
    assert "came from another tool" in page.locator(".why-notice").inner_text()
    assert "pair" in shares(page)[0], "its own supernode is its group"
    assert page.get_by_role("button", name="What if it were off?").is_disabled()
    assert "nothing can be tried" in page.locator(".why-off").inner_text()
    assert page.get_by_role("button", name="Explain", exact=True).count() == 0
    assert "nothing was tried in the model" in page.locator(".why-said").inner_text()


@pytest.mark.parametrize("name", ["dallas-austin", "opposite-of"])
def test_a_graph_of_gemma_is_grouped_by_its_edges(site, name):
    file = SHARED / "graphs" / f"gemma-2-2b-{name}.json"
    if not file.exists():
        pytest.skip("the shared graphs are not here")
    shutil.copy(file, site.folder)
    page = first_screen(site, file.stem)
    kept = json.loads((site.folder / f"{file.stem}.groups.json").read_text())
    assert 6 <= page.locator(".why-card").count() == len(kept["groups"]) <= 10
    assert sum(", against" in label for label in shares(page)) == sum(one["effect"] < 0 for one in kept["groups"])
    assert "Nothing here was measured" in page.locator(".why-notice").inner_text()
    assert "edges in and out are alike" in page.locator(".why-notice").inner_text()
    member = kept["groups"][0]["members"][0]
    layer, index, _ = member.split("_")
    link = page.locator(".why-evidence a").first
    assert link.get_attribute("href") == f"https://www.neuronpedia.org/gemma-2-2b/{layer}-clt-hp/{index}"
    (site.folder / "names.jsonl").write_text(json.dumps({"layer": layer, "index": index, "label": "say a place"}))
    pages = open_pages(site.folder / "names.jsonl")
    with listening(Server(open_library([site.folder]), pages=pages)) as port:
        named = first_screen(Site(site.browser, port, site.folder), file.stem)
        assert any(label.startswith("say a place") for label in shares(named))
        document = named.request.get(f"http://127.0.0.1:{port}/api/graphs/{file.stem}/export.html").body()
    (site.folder / "offline.html").write_bytes(document)
    offline = first_screen(site, "", address=(site.folder / "offline.html").as_uri())
    assert any(label.startswith("say a place") for label in shares(offline))
    assert "Nothing here was measured" in offline.locator(".why-notice").inner_text()


def test_text_of_files_stays_text(site):
    (site.folder / "bad.json").write_text(json.dumps(document(tokens=(HOSTILE, " b"), label=HOSTILE)))
    page = first_screen(site, "bad")
    assert page.evaluate("document.querySelectorAll('.why img, .why script').length") == 0


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)])
@pytest.mark.parametrize("name", ["neurons", "theirs", "gemma-2-2b-dallas-austin"])
def test_text_is_readable_and_stays_in_its_card(site, size, name):
    if name.startswith("gemma"):
        if not (SHARED / "graphs" / f"{name}.json").exists():
            pytest.skip("the shared graphs are not here")
        shutil.copy(SHARED / "graphs" / f"{name}.json", site.folder)
    page = first_screen(site, name)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(400)
    small, outside = page.evaluate(UNREADABLE)
    assert small == [] and outside == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": (390, 844)}])
def test_anyone_can_read_it(site, options):
    if not AXE.exists():
        pytest.skip("axe-core is not installed: `npm ci` in ui/")
    size = options.pop("viewport", None)
    for slug in ("neurons", "theirs"):
        page = first_screen(site, slug, **options)
        if size:
            page.set_viewport_size({"width": size[0], "height": size[1]})
        if slug == "neurons":
            page.get_by_role("button", name="What if it were off?").click()
            page.locator(".why-result").wait_for()
            page.get_by_role("button", name=re.compile("Why did head")).click()
            page.locator(".pattern button").first.wait_for()
        page.wait_for_timeout(250)
        page.evaluate(AXE.read_text())
        for screen in ("why", "graph"):
            found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
            faults = [
                (slug, screen, fault["id"], [node["html"][:160] for node in fault["nodes"]][:3])
                for fault in found["violations"]
            ]
            assert faults == []
            if screen == "why":
                if size and slug == "neurons":  # on a phone the drawer covers the rest
                    page.get_by_role("button", name="Close", exact=True).click()
                page.get_by_role("button", name="The whole graph").click()
                page.locator(".link-canvas").wait_for()
                page.wait_for_timeout(250)


def test_the_picture_is_a_figure_with_its_caption(site, explained):
    page = first_screen(site, "neurons", color_scheme="dark")
    for name in ("SVG", "PNG"):
        with page.expect_download() as got:
            page.locator(".why-legend").get_by_role("button", name=name).click()
        if name == "PNG":
            assert got.value.path().read_bytes().startswith(b"\x89PNG")
            continue
        root = ElementTree.fromstring(got.value.path().read_text())
        assert root.find("{http://www.w3.org/2000/svg}rect").get("fill") == "#ffffff"
        texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any(text.startswith("Why ") for text in texts)
        assert all(float(one.get("font-size")) >= 12 for one in root.iter("{http://www.w3.org/2000/svg}text"))


def test_a_response_graph_reads_as_one(site):
    page = first_screen(site, "neurons")
    page.get_by_role("button", name="The whole graph").click()
    page.locator(".pane-connections .row").first.click()
    assert "the target" in page.locator(".selected-head").inner_text()
    assert "p =" not in page.locator(".pane-connections").inner_text()
    button = page.locator(".route-button").first
    button.click()
    page.locator(".routes .value").first.wait_for()
    listed = page.locator(".routes .name").all_inner_texts()
    assert any(re.fullmatch(r"straight|norms|MLP \d|L\dH\d (value|key|query)", name) for name in listed)
    page.get_by_role("button", name=re.compile("^Trust")).click()
    trust = page.locator(".drawer").inner_text()
    assert "against one backward pass" in trust and "Replacement" not in trust
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Why", exact=True).click()
    page.locator("a.kind-other").click()
    page.wait_for_function("() => location.hash.startsWith('#features')")
    page.locator(".kind", has_text="attribution graph").wait_for()
    page.locator(".why-drawing svg").wait_for()


def test_a_head_says_why_it_looked_there(site):
    page = first_screen(site, "neurons")
    page.get_by_role("button", name=re.compile("Why did head")).click()
    row = page.locator(".pattern button")
    row.first.wait_for()
    parts = [float(text.rstrip("%")) for text in page.locator(".pattern .value").all_inner_texts()]
    assert sum(parts) == pytest.approx(100, abs=len(parts))
    assert page.locator('.pattern [aria-pressed="true"]').count() == 1
    page.locator(".pairs li").first.wait_for()
    told = page.locator(".attention").inner_text()
    assert "Largest terms" in told and "by the query" in told and "by the keys" in told
    other = page.locator('.pattern [aria-pressed="false"]').first
    name = other.locator(".name").inner_text()
    other.click()
    page.locator(".attention h3", has_text=f"looks at “{name.strip('·')}”").wait_for()
    page.locator(".attention .chip").last.click()
    page.locator('.attention .chip.current[aria-pressed="true"]').last.wait_for()
    node = page.locator(".pairs li button.link").first
    if node.count():
        node.hover()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="The whole graph").click()
    page.locator(".pane-connections .row").first.click()
    page.locator(".route-button").first.click()
    page.locator(".routes .value").first.wait_for()
    head = page.locator(".routes button.link").first
    if head.count():
        head.click()
        page.locator(".pattern button").first.wait_for()


def test_an_address_carries_pins_groups_and_view(site):
    page = site.tab("#features")
    nodes = ids(page, 0)[:3]
    pin(page, *nodes)
    group(page, *nodes[:2], name="Mine")
    page.get_by_role("button", name="Export", exact=True).click()
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text }")
    page.get_by_role("button", name="Copy an address").click()
    page.wait_for_function("() => window.copied")
    address = page.evaluate("window.copied")
    saved(page)
    (site.folder / "features.annotations.json").unlink()
    other = site.tab(address, site.context())
    other.locator(".card", has_text="Mine").wait_for()
    assert nodes[2] in cards(other) and "?seen" not in other.evaluate("location.hash")
    damaged = site.tab(address[:-9], site.context())
    damaged.locator(".message.error", has_text="damaged").wait_for()
