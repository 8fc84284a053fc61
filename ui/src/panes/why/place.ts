// Where the cards of the first screen stand: tokens below, the answer above, groups between in rows as the arrows go.
import type { Card, Story } from "./story.ts";
import { ANSWER, tokenCard } from "./story.ts";

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Places {
  width: number;
  height: number;
  boxes: Map<string, Box>;
  /** The way of each arrow, by `arrowKey`: from the top of its source to the foot of its target, past cards between. */
  ways: Map<string, Way>;
}

export interface Point {
  x: number;
  y: number;
}

/** Points in pairs: where a stretch between rows begins and ends; between pairs the way runs straight up beside cards. */
export type Way = Point[];

export const arrowKey = (arrow: { source: string; target: string }): string => `${arrow.source} ${arrow.target}`;

export const REST = "rest";
const WIDTH = 202;
const NARROW = 150;
const HEIGHT = 50;
/** Of a narrow card: a name takes two lines. */
export const TALL = 66;
const ANSWER_HEIGHT = 40;
const TOKEN = 24;
const GAP = 14;
/** Between rows: as much as there is room, within these. */
const [TIGHT, WIDE] = [18, 52];
/** Between an arrow and a card that it passes, and the widest arrow. */
const CLEAR = 3;
const WIDEST = 9;

/** Cards in rows from below: each above what acts on it, and not below groups of earlier layers. */
export function rowsOfCards(story: Pick<Story, "cards" | "arrows">, capacity: number): Card[][] {
  const order = story.cards.slice().sort((a, b) => a.layers[0] - b.layers[0] || a.layers[1] - b.layers[1] || a.position - b.position);
  const rank = new Map(order.map((card, at) => [card.id, at]));
  const level = new Map<string, number>();
  for (const card of order) {
    const sources = story.arrows.filter((arrow) => arrow.target === card.id && (rank.get(arrow.source) ?? Infinity) < rank.get(card.id)!);
    const above = sources.map((arrow) => level.get(arrow.source)! + 1);
    const earlier = order.filter((other) => level.has(other.id) && other.layers[1] < card.layers[0]).map((other) => level.get(other.id)!);
    level.set(card.id, Math.max(0, ...above, ...earlier));
  }
  const rows: Card[][] = [];
  for (let at = 0; at <= Math.max(0, ...level.values()); at++) {
    const here = order.filter((card) => level.get(card.id) === at);
    const count = Math.ceil(here.length / capacity);
    const each = Math.ceil(here.length / Math.max(1, count));
    for (let row = 0; row < count; row++) rows.push(here.slice(row * each, (row + 1) * each).sort((a, b) => a.position - b.position || rank.get(a.id)! - rank.get(b.id)!));
  }
  return rows;
}

/** A chip is as wide as its token. */
export function tokenWidth(text: string): number {
  return Math.round(Math.min(150, 18 + 7.4 * Math.max(1, [...text].length)));
}

/** Tokens in lines that fit. */
function tokenLines(tokens: readonly string[], width: number): number[][] {
  const lines: number[][] = [[]];
  let used = 0;
  tokens.forEach((text, position) => {
    const wide = tokenWidth(text) + 6;
    if (used + wide > width && lines.at(-1)!.length) {
      lines.push([]);
      used = 0;
    }
    lines.at(-1)!.push(position);
    used += wide;
  });
  return lines;
}

export function placeStory(story: Story, width: number, height: number): Places {
  const cardWidth = width < 2 * WIDTH + GAP ? Math.max(NARROW, Math.floor((width - GAP) / 2)) : WIDTH;
  const cardHeight = cardWidth < WIDTH ? TALL : HEIGHT;
  const capacity = Math.max(1, Math.min(5, Math.floor((width + GAP) / (cardWidth + GAP))));
  const rows = rowsOfCards(story, capacity);
  const lines = tokenLines(story.tokens, width);
  const fixed = ANSWER_HEIGHT + rows.length * cardHeight + lines.length * (TOKEN + 4);
  const gap = Math.max(TIGHT, Math.min(WIDE, (height - fixed - 8) / (rows.length + 1)));
  const boxes = new Map<string, Box>();
  const answerWidth = Math.min(cardWidth, (width - GAP) / 2);
  boxes.set(ANSWER, { x: width / 2 - answerWidth / 2 - (width < 640 ? answerWidth / 2 + GAP / 2 : 0), y: 2, width: answerWidth, height: ANSWER_HEIGHT });
  boxes.set(REST, { x: Math.min(width - answerWidth - 1, boxes.get(ANSWER)!.x + answerWidth + (width < 640 ? GAP : Math.max(GAP, (width - answerWidth) / 4))), y: 2, width: answerWidth, height: ANSWER_HEIGHT });
  let y = 2 + ANSWER_HEIGHT + gap;
  for (const row of rows.toReversed()) {
    const total = row.length * cardWidth + (row.length - 1) * GAP;
    const spread = row.length > 1 ? Math.min(GAP * 4, (width - row.length * cardWidth) / (row.length - 1)) : 0;
    const start = (width - total - (spread - GAP) * (row.length - 1)) / 2;
    row.forEach((card, at) => boxes.set(card.id, { x: start + at * (cardWidth + Math.max(GAP, spread)), y, width: cardWidth, height: cardHeight }));
    y += cardHeight + gap;
  }
  for (const line of lines) {
    const total = line.reduce((sum, position) => sum + tokenWidth(story.tokens[position]) + 6, -6);
    let x = Math.max(0, (width - total) / 2);
    for (const position of line) {
      const wide = tokenWidth(story.tokens[position]);
      boxes.set(tokenCard(position), { x, y, width: wide, height: TOKEN });
      x += wide + 6;
    }
    y += TOKEN + 4;
  }
  return { width, height: y + 2, boxes, ways: waysOf(story, boxes, width) };
}

