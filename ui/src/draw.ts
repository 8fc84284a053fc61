// The link graph as it is drawn, on screen and in figures.
import { type Theme, linkColour, linkWidth, mix } from "./colour.ts";
import { token } from "./format.ts";
import type { Graph } from "./graph.ts";
import type { Box, LinkLayout } from "./layout.ts";
import { fitted, type Pen, textWidth } from "./pen.ts";
import { Kind } from "./types.ts";

export interface Transform {
  k: number;
  x: number;
  y: number;
}

export interface Link {
  source: number;
  target: number;
  /** Signed share of the target's input. */
  share: number;
}

export interface Scene {
  graph: Graph;
  layout: LinkLayout;
  box: Box;
  transform: Transform;
  theme: Theme;
  mask: Uint8Array;
  /** Rows of what is selected; more than one for a supernode. */
  selected: ReadonlySet<number>;
  /** Signed share of the link between every node and what is selected; it colours the node. */
  linked: ReadonlyMap<number, number> | null;
  pinned: ReadonlySet<number>;
  marked: ReadonlyMap<number, string>;
  /** Colours of nodes while nothing is selected: which graph they are in, in a comparison. */
  tinted?: ReadonlyMap<number, string>;
  faint: readonly Link[];
  strong: readonly Link[];
  logitNames: (row: number) => string;
}

/** A dashed line says a link is negative, whatever the colours. */
export const NEGATIVE_DASH: readonly number[] = [4, 3];

/** Size of labels, how far a label at 45 degrees rises for its width, and how far apart two must be. */
const SIZE = 12;
const SLANT = Math.SQRT1_2;
const APART = 18;

export const IDENTITY: Transform = { k: 1, x: 0, y: 0 };

export function toScreen(scene: Pick<Scene, "layout" | "transform">, row: number): [number, number] {
  const { transform, layout } = scene;
  return [layout.x[row] * transform.k + transform.x, layout.y[row] * transform.k + transform.y];
}

export function nodeRadius(scene: Pick<Scene, "layout" | "transform">): number {
  return Math.min(9, scene.layout.radius * Math.sqrt(scene.transform.k));
}

export function drawLinkGraph(pen: Pen, scene: Scene): void {
  drawBands(pen, scene);
  drawLinks(pen, scene);
  drawNodes(pen, scene);
  drawLabels(pen, scene);
}

function drawBands(pen: Pen, { layout, transform, theme, box }: Scene): void {
  pen.rect(0, 0, box.width, box.height, theme.background);
  const [left, right] = [box.left, box.width];
  for (const row of layout.rows) {
    const y = row.y * transform.k + transform.y;
    const height = row.height * transform.k;
    if (row.shaded) pen.rect(left, y, right - left, height, theme.band);
    else pen.line(left, y + height, right, y + height, { colour: theme.line, width: 0.5 });
  }
  for (let token = 1; token < layout.columns.length; token++) {
    const x = layout.columns[token] * transform.k + transform.x;
    if (layout.columns[token] > layout.columns[token - 1]) pen.line(x, box.top * 0.5, x, box.height - box.bottom, { colour: theme.line, width: 0.5 });
  }
}

function drawLinks(pen: Pen, scene: Scene): void {
  const { theme } = scene;
  for (const link of scene.faint) {
    const [x1, y1] = toScreen(scene, link.source);
    const [x2, y2] = toScreen(scene, link.target);
    pen.link(x1, y1, x2, y2, {
      colour: linkColour(theme, link.share),
      width: linkWidth(link.share) * 0.7,
      opacity: (scene.strong.length ? 0.1 : 0.3) * (theme.name === "dark" ? 1.3 : 1),
    });
  }
  for (const link of scene.strong) {
    const [x1, y1] = toScreen(scene, link.source);
    const [x2, y2] = toScreen(scene, link.target);
    const width = linkWidth(link.share);
    if (width > 1) pen.link(x1, y1, x2, y2, { colour: theme.background, width: width + 2 });
    pen.link(x1, y1, x2, y2, { colour: linkColour(theme, link.share), width, dash: link.share < 0 ? NEGATIVE_DASH : undefined });
  }
}

function drawNodes(pen: Pen, scene: Scene): void {
  const { graph, theme, mask, linked, pinned, marked, selected } = scene;
  const { kind } = graph.view.nodes;
  const radius = nodeRadius(scene);
  for (let row = 0; row < graph.size; row++) {
    if (!mask[row]) continue;
    const [x, y] = toScreen(scene, row);
    if (x < -20 || y < -20 || x > scene.box.width + 20 || y > scene.box.height + 20) continue;
    const share = linked?.get(row);
    const importance = 1 - Math.min(1, graph.rank[row]);
    const tint = linked ? undefined : scene.tinted?.get(row);
    const fill = tint ? tint : linked ? (share ? linkColour(theme, share) : theme.node) : kind[row] === Kind.Feature ? mix(theme.node, theme.nodeStrong, importance) : theme.node;
    const emphasised = pinned.has(row) || share !== undefined;
    pen.glyph(kind[row], x, y, radius * (pinned.has(row) ? 1.25 : 1), fill, {
      colour: pinned.has(row) ? theme.ink : theme.outline,
      width: pinned.has(row) ? 1.6 : 0.6,
      opacity: emphasised ? 1 : kind[row] === Kind.Error ? 0.4 : linked && !selected.has(row) ? 0.55 : 1,
    });
    const mark = marked.get(row);
    if (mark) pen.ring(x, y, radius + 3, { colour: mark, width: 1.5 });
  }
  for (const row of selected) {
    const [x, y] = toScreen(scene, row);
    pen.glyph(kind[row], x, y, radius * 1.3, theme.accent, { colour: theme.background, width: 1 });
    pen.ring(x, y, radius + 5, { colour: theme.accent, width: 2 });
  }
}

