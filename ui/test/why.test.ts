import assert from "node:assert/strict";
import { test } from "node:test";
import golden from "../../tests/data/page-golden.json";
import { buildGraph, edgesAt } from "../src/graph.ts";
import { nothing } from "../src/merge.ts";
import { derived, groupsOf, importance, outputs, pushedOutputs } from "../src/panes/why/derive.ts";
import type { Facts } from "../src/panes/why/facts.ts";
import { arrowKey, arrowWidth, type Box, placeStory, rowsOfCards, wrapped } from "../src/panes/why/place.ts";
import { siblingOf } from "../src/panes/why/kind.ts";
import { packed, type Seen, unpacked, withSeen } from "../src/panes/why/seen.ts";
import { ANSWER, gist, groupCard, linked, placed, rowsOf, shortName, storyOf, tokenCard } from "../src/panes/why/story.ts";
import { type GraphEntry, Kind, type View } from "../src/types.ts";

const graph = buildGraph(structuredClone(golden.view) as unknown as View);
const group = (name: string, place: string, position: number, layers: [number, number], share: number) => ({
  name, place, kind: "neurons", position, layers, share, evidence: "", against: share < 0, parts: ["0_1_1"], direct: share, random: 0.01, probability: 0.1,
}); // prettier-ignore
const arrow = (source: number, target: number | "answer", carried: number, passed = true) => ({ source, target, carried, passed, moved: carried, random: 0.01, heads: source === 0 ? ["3.1"] : [], by_heads: source === 0 ? 0.9 : null });
const facts: Facts = {
  headline: "", prompt: "a b c", tokens: ["a", " b", " c"], model: "toy",
  answer: { token: " d", id: 1, probability: 0.75 }, rival: { token: " e", id: 2 },
  baseline: { kind: "instead", instead: "a b x", proposed: true }, found: true,
  sentences: [
    { text: "The MLPs of layers 0-2 at ' b' act on heads 3.1 at ' c': swapped with all other groups held, they take them 83% of the way (random parts: at most 15%); 69% passes here.", kind: "chain", value: 0.83, control: 0.15, groups: [0, 1] },
    { text: "All 3 groups swapped together take 90%.", kind: "together", value: 0.9, control: 0, groups: [0, 1, 2] },
  ],
  groups: [group("the MLPs of layers 0-2 at ' b'", "the MLPs of layers 0-2 at ' b'", 1, [0, 2], 0.99), group("heads 3.1 at ' c'", "heads 3.1 at ' c'", 2, [3, 3], 0.91), { ...group("neuron 4_7_2 at ' c' that pushes ' e', ' f'", "neuron 4_7_2 at ' c'", 2, [4, 4], -0.2), pushes: [" e", " f"], members: 1 }],
  arrows: [arrow(0, 1, 0.69), arrow(1, "answer", 0.8), arrow(1, 2, -0.1), arrow(2, "answer", -0.2), arrow(0, 2, 0.3, false)],
  together: { share: 0.9, kept: 0.5 },
}; // prettier-ignore
const story = storyOf(facts, graph);

test("sentences lose what all of their kind say, and name their groups", () => {
  const text = gist(facts.sentences[0].text);
  assert.equal(text, "The MLPs of layers 0-2 at ' b' act on heads 3.1 at ' c': they take them 83% of the way; 69% passes here.");
  assert.deepEqual(story.sentences[0].pieces.map((piece) => piece.card), [groupCard(0), null, groupCard(1), null]);
  assert.equal(story.sentences[0].pieces.map((piece) => piece.text).join(""), text);
  assert.equal(story.sentences[0].full, facts.sentences[0].text);
  assert.equal(placed("Heads 1.2 at ' c' that push ' x' (2 of 2 members) are necessary", [{ name: "heads 1.2 at ' c' that push ' x' (2 of 2 members)", place: "heads 1.2 at ' c'" }]), "Heads 1.2 at ' c' are necessary");
  assert.deepEqual(story.sentences[1].pieces, [{ text: "All 3 groups swapped together take 90%.", card: null }]);
});

test("the longest name of a group is linked, and texts that are not there are not", () => {
  const pieces = linked("Neuron 4 at b that pushes c works", [{ id: "x", names: ["neuron 4 at b that pushes c", "neuron 4 at b"] }, { id: "y", names: ["nothing"] }, { id: "z", names: ["pushes c"] }]);
  assert.deepEqual(pieces, [{ text: "Neuron 4 at b that pushes c", card: "x" }, { text: " works", card: null }]);
});

