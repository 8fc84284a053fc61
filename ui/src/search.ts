// Finding nodes by name, token, or number.
import type { Graph } from "./graph.ts";
import { Kind } from "./types.ts";

/**
 * Rows whose texts hold every word of the query, the most important first. `L20/15589`, `20/15589` and `20_15589` name a
 * feature, `L20` a layer, an id a node.
 */
export function searchNodes(graph: Graph, query: string, names: (row: number) => string, most: number): number[] {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return [];
  const { id, kind, layer, index, position } = graph.view.nodes;
  const exact = graph.row.get(query.trim());
  if (exact !== undefined) return [exact];
  const feature = /^l?(\d+)[/_](\d*)$/.exec(wanted);
  const inLayer = /^l(\d+)$/.exec(wanted);
  const words = wanted.split(/\s+/);
  const found: [number, number][] = [];
  for (let row = 0; row < graph.size; row++) {
    let score = -1;
    if (feature) score = kind[row] === Kind.Feature && layer[row] === Number(feature[1]) && String(index[row]).startsWith(feature[2]) ? (String(index[row]) === feature[2] ? 2 : 1) : -1;
    else if (inLayer && kind[row] !== Kind.Embedding && kind[row] !== Kind.Logit) score = layer[row] === Number(inLayer[1]) ? 1 : -1;
    if (score < 0 && !feature) {
      const name = names(row).toLowerCase();
      const promoted = graph.view.nodes.promotes?.[row]?.join(" ").toLowerCase() ?? "";
      const text = `${name} ${promoted} ${(graph.view.tokens[position[row]] ?? "").toLowerCase()} ${id[row]}`;
      if (words.every((word) => text.includes(word))) score = words.every((word) => name.includes(word)) ? 2 : promoted && words.every((word) => promoted.includes(word)) ? 1 : 0;
    }
    if (score >= 0) found.push([row, score + 0.5 * Number(kind[row] === Kind.Embedding || kind[row] === Kind.Logit)]);
  }
  return found
    .sort((a, b) => b[1] - a[1] || graph.rank[a[0]] - graph.rank[b[0]])
    .slice(0, most)
    .map(([row]) => row);
}
