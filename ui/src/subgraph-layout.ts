// Where the cards of the subgraph stand: dagre from below to above, time from left to right, dragged cards where they were put.
import dagre from "@dagrejs/dagre";
import type { Entity, EntityEdge } from "./aggregate.ts";
import { band } from "./layout.ts";
import type { Graph } from "./graph.ts";

export const CARD_HEIGHT = 36;
/** Edges weaker than this do not pull. */
const LEAST = 0.003;

export interface Placed {
  x: number;
  y: number;
  width: number;
}

/** A card is as wide as its longer line of text, within limits. */
export function cardWidth(name: string, below = ""): number {
  return Math.round(Math.max(78, Math.min(220, 50 + Math.max(7.6 * [...name].length, 6.2 * [...below].length))));
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);

function correlation(a: number[], b: number[]): number {
  const [ma, mb] = [mean(a), mean(b)];
  return a.reduce((sum, value, i) => sum + (value - ma) * (b[i] - mb), 0);
}

export function placeCards(
  graph: Graph,
  list: readonly Entity[],
  edges: readonly EntityEdge[],
  texts: (entity: Entity) => [string, string],
  fixed: Record<string, [number, number]>,
): Map<string, Placed> {
  const drawing = new dagre.graphlib.Graph();
  drawing.setGraph({ rankdir: "BT", nodesep: 20, ranksep: 20 });
  drawing.setDefaultEdgeLabel(() => ({}));
  const position = (entity: Entity): number => mean(entity.members.map((row) => graph.view.nodes.position[row]));
  const ordered = list.slice().sort((a, b) => position(a) - position(b));
  for (const entity of ordered) drawing.setNode(entity.id, { width: cardWidth(...texts(entity)), height: CARD_HEIGHT });
  for (const edge of edges) {
    if (Math.abs(edge.weight) >= LEAST && upward(graph, list, edge)) drawing.setEdge(edge.source, edge.target, { weight: 1 + Math.round(20 * Math.abs(edge.weight)) });
  }
  dagre.layout(drawing);
  const at = ordered.map((entity) => drawing.node(entity.id) as { x: number; y: number; width: number });
  const flip = correlation(at.map((place) => place.x), ordered.map(position)) < 0;
  const right = Math.max(0, ...at.map((place) => place.x));
  return new Map(
    ordered.map((entity, i) => {
      const [x, y] = fixed[entity.id] ?? [flip ? right - at[i].x : at[i].x, at[i].y];
      return [entity.id, { x, y, width: at[i].width }];
    }),
  );
}

/** Groups can point at each other; only edges towards higher layers decide the ranks, so there is no cycle to break. */
function upward(graph: Graph, list: readonly Entity[], edge: EntityEdge): boolean {
  const height = (id: string): number => mean(list.find((entity) => entity.id === id)!.members.map((row) => band(graph, row)));
  return height(edge.source) < height(edge.target);
}