test("cards say share, sign and what they push for", () => {
  assert.deepEqual(story.cards.map((card) => card.line), ["99% of the difference", "91% of the difference", "works against it: −20%"]);
  assert.deepEqual(shortName(facts.groups[0]), ["MLPs of L0-2 at “b”", null]);
  assert.deepEqual(shortName({ ...facts.groups[0], label: "towns", pushes: [" x"] }), ["MLPs of L0-2 at “b”", "“towns”"]);
  assert.equal(shortName({ place: "22 neurons at ' France', layers 7-14" })[0], "22 neurons “France” L7-14");
  assert.equal(shortName({ place: "heads 23.1 and 23.4 at ' is'" })[0], "heads 23.1 + 23.4 at “is”");
  assert.deepEqual(story.cards[2].short, ["neuron 4_7_2 at “c”", "pushes e, f"]);
  assert.deepEqual(story.rest, { name: "Not explained: 10%", line: "50% needs other neurons" });
  assert.equal(storyOf({ ...facts, together: { share: 1.36, kept: 0.5 } }, graph).rest.name, "Too much: 36%");
  assert.equal(story.arrows.length, 4); // what random parts match is not drawn
  assert.match(story.arrows[0].heads, /3\.1/);
});

test("a group is its own neurons in a response graph of neurons, else what lies at its place", () => {
  const id = graph.view.nodes.id[0];
  const place = { parts: [id], position: 1, layers: [0, 0] as [number, number] };
  const here = rowsOf(graph, place);
  assert.equal(here.exact, false);
  for (const row of here.rows) assert.ok(graph.view.nodes.position[row] === 1 && graph.view.nodes.layer[row] === 0);
  const neurons = { ...graph, view: { ...graph.view, provenance: { kind: "response", units: "neurons" } } };
  assert.deepEqual(rowsOf(neurons, place), { rows: [0], exact: true });
});

const overlap = (a: Box, b: Box): boolean => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

for (const width of [330, 700, 860, 1300]) {
  test(`at ${width} pixels cards do not overlap, arrows pass beside them, and rows follow the arrows`, () => {
    const many = { ...story, cards: [...Array(11).keys()].map((at) => ({ ...story.cards[at % 3], id: groupCard(at), layers: [at, at + 1] as [number, number] })), arrows: [0, 1, 2, 3, 4, 5, 6].map((at) => ({ ...story.arrows[0], source: groupCard(at), target: at % 2 ? ANSWER : groupCard(at + 3), size: 0.05 })) };
    const { boxes, ways, height } = placeStory(many, width, 430);
    const all = [...boxes.entries()];
    for (const [a, one] of all) {
      assert.ok(one.x >= -0.5 && one.x + one.width <= width + 0.5 && one.y + one.height <= height, `${a} is inside`);
      for (const [b, other] of all) assert.ok(a === b || !overlap(one, other), `${a} over ${b}`);
    }
    const cards = many.cards.map((card) => boxes.get(card.id)!);
    for (const one of many.arrows) {
      const way = ways.get(arrowKey(one));
      assert.ok(way, "every arrow goes upwards");
      for (let at = 1; at + 1 < way.length; at += 2) {
        assert.ok(!cards.some((card) => way[at].x > card.x && way[at].x < card.x + card.width && card.y === way[at + 1].y), "beside cards");
      }
    }
    assert.ok(boxes.get(ANSWER)!.y < Math.min(...cards.map((card) => card.y)));
    assert.ok(boxes.get(tokenCard(0))!.y > Math.max(...cards.map((card) => card.y)));
  });
}

test("a row holds no more cards than fit, and sources stand below targets", () => {
  const rows = rowsOfCards(story, 2);
  assert.deepEqual(rows.map((row) => row.map((card) => card.id)), [[groupCard(0)], [groupCard(1)], [groupCard(2)]]);
  const many = rowsOfCards({ cards: [...Array(7).keys()].map((at) => ({ ...story.cards[0], id: groupCard(at) })), arrows: [] }, 3);
  assert.deepEqual(many.map((row) => row.length), [3, 3, 1]);
});

test("thickness is in proportion, and texts are cut at words", () => {
  assert.ok(Math.abs(arrowWidth(0.5) - arrowWidth(0) - (arrowWidth(1) - arrowWidth(0.5))) < 1e-9);
  assert.equal(arrowWidth(-3), arrowWidth(1));
  assert.deepEqual(wrapped("22 neurons at “France”, L7-14", 26, 2), ["22 neurons at “France”,", "L7-14"]);
  assert.deepEqual(wrapped("one two three four", 7, 2), ["one two", "three…"]);
});

