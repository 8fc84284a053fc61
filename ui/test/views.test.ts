import assert from "node:assert/strict";
import { test } from "node:test";
import golden from "../../tests/data/page-golden.json";
import { entityEdges } from "../src/aggregate.ts";
import { DARK, LIGHT, linkColour, linkWidth, textOn } from "../src/colour.ts";
import { drawLinkGraph, IDENTITY, NEGATIVE_DASH, outputLabels, roomForOutputs, type Scene, strongestFlows } from "../src/draw.ts";
import { everything, filtersOf, thresholdsOf } from "../src/filters.ts";
import { number, percent, token, weight } from "../src/format.ts";
import { buildGraph, edgesAt, type Graph } from "../src/graph.ts";
import { linkLayout } from "../src/layout.ts";
import { connections, inputMix } from "../src/links.ts";
import { fitted, svgPen, textWidth } from "../src/pen.ts";
import { searchNodes } from "../src/search.ts";
import { CARD_HEIGHT, type Placed, placeCards } from "../src/subgraph-layout.ts";
import { Kind, type View } from "../src/types.ts";
import { along, instead, sideways } from "../src/walk.ts";
import { blocksOf } from "../src/report.ts";

const graph = buildGraph(structuredClone(golden.view) as unknown as View);
const pages = (of: Graph) => (row: number, direction: "in" | "out") => {
  const edges = edgesAt(of, row, direction);
  return { edges, total: edges.length, weight_total: 0 };
};
const all = new Uint8Array(graph.size).fill(1);
const box = { width: 800, height: 500, left: 40, right: 10, top: 50, bottom: 60 };
const layout = linkLayout(graph, box, () => true);

test("walking goes along the strongest edge, then to weaker ones", () => {
  const top = graph.size - 2;
  const first = along(graph, top, "in", all)!;
  const inputs = edgesAt(graph, top, "in");
  assert.equal(first.row, inputs[0][0]);
  assert.equal(instead(graph, first.walk!, 1, all)!.row, inputs[1][0]);
  assert.equal(instead(graph, first.walk!, -1, all), null);
  const without = all.slice();
  without[inputs[0][0]] = 0;
  assert.equal(along(graph, top, "in", without)!.row, inputs[1][0]);
  assert.equal(along(graph, top, "out", all), null);
  const left = sideways(graph, layout, top, -1, all)!;
  assert.equal(left.row, top + 1);
});

test("links of a supernode are summed, its own are left out", () => {
  const rows = [graph.size - 1, graph.size - 2];
  const side = connections(rows, "in", pages(graph));
  for (const { row, weight: sum } of side.list) {
    const parts = rows.flatMap((target) => edgesAt(graph, target, "in")).filter(([other]) => other === row);
    assert.ok(Math.abs(sum - parts.reduce((total, [, value]) => total + value, 0)) < 1e-6);
    assert.ok(!rows.includes(row));
  }
  const shares = side.list.map(({ share }) => Math.abs(share));
  assert.deepEqual(shares, shares.toSorted((a, b) => b - a));
});

test("the parts of a node's input add up to all of it", () => {
  const mix = inputMix(graph, [graph.size - 1], pages(graph));
  assert.ok(Math.abs(mix.reduce((sum, part) => sum + part, 0) - 1) < 1e-5);
  assert.ok(mix[4] > 0, "what pruning took is counted");
  assert.deepEqual(inputMix(graph, [graph.row.get(golden.view.nodes.id.find((id) => id.startsWith("E"))!)!], pages(graph)), []);
});

test("nodes are found by name, number, layer, token and id", () => {
  const names = (row: number): string => (row === 4 ? "Texas cities" : `n${row}`);
  assert.deepEqual(searchNodes(graph, "texas CIT", names, 10), [4]);
  const [layer, index] = [graph.view.nodes.layer[2], graph.view.nodes.index[2]];
  for (const query of [`L${layer}/${index}`, `${layer}/${index}`, `${layer}_${index}`]) assert.ok(searchNodes(graph, query, names, 10).includes(2));
  assert.deepEqual(searchNodes(graph, graph.view.nodes.id[3], names, 10), [3]);
  assert.ok(searchNodes(graph, "L1", names, 99).every((row) => graph.view.nodes.layer[row] === 1));
  assert.ok(searchNodes(graph, "cat", names, 99).every((row) => graph.view.nodes.position[row] === 2));
  assert.deepEqual(searchNodes(graph, " ", names, 10), []);
});

