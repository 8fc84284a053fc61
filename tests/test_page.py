"""The page: that the built one is fresh, and its panes and gestures in a real browser."""

import hashlib
import json
import re
import shutil
import subprocess

import pytest
import torch
from browsing import UI, browser, cards, click, drawn, group, ids, pin, point, saved, selected, site, spot, until  # noqa: F401
from conftest import SHARED
from page_oracle import golden

import unweave
from unweave.graphs.influence import Rows
from unweave.graphs.nodes import NodeTable
from unweave.page.template import STATIC

CASE = json.loads((UI.parent / "tests/data/page-golden.json").read_text())


@pytest.fixture(scope="module")
def node():
    if shutil.which("node") is None or not (UI / "node_modules").is_dir():
        pytest.skip("the page is not rebuilt: node is not installed, or `npm ci` was not run in ui/")

    def call(*words):
        done = subprocess.run(["node", *words], cwd=UI, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    return call


def test_the_built_page_is_of_these_sources():
    names = [path.relative_to(UI).as_posix() for path in (UI / "src").rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for name in sorted([*names, "build.mjs", "package-lock.json"]):
        digest.update(f"{name}\0".encode() + (UI / name).read_bytes() + b"\0")
    assert (STATIC / "VERSION").read_text().strip() == digest.hexdigest(), "run `npm run build` in ui/"


def test_a_rebuild_gives_the_same_bytes(node, tmp_path):
    node("build.mjs", f"--out={tmp_path}")
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (STATIC / path.name).read_bytes(), path.name


def test_the_page_is_small_and_loads_nothing_from_elsewhere():
    script, style = (STATIC / "app.js").read_text(), (STATIC / "app.css").read_text()
    assert len(script.encode()) + len(style.encode()) < 300_000
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", script + style))
    assert all(address.startswith(("http://www.w3.org/", "https://preactjs.com")) for address in addresses), addresses
    assert "url(" not in style and "@import" not in style and "</script" not in script.lower()
    licences = (STATIC / "THIRD_PARTY_LICENSES.txt").read_text()
    assert all(f"{name} " in licences for name in json.loads((UI / "package.json").read_text())["dependencies"])
    assert not re.search(r'"resolved"|registry', (UI / "package-lock.json").read_text())


def test_types_and_unit_tests(node):
    node("node_modules/typescript/bin/tsc", "--noEmit")
    node("build.mjs", "--test")
    node("--test", "build/")


def test_values_shared_with_typescript():
    expected, found = CASE["expected"], golden(CASE)
    assert found["shown"] == [pytest.approx(row) for row in expected["shown"]]
    assert found["supernode_edges"] == pytest.approx(expected["supernode_edges"])
    assert (found["columns"], found["shares"]) == (
        pytest.approx(expected["columns"]),
        pytest.approx(expected["shares"]),
    )


def test_shares_are_those_of_the_engine():
    view = CASE["view"]
    columns = {name: torch.tensor(view["nodes"][name]) for name in ("kind", "layer", "position", "index")}
    nodes = NodeTable(**columns, activation=torch.tensor(view["nodes"]["activation"]))
    order = sorted(
        range(len(view["edges"]["target"])), key=lambda e: (view["edges"]["target"][e], view["edges"]["source"][e])
    )
    target, source, weight = (
        torch.tensor([view["edges"][name][e] for e in order]) for name in ("target", "source", "weight")
    )
    start = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(target, minlength=len(nodes)).cumsum(0)])
    rows, zeros = Rows(start, source.to(torch.int32), weight), torch.zeros(len(nodes))
    pruned = (torch.tensor(view["nodes"]["input_total"]) - rows.row_sizes()).clamp_min(0).float()
    facts = unweave.Provenance("toy", view["layers"], None, tuple(view["tokens"]), (0, 1, 2, 3), ("a", "b"))
    graph = unweave.Graph(nodes, rows, zeros, zeros, zeros, pruned, None, None, facts)
    shares = dict(
        zip(zip(view["edges"]["source"], view["edges"]["target"], strict=True), CASE["expected"]["shares"], strict=True)
    )
    found = {(edge.source.row, edge.target.row): edge.share for node in nodes for edge in graph.incoming(node)}
    assert found == pytest.approx(shares, rel=1e-4)


