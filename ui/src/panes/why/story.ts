// What the first screen tells, from an explanation that was measured: cards, arrows, sentences.
import { percent, token } from "../../format.ts";
import { type Graph, isResponse } from "../../graph.ts";
import { Kind } from "../../types.ts";
import type { ExplainedGroup, Facts } from "./facts.ts";

export interface Card {
  id: string;
  name: string;
  place: string;
  /** Its name on the card, and a second line: what it pushes for, or where it is. */
  short: [string, string | null];
  /** Its figure, in words. */
  line: string;
  position: number;
  layers: [number, number];
  against: boolean;
  /** Nodes of the open graph. */
  rows: number[];
  /** Whether these are the group's own parts, or what else lies at its place. */
  exact: boolean;
}

export interface Arrow {
  /** The id of a card, or `token-3`. */
  source: string;
  /** The id of a card, or `answer`. */
  target: string;
  /** Signed, about 1 at most. */
  size: number;
  label: string;
  title: string;
  heads: string;
}

export interface Sentence {
  /** What is said, in pieces; those of a group name it. */
  pieces: { text: string; card: string | null }[];
  /** The whole sentence, with its control. */
  full: string;
}

export interface Story {
  /** Measured in the model, or read off the graph. */
  measured: boolean;
  /** What groups are that were not measured, in words. */
  how?: string;
  tokens: string[];
  answer: { text: string; probability: number | null };
  rival: { text: string; probability: number | null } | null;
  /** What it is held against. */
  against: string;
  sentences: Sentence[];
  cards: Card[];
  arrows: Arrow[];
  rest: { name: string; line: string };
}

export const ANSWER = "answer";
export const tokenCard = (position: number): string => `token-${position}`;
export const groupCard = (number: number): string => `group-${number}`;

/** A share as sentences have it: whole percent, below 10 one digit. */
export function share(value: number): string {
  return percent(value, Math.abs(value) >= 0.0995 ? 0 : 1);
}

/** Nodes of the graph that are the parts of a group, or, where it has none of them, those at its token and layers. */
export function rowsOf(graph: Graph, group: Pick<ExplainedGroup, "parts" | "position" | "layers">): { rows: number[]; exact: boolean } {
  if (isResponse(graph) && graph.view.provenance.units === "neurons") {
    const own = group.parts.map((part) => graph.row.get(part)).filter((row) => row !== undefined);
    if (own.length) return { rows: own, exact: true };
  }
  const { kind, layer, position } = graph.view.nodes;
  const rows = [...Array(graph.size).keys()].filter(
    (row) => (kind[row] === Kind.Feature || kind[row] === Kind.Error) && position[row] === group.position && layer[row] >= group.layers[0] && layer[row] <= group.layers[1],
  );
  return { rows, exact: false };
}

/** A sentence in which groups are called by their place alone: what they push for stands on their cards. */
export function placed(text: string, groups: readonly Pick<ExplainedGroup, "name" | "place">[]): string {
  let short = text;
  for (const { name, place } of groups) {
    const at = name.length > place.length ? short.toLowerCase().indexOf(name.toLowerCase()) : -1;
    if (at >= 0) short = short.slice(0, at + place.length) + short.slice(at + name.length);
  }
  return short;
}

/** A sentence without what stands in every one of its kind: how it was measured, and what random parts do. */
export function gist(text: string): string {
  return text.replace(/ \(random parts: [^)]*\)/g, "").replace("swapped with all other groups held, ", "").replace("swapped, ", "");
}

/** A text in pieces, the first mention of each group (by its name or its place) on its own. */
export function linked(text: string, groups: readonly { id: string; names: readonly string[] }[]): Sentence["pieces"] {
  const lower = text.toLowerCase();
  const found: { at: number; end: number; id: string }[] = [];
  for (const { id, names } of groups) {
    const spots = names.flatMap((name) => {
      const at = lower.indexOf(name.toLowerCase());
      return name && at >= 0 ? [{ at, end: at + name.length, id }] : [];
    });
    const best = spots.sort((a, b) => b.end - b.at - (a.end - a.at)).find((spot) => !found.some((other) => spot.at < other.end && other.at < spot.end));
    if (best) found.push(best);
  }
  found.sort((a, b) => a.at - b.at);
  const pieces: Sentence["pieces"] = [];
  let at = 0;
  for (const spot of found) {
    if (spot.at > at) pieces.push({ text: text.slice(at, spot.at), card: null });
    pieces.push({ text: text.slice(spot.at, spot.end), card: spot.id });
    at = spot.end;
  }
  if (at < text.length) pieces.push({ text: text.slice(at), card: null });
  return pieces;
}