/** Ends of arrows share an edge in the order of what is at their other end. */
function spread(story: Story, boxes: Map<string, Box>, end: "source" | "target"): Map<string, number> {
  const [other, at] = [end === "source" ? "target" : "source", new Map<string, number>()] as const;
  const middle = (id: string): number => boxes.get(id)!.x + boxes.get(id)!.width / 2;
  for (const id of boxes.keys()) {
    const here = story.arrows.filter((arrow) => arrow[end] === id && boxes.has(arrow[other])).sort((a, b) => middle(a[other]) - middle(b[other]));
    const { x, width } = boxes.get(id)!;
    here.forEach((arrow, place) => at.set(arrowKey(arrow), x + (width * (place + 1)) / (here.length + 1)));
  }
  return at;
}

function waysOf(story: Story, boxes: Map<string, Box>, width: number): Map<string, Way> {
  const [from, to] = [spread(story, boxes, "source"), spread(story, boxes, "target")];
  const cards = story.cards.map((card) => boxes.get(card.id)!);
  const ways = new Map<string, Way>();
  for (const arrow of story.arrows) {
    const [source, target] = [boxes.get(arrow.source), boxes.get(arrow.target)];
    if (!source || !target) continue;
    const start = { x: from.get(arrowKey(arrow))!, y: source.y };
    const stop = { x: to.get(arrowKey(arrow))!, y: target.y + target.height };
    if (stop.y >= start.y) continue; // in one row, or downwards: drawn round the side
    const between = [...new Set(cards.map((card) => card.y))].filter((y) => y < source.y && y > target.y).sort((a, b) => b - a);
    const way = [start];
    for (const y of between) {
      const straight = start.x + ((stop.x - start.x) * (start.y - y)) / (start.y - stop.y);
      const x = lane(cards.filter((card) => card.y === y), (straight + way.at(-1)!.x) / 2, width, CLEAR + arrowWidth(arrow.size) / 2);
      const height = cards.find((card) => card.y === y)!.height;
      way.push({ x, y: y + height }, { x, y });
    }
    ways.set(arrowKey(arrow), [...way, stop]);
  }
  return ways;
}

/** Pixels for a part of the whole. */
export function arrowWidth(size: number): number {
  return 1.2 + (WIDEST - 1.2) * Math.min(1, Math.abs(size));
}

/** The place nearest to `wanted` where a line passes a row of cards; the middle of a gap where none is wide enough. */
function lane(row: readonly Box[], wanted: number, width: number, clear: number): number {
  const sorted = row.slice().sort((a, b) => a.x - b.x);
  const gaps = sorted.slice(1).map((card, at) => (sorted[at].x + sorted[at].width + card.x) / 2);
  const beside = [wanted, ...sorted.flatMap((card) => [card.x - clear, card.x + card.width + clear])];
  const open = beside.filter((x) => x > clear && x < width - clear && !row.some((card) => x > card.x - clear && x < card.x + card.width + clear));
  return [...open, ...gaps, ...(open.length || gaps.length ? [] : [wanted])].sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))[0];
}

/** A text in lines of so many signs; what does not fit ends in an ellipsis. */
export function wrapped(text: string, signs: number, lines: number): string[] {
  const words = text.split(/(?<= )/);
  const found: string[] = [""];
  for (const word of words) {
    if ([...(found.at(-1)! + word.trimEnd())].length <= signs || !found.at(-1)) found[found.length - 1] += word;
    else found.push(word);
  }
  const kept = found.slice(0, lines).map((line) => line.trim());
  const short = (line: string): string => ([...line].length > signs ? `${[...line].slice(0, signs - 1).join("")}…` : line);
  if (found.length > lines) kept[lines - 1] = `${[...kept[lines - 1]].slice(0, signs - 1).join("")}…`;
  return kept.map(short);
}
