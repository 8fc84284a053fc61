// Which nodes and edges are shown, and how much that is of all there is.
import type { Graph } from "./graph.ts";
import { type Annotations, Kind } from "./types.ts";

export interface Filters {
  /** Features and errors whose rank is at most this are shown: 0.8 shows those that hold 80% of the influence. */
  influence: number;
  /** Smallest share of its target's input that an edge must have. */
  edge: number;
  errors: boolean;
  sign: "both" | "positive" | "negative";
  layers: [number, number];
  positions: [number, number];
  /** Largest density (share of tokens on which a feature is active). */
  density: number;
}

export const everything: Filters = { influence: 1, edge: 0, errors: true, sign: "both", layers: [0, Infinity], positions: [0, Infinity], density: 1 };

/** Filters as they are saved with a graph. */
export function thresholdsOf(filters: Filters): Annotations["thresholds"] {
  const end = (place: number): number | null => (Number.isFinite(place) ? place : null);
  return {
    node: filters.influence,
    edge: filters.edge,
    errors: filters.errors ? 1 : 0,
    sign: filters.sign === "both" ? 0 : filters.sign === "positive" ? 1 : -1,
    layer_from: filters.layers[0],
    layer_to: end(filters.layers[1]),
    token_from: filters.positions[0],
    token_to: end(filters.positions[1]),
    density: filters.density,
  };
}

/** The same read back; what is missing or is no number filters nothing. */
export function filtersOf(saved: Annotations["thresholds"]): Filters {
  const number = (name: string, missing: number): number => (typeof saved[name] === "number" ? Number(saved[name]) : missing);
  const sign = number("sign", 0);
  return {
    influence: number("node", everything.influence),
    edge: number("edge", everything.edge),
    errors: (saved.errors ?? 1) !== 0 && saved.errors !== false,
    sign: sign > 0 ? "positive" : sign < 0 ? "negative" : "both",
    layers: [number("layer_from", 0), number("layer_to", Infinity)],
    positions: [number("token_from", 0), number("token_to", Infinity)],
    density: number("density", everything.density),
  };
}

export interface Shown {
  mask: Uint8Array;
  nodes: number;
  ofNodes: number;
  edges: number;
  ofEdges: number;
  /** Share of the graph's influence that the shown nodes hold. */
  influence: number;
}

/** Largest share at which the filter by influence takes something away: the rank of the least of the nodes that can be hidden. */
export function heldByRanked(graph: Graph): number {
  const { kind } = graph.view.nodes;
  let held = 0;
  for (let row = 0; row < graph.size; row++) if (kind[row] === Kind.Feature || kind[row] === Kind.Error) held = Math.max(held, graph.rank[row]);
  return held > 0 ? Math.min(1, held) : 1;
}

/** Tokens, logits and pinned nodes are always shown. */
export function shownNodes(graph: Graph, filters: Filters, pinned: ReadonlySet<string>): Uint8Array {
  const { kind, layer, position, id, density } = graph.view.nodes;
  const mask = new Uint8Array(graph.size);
  for (let row = 0; row < graph.size; row++) {
    const always = kind[row] === Kind.Embedding || kind[row] === Kind.Logit || pinned.has(id[row]);
    const inRange =
      layer[row] >= filters.layers[0] && layer[row] <= filters.layers[1] && position[row] >= filters.positions[0] && position[row] <= filters.positions[1];
    const frequent = filters.density < 1 && (density?.[row] ?? 0) > filters.density;
    const important = filters.influence >= 1 || graph.rank[row] <= filters.influence;
    mask[row] = Number(always || (inRange && important && !frequent && (filters.errors || kind[row] !== Kind.Error)));
  }
  return mask;
}

/** Whether an edge passes the filters on edges; both ends must be shown too. */
export function edgePasses(filters: Filters, weight: number, share: number): boolean {
  return share >= filters.edge && (filters.sign === "both" || weight > 0 === (filters.sign === "positive"));
}

export function applyFilters(graph: Graph, filters: Filters, pinned: ReadonlySet<string>): Shown {
  const mask = shownNodes(graph, filters, pinned);
  const { source, target, weight, share } = graph;
  let nodes = 0;
  let influence = 0;
  for (let row = 0; row < graph.size; row++) {
    nodes += mask[row];
    if (mask[row]) influence += graph.influence[row];
  }
  let edges = 0;
  const sign = filters.sign === "both" ? 0 : filters.sign === "positive" ? 1 : -1;
  for (let e = 0; e < weight.length; e++) {
    edges += mask[source[e]] & mask[target[e]] & Number(share[e] >= filters.edge) & Number(sign * weight[e] > 0 || sign === 0);
  }
  return {
    mask,
    nodes,
    ofNodes: graph.size,
    edges,
    ofEdges: graph.view.total_edges,
    influence: graph.influenceTotal > 0 ? Math.min(1, influence / graph.influenceTotal) : 1,
  };
}