const held = ({ baseline }: Facts): string =>
  baseline.kind === "instead"
    ? `held against “${baseline.instead ?? "another prompt"}”${baseline.proposed ? ", found by exchanging a token" : ""}`
    : baseline.kind === "mean"
      ? "held against the model's mean values over text"
      : "held against zero";

export function storyOf(facts: Facts, graph: Graph): Story {
  const names = facts.groups.map((group, number) => ({ id: groupCard(number), names: [group.name, group.place] }));
  const said = facts.sentences.map(({ text, groups }) => ({
    full: text,
    // a sentence about all groups names none of them
    pieces: linked(placed(gist(text), facts.groups), groups.length > 2 ? [] : groups.map((number) => names[number])),
  }));
  const left = 1 - facts.together.share;
  return {
    measured: true,
    tokens: facts.tokens,
    answer: { text: facts.answer.token, probability: facts.answer.probability },
    rival: { text: facts.rival.token, probability: probabilityOf(graph, facts.rival.token) },
    against: held(facts),
    sentences: said,
    cards: facts.groups.map((group, number) => ({
      id: groupCard(number),
      name: group.name,
      place: group.place,
      short: shortName(group),
      line: group.share < 0 ? `works against it: ${share(group.share)}` : `${share(group.share)} of the difference`,
      position: group.position,
      layers: group.layers,
      against: group.share < 0,
      ...rowsOf(graph, group),
    })),
    arrows: facts.arrows
      .filter((arrow) => arrow.passed)
      .map((arrow) => {
        const by = arrow.heads.length && (arrow.by_heads ?? 0) >= 0.5 ? `by heads ${arrow.heads.join(", ")}` : "";
        return {
          source: groupCard(arrow.source),
          target: arrow.target === "answer" ? ANSWER : groupCard(arrow.target),
          size: arrow.carried,
          label: share(arrow.carried),
          title: `carries ${share(arrow.carried)} of the difference; moves its target ${share(arrow.moved)} of the way (random parts: at most ${share(arrow.random)}${typeof arrow.predicted === "number" ? `; predicted to first order ${share(arrow.predicted)}` : ""})${by && `; ${share(arrow.by_heads ?? 0)} of that ${by}`}`,
          heads: by,
        };
      }),
    rest: { name: left > -0.005 ? `Not explained: ${share(Math.max(0, left))}` : `Too much: ${share(-left)}`, line: `${share(Math.max(0, 1 - facts.together.kept))} needs other neurons` },
  };
}

/** The probability of a token if it is among the outputs of the graph. */
function probabilityOf(graph: Graph, text: string): number | null {
  const { kind, label, activation } = graph.view.nodes;
  if (isResponse(graph)) return null;
  const row = kind.findIndex((value, at) => value === Kind.Logit && label[at] === text);
  return row < 0 ? null : activation[row];
}

/** A card's two lines of name: where the group sits, and what it is called by its members' pages or by what it pushes for. */
export function shortName(group: Pick<ExplainedGroup, "place" | "pushes" | "members" | "label">): [string, string | null] {
  const where = group.place.replace(/^the /, "").replace(/\blayers? (?=\d)/g, "L").replace(/' ?([^']*)'/g, "“$1”").replace(/^heads (\S+) and (\S+) at/, "heads $1 + $2 at").replace(/ at (“[^”]*”), L/, " $1 L");
  const pushes = group.pushes?.length ? `push${group.members === 1 ? "es" : ""} ${group.pushes.map((text) => token(text).replace(/^·/, "")).join(", ")}` : null;
  return [where, group.label ? `“${group.label}”` : pushes];
}