/** Layers at the left, tokens below, outputs above; names that would overlap are left out. */
function drawLabels(pen: Pen, scene: Scene): void {
  const { graph, layout, transform, theme, box } = scene;
  pen.rect(0, 0, box.left, box.height, theme.background);
  const step = Math.max(1, Math.ceil(13 / (layout.rows[0].height * transform.k)));
  layout.rows.forEach((row, place) => {
    const y = (row.y + row.height / 2) * transform.k + transform.y;
    const named = row.shaded || ((place - 1) % step === 0 && layout.rows.length - 1 - place >= step);
    if (named && y > 6 && y < box.height - box.bottom + 10) pen.text(box.left - 7, y, row.name, { fill: theme.muted, size: 11, anchor: "end" });
  });
  const base = box.height - box.bottom;
  pen.rect(0, base, box.width, box.bottom, theme.background);
  let previous = -Infinity;
  const { kind, position } = graph.view.nodes;
  for (let row = 0; row < graph.size; row++) {
    if (kind[row] !== Kind.Embedding) continue;
    const [x] = toScreen(scene, row);
    if (x < box.left || x > box.width || x - previous < 13) continue;
    previous = x;
    pen.line(x, base, x, base + 5, { colour: theme.outline, width: 0.7 });
    const room = Math.min(box.bottom - 18, x - 2) / SLANT;
    pen.text(x + 3, base + 11, fitted(token(graph.view.tokens[position[row]]), room, SIZE), { fill: theme.ink, size: SIZE, anchor: "end", angle: -45 });
  }
  for (const { text, x, y, from, top } of outputLabels(scene)) {
    if (Math.abs(from[0] - x) > 2) pen.line(...from, x, y + 5, { colour: theme.muted, width: 0.5 });
    pen.text(x, y, text, { fill: top ? theme.ink : theme.muted, size: SIZE, anchor: "end", angle: 45, bold: top });
  }
}

export interface OutputLabel {
  row: number;
  text: string;
  /** Where the text ends, slanting up to the left. */
  x: number;
  y: number;
  /** The top of its node. */
  from: [number, number];
  /** Whether it is the likeliest. */
  top: boolean;
}

/** Names of the outputs above their nodes, none cut by the edge and none over another: those without room move to the left, on a thin line. */
export function outputLabels(scene: Pick<Scene, "graph" | "layout" | "transform" | "box" | "mask" | "logitNames">): OutputLabel[] {
  const { graph, box } = scene;
  const { kind, activation } = graph.view.nodes;
  const logits = [...kind.keys()].filter((row) => kind[row] === Kind.Logit && scene.mask[row]).sort((a, b) => (activation[b] ?? 0) - (activation[a] ?? 0));
  const labels: OutputLabel[] = [];
  let last = Infinity;
  for (const row of logits) {
    const [at, height] = toScreen(scene, row);
    if (height < 8 || height > box.height - box.bottom || at < box.left || at > box.width) continue;
    const x = Math.min(at, last - APART);
    const y = height - (Math.abs(at - x) > 2 ? 16 : 10);
    const room = Math.min(y - 4, x - 4) / SLANT;
    if (room < 14) continue;
    last = x;
    const top = row === logits[0];
    labels.push({ row, text: fitted(scene.logitNames(row), room, SIZE, top), x, y, from: [at, height - 5], top });
  }
  return labels;
}

/** Room that the outputs' names need above the graph, within limits. */
export function roomForOutputs(graph: Graph, name: (row: number) => string): number {
  const { kind } = graph.view.nodes;
  let widest = 0;
  for (let row = 0; row < graph.size; row++) if (kind[row] === Kind.Logit) widest = Math.max(widest, textWidth(name(row), SIZE, true));
  return Math.round(Math.max(40, Math.min(150, 32 + widest * SLANT)));
}

/** The edges that carry most of the influence: share of the target's input times the target's influence, strongest first. */
export function strongestFlows(graph: Graph, most: number): Uint32Array {
  const flow = new Float32Array(graph.weight.length);
  const reached = Float32Array.from(graph.influence, (value, row) =>
    graph.view.nodes.kind[row] === Kind.Logit ? (graph.view.nodes.activation[row] ?? 0) + value : value,
  );
  for (let e = 0; e < flow.length; e++) flow[e] = graph.share[e] * reached[graph.target[e]];
  const sample = flow.length > 50_000 ? flow.filter((_, e) => e % 20 === 0) : flow;
  const limit = flow.length > most ? sample.slice().sort()[Math.max(0, Math.floor(sample.length * (1 - (1.5 * most) / flow.length)))] : 0;
  const chosen: number[] = [];
  for (let e = 0; e < flow.length; e++) if (flow[e] >= limit) chosen.push(e);
  return Uint32Array.from(chosen.sort((a, b) => flow[b] - flow[a]).slice(0, most));
}

/** At most so many signs of a text. */
export function clipped(text: string, most: number): string {
  const signs = [...text];
  return signs.length > most ? `${signs.slice(0, most - 1).join("")}…` : text;
}