def test_point_click_and_toggle(site):
    page = site.tab()
    one = ids(page, 0)[0]
    point(page, one)
    assert page.locator(".tooltip").inner_text()
    click(page, one)
    assert selected(page) == one
    inputs, outputs = page.locator(".column h3").all_inner_texts()
    assert int(inputs.split()[1]) > 0 and int(outputs.split()[1]) > 0
    click(page, one)
    assert selected(page) is None
    click(page, one)
    page.mouse.click(*[part + shift for part, shift in zip(spot(page, ids(page, 3)[0]), (-500, -40), strict=True)])
    assert selected(page) is None, "a click beside all nodes clears"


def test_shift_keeps_what_the_pointer_shows(site):
    page = site.tab()
    one, *others = ids(page, 0)
    far = max(others, key=lambda node: abs(spot(page, node)[0] - spot(page, one)[0]))
    point(page, one)
    shown = page.locator(".tooltip").inner_text()
    page.keyboard.down("Shift")
    point(page, far)
    assert page.locator(".tooltip").inner_text() == shown
    page.keyboard.up("Shift")
    page.mouse.move(*[part + 1 for part in spot(page, far)])
    until(page, "shown => document.querySelector('.tooltip').innerText !== shown", shown)


def test_control_and_pointer_show_every_number(site):
    page = site.tab()
    one = ids(page, 0)[0]
    page.keyboard.down("Control")
    point(page, one)
    text = page.locator(".tooltip").inner_text()
    assert one in text and "all absolute input" in text
    page.keyboard.up("Control")


def test_connections_tell_weight_and_share_of_all_input(site):
    page = site.tab()
    target = ids(page, 3)[0]
    click(page, target)
    graph = unweave.Graph.load(site.folder / "one.graph.safetensors")
    first = next(edge for edge in graph.incoming(target) if edge.weight > 0)
    row = page.locator(".column").first.locator("button.row").first
    assert row.get_attribute("data-node") == first.source.id
    assert f"{first.share * 100:.2f}% of all absolute input" in row.get_attribute("title")
    assert row.locator(".value").inner_text().startswith(f"+{first.weight:.3g}"[:4])
    row.click(modifiers=["Control"])
    page.wait_for_selector(f'[data-card="{first.source.id}"]')
    row.click()
    assert selected(page) == first.source.id


def test_pin_unpin_and_what_is_saved(site):
    page = site.tab()
    nodes = ids(page, 0)[:3]
    pin(page, *nodes)
    assert saved(page)["pins"] == nodes
    click(page, nodes[0], "Control")
    page.wait_for_selector(f'[data-card="{nodes[0]}"]', state="detached")
    assert saved(page)["pins"] == nodes[1:]
    page.reload()
    page.wait_for_selector(".card")
    assert sorted(cards(page)) == sorted(nodes[1:])


def test_hold_g_to_group_rename_expand_ungroup(site):
    page = site.tab()
    a, b, c = ids(page, 0)[:3]
    pin(page, a, b, c)
    name = group(page, a, b, name="Both")
    assert saved(page)["supernodes"] == [{"id": name, "name": "Both", "members": [a, b], "collapsed": True}]
    assert sorted(cards(page)) == sorted([name, c])
    card = page.locator(f'[data-card="{name}"]')
    card.locator(".card-button").click()
    until(page, "count => document.querySelectorAll('.card').length === count", 3)
    page.locator(f'[data-card="{a}"] .card-button').click()
    card.dblclick()
    page.get_by_label("Name of the supernode").fill("Renamed")
    page.keyboard.press("Enter")
    until(
        page,
        "() => document.querySelector('.card.selected, .card text') && "
        "document.querySelector('.subgraph').textContent.includes('Renamed')",
    )
    card.click(modifiers=["Control"])
    until(page, "count => document.querySelectorAll('.card').length === count", 3)
    assert saved(page)["supernodes"] == []


def test_a_supernode_sums_its_members_links(site):
    page = site.tab()
    a, b = ids(page, 0)[:2]
    pin(page, a, b)
    name = group(page, a, b)
    page.keyboard.press("Escape")
    page.locator(f'[data-card="{name}"]').click()
    graph = unweave.Graph.load(site.folder / "one.graph.safetensors")
    sums: dict[str, float] = {}
    for edge in [*graph.incoming(a), *graph.incoming(b)]:
        if edge.source.id not in (a, b):
            sums[edge.source.id] = sums.get(edge.source.id, 0) + edge.weight
    row = page.locator(".column").first.locator("button.row").first
    assert float(row.locator(".value").inner_text().replace("−", "-")) == pytest.approx(
        sums[row.get_attribute("data-node")], rel=1e-2
    )


