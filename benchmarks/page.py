"""Time from a request to the whole answer of the page's server, for graphs of growing size; memory of the server.

    python benchmarks/page.py [--nodes 20000] [--edges 10000000] [--shown 200000]

The server runs in its own process on a random graph, as `unweave serve` would. `first` opens the file (`CPU`: the
server's CPU seconds for it, which a busy machine does not change); `again` is a second tab;
`same` is a reload of an unchanged graph (304). Edges of a node are asked for one by one, 50 nodes at random.
"""

import argparse
import gzip
import http.client
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SIZES = ((500, 20_000), (5_000, 1_000_000), (20_000, 10_000_000))


def serve(folder: str, pipe) -> None:
    from serving import listening

    from unweave.server.library import open_library
    from unweave.server.state import Server

    with listening(Server(open_library([Path(folder)]))) as port:
        pipe.send(port)
        while pipe.recv() == "used":
            used = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send((used.ru_utime + used.ru_stime, used.ru_maxrss))


def ask(port: int, address: str, **headers: str) -> tuple[float, int, bytes, str]:
    """Seconds, status, body as sent, ETag."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.perf_counter()
    connection.request("GET", address, headers={"Accept-Encoding": "gzip", **headers})
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - begin
    connection.close()
    return seconds, answer.status, body, answer.getheader("etag") or ""


def used(pipe) -> tuple[float, int]:
    """CPU seconds and largest memory (kB) of the server so far."""
    pipe.send("used")
    return pipe.recv()


def measure(folder: str, nodes: int, shown: int) -> dict[str, float]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, there))
    process.start()
    port = here.recv()
    listed = ask(port, "/api/graphs")[0]
    before = used(here)
    first, status, body, tag = ask(port, f"/api/graphs/g?edges={shown}")
    after = used(here)
    assert status == 200
    again, same = (
        ask(port, f"/api/graphs/g?edges={shown}")[0],
        ask(port, f"/api/graphs/g?edges={shown}", **{"If-None-Match": tag}),
    )
    assert same[1] == 304
    rows = range(nodes - 1, 0, -max(1, nodes // 50))
    edges = {
        way: [ask(port, f"/api/graphs/g/edges?node={row}&direction={way}")[0] for row in rows] for way in ("in", "out")
    }
    memory = used(here)[1]
    here.send("enough")
    process.join()
    plain = gzip.decompress(body)
    return {
        "list_s": listed, "first_s": first, "first_cpu_s": after[0] - before[0], "again_s": again, "same_s": same[0],
        "in_ms": 1e3 * statistics.median(edges["in"]),
        "out_ms": 1e3 * statistics.median(edges["out"]), "worst_ms": 1e3 * max(edges["in"] + edges["out"]),
        "sent_mb": len(body) / 1e6,
        "plain_mb": len(plain) / 1e6, "shown": json.loads(plain)["shown_edges"], "memory_mb": memory / 1e3,
    }  # fmt: skip


def main() -> None:
    from serving import large_graph

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--edges", type=int)
    parser.add_argument("--shown", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    sizes = [(words.nodes, words.edges or 500 * words.nodes)] if words.nodes else SIZES
    table, found = (
        Table(
            "nodes",
            "edges",
            "list s",
            "first s",
            "CPU s",
            "again s",
            "304 s",
            "in ms",
            "out ms",
            "worst ms",
            "sent MB",
            "plain MB",
            "server MB",
        ),
        [],
    )
    for nodes, edges in sizes:
        with tempfile.TemporaryDirectory() as folder:
            graph = large_graph(nodes, edges)
            graph.save(Path(folder) / "g.graph.safetensors")
            facts = {"nodes": nodes, "edges": graph.n_edges, **measure(folder, nodes, words.shown)}
        found.append(facts)
        numbers = [
            facts[key]
            for key in (
                "list_s",
                "first_s",
                "first_cpu_s",
                "again_s",
                "same_s",
                "in_ms",
                "out_ms",
                "worst_ms",
                "sent_mb",
                "plain_mb",
                "memory_mb",
            )
        ]
        table.add_row(f"{nodes:,}", f"{facts['edges']:,}", *(f"{number:.3g}" for number in numbers))
    Console(width=140).print(table)
    if words.json:
        words.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
