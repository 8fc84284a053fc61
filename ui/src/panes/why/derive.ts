// What the first screen tells of a graph that nobody explained: groups read off the graph, and nothing measured.
import { type Entity, entityEdges } from "../../aggregate.ts";
import { nodeName, quoted } from "../../format.ts";
import { edgesAt, type Graph, isResponse } from "../../graph.ts";
import { type Annotations, Kind } from "../../types.ts";
import { ANSWER, type Arrow, type Card, groupCard, type Sentence, share, type Story, tokenCard } from "./story.ts";

/** Groups, features that are looked at for them, layers of a band as a part of all, and arrows. */
const GROUPS = 9;
const FEATURES = 80;
const BANDS = 5;
const ARROWS = 24;
const LEAST = 0.02;
/** The same of arrows from tokens, of which there are many. */
const LEAST_OF_TOKENS = 0.06;

const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? "" : "s"}`;

/** How much hangs on each node: the size of its effect on the target where the graph tells, else its influence. */
export function importance(graph: Graph): Float64Array {
  const { effect } = graph.view.nodes;
  if (effect) return Float64Array.from(effect, (value) => Math.abs(value ?? 0));
  if (graph.influence.some((value) => value > 0)) return graph.influence;
  const flow = new Float64Array(graph.size); // a graph with a cycle: what goes out of a node
  for (let e = 0; e < graph.weight.length; e++) flow[graph.source[e]] += Math.abs(graph.weight[e]);
  return flow;
}

/** Outputs from the likeliest on. */
export function outputs(graph: Graph): number[] {
  const { kind, activation } = graph.view.nodes;
  return [...Array(graph.size).keys()].filter((row) => kind[row] === Kind.Logit).sort((a, b) => (activation[b] ?? 0) - (activation[a] ?? 0));
}

/** Groups of features: supernodes if there are any, else the features that matter most, by token and band of layers. */
export function groupsOf(graph: Graph, annotations: Annotations): { name: string | null; rows: number[] }[] {
  const own = annotations.supernodes
    .map(({ name, members }) => ({ name, rows: members.map((id) => graph.row.get(id)).filter((row) => row !== undefined) }))
    .filter(({ rows }) => rows.some((row) => graph.view.nodes.kind[row] !== Kind.Logit && graph.view.nodes.kind[row] !== Kind.Embedding));
  if (own.length) return own.slice(0, 2 * GROUPS);
  const weight = importance(graph);
  const { kind, layer, position } = graph.view.nodes;
  const best = [...Array(graph.size).keys()].filter((row) => kind[row] === Kind.Feature && weight[row] > 0).sort((a, b) => weight[b] - weight[a] || a - b);
  const band = Math.max(1, Math.ceil(graph.view.layers / BANDS));
  const cells = new Map<string, number[]>();
  for (const row of best.slice(0, FEATURES)) {
    const key = `${position[row]} ${Math.floor(layer[row] / band)}`;
    cells.set(key, [...(cells.get(key) ?? []), row]);
  }
  const sum = (rows: number[]): number => rows.reduce((total, row) => total + weight[row], 0);
  return [...cells.values()].sort((a, b) => sum(b) - sum(a)).slice(0, GROUPS).map((rows) => ({ name: null, rows }));
}

function mostCommon(values: number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0][0];
}

function cardOf(graph: Graph, annotations: Annotations, group: { name: string | null; rows: number[] }, number: number, part: number): Card {
  const { layer, position } = graph.view.nodes;
  const at = mostCommon(group.rows.map((row) => position[row]));
  const layers = group.rows.map((row) => layer[row]);
  const span: [number, number] = [Math.max(0, Math.min(...layers)), Math.max(0, ...layers)];
  const where = `${span[0] === span[1] ? `layer ${span[0]}` : `layers ${span[0]}–${span[1]}`} on ${quoted(graph.view.tokens[at])}`;
  const more = group.rows.length - 1;
  const name = group.name ?? `${nodeName(graph, annotations, group.rows[0])}${more ? ` and ${more} more` : ""}`;
  return {
    id: groupCard(number),
    name,
    short: [name, where.replace(/layers? /, "L")],
    place: `${plural(group.rows.length, "node")}, ${where}`,
    line: `${share(part)} of ${isResponse(graph) ? "all effects" : "the influence"}`,
    position: at,
    layers: span,
    against: false,
    rows: group.rows,
    exact: true,
  };
}

export function derived(graph: Graph, annotations: Annotations): Story {
  const { view } = graph;
  const { kind, position, activation } = view.nodes;
  const weight = importance(graph);
  const response = isResponse(graph);
  const all = response || !(graph.influenceTotal > 0) ? weight.reduce((sum, value) => sum + value, 0) : graph.influenceTotal;
  const part = (rows: readonly number[]): number => (all > 0 ? rows.reduce((sum, row) => sum + weight[row], 0) / all : 0);
  const [top, second] = outputs(graph);
  const groups = groupsOf(graph, annotations);
  const cards = groups.map((group, number) => cardOf(graph, annotations, group, number, part(group.rows)));
  const tokens = [...Array(graph.size).keys()].filter((row) => kind[row] === Kind.Embedding);
  const entity = (id: string, rows: number[]): Entity => ({ id, name: id, members: rows, group: null });
  const list = [...tokens.map((row) => entity(tokenCard(position[row]), [row])), ...cards.map((card) => entity(card.id, card.rows)), ...(top === undefined ? [] : [entity(ANSWER, [top])])];
  const arrows: Arrow[] = entityEdges(list, (row) => edgesAt(graph, row, "in"), (row) => graph.inputTotal[row])
    .filter((edge) => Math.abs(edge.weight) >= (edge.source.startsWith("token") ? LEAST_OF_TOKENS : LEAST) && edge.source !== ANSWER && !edge.target.startsWith("token"))
    .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
    .slice(0, ARROWS)
    .map((edge) => ({ source: edge.source, target: edge.target, size: edge.weight, label: share(edge.weight), title: `${share(Math.abs(edge.weight))} of its target's input${edge.weight < 0 ? ", against it" : ""}; read off the graph, not measured`, heads: "" }));
  const errors = part([...Array(graph.size).keys()].filter((row) => kind[row] === Kind.Error));
  const grouped = part([...new Set(cards.flatMap((card) => card.rows))]);
  const named = response ? "rests of MLPs" : "dictionary errors";
  return {
    measured: false,
    tokens: view.tokens,
    answer: { text: top === undefined ? "" : view.nodes.label[top] || "?", probability: top === undefined || response ? null : activation[top] },
    rival: second === undefined ? null : { text: view.nodes.label[second], probability: activation[second] },
    against: "",
    sentences: sentences(cards, arrows, { grouped, errors, named }, annotations.supernodes.length > 0),
    cards,
    arrows,
    rest: { name: `In no group: ${share(Math.max(0, 1 - grouped))}`, line: `${named}: ${share(errors)}` },
  };
}