test("a graph that nobody explained is told by supernodes, and by groups read off its edges", () => {
  const features = [...Array(graph.size).keys()].filter((row) => graph.view.nodes.kind[row] === Kind.Feature);
  const readOff = [{ rows: features.slice(0, 3), effect: 0.5 }, { rows: features.slice(3, 4), effect: -0.1 }, { rows: [graph.size + 5], effect: 1 }];
  const told = derived(graph, nothing, readOff);
  assert.equal(told.measured, false);
  assert.deepEqual(told.cards.map((card) => card.rows), readOff.slice(0, 2).map(({ rows }) => rows));
  assert.deepEqual(told.cards.map((card) => [card.against, card.line.endsWith(", against")]), [[false, false], [true, true]]);
  assert.match(told.sentences.at(-1)!.full, /nothing was tried in the model/);
  assert.match(told.how!, /edges in and out are alike/);
  for (const one of told.arrows) assert.ok(one.target === ANSWER || told.cards.some((card) => card.id === one.target));
  const own = { ...nothing, supernodes: [{ id: "s", name: "mine", members: features.slice(1, 4).map((row) => graph.view.nodes.id[row]) }] };
  assert.deepEqual(groupsOf(graph, own, readOff), [{ name: "mine", rows: features.slice(1, 4), against: false }, { name: null, rows: features.slice(0, 1), against: false }]);
  assert.equal(derived(graph, own, readOff).cards[0].name, "mine");
  assert.match(derived(graph, own, readOff).how!, /^1 supernode, and/);
});

test("a group that nobody named is called by its place, and by the outputs it pushes for", () => {
  const view = structuredClone(golden.view) as unknown as View;
  view.nodes.label = view.nodes.label.map((label, row) => (view.nodes.kind[row] === Kind.Feature ? "" : label));
  view.nodes.promotes = null;
  const plain = buildGraph(view);
  const output = outputs(plain)[0];
  const pushing = edgesAt(plain, output, "in").find(([row, weight]) => weight > 0 && plain.view.nodes.kind[row] === Kind.Feature)![0];
  const [card] = derived(plain, nothing, [{ rows: [pushing], effect: 1 }]).cards;
  assert.equal(card.name, card.place);
  assert.match(card.place, /^1 feature on “.*”, layer \d+$/);
  if (pushedOutputs(plain, [pushing]).includes(output)) assert.ok(card.short[1]!.startsWith("pushes "));
});

test("effects take the place of influence where the graph has them", () => {
  const response = { ...graph, view: { ...graph.view, nodes: { ...graph.view.nodes, effect: [...Array(graph.size).keys()].map((row) => (row === 1 ? -5 : 0)) } } };
  assert.equal(importance(response)[1], 5);
  assert.equal(importance(graph), graph.influence);
});

test("what an address carries comes back whole, and a damaged one is none", () => {
  const seen: Seen = { pins: ["0_1_2", "E_5_0"], groups: [["“Zürich” + 日本", ["0_1_2", "1_2_3"]]], screen: "graph", chosen: "group-1" };
  const text = packed(seen);
  assert.match(text, /^[\w-]+$/);
  assert.deepEqual(unpacked(text), seen);
  for (const damaged of ["", "%%%", text.slice(3), packed({ ...seen, pins: [1] as unknown as string[] })]) assert.equal(unpacked(damaged), null);
});

test("pins and groups of an address are added once, what is there stays, unknown nodes are left out", () => {
  const seen: Seen = { pins: ["a", "gone"], groups: [["g", ["a", "b", "gone"]]], screen: "why", chosen: null };
  const known = (id: string): boolean => id !== "gone";
  const own = { ...nothing, pins: ["c"], notes: "mine" };
  const once = withSeen(own, seen, known);
  assert.deepEqual(once.pins, ["c", "a", "b"]);
  assert.deepEqual(once.supernodes.map(({ name, members }) => [name, members]), [["g", ["a", "b"]]]);
  assert.equal(once.notes, "mine");
  assert.deepEqual(withSeen(once, seen, known), once);
});

test("the other kind of graph of a prompt is found by prompt and model", () => {
  const entry = (slug: string, kind: string, more = {}) => ({ slug, kind, title: "", prompt: graph.view.prompt, model: graph.view.model, nodes: 1, edges: 1, ...more }) as GraphEntry;
  const list = [entry("broken", "response", { error: "x" }), entry("else", "response", { prompt: "other" }), entry("same", "attribution"), entry("it", "response")];
  assert.equal(siblingOf(graph, list)?.slug, "it");
  assert.equal(siblingOf({ ...graph, view: { ...graph.view, provenance: { kind: "response" } } }, list)?.slug, "same");
  assert.equal(siblingOf(graph, list.slice(0, 3)), null);
});
