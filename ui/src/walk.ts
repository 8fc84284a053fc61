// Walking the graph with the keyboard, along the strongest edges.
import type { Graph } from "./graph.ts";
import { edgesAt } from "./graph.ts";
import type { LinkLayout } from "./layout.ts";

export interface Walk {
  from: number;
  direction: "in" | "out";
  /** Which of the edges, from the strongest on, was taken. */
  place: number;
}

export interface Step {
  row: number;
  walk: Walk | null;
}

function neighbours(graph: Graph, row: number, direction: "in" | "out", mask: Uint8Array): number[] {
  return edgesAt(graph, row, direction)
    .map(([other]) => other)
    .filter((other) => mask[other]);
}

/** Along the strongest edge: down to the strongest input, up to the strongest output. */
export function along(graph: Graph, row: number, direction: "in" | "out", mask: Uint8Array): Step | null {
  const next = neighbours(graph, row, direction, mask);
  return next.length ? { row: next[0], walk: { from: row, direction, place: 0 } } : null;
}

/** Instead of the last step, the next weaker (+1) or stronger (-1) edge of the same node. */
export function instead(graph: Graph, walk: Walk, by: number, mask: Uint8Array): Step | null {
  const next = neighbours(graph, walk.from, walk.direction, mask);
  const place = walk.place + by;
  return place >= 0 && place < next.length ? { row: next[place], walk: { ...walk, place } } : null;
}

/** The nearest shown node to the left or right in the same row. */
export function sideways(graph: Graph, layout: LinkLayout, row: number, by: number, mask: Uint8Array): Step | null {
  let best = -1;
  for (let other = 0; other < graph.size; other++) {
    if (!mask[other] || layout.y[other] !== layout.y[row] || (layout.x[other] - layout.x[row]) * by <= 0) continue;
    if (best < 0 || Math.abs(layout.x[other] - layout.x[row]) < Math.abs(layout.x[best] - layout.x[row])) best = other;
  }
  return best < 0 ? null : { row: best, walk: null };
}
