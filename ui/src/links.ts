// Links of what is selected, summed over the members of a supernode.
import type { Graph } from "./graph.ts";
import type { EdgePage } from "./types.ts";

export interface Connection {
  row: number;
  weight: number;
  /** Signed share of the input of the edge's target; for inputs of a supernode, of its members' on average. */
  share: number;
}

export interface Side {
  list: Connection[];
  /** Edges there are in the whole graph. */
  total: number;
}

export function connections(rows: readonly number[], direction: "in" | "out", edges: (row: number, direction: "in" | "out") => EdgePage): Side {
  const members = new Set(rows);
  const sums = new Map<number, Connection>();
  let total = 0;
  for (const row of rows) {
    const page = edges(row, direction);
    total += page.total;
    for (const [other, weight, share] of page.edges) {
      if (members.has(other)) continue;
      const sum = sums.get(other) ?? { row: other, weight: 0, share: 0 };
      sum.weight += weight;
      sum.share += (Math.sign(weight) * share) / (direction === "in" ? rows.length : 1);
      sums.set(other, sum);
    }
  }
  return { list: [...sums.values()].sort((a, b) => Math.abs(b.share) - Math.abs(a.share)), total };
}

/** Where a node's input comes from, as shares of all of it: features, errors, tokens, and what is not in the file. */
export function inputMix(graph: Graph, rows: readonly number[], edges: (row: number, direction: "in") => EdgePage): number[] {
  const mix = [0, 0, 0, 0, 0];
  const receiving = rows.filter((row) => graph.inputTotal[row] > 0);
  for (const row of receiving) {
    let rest = 1;
    for (const [other, , share] of edges(row, "in").edges) {
      mix[graph.view.nodes.kind[other]] += share / receiving.length;
      rest -= share;
    }
    mix[4] += Math.max(0, rest) / receiving.length;
  }
  return receiving.length ? mix : [];
}