function sentences(cards: readonly Card[], arrows: readonly Arrow[], parts: { grouped: number; errors: number; named: string }, own: boolean): Sentence[] {
  const name = (id: string): { text: string; card: string | null } => ({ text: cards.find((card) => card.id === id)?.name ?? id, card: id });
  const said = (pieces: Sentence["pieces"]): Sentence => ({ pieces, full: pieces.map((piece) => piece.text).join("") });
  const plain = (text: string): { text: string; card: null } => ({ text, card: null });
  const found: Sentence[] = [];
  for (const arrow of arrows.filter((one) => one.target === ANSWER && !one.source.startsWith("token")).slice(0, 3)) {
    found.push(said([name(arrow.source), plain(arrow.size < 0 ? ` works against the answer: ${share(-arrow.size)} of all its input.` : ` gives ${share(arrow.size)} of all input of the answer.`)]));
  }
  for (const arrow of arrows.filter((one) => one.target !== ANSWER && !one.source.startsWith("token")).slice(0, 2)) {
    found.push(said([name(arrow.source), plain(arrow.size < 0 ? " works against " : " feeds "), name(arrow.target), plain(`: ${share(Math.abs(arrow.size))} of its input.`)]));
  }
  const how = own ? "supernodes of this graph" : "features that matter most, put together by token and layers";
  found.push(said([plain(`Groups are ${how}; they hold ${share(parts.grouped)}, and ${parts.named} ${share(parts.errors)}. These are shares in the graph: nothing was tried in the model.`)]));
  return found;
}
