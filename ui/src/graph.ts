// A graph in the browser: columns of its nodes, edges as typed arrays in both directions.
import { Kind, type ListedEdge, type View } from "./types.ts";

export interface Sparse {
  start: Uint32Array;
  other: Uint32Array;
  edge: Uint32Array;
}

export interface Graph {
  view: View;
  size: number;
  row: Map<string, number>;
  source: Uint32Array;
  target: Uint32Array;
  weight: Float32Array;
  share: Float32Array;
  /** Edges into each node, and out of each node; the strongest share first. */
  into: Sparse;
  outOf: Sparse;
  /** All absolute input of each node, what pruning took out included; 0 where nothing comes in. */
  inputTotal: Float64Array;
  influence: Float64Array;
  /** Share of all influence held by this node and those above it: small means important. Logits and tokens keep theirs. */
  rank: Float64Array;
  influenceTotal: number;
  /** Whether that is known to be of all nodes before pruning; else it is of this file. */
  influenceKnown: boolean;
  /** Share of it that the nodes of this file hold. */
  influenceHeld: number;
  /** Whether the page holds every edge of the graph, or only the strongest. */
  whole: boolean;
}

/** Groups edges by one of their ends; `order` lists the edges from the strongest share to the weakest. */
function grouped(end: Uint32Array, other: Uint32Array, size: number, order: Uint32Array | null): Sparse {
  const start = new Uint32Array(size + 1);
  for (let e = 0; e < end.length; e++) start[end[e] + 1]++;
  for (let n = 0; n < size; n++) start[n + 1] += start[n];
  const next = start.slice(0, size);
  const others = new Uint32Array(end.length);
  const edges = new Uint32Array(end.length);
  for (let i = 0; i < end.length; i++) {
    const e = order ? order[i] : i;
    const place = next[end[e]]++;
    others[place] = other[e];
    edges[place] = e;
  }
  return { start, other: others, edge: edges };
}

/** Edge numbers from the largest share to the smallest, or null if they already stand so. */
function strongestFirst(share: Float32Array): Uint32Array | null {
  let sorted = true;
  for (let e = 1; e < share.length && sorted; e++) sorted = share[e] <= share[e - 1];
  if (sorted) return null;
  return Uint32Array.from(share.keys()).sort((a, b) => share[b] - share[a] || a - b);
}

function numbers(values: (number | null)[] | null | undefined, size: number, missing: number): Float64Array {
  const column = new Float64Array(size).fill(missing);
  if (values) for (let n = 0; n < size; n++) if (values[n] !== null && values[n] !== undefined) column[n] = values[n] as number;
  return column;
}

/** All absolute input of every node: as the server says, else worked out from weight and share of its strongest edge. */
function totals(view: View, into: Sparse, weight: Float32Array, share: Float32Array, size: number): Float64Array {
  const total = numbers(view.nodes.input_total, size, 0);
  for (let n = 0; n < size; n++) {
    if (total[n] > 0 || into.start[n] === into.start[n + 1]) continue;
    const strongest = into.edge[into.start[n]];
    if (share[strongest] > 0) total[n] = Math.abs(weight[strongest]) / share[strongest];
  }
  return total;
}

export function buildGraph(view: View): Graph {
  const size = view.nodes.id.length;
  const { edges } = view;
  const source = Uint32Array.from(edges.source);
  const target = Uint32Array.from(edges.target);
  const weight = Float32Array.from(edges.weight);
  const share = Float32Array.from(edges.share);
  const order = strongestFirst(share);
  const into = grouped(target, source, size, order);
  const influence = numbers(view.nodes.influence, size, 0);
  const rank = numbers(view.nodes.rank, size, 0);
  const held = influence.reduce((sum, value) => sum + value, 0);
  const influenceTotal = Math.max(held, view.influence_total ?? 0);
  view.edges = { source: [], target: [], weight: [], share: [] }; // a million edges are held once, as typed arrays
  return {
    view,
    size,
    row: new Map(view.nodes.id.map((id, row) => [id, row])),
    source,
    target,
    weight,
    share,
    into,
    outOf: grouped(source, target, size, order),
    inputTotal: totals(view, into, weight, share, size),
    influence,
    rank,
    influenceTotal,
    influenceKnown: Boolean(view.influence_total),
    influenceHeld: influenceTotal > 0 ? held / influenceTotal : 1,
    whole: weight.length >= view.total_edges,
  };
}

