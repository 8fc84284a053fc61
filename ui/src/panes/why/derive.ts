// What the first screen tells of a graph that nobody explained: groups read off the graph, and nothing measured.
import { type Entity, entityEdges } from "../../aggregate.ts";
import { kindName, nameSource, nodeName, quoted } from "../../format.ts";
import { edgesAt, type Graph, isResponse, signed } from "../../graph.ts";
import { type Annotations, Kind } from "../../types.ts";
import type { ReadOff } from "./facts.ts";
import { ANSWER, type Arrow, type Card, groupCard, type Sentence, share, type Story, tokenCard } from "./story.ts";

/** Groups beside a reader's own, arrows, and the least share of a target's input that is drawn. */
const GROUPS = 10;
const ARROWS = 24;
const LEAST = 0.02;
/** The same of arrows from tokens, of which there are many. */
const LEAST_OF_TOKENS = 0.06;
/** Outputs that a group is said to push for, and the least share of their input. */
const PUSHED = 2;
const LEAST_PUSH = 0.01;

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

/** Rows of a group, what a reader calls it, and whether it works against the answer. */
interface Group {
  name: string | null;
  rows: number[];
  against: boolean;
}

/** Groups of nodes: a reader's supernodes, then those read off the graph's edges, without what is in a supernode. */
export function groupsOf(graph: Graph, annotations: Annotations, readOff: readonly ReadOff[]): Group[] {
  const { kind } = graph.view.nodes;
  const own = annotations.supernodes
    .map(({ name, members }) => ({ name, rows: members.map((id) => graph.row.get(id)).filter((row) => row !== undefined), against: false }))
    .filter(({ rows }) => rows.some((row) => kind[row] !== Kind.Logit && kind[row] !== Kind.Embedding));
  const taken = new Set(own.flatMap(({ rows }) => rows));
  const rest = readOff.map(({ rows, effect }) => ({ name: null, rows: rows.filter((row) => row < graph.size && !taken.has(row)), against: effect < 0 })).filter(({ rows }) => rows.length);
  return [...own.slice(0, 2 * GROUPS), ...rest.slice(0, Math.max(2, GROUPS - own.length))];
}

/** Outputs that a group's own edges push for, the most first, by their share of the output's input. */
export function pushedOutputs(graph: Graph, rows: readonly number[]): number[] {
  const members = new Set(rows);
  const share = new Map(outputs(graph).map((output) => [output, edgesAt(graph, output, "in").reduce((sum, edge) => sum + (members.has(edge[0]) ? signed(edge) : 0), 0)]));
  return [...share.keys()].filter((output) => share.get(output)! >= LEAST_PUSH).sort((a, b) => share.get(b)! - share.get(a)!).slice(0, PUSHED);
}

function mostCommon(values: number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0][0];
}

function cardOf(graph: Graph, annotations: Annotations, group: Group, number: number, part: number): Card {
  const { layer, position } = graph.view.nodes;
  const at = mostCommon(group.rows.map((row) => position[row]));
  const layers = group.rows.map((row) => layer[row]);
  const span: [number, number] = [Math.max(0, Math.min(...layers)), Math.max(0, ...layers)];
  const spread = span[0] === span[1] ? `layer ${span[0]}` : `layers ${span[0]}–${span[1]}`;
  const where = `on ${quoted(graph.view.tokens[at])}, ${spread}`;
  const size = plural(group.rows.length, kindName(graph, group.rows[0]).toLowerCase());
  const pushed = pushedOutputs(graph, group.rows).map((row) => quoted(graph.view.nodes.label[row]));
  const name = group.name ?? nameOf(graph, annotations, group.rows) ?? `${size} ${where}`;
  const brief = where.replace(/^on /, "").replace(/, layers? /, " L");
  const second = pushed.length ? `pushes ${pushed.join(", ")}` : null;
  const named = name !== `${size} ${where}`;
  return {
    id: groupCard(number),
    name,
    short: named ? [name, brief] : [`${size} ${brief}`, second],
    place: `${size} ${where}`,
    line: `${share(part)} of ${isResponse(graph) ? "all effects" : group.against ? "influence" : "the influence"}${group.against ? ", against" : ""}`,
    position: at,
    layers: span,
    against: group.against,
    rows: group.rows,
    exact: true,
  };
}

/** What a group is called by the labels of its members: of the first that has one, and how many more there are. Tokens
 * that one of many members promotes would say nothing of the others. */
function nameOf(graph: Graph, annotations: Annotations, rows: readonly number[]): string | null {
  const named = rows.find((row) => graph.view.nodes.label[row] || /^named by you/.test(nameSource(graph, annotations, row) ?? ""));
  if (named === undefined) return null;
  return `${nodeName(graph, annotations, named)}${rows.length > 1 ? ` and ${rows.length - 1} more` : ""}`;
}