test("negative links are dashed, in figures too; text is escaped", () => {
  const parts: string[] = [];
  const scene: Scene = {
    graph, layout, box, transform: IDENTITY, theme: LIGHT, mask: all, selected: new Set([graph.size - 1]), linked: new Map([[0, -0.3]]), pinned: new Set([1]),
    marked: new Map(), faint: [], strong: [{ source: 0, target: graph.size - 1, share: -0.3 }, { source: 1, target: graph.size - 1, share: 0.3 }], logitNames: () => "<b>&",
  }; // prettier-ignore
  drawLinkGraph(svgPen(parts), scene);
  const links = parts.filter((part) => part.startsWith("<path") && part.includes("C"));
  assert.equal(links.filter((part) => part.includes(`stroke-dasharray="${NEGATIVE_DASH.join(" ")}"`)).length, 1);
  const text = parts.join("");
  assert.ok(!text.includes("<b>") && text.includes("&#60;b&#62;&#38;"));
  assert.ok(!text.includes("NaN"));
});

test("the strongest flows are those with the largest share times influence", () => {
  const reached = (row: number): number => graph.influence[row] + (graph.view.nodes.kind[row] === Kind.Logit ? graph.view.nodes.activation[row]! : 0);
  const flows = [...graph.weight.keys()].map((e) => [e, graph.share[e] * reached(graph.target[e])]).sort((a, b) => b[1] - a[1]);
  const found = [...strongestFlows(graph, 10)].map((e) => flows.find(([other]) => other === e)![1]);
  found.forEach((flow, place) => assert.ok(Math.abs(flow - flows[place][1]) < 1e-6));
});

test("cards: time runs to the right, layers upwards, dragged cards stay", () => {
  const { id, position } = graph.view.nodes;
  const rows = [graph.size - 5, graph.size - 4, graph.size - 3, graph.size - 2];
  const list = rows.map((row) => ({ id: id[row], name: null, members: [row], group: null }));
  const edges = list.slice(0, 3).map((entity) => ({ source: entity.id, target: id[graph.size - 2], weight: 0.3 }));
  const places = placeCards(graph, list, edges, () => ["name", "below"], {});
  const tokens = rows.slice(0, 3).sort((a, b) => position[a] - position[b]);
  assert.ok(places.get(id[tokens[0]])!.x < places.get(id[tokens[2]])!.x);
  assert.ok(places.get(id[graph.size - 2])!.y < places.get(id[tokens[0]])!.y);
  const moved = placeCards(graph, list, edges, () => ["name", "below"], { [id[rows[0]]]: [7, 9] });
  assert.deepEqual([moved.get(id[rows[0]])!.x, moved.get(id[rows[0]])!.y], [7, 9]);
});

const overlap = (a: Placed, b: Placed): boolean => Math.abs(a.y - b.y) < CARD_HEIGHT && Math.abs(a.x - b.x) < (a.width + b.width) / 2;

/** Names as long as those of real features: of SmolLM2's labels the mean has 38 signs, the longest 70. */
const LABELS = ["'located' 'district' 'west' 'around' and 8 more", "'France' 'Paris' 'European towns' and 28 more", "(\u201c 's", "Santiago in The capital of the country containing"];

for (const room of [420, 720, 1600]) {
  test(`cards with real labels cover no other, time runs to the right, arrows go up (${room} wide)`, () => {
    const { kind, id, position } = graph.view.nodes;
    const rows = [...kind.keys()].filter((row) => kind[row] !== Kind.Error);
    const list = rows.map((row) => ({ id: id[row], name: null, members: [row], group: null }));
    const edges = entityEdges(list, (row) => edgesAt(graph, row, "in"), (row) => graph.inputTotal[row]);
    const name = (row: number): string => (kind[row] === Kind.Feature ? LABELS[row % LABELS.length] : "token");
    for (const fixed of [{}, { [id[rows[3]]]: [200, 60], [id[rows[4]]]: [260, 60] } as Record<string, [number, number]>]) {
      const places = placeCards(graph, list, edges, ({ members }) => [name(members[0]), "below"], fixed, room);
      const free = list.filter((entity) => !(entity.id in fixed)).map((entity) => entity.id);
      for (const a of free) for (const b of list) if (a !== b.id) assert.ok(!overlap(places.get(a)!, places.get(b.id)!), `${a} covers ${b.id}`);
      if (Object.keys(fixed).length) continue;
      const tokens = rows.filter((row) => kind[row] === Kind.Embedding);
      const at = (row: number): Placed => places.get(id[row])!;
      for (const a of tokens) for (const b of tokens) if (position[a] < position[b] && at(a).y === at(b).y) assert.ok(at(a).x < at(b).x);
      const highest = Math.min(...rows.filter((row) => kind[row] !== Kind.Logit).map((row) => at(row).y));
      for (const row of rows) if (kind[row] === Kind.Logit) assert.ok(at(row).y < highest, "outputs stand above everything");
      assert.ok(Math.max(...[...places.values()].map(({ x, width }) => x + width / 2)) <= room + 0.5, "nothing is wider than there is room");
      const strong = edges.filter((edge) => Math.abs(edge.weight) > 0.1);
      const flat = strong.filter((edge) => places.get(edge.source)!.y <= places.get(edge.target)!.y);
      assert.ok(flat.length <= strong.length * 0.1, `${flat.length} of ${strong.length} strong arrows do not go up`);
    }
  });
}

