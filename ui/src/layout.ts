// Where the nodes of the link graph stand: columns by token, rows by layer.
import type { Graph } from "./graph.ts";
import { Kind } from "./types.ts";

export interface Box {
  width: number;
  height: number;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export interface LinkLayout {
  x: Float64Array;
  y: Float64Array;
  /** Left edge of every token's column, then the right edge of the last. */
  columns: Float64Array;
  /** Rows from the bottom: embeddings, layers, logits. */
  rows: { y: number; height: number; name: string; shaded: boolean }[];
  /** Radius of a node that fits the tightest cell. */
  radius: number;
}

/** Row number of a node from the bottom: embeddings 0, layer l at l + 1, logits on top. */
export function band(graph: Graph, row: number): number {
  const { kind, layer } = graph.view.nodes;
  if (kind[row] === Kind.Embedding) return 0;
  return kind[row] === Kind.Logit ? graph.view.layers + 1 : Math.min(graph.view.layers, Math.max(1, layer[row] + 1));
}

/**
 * Width of each token's column, as a share of the whole: in proportion to the fullest of its cells, at least one node;
 * columns before the first token that has a node get none.
 */
export function columnShares(graph: Graph, shown: (row: number) => boolean): number[] {
  const tokens = Math.max(1, graph.view.tokens.length);
  const bands = graph.view.layers + 2;
  const count = new Uint32Array(tokens * bands);
  let first = tokens - 1;
  for (let row = 0; row < graph.size; row++) {
    if (!shown(row)) continue;
    const position = Math.min(tokens - 1, graph.view.nodes.position[row]);
    count[position * bands + band(graph, row)]++;
    first = Math.min(first, position);
  }
  const widths = Array.from({ length: tokens }, (_, token) => {
    let fullest = 1;
    for (let b = 0; b < bands; b++) fullest = Math.max(fullest, count[token * bands + b]);
    return token < first ? 0 : fullest;
  });
  const all = widths.reduce((sum, width) => sum + width, 0);
  return widths.map((width) => width / all);
}

/** The link graph's geometry. Nodes that are not shown get no place of their own in a cell, but stand where their cell is. */
export function linkLayout(graph: Graph, box: Box, shown: (row: number) => boolean): LinkLayout {
  const { nodes, layers } = graph.view;
  const shares = columnShares(graph, shown);
  const innerWidth = Math.max(1, box.width - box.left - box.right);
  const innerHeight = Math.max(1, box.height - box.top - box.bottom);
  const columns = new Float64Array(shares.length + 1);
  columns[0] = box.left;
  shares.forEach((share, token) => (columns[token + 1] = columns[token] + share * innerWidth));
  const bands = layers + 2;
  const height = innerHeight / bands;
  const rows = Array.from({ length: bands }, (_, b) => ({
    y: box.top + innerHeight - (b + 1) * height,
    height,
    name: b === 0 ? "Emb" : b === bands - 1 ? "Lgt" : `L${b - 1}`,
    shaded: b === 0 || b === bands - 1,
  }));
  const cells = new Map<number, number[]>();
  for (let row = 0; row < graph.size; row++) {
    const token = Math.min(shares.length - 1, nodes.position[row]);
    const cell = token * bands + band(graph, row);
    const members = cells.get(cell);
    if (members) members.push(row);
    else cells.set(cell, [row]);
  }
  const x = new Float64Array(graph.size);
  const y = new Float64Array(graph.size);
  const narrowest = Math.min(...shares.filter((share) => share > 0)) * innerWidth;
  const padding = Math.min(8, narrowest / 2);
  let tightest = 20;
  for (const [cell, members] of cells) {
    const present = members.filter(shown).length;
    if (present) tightest = Math.min(tightest, (shares[Math.floor(cell / bands)] * innerWidth) / present);
  }
  for (const [cell, members] of cells) {
    const token = Math.floor(cell / bands);
    const b = cell % bands;
    const width = columns[token + 1] - columns[token];
    const ordered = members.slice().sort((a, b2) => Number(shown(b2)) - Number(shown(a)) || likelihood(graph, b2) - likelihood(graph, a) || a - b2);
    const present = Math.max(1, members.filter(shown).length);
    const spacing = Math.min(Math.max(20, tightest), width / present);
    ordered.forEach((row, place) => {
      x[row] = columns[token + 1] - padding - Math.min(place, present - 1) * spacing;
      y[row] = rows[b].y + height / 2;
    });
  }
  return { x, y, columns, rows, radius: Math.max(1.6, Math.min(5, tightest / 2.4, height / 2.2)) };
}

/** Logits stand by probability; everything else in file order. */
function likelihood(graph: Graph, row: number): number {
  return graph.view.nodes.kind[row] === Kind.Logit ? (graph.view.nodes.activation[row] ?? 0) : 0;
}