export function derived(graph: Graph, annotations: Annotations, readOff: readonly ReadOff[]): Story {
  const { view } = graph;
  const { kind, position, activation } = view.nodes;
  const weight = importance(graph);
  const response = isResponse(graph);
  const all = response || !(graph.influenceTotal > 0) ? weight.reduce((sum, value) => sum + value, 0) : graph.influenceTotal;
  const part = (rows: readonly number[]): number => (all > 0 ? rows.reduce((sum, row) => sum + weight[row], 0) / all : 0);
  const [top, second] = outputs(graph);
  const groups = groupsOf(graph, annotations, readOff);
  const cards = groups.map((group, number) => cardOf(graph, annotations, group, number, part(group.rows)));
  const tokens = [...Array(graph.size).keys()].filter((row) => kind[row] === Kind.Embedding);
  const entity = (id: string, rows: number[]): Entity => ({ id, name: id, members: rows, group: null });
  const list = [...tokens.map((row) => entity(tokenCard(position[row]), [row])), ...cards.map((card) => entity(card.id, card.rows)), ...(top === undefined ? [] : [entity(ANSWER, [top])])];
  const arrows: Arrow[] = entityEdges(list, (row) => edgesAt(graph, row, "in"), (row) => graph.inputTotal[row])
    .filter((edge) => Math.abs(edge.weight) >= (edge.source.startsWith("token") ? LEAST_OF_TOKENS : LEAST) && edge.source !== ANSWER && !edge.target.startsWith("token"))
    .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
    .slice(0, ARROWS)
    .map((edge) => ({ source: edge.source, target: edge.target, size: edge.weight, label: share(edge.weight), title: `${share(Math.abs(edge.weight))} of its target's input${edge.weight < 0 ? ", against it" : ""}; read off the graph, not measured`, heads: "" }));
  const ofKind = (wanted: Kind): number => part([...Array(graph.size).keys()].filter((row) => kind[row] === wanted));
  const errors = ofKind(Kind.Error);
  const grouped = part([...new Set(cards.flatMap((card) => card.rows))]);
  const named = response ? "rests of MLPs" : "dictionary errors";
  return {
    measured: false,
    how: howMade(groups),
    tokens: view.tokens,
    answer: { text: top === undefined ? "" : view.nodes.label[top] || "?", probability: top === undefined || response ? null : activation[top] },
    rival: second === undefined ? null : { text: view.nodes.label[second], probability: activation[second] },
    against: "",
    sentences: sentences(cards, arrows, { grouped, errors, named }),
    cards,
    arrows,
    rest: { name: `In no group: ${share(Math.max(0, 1 - grouped))}`, line: `tokens ${share(ofKind(Kind.Embedding))}, ${response ? "rests" : "errors"} ${share(errors)}` },
  };
}

/** How groups were made, in words. */
function howMade(groups: readonly Group[]): string {
  const own = groups.filter((group) => group.name !== null).length;
  const alike = "nodes of one token and neighbouring layers whose edges in and out are alike";
  return own === 0 ? alike : own === groups.length ? "its supernodes" : `${plural(own, "supernode")}, and ${alike}`;
}

function sentences(cards: readonly Card[], arrows: readonly Arrow[], parts: { grouped: number; errors: number; named: string }): Sentence[] {
  const name = (id: string): { text: string; card: string | null } => ({ text: cards.find((card) => card.id === id)?.name ?? id, card: id });
  const said = (pieces: Sentence["pieces"]): Sentence => ({ pieces, full: pieces.map((piece) => piece.text).join("") });
  const plain = (text: string): { text: string; card: null } => ({ text, card: null });
  /** A name that is a count of nodes takes the plural. */
  const does = (id: string, verb: string): string => (/^(?!1 )\d+ /.test(name(id).text) ? verb : `${verb}s`);
  const found: Sentence[] = [];
  for (const arrow of arrows.filter((one) => one.target === ANSWER && !one.source.startsWith("token")).slice(0, 3)) {
    found.push(said([name(arrow.source), plain(arrow.size < 0 ? ` ${does(arrow.source, "work")} against the answer: ${share(-arrow.size)} of all its input.` : ` ${does(arrow.source, "give")} ${share(arrow.size)} of all input of the answer.`)]));
  }
  for (const arrow of arrows.filter((one) => one.target !== ANSWER && !one.source.startsWith("token")).slice(0, 2)) {
    found.push(said([name(arrow.source), plain(arrow.size < 0 ? ` ${does(arrow.source, "work")} against ` : ` ${does(arrow.source, "feed")} `), name(arrow.target), plain(`: ${share(Math.abs(arrow.size))} of its input.`)]));
  }
  found.push(said([plain(`Groups hold ${share(parts.grouped)}, and ${parts.named} ${share(parts.errors)}. These are shares in the graph: nothing was tried in the model.`)]));
  return found;
}