def test_grouping_mode_without_holding_a_key(site):
    page = site.tab()
    a, b = ids(page, 0)[:2]
    page.get_by_role("button", name="Group", exact=True).click()
    click(page, a)
    click(page, b)
    page.get_by_role("button", name="Make supernode").click()
    page.get_by_label("Name of the supernode").press("Escape")
    assert saved(page)["supernodes"][0]["members"] == [a, b]


def test_a_new_reader_gets_to_a_supernode(site):
    page = site.tab("")
    page.locator("a.graph-card").first.click()
    page.get_by_role("button", name="Pin the strongest nodes").click()
    first, second = cards(page)[:2]
    assert "Hold G" in page.get_by_label("Next step").inner_text()
    group(page, first, second, name="Mine")
    assert page.get_by_label("Next step").count() == 0
    assert saved(page)["supernodes"][0]["name"] == "Mine"


def test_dragged_cards_stay_where_they_were_put(site):
    page = site.tab()
    a, b = ids(page, 0)[:2]
    pin(page, a, b)
    page.wait_for_timeout(200)
    box = page.locator(f'[data-card="{a}"]').bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 60, steps=4)
    page.mouse.up()
    placed = saved(page)["layout"]
    assert list(placed) == [a]
    assert selected(page) is None, "a drag is not a click"
    page.keyboard.press("Control+z")
    assert saved(page)["layout"] == {}


def test_zoom_pan_and_back(site):
    page = site.tab()
    one = ids(page, 0)[0]
    x, y = before = spot(page, one)
    page.mouse.move(x + 1, y + 1)
    page.mouse.wheel(0, -400)
    until(page, "([id, x]) => Math.abs(document.querySelector('.link-canvas').nodeAt(id)[0] - x) < 3", [one, x])
    other = ids(page, 3)[0]
    moved = spot(page, other)
    page.mouse.move(x - 40, y - 15)
    page.mouse.down()
    page.mouse.move(x + 20, y + 15, steps=3)
    page.mouse.up()
    assert spot(page, other) != moved and selected(page) is None
    page.get_by_role("button", name="Whole graph").click()
    assert spot(page, one) == pytest.approx(before)


def test_undo_and_redo(site):
    page = site.tab()
    a, b = ids(page, 0)[:2]
    pin(page, a, b)
    group(page, a, b, name="Pair")
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert saved(page)["supernodes"] == [] and saved(page)["pins"] == [a]
    for _ in range(3):
        page.keyboard.press("Control+Shift+z")
    assert saved(page)["supernodes"][0]["name"] == "Pair" and saved(page)["pins"] == [a, b]


def test_two_tabs_lose_nothing(site):
    first, second = site.tab(), site.tab(context=site.context())
    a, b = ids(first, 0)[:2]
    pin(first, a)
    saved(first)
    pin(second, b)
    assert set(saved(second)["pins"]) == {a, b}, "the second tab's save met a newer revision and was merged"
    first.keyboard.press("Control+z")
    first.wait_for_selector(".saved-saved")
    until(first, "a => !document.querySelector(`[data-card='${a}']`)", a)
    assert saved(first)["pins"] == [b], "undo takes back its own step alone"


def test_filters_always_say_how_much_is_hidden(site):
    page = site.tab()
    graph = unweave.Graph.load(site.folder / "one.graph.safetensors")
    everything = page.locator(".status").inner_text()
    n, errors = len(graph.nodes), int((graph.nodes.kind == 1).sum())
    assert (
        everything.startswith(f"{n} of {n} nodes, {graph.n_edges:,} of {graph.n_edges:,} edges")
        and "of influence shown" in everything
    )
    page.keyboard.press("f")
    page.get_by_label("Error nodes").uncheck()
    until(
        page, "start => document.querySelector('.status').textContent.startsWith(start)", f"{n - errors} of {n} nodes"
    )
    page.get_by_label("Least share of an edge").evaluate(
        "(field) => { field.value = 80; field.dispatchEvent(new Event('input', {bubbles: true})) }"
    )
    page.get_by_text("− negative").click()
    share = 1e-4 * 5000 ** (79 / 99)
    shown = [
        edge
        for node in graph.nodes
        for edge in graph.incoming(node)
        if edge.share >= share and edge.weight < 0 and edge.source.kind != 1
    ]
    until(page, "words => document.querySelector('.status.filtered').textContent.includes(words)", f", {len(shown)} of")
    page.wait_for_timeout(900)
    assert saved(page)["thresholds"]["errors"] == 0
    page.get_by_role("button", name="Show everything").click()
    assert page.locator(".status").inner_text() == everything