for (const count of [1, 2, 10]) {
  test(`names of ${count} outputs are neither cut by the edge nor over each other`, () => {
    const crowded = outputs(["diaphragm", "Sacramento", "Santiago", "Paris", "Mon", "Le", "the", "L", "B", "an unusually long answer"].slice(0, count));
    const names = (row: number): string => `\u201c${crowded.view.nodes.label[row]}\u201d`;
    for (const width of [260, 600, 1200]) {
      const place = { width, height: 420, left: 38, right: 14, top: roomForOutputs(crowded, names), bottom: 70 };
      const labels = outputLabels({ graph: crowded, layout: linkLayout(crowded, place, () => true), transform: IDENTITY, box: place, mask: new Uint8Array(crowded.size).fill(1), logitNames: names });
      assert.equal(labels[0].text, names(labels[0].row), "the likeliest is whole");
      assert.ok(labels.length >= Math.min(count, Math.floor((width - 120) / 18)));
      for (const { text, x, y, top } of labels) {
        const reach = textWidth(text, 12, top) * Math.SQRT1_2;
        assert.ok(y - reach >= 0 && x - reach >= 0, `${text} leaves the pane`);
      }
      labels.slice(1).forEach((label, i) => assert.ok(labels[i].x - label.x >= 17, "12 px of text at 45 degrees need 17 px"));
    }
  });
}

/** The golden graph with other outputs, all on the last token. */
function outputs(labels: string[]): Graph {
  const given = structuredClone(golden.view) as unknown as View;
  const { nodes } = given;
  const keep = [...nodes.kind.keys()].filter((row) => nodes.kind[row] !== Kind.Logit);
  for (const name of Object.keys(nodes) as (keyof typeof nodes)[]) {
    const column = nodes[name] as unknown[] | null;
    if (Array.isArray(column)) (nodes as Record<string, unknown>)[name] = [...keep.map((row) => column[row]), ...labels.map(() => column.at(-1))];
  }
  labels.forEach((label, i) => {
    const row = keep.length + i;
    [nodes.id[row], nodes.label[row], nodes.activation[row], nodes.index[row]] = [`9_${i}_3`, label, 1 / (i + 2), i];
  });
  given.edges = { source: [], target: [], weight: [], share: [] };
  return buildGraph(given);
}

test("texts are cut where there is no room, and only there", () => {
  assert.equal(fitted("short", 500, 12), "short");
  const cut = fitted("a text that is much too long", 60, 12);
  assert.ok(cut.endsWith("\u2026") && textWidth(cut, 12) <= 60 && cut.length > 4);
});

test("filters are saved and read back", () => {
  const filters = { influence: 0.7, edge: 0.01, errors: false, sign: "negative", layers: [2, Infinity], positions: [0, 3], density: 0.2 } as const;
  const saved = JSON.parse(JSON.stringify(thresholdsOf(filters as never)));
  assert.deepEqual(filtersOf(saved), filters);
  assert.deepEqual(filtersOf({}), everything);
  assert.deepEqual(filtersOf({ node: null, errors: false, sign: true, layer_to: null }), { ...everything, errors: false });
});

test("colours tell signs and sizes apart, in both themes", () => {
  for (const theme of [LIGHT, DARK]) {
    assert.notEqual(linkColour(theme, 0.2), linkColour(theme, -0.2));
    assert.notEqual(linkColour(theme, 0.01), linkColour(theme, 0.4));
    assert.equal(linkColour(theme, 0.4), linkColour(theme, 0.9));
  }
  assert.equal(linkWidth(1), 3);
  assert.equal(linkWidth(-0.25), 1.5);
  assert.equal(textOn("#ffffff"), "#10131a");
  assert.equal(textOn("#00441b"), "#ffffff");
});

test("a report is headings, paragraphs, items and tables", () => {
  const text = "# Two `hops`\n\nOne\nline.\n\n![x](x.svg)\n| a | |\n| ---: | :-- |\n| one \\| two | gain\\_low |\n\n| b |\n- item\n- more\n";
  assert.deepEqual(blocksOf(text), [
    { kind: "heading", text: "Two `hops`" },
    { kind: "text", text: "One line." },
    { kind: "table", rows: [["a", ""], ["one | two", "gain_low"]] },
    { kind: "table", rows: [["b"]] },
    { kind: "item", text: "item" },
    { kind: "item", text: "more" },
  ]);
  assert.deepEqual(blocksOf(""), []);
});

test("numbers and tokens as people read them", () => {
  assert.equal(weight(-0.12345), "−0.123");
  assert.equal(weight(12345), "+1.2e+4");
  assert.equal(percent(0.12345), "12.3%");
  assert.equal(number(null), "–");
  assert.equal(number(Number.NaN), "–");
  assert.equal(token(" a\nb"), "·a⏎b");
  assert.equal(token(""), "∅");
  assert.equal(token("a\u202eb\u0000"), "a‹202E›b‹00›");
  assert.equal(number(1234.5678, 6), "1,234.57");
});
