"""Speed of the page in headless Chromium: first screen, first paint of the whole graph, click, hover, filter
slider, memory, on a large random graph; and the list of many graphs, at a first and a second start.

    python benchmarks/page_browser.py [--nodes 5000] [--edges 1000000] [--listed 1000]

Prints JSON: wall times (least, median, 90th percentile) and CPU time of the page's main thread.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browsing import CHROMIUM, FLAGS, OPENS_ON_THE_GRAPH
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from serving import large_graph, listening

from unweave.page.template import STATIC
from unweave.server.library import open_library
from unweave.server.state import Server

WAIT = 240_000

# From the moment the view's text is there: parsing it, building the graph, drawing it.
FIRST_PAINT = """async address => {
  const json = Response.prototype.text;
  let arrived = 0;
  Response.prototype.text = async function () {
    const text = await json.call(this);
    if (text.length > 1e6) arrived = performance.now();
    return text;
  };
  location.hash = address;
  const painted = () => {
    const canvas = document.querySelector('.link-canvas canvas');
    return canvas && canvas.width > 300 && canvas.getContext('2d').getImageData(
      0, 0, canvas.width, canvas.height).data.some(part => part && part < 250);
  };
  while (!painted()) await new Promise(requestAnimationFrame);
  return performance.now() - arrived;
}"""

# Events are sent in the page, so that what is measured is its own work: handler, rendering and the next frame's
# drawing.
HOVER = """async () => {
  const canvas = document.querySelector('.link-canvas'), box = canvas.getBoundingClientRect(), times = [];
  for (let step = 0; step < 60; step++) {
    const [x, y] = [box.left + 60 + (step * 97) % (box.width - 100), box.top + 80 + (step * 53) % (box.height - 180)];
    const start = performance.now();
    canvas.dispatchEvent(new MouseEvent('mousemove', {clientX: x, clientY: y, bubbles: true}));
    await new Promise(resolve => {
      const channel = new MessageChannel(); channel.port1.onmessage = resolve; channel.port2.postMessage(0); });
    times.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return times;
}"""

CLICK = """async ids => {
  const canvas = document.querySelector('.link-canvas'), times = [];
  for (const id of ids) {
    const place = canvas.nodeAt(id);
    if (!place) continue;
    const at = {clientX: place[0] ?? place.x, clientY: place[1] ?? place.y, bubbles: true};
    canvas.dispatchEvent(new MouseEvent('mousemove', at));
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    canvas.dispatchEvent(new MouseEvent('click', at));
    await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
    times.push(performance.now() - start);
  }
  return times;
}"""

LISTED = """async () => {
  const start = performance.now();
  const found = await fetch('/api/graphs').then(answer => answer.json());
  return [performance.now() - start, found.graphs.length];
}"""

SLIDE = """async name => {
  const field = [...document.querySelectorAll('.slider')].find(
    label => label.textContent.includes(name)).querySelector('input'), times = [];
  for (let step = 0; step < 30; step++) {
    field.value = 98 - 2 * step;
    const start = performance.now();
    field.dispatchEvent(new Event('input', {bubbles: true}));
    await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
    times.push(performance.now() - start);
  }
  return times;
}"""


def spread(times: list[float]) -> dict[str, float]:
    return {
        "least": round(min(times), 1),
        "median": round(statistics.median(times), 1),
        "p90": round(sorted(times)[int(0.9 * len(times))], 1),
    }


def busy(session: CDPSession) -> float:
    """Milliseconds of CPU time of the page's main thread so far; other processes on the machine do not count."""
    return (
        next(
            metric["value"]
            for metric in session.send("Performance.getMetrics")["metrics"]
            if metric["name"] == "TaskDuration"
        )
        * 1000
    )


def memory(page: Page, session: CDPSession) -> dict[str, float]:
    session.send("HeapProfiler.collectGarbage")
    page.wait_for_timeout(500)
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    resident = [
        int(line.split()[1]) / 1024
        for status in Path("/proc").glob("[0-9]*/status")
        if b"type=renderer" in _read(status.with_name("cmdline"))
        for line in _read(status).decode().splitlines()
        if line.startswith("VmRSS")
    ]
    return {"heap_mb": round(metrics["JSHeapUsedSize"] / 2**20, 1), "renderer_mb": round(max(resident, default=0), 1)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def measure(page: Page, session: CDPSession, address: str, ids: list[str], edges: int, tries: int) -> dict[str, object]:
    """Wall times, and beside them the CPU time of the main thread, which a busy machine does not stretch."""
    first, worked, told = [], [], []
    for _ in range(tries):
        page.goto("about:blank")
        begin = time.perf_counter()
        page.goto(f"{address}?edges={edges}#large")
        page.wait_for_selector(".why-card", timeout=WAIT)
        told.append(1000 * (time.perf_counter() - begin))
    page.add_init_script(OPENS_ON_THE_GRAPH.replace("??", ";"))
    for _ in range(tries):
        page.goto(f"{address}?edges={edges}")
        page.wait_for_selector(".graph-card", timeout=WAIT)
        start = busy(session)
        first.append(page.evaluate(FIRST_PAINT, "#large"))
        worked.append(busy(session) - start)
    page.wait_for_timeout(1500)
    facts: dict[str, object] = {
        "why_ms": spread(told),
        "first_paint_ms": {**spread(first), "cpu": round(min(worked), 1)},
    }
    start = busy(session)
    hover = page.evaluate(HOVER)
    facts["hover_ms"] = {**spread(hover), "cpu": round((busy(session) - start) / len(hover), 1)}
    start = busy(session)
    clicks = page.evaluate(CLICK, ids)
    selected = page.locator(".pane-connections .selected-head").count()
    facts["click_ms"] = {**spread(clicks), "cpu": round((busy(session) - start) / len(clicks), 1), "selected": selected}
    facts["memory"] = memory(page, session)
    page.keyboard.press("f")
    page.wait_for_selector(".slider")
    for name, words in (("node_slider_ms", "Nodes that hold"), ("edge_slider_ms", "Least share")):
        start = busy(session)
        slide = page.evaluate(SLIDE, words)
        facts[name] = {**spread(slide), "cpu": round((busy(session) - start) / len(slide), 1)}
    return facts | {"shown": page.locator(".status").inner_text()}


def listing(browser: Browser, count: int) -> dict[str, float]:
    """Milliseconds of `GET /api/graphs` over `count` files at a first and a second start of the server."""
    facts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["UNWEAVE_CACHE"] = cache
        large_graph(2000, 20_000).save(Path(folder) / "0.graph.safetensors")
        for number in range(1, count):
            shutil.copyfile(Path(folder) / "0.graph.safetensors", Path(folder) / f"{number}.graph.safetensors")
        for start in ("first_start", "second_start"):
            with listening(Server(open_library([Path(folder)]))) as port:
                page = browser.new_page()
                page.goto(f"http://127.0.0.1:{port}/icon.svg")  # the page itself would ask for the list first
                taken, found = page.evaluate(LISTED)
                assert found == count, f"{found} of {count} are listed"
                facts[start] = round(taken, 1)
                page.close()
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--listed", type=int, default=1000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graph = large_graph(wanted.nodes, wanted.edges)
        graph.save(Path(folder) / "large.graph.safetensors")
        ids = [graph.nodes[row].id for row in range(0, min(400, len(graph.nodes)), 20)]
        with listening(Server(open_library([Path(folder)]))) as port, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(WAIT)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            facts = measure(page, session, f"http://127.0.0.1:{port}/", ids, wanted.edges, wanted.tries)
            facts["list_ms"] = listing(browser, wanted.listed)
            facts["load"] = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else None
            browser.close()
    bundle = sum((STATIC / name).stat().st_size for name in ("app.js", "app.css"))
    print(
        json.dumps(
            {
                "nodes": wanted.nodes,
                "edges": wanted.edges,
                "bundle_kb": bundle // 1000,
                "date": time.strftime("%Y-%m-%d"),
                **facts,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
