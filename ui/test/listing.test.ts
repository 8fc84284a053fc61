import assert from "node:assert/strict";
import { test } from "node:test";
import golden from "../../tests/data/page-golden.json";
import { buildGraph, strongest, strongestLogit } from "../src/graph.ts";
import { listed } from "../src/listing.ts";
import { Kind, type GraphEntry, type View } from "../src/types.ts";

const entry = (slug: string, more: Partial<GraphEntry> = {}): GraphEntry => ({ slug, title: slug, model: "toy", nodes: 1, edges: 1, ...more });
const entries = [entry("b", { prompt: "The capital of France", answer: " Paris", edges: 5 }), entry("a10", { answer: " Austin", edges: 9 }), entry("a9", { file: "two hops.json" })];

test("graphs are found by any of their words, in any of their texts", () => {
  assert.deepEqual(listed(entries, "france PARIS", "newest").map(({ slug }) => slug), ["b"]);
  assert.deepEqual(listed(entries, "hops", "newest").map(({ slug }) => slug), ["a9"]);
  assert.deepEqual(listed(entries, "nowhere", "newest"), []);
});

test("graphs are sorted by name, answer and size", () => {
  assert.deepEqual(listed(entries, "", "newest").map(({ slug }) => slug), ["b", "a10", "a9"]);
  assert.deepEqual(listed(entries, "", "name").map(({ slug }) => slug), ["a9", "a10", "b"]);
  assert.deepEqual(listed(entries, "", "answer").map(({ slug }) => slug), ["a10", "b", "a9"]);
  assert.deepEqual(listed(entries, " ", "size").map(({ slug }) => slug), ["a10", "b", "a9"]);
});

test("what is pinned first is the likeliest output and what pushes it most", () => {
  const graph = buildGraph(structuredClone(golden.view) as unknown as View);
  const found = strongest(graph, 3);
  assert.equal(found[0], graph.view.nodes.id[strongestLogit(graph)!]);
  assert.deepEqual(found.slice(1, 4).map((id) => graph.view.nodes.kind[graph.row.get(id)!]), [Kind.Feature, Kind.Feature, Kind.Feature]);
  const bare = structuredClone(golden.view) as unknown as View;
  bare.nodes.kind = bare.nodes.kind.map((kind) => (kind === Kind.Logit ? Kind.Error : kind));
  assert.equal(strongestLogit(buildGraph(bare)), null);
});
