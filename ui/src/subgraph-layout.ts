// Where the cards of the subgraph stand: rows from tokens up to outputs, time from left to right, dragged cards where
// they were put, and no card over another.
import type { Entity, EntityEdge } from "./aggregate.ts";
import type { Graph } from "./graph.ts";
import { band } from "./layout.ts";
import { textWidth } from "./pen.ts";

export const CARD_HEIGHT = 40;
/** Sizes of a card's two lines of text; nothing on a card is smaller. */
export const NAME_SIZE = 13;
export const BELOW_SIZE = 12;
const GAP = 18;
export const ROW = CARD_HEIGHT + 30;
/** What a strong arrow within one row costs, in rows: from what is wished for to what is put up with where rows are few. */
const FLAT = [10, 4, 1.5, 0.5, 0];
const [NARROWEST, WIDEST] = [84, 250];
/** Beside a card's name: its glyph on the left, on the right the button that unfolds a supernode. */
export const BESIDE = { left: 24, right: 10, button: 22 };

export interface Placed {
  x: number;
  y: number;
  width: number;
}

/** A card is as wide as its longer line of text, within limits. */
export function cardWidth(name: string, below = "", button = false): number {
  const text = Math.max(textWidth(name, NAME_SIZE, true), textWidth(below, BELOW_SIZE));
  return Math.round(Math.max(NARROWEST, Math.min(WIDEST, BESIDE.left + text + (button ? BESIDE.button : BESIDE.right))));
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);

interface Item {
  entity: Entity;
  width: number;
  /** Mean layer, and mean position in the prompt from 0 to 1. */
  height: number;
  time: number;
}

/**
 * Cuts a list, lowest layer first, into rows: few rows, none wider than there is room, and as little as possible of the
 * strength of edges within one row, where arrows cannot go up.
 */
function rowsOf(items: readonly Item[], edges: ReadonlyMap<string, number>, room: number, flat: number): Item[][] {
  const best: { cost: number; start: number }[] = [{ cost: 0, start: 0 }];
  for (let end = 1; end <= items.length; end++) {
    let inside = 0;
    let width = -GAP;
    let found = { cost: Infinity, start: end - 1 };
    for (let start = end - 1; start >= 0; start--) {
      width += items[start].width + GAP;
      for (let other = start + 1; other < end; other++) inside += edges.get(pairOf(items[start].entity.id, items[other].entity.id)) ?? 0;
      const over = Math.max(0, width - room) / room;
      if (over > 0 && end - start > 1 && found.cost < Infinity) break;
      const cost = best[start].cost + 1 + flat * inside + 50 * over;
      if (cost < found.cost) found = { cost, start };
    }
    best.push(found);
  }
  const rows: Item[][] = [];
  for (let end = items.length; end > 0; end = best[end].start) rows.unshift(items.slice(best[end].start, end));
  return rows;
}

const pairOf = (a: string, b: string): string => (a < b ? `${a} ${b}` : `${b} ${a}`);

/** Middles of a row's cards: each as near to its time as the others let it, in their order. */
function spread(row: readonly Item[], room: number): number[] {
  const middles = row.map(({ time, width }) => width / 2 + time * Math.max(0, room - width));
  for (let i = 1; i < row.length; i++) middles[i] = Math.max(middles[i], middles[i - 1] + (row[i - 1].width + row[i].width) / 2 + GAP);
  let end = Math.max(room, row.reduce((sum, { width }) => sum + width + GAP, -GAP));
  for (let i = row.length - 1; i >= 0; i--) {
    middles[i] = Math.min(middles[i], end - row[i].width / 2);
    end = middles[i] - row[i].width / 2 - GAP;
  }
  return middles;
}

/** Places of all cards; at most `most` rows where that is possible within `room` pixels of width. */
export function placeCards(
  graph: Graph,
  list: readonly Entity[],
  edges: readonly EntityEdge[],
  texts: (entity: Entity) => [string, string],
  fixed: Record<string, [number, number]>,
  room = 800,
  most = 8,
): Map<string, Placed> {
  const last = Math.max(1, graph.view.tokens.length - 1);
  const items: Item[] = list.map((entity) => ({
    entity,
    width: cardWidth(...texts(entity), entity.group !== null),
    height: mean(entity.members.map((row) => band(graph, row))),
    time: mean(entity.members.map((row) => graph.view.nodes.position[row])) / last,
  }));
  items.sort((a, b) => a.height - b.height || a.time - b.time);
  const strength = new Map<string, number>();
  for (const { source, target, weight } of edges) strength.set(pairOf(source, target), (strength.get(pairOf(source, target)) ?? 0) + Math.abs(weight));
  const top = graph.view.layers + 1;
  const parts = [items.filter(({ height }) => height === 0), items.filter(({ height }) => height > 0 && height < top), items.filter(({ height }) => height >= top)];
  const ways = FLAT.map((flat) => parts.flatMap((part) => rowsOf(part, strength, room, flat)));
  const rows = (ways.find((way) => way.length <= most) ?? ways.at(-1)!).reverse();
  const placed = new Map<string, Placed>();
  for (const { entity, width } of items) {
    const at = fixed[entity.id];
    if (at) placed.set(entity.id, { x: at[0], y: at[1], width });
  }
  rows.forEach((row, number) => {
    row.sort((a, b) => a.time - b.time || a.height - b.height);
    const middles = spread(row, room);
    row.forEach(({ entity, width }, place) => {
      if (!placed.has(entity.id)) placed.set(entity.id, free({ x: middles[place], y: CARD_HEIGHT / 2 + number * ROW, width }, [...placed.values()]));
    });
  });
  return placed;
}

/** The nearest place where a card covers no other. */
function free(wanted: Placed, others: readonly Placed[]): Placed {
  const covers = (at: Placed): boolean =>
    others.some((other) => Math.abs(other.y - at.y) < CARD_HEIGHT + 4 && Math.abs(other.x - at.x) < (other.width + at.width) / 2 + 4);
  for (let ring = 0; ring < 200; ring++) {
    for (const [dx, dy] of ring ? STEPS : [[0, 0]]) {
      const at = { ...wanted, x: wanted.x + ring * dx * 20, y: wanted.y + ring * dy * 12 };
      if (!covers(at)) return at;
    }
  }
  return wanted;
}

const STEPS = [[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, 1], [1, -1], [-1, -1]];