/** What would change without a node, to first order; the other kind says what logits are made of. */
export function isResponse(graph: Graph): boolean {
  return graph.view.provenance.kind === "response";
}

/** Edges at a node that the page holds, as the server would list them. */
export function edgesAt(graph: Graph, row: number, direction: "in" | "out"): ListedEdge[] {
  const side = direction === "in" ? graph.into : graph.outOf;
  const found: ListedEdge[] = [];
  for (let i = side.start[row]; i < side.start[row + 1]; i++) {
    const e = side.edge[i];
    found.push([side.other[i], graph.weight[e], graph.share[e]]);
  }
  return found;
}

/** Features are one feature wherever they are active: layer and index, without the position. */
export function featureKey(graph: Graph, row: number): string | null {
  const { kind, layer, index } = graph.view.nodes;
  return kind[row] === Kind.Feature ? `${layer[row]}_${index[row]}` : null;
}

/** The likeliest output; null where there is none. */
export function strongestLogit(graph: Graph): number | null {
  const { kind, activation } = graph.view.nodes;
  let best: number | null = null;
  for (let row = 0; row < graph.size; row++) if (kind[row] === Kind.Logit && (best === null || (activation[row] ?? 0) > (activation[best] ?? 0))) best = row;
  return best;
}

/** Rows of every feature that is active at more than one position. */
export function featurePlaces(graph: Graph): Map<string, number[]> {
  const places = new Map<string, number[]>();
  for (let row = 0; row < graph.size; row++) {
    const key = featureKey(graph, row);
    if (key === null) continue;
    const rows = places.get(key);
    if (rows) rows.push(row);
    else places.set(key, [row]);
  }
  for (const [key, rows] of places) if (rows.length < 2) places.delete(key);
  return places;
}

/** Features active on a larger share of the prompt's tokens say little about this one. */
const EVERYWHERE = 2 / 3;

/** Ids of what to look at first: the likeliest output, the features whose effect on it is largest, and the tokens that matter. */
export function strongest(graph: Graph, features: number): string[] {
  const { id, kind, position } = graph.view.nodes;
  const answer = strongestLogit(graph);
  const direct = new Map(answer === null ? [] : edgesAt(graph, answer, "in").map(([row, weight, share]) => [row, Math.sign(weight) * share]));
  const counted = featureCounts(graph);
  const tokens = new Set(position).size;
  const common = (row: number): boolean => tokens > 3 && (counted.get(featureKey(graph, row) ?? "") ?? 0) > EVERYWHERE * tokens;
  const influence = (row: number): number => graph.influence[row] || -graph.rank[row];
  const rows = [...Array(graph.size).keys()];
  const best = (wanted: Kind, most: number, by: (row: number) => number): number[] =>
    rows.filter((row) => kind[row] === wanted && !common(row)).sort((a, b) => by(b) - by(a) || influence(b) - influence(a)).slice(0, most);
  return [...(answer === null ? [] : [answer]), ...best(Kind.Feature, features, (row) => direct.get(row) ?? 0), ...best(Kind.Embedding, 3, (row) => direct.get(row) ?? 0)].map((row) => id[row]);
}

function featureCounts(graph: Graph): Map<string, number> {
  const counts = new Map<string, number>();
  for (let row = 0; row < graph.size; row++) {
    const key = featureKey(graph, row);
    if (key !== null) counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/** Signed share of a target's input: what colours and widths show. */
export function signed(edge: ListedEdge): number {
  return Math.sign(edge[1]) * edge[2];
}