def test_search_and_commands(site):
    page = site.tab()
    one = ids(page, 0)[5]
    layer, index, _ = one.split("_")
    page.keyboard.press("/")
    page.keyboard.type(f"L{layer}/{index}")
    page.keyboard.press("Enter")
    until(page, "() => location.hash.includes('/')")
    assert selected(page).startswith(f"{layer}_{index}_")
    page.keyboard.press("Control+k")
    page.keyboard.type(one)
    page.keyboard.press("Control+Enter")
    assert saved(page)["pins"] == [one]
    page.keyboard.press("/")
    page.keyboard.type("unpin all")
    page.keyboard.press("Enter")
    assert saved(page)["pins"] == []


def test_the_keyboard_alone_walks_pins_and_groups(site):
    page = site.tab()
    graph = unweave.Graph.load(site.folder / "one.graph.safetensors")
    page.locator(".link-canvas").focus()
    page.keyboard.press("ArrowDown")
    top = ids(page, 3)[0]
    assert selected(page) == top
    inputs = graph.incoming(top)
    page.keyboard.press("ArrowDown")
    assert selected(page) == inputs[0].source.id
    page.keyboard.press("ArrowRight")
    assert selected(page) == inputs[1].source.id
    page.keyboard.press("ArrowLeft")
    assert selected(page) == inputs[0].source.id
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    assert saved(page)["pins"] == [inputs[0].source.id, inputs[1].source.id]
    page.keyboard.down("g")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.up("g")
    page.get_by_label("Name of the supernode").wait_for()
    page.keyboard.type("Keys")
    page.keyboard.press("Enter")
    assert saved(page)["supernodes"][0]["name"] == "Keys"
    page.keyboard.press("ArrowUp")


def test_panes_maximise_and_resize(site):
    page = site.tab()
    for key, pane in zip("1234", ("link", "connections", "subgraph", "feature"), strict=True):
        page.keyboard.press(key)
        until(page, "pane => document.querySelector(`.pane-${pane}`).offsetWidth > 1300", pane)
        assert page.locator(".pane:visible").count() == 1
        page.keyboard.press("Escape")
        until(page, "() => [...document.querySelectorAll('.pane')].every(pane => pane.offsetWidth > 0)")
    width = page.locator(".pane-link").bounding_box()["width"]
    handle = page.get_by_role("separator", name="Width of the link graph").bounding_box()
    page.mouse.move(handle["x"] + 3, handle["y"] + 50)
    page.mouse.down()
    page.mouse.move(handle["x"] - 200, handle["y"] + 50, steps=3)
    page.mouse.up()
    assert page.locator(".pane-link").bounding_box()["width"] == pytest.approx(width - 203, abs=8)
    page.reload()
    page.wait_for_selector(".link-canvas")
    assert page.locator(".pane-link").bounding_box()["width"] == pytest.approx(width - 203, abs=8)


@pytest.mark.parametrize("name", ["gemma-2-2b-dallas-austin", "gemma-2-2b-opposite-of"])
def test_the_two_real_graphs(site, name):
    path = SHARED / "graphs" / f"{name}.json"
    if not path.exists():
        pytest.skip("the real graphs are not here")
    shutil.copy(path, site.folder)
    page = site.tab(f"#{name}")
    document = json.loads(path.read_text())
    n, k = len(document["nodes"]), len(document["links"])
    assert page.locator(".status").inner_text().startswith(f"{n:,} of {n:,} nodes, {k:,} of {k:,} edges")
    for kind in (0, 1, 2, 3):
        click(page, ids(page, kind)[0])
        assert selected(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Pin the strongest nodes").click()
    until(page, "() => document.querySelectorAll('.card').length === 12")
    shown = {*page.evaluate("() => [...document.querySelectorAll('[data-card]')].map(card => card.dataset.card)")}
    first, second = [one for one in ids(page, 0) if one in shown][:2]
    group(page, first, second, name="Pair")
    assert saved(page)["supernodes"][0]["members"] == [first, second]
