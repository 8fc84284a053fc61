"""A server for tests: an application over a folder of graphs, and the requests that a page makes."""

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import torch
from starlette.testclient import TestClient

import unweave
from unweave.server.app import create_app
from unweave.server.library import open_library
from unweave.server.run import listen, server_for
from unweave.server.state import Server

HOSTILE = '</script><img src=x onerror="alert(1)">\u2028'


class Page(TestClient):
    """Requests as the page makes them: this host, and the token on every one."""

    def __init__(self, server, token=None):
        headers = {"X-Unweave-Token": server.token if token is None else token}
        super().__init__(create_app(server), base_url="http://127.0.0.1:8230", headers=headers)
        self.server = server


def page_of(*places, **more):
    """A page over files and folders."""
    return Page(Server(open_library(places), **more))


def document(prompt="a b", tokens=("a", " b"), label="", **metadata):
    """A graph as the field's JSON: two embeddings, two features, an error and a target."""

    def node(name, layer, position, kind, **more):
        return {
            "node_id": name,
            "feature": 0,
            "layer": layer,
            "ctx_idx": position,
            "feature_type": kind,
            "jsNodeId": name,
            "clerp": label,
            **more,
        }

    clt, error = "cross layer transcoder", "mlp reconstruction error"
    return {
        "metadata": {"slug": "x", "scan": "toy", "prompt": prompt, "prompt_tokens": list(tokens), **metadata},
        "qParams": {"pinnedIds": ["0_3_1"], "supernodes": [["pair", "0_3_1", "1_4_1"]], "linkType": "both"},
        "nodes": [
            node("E_5_0", "E", 0, "embedding"),
            node("E_6_1", "E", 1, "embedding"),
            node("0_3_1", "0", 1, clt, influence=0.5, activation=2.0),
            node("1_4_1", "1", 1, clt, influence=0.7, activation=1.0),
            node("0_1_1", "1", 1, error, influence=0.9),
            node("3_7_1", "3", 1, "logit", token_prob=0.8, clerp=f'Output "{label or "c"}" (p=0.800)'),
        ],
        "links": [
            {"source": "E_6_1", "target": "0_3_1", "weight": 1.5},
            {"source": "E_5_0", "target": "0_3_1", "weight": -0.5},
            {"source": "0_3_1", "target": "1_4_1", "weight": 2.0},
            {"source": "0_3_1", "target": "3_7_1", "weight": -1.0},
            {"source": "1_4_1", "target": "3_7_1", "weight": 3.0},
            {"source": "0_1_1", "target": "3_7_1", "weight": 0.5},
        ],
    }


def write_document(path, **changes):
    """The same in a file."""
    Path(path).write_text(json.dumps(document(**changes)), encoding="utf-8")
    return Path(path)


def large_graph(nodes, edges, seed=0):
    """A random graph of features in 24 layers with about so many edges, pruned in name alone."""
    from unweave.graphs.influence import Rows
    from unweave.graphs.nodes import NodeTable

    generator, layers, positions = torch.Generator().manual_seed(seed), 24, 16
    count = nodes - positions - 5
    layer = torch.sort(torch.randint(0, layers, (count,), generator=generator)).values
    position = torch.randint(0, positions, (count,), generator=generator)
    order = torch.argsort(layer * positions + position, stable=True)
    features = torch.stack([layer, position, torch.arange(count)], 1)[order]
    table = NodeTable.build(
        n_layers=layers, features=features, activations=torch.rand(count, generator=generator) + 0.1,
        errors=torch.zeros(0, 2, dtype=torch.int64),
        embeddings=torch.arange(positions), logits=torch.stack([torch.arange(5), torch.full((5,), positions - 1)], 1),
        probabilities=torch.tensor([0.5, 0.2, 0.1, 0.05, 0.02]),
    )  # fmt: skip
    allowed = torch.where(table.kind == 0, torch.searchsorted(table.layer[:count].contiguous(), table.layer), count)
    allowed[count : count + positions] = 0
    each = edges // (count + 5) + 1
    columns = []
    for row in range(len(table)):
        below = int(allowed[row])
        sources = torch.randperm(below, generator=generator)[:each] if below else torch.zeros(0, dtype=torch.int64)
        tokens = (
            torch.arange(count, count + positions) if table.kind[row] in (0, 3) else torch.zeros(0, dtype=torch.int64)
        )
        columns.append(torch.cat([torch.sort(sources).values, tokens]))
    start = torch.cat([torch.zeros(1, dtype=torch.int64), torch.tensor([len(part) for part in columns]).cumsum(0)])
    column = torch.cat(columns).to(torch.int32)
    rows = Rows(start, column, torch.randn(len(column), generator=generator))
    facts = unweave.Provenance(
        model="toy", n_layers=layers, prompt="a large graph", tokens=tuple(f" t{place}" for place in range(positions)),
        input_ids=tuple(range(positions)), logit_labels=tuple("abcde"), created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    unknown, nothing = torch.zeros(len(table)), torch.zeros(len(table))
    return unweave.Graph(table, rows, unknown, unknown, nothing, nothing, None, None, facts)


@contextmanager
def listening(server, port=0):
    """A server on a real port (0: any) in a thread; yields its port, and stops it afterwards."""
    with listen(port) as sock:
        holder = server_for(create_app(server))
        thread = threading.Thread(target=holder.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            holder.should_exit = True
            thread.join(10)
            server.jobs.close()
