// Values shared with Python: tests/page_oracle.py computes the same in NumPy, and tests/test_page.py compares.
import assert from "node:assert/strict";
import { test } from "node:test";
import golden from "../../tests/data/page-golden.json";
import { entities, entityEdges } from "../src/aggregate.ts";
import { applyFilters, everything, type Filters } from "../src/filters.ts";
import { buildGraph, edgesAt } from "../src/graph.ts";
import { columnShares, linkLayout } from "../src/layout.ts";
import { complete } from "../src/merge.ts";
import type { View } from "../src/types.ts";

export const view = (): View => structuredClone(golden.view) as unknown as View;
const near = (a: number, b: number, within = 1e-5): void => assert.ok(Math.abs(a - b) <= within, `${a} is not ${b}`);

test("columns are as wide as their fullest cell", () => {
  const graph = buildGraph(view());
  columnShares(graph, () => true).forEach((share, token) => near(share, golden.expected.columns[token], 1e-12));
  const box = { width: 800, height: 500, left: 40, right: 10, top: 50, bottom: 60 };
  const layout = linkLayout(graph, box, () => true);
  near(layout.columns.at(-1)!, 790, 1e-9);
  graph.view.nodes.position.forEach((position, row) => {
    assert.ok(layout.x[row] >= layout.columns[position] - 1e-9 && layout.x[row] <= layout.columns[position + 1] + 1e-9, `node ${row} is in its column`);
    assert.ok(layout.y[row] > 50 && layout.y[row] < 440);
  });
});

test("no two shown nodes stand on the same spot", () => {
  const graph = buildGraph(view());
  const { x, y } = linkLayout(graph, { width: 800, height: 500, left: 40, right: 10, top: 50, bottom: 60 }, () => true);
  assert.equal(new Set([...x].map((at, row) => `${at.toFixed(3)} ${y[row].toFixed(3)}`)).size, graph.size);
});

test("the likeliest output stands at the right", () => {
  const graph = buildGraph(view());
  const { x } = linkLayout(graph, { width: 800, height: 500, left: 40, right: 10, top: 50, bottom: 60 }, () => true);
  assert.ok(x[graph.size - 2] > x[graph.size - 1]);
});

test("shares are of all absolute input, pruned mass included", () => {
  const graph = buildGraph(view());
  golden.expected.shares.forEach((share, edge) => near(graph.share[edge], share));
  const bare = view();
  bare.nodes.input_total = null;
  const guessed = buildGraph(bare);
  graph.inputTotal.forEach((total, row) => near(guessed.inputTotal[row], total, 1e-3));
});

test("filters count what they leave", () => {
  const graph = buildGraph(view());
  golden.filters.forEach((filters, place) => {
    const shown = applyFilters(graph, { ...everything, ...(filters as Partial<Filters>) }, new Set());
    const expected = golden.expected.shown[place];
    assert.equal(shown.nodes, expected.nodes);
    assert.equal(shown.edges, expected.edges);
    near(shown.influence, expected.influence, 1e-9);
  });
});

test("pinned nodes stay whatever the filter", () => {
  const graph = buildGraph(view());
  const hidden = applyFilters(graph, { ...everything, influence: 0, errors: false }, new Set());
  const [id] = graph.view.nodes.id;
  assert.equal(applyFilters(graph, { ...everything, influence: 0, errors: false }, new Set([id])).nodes, hidden.nodes + 1);
});

test("edges between supernodes", () => {
  const graph = buildGraph(view());
  const list = entities(complete(golden.annotations as never), graph.row);
  const edges = entityEdges(list, (row) => edgesAt(graph, row, "in"), (row) => graph.inputTotal[row]);
  const expected = golden.expected.supernode_edges as Record<string, number>;
  assert.deepEqual(edges.map(({ source, target }) => `${source} > ${target}`).sort(), Object.keys(expected).sort());
  for (const { source, target, weight } of edges) near(weight, expected[`${source} > ${target}`], 1e-5);
});

test("an edge between two single nodes is its signed share", () => {
  const graph = buildGraph(view());
  const [source, target, weight, share] = [graph.source[0], graph.target[0], graph.weight[0], graph.share[0]];
  const { id } = graph.view.nodes;
  const list = entities(complete({ pins: [id[source], id[target]] }), graph.row);
  const [edge] = entityEdges(list, (row) => edgesAt(graph, row, "in"), (row) => graph.inputTotal[row]);
  near(edge.weight, Math.sign(weight) * share);
});

test("edges stand strongest first in both directions, however they come", () => {
  const shuffled = view();
  const order = [...shuffled.edges.source.keys()].sort((a, b) => ((a * 7919) % 101) - ((b * 7919) % 101));
  for (const name of ["source", "target", "weight", "share"] as const) shuffled.edges[name] = order.map((e) => (golden.view.edges[name] as number[])[e]);
  const graph = buildGraph(shuffled);
  for (const direction of ["in", "out"] as const) {
    let seen = 0;
    for (let row = 0; row < graph.size; row++) {
      const shares = edgesAt(graph, row, direction).map(([, , share]) => share);
      seen += shares.length;
      assert.deepEqual(shares, shares.toSorted((a, b) => b - a));
    }
    assert.equal(seen, golden.view.edges.source.length);
  }
});
