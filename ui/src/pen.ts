// One way to draw, on a canvas for the screen and as SVG text for figures.
import { Kind } from "./types.ts";

export interface TextStyle {
  fill: string;
  size?: number;
  anchor?: "start" | "middle" | "end";
  /** Degrees, clockwise. */
  angle?: number;
  bold?: boolean;
}

export interface Stroke {
  colour: string;
  width: number;
  dash?: readonly number[];
  opacity?: number;
}

export interface Pen {
  rect(x: number, y: number, width: number, height: number, fill: string): void;
  line(x1: number, y1: number, x2: number, y2: number, stroke: Stroke): void;
  /** A link that leaves and arrives upright. */
  link(x1: number, y1: number, x2: number, y2: number, stroke: Stroke): void;
  glyph(kind: Kind, x: number, y: number, radius: number, fill: string, stroke: Stroke): void;
  ring(x: number, y: number, radius: number, stroke: Stroke): void;
  text(x: number, y: number, text: string, style: TextStyle): void;
}

// ---- widths of texts ----
const fontOf = (size: number, bold?: boolean): string => `${bold ? "600 " : ""}${size}px ${FONT}`;
const MOST_WIDTHS = 20_000;
const widths = new Map<string, number>();
let measuring: CanvasRenderingContext2D | null | undefined;

/** Width of a text in pixels, as it will be drawn; without a browser a guess. */
export function textWidth(text: string, size: number, bold?: boolean): number {
  const font = fontOf(size, bold);
  const key = `${font}\n${text}`;
  const known = widths.get(key);
  if (known !== undefined) return known;
  if (measuring === undefined) measuring = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d");
  if (measuring) measuring.font = font;
  const width = measuring ? measuring.measureText(text).width : 0.58 * size * [...text].length;
  if (widths.size > MOST_WIDTHS) widths.clear();
  widths.set(key, width);
  return width;
}

/** As much of a text as has room, with … where it is cut. */
export function fitted(text: string, room: number, size: number, bold?: boolean): string {
  if (textWidth(text, size, bold) <= room) return text;
  const signs = [...text];
  let [low, high] = [0, signs.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (textWidth(`${signs.slice(0, middle).join("")}…`, size, bold) <= room) low = middle;
    else high = middle - 1;
  }
  return `${signs.slice(0, low).join("").trimEnd()}…`;
}

export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

/** Corners of a glyph that is not round. */
function corners(kind: Kind, x: number, y: number, r: number): [number, number][] {
  if (kind === Kind.Error) return [[x, y - r * 1.2], [x + r * 1.2, y], [x, y + r * 1.2], [x - r * 1.2, y]];
  const half = r * 0.92;
  return [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]];
}

export function canvasPen(context: CanvasRenderingContext2D): Pen {
  const apply = (stroke: Stroke): void => {
    context.strokeStyle = stroke.colour;
    context.lineWidth = stroke.width;
    context.globalAlpha = stroke.opacity ?? 1;
    context.setLineDash((stroke.dash as number[]) ?? []);
  };
  let font = "";
  return {
    rect(x, y, width, height, fill) {
      context.globalAlpha = 1;
      context.fillStyle = fill;
      context.fillRect(x, y, width, height);
    },
    line(x1, y1, x2, y2, stroke) {
      apply(stroke);
      context.beginPath();
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
      context.stroke();
    },
    link(x1, y1, x2, y2, stroke) {
      apply(stroke);
      const middle = (y1 + y2) / 2;
      context.beginPath();
      context.moveTo(x1, y1);
      context.bezierCurveTo(x1, middle, x2, middle, x2, y2);
      context.stroke();
    },
    glyph(kind, x, y, radius, fill, stroke) {
      apply(stroke);
      context.fillStyle = fill;
      context.beginPath();
      if (kind === Kind.Feature) context.arc(x, y, radius, 0, 2 * Math.PI);
      else {
        corners(kind, x, y, radius).forEach(([cx, cy], place) => (place ? context.lineTo(cx, cy) : context.moveTo(cx, cy)));
        context.closePath();
      }
      context.fill();
      context.stroke();
    },
    ring(x, y, radius, stroke) {
      apply(stroke);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    },
    text(x, y, text, { fill, size = 12, anchor = "start", angle = 0, bold }) {
      const wanted = fontOf(size, bold);
      if (wanted !== font) context.font = font = wanted; // parsing a font takes longer than drawing with it
      context.globalAlpha = 1;
      context.textAlign = anchor === "middle" ? "center" : anchor;
      context.textBaseline = "middle";
      context.fillStyle = fill;
      if (!angle) return context.fillText(text, x, y);
      context.translate(x, y);
      context.rotate((angle * Math.PI) / 180);
      context.fillText(text, 0, 0);
      context.rotate((-angle * Math.PI) / 180);
      context.translate(-x, -y);
    },
  };
}

/** Text that is safe inside SVG. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`).replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, "\ufffd");
}

/** A pen that writes SVG elements into `parts`. */
export function svgPen(parts: string[]): Pen {
  const round = (value: number): string => String(Math.round(value * 100) / 100);
  const stroked = (stroke: Stroke): string =>
    `stroke="${stroke.colour}" stroke-width="${round(stroke.width)}"${stroke.dash?.length ? ` stroke-dasharray="${stroke.dash.join(" ")}"` : ""}${stroke.opacity === undefined ? "" : ` opacity="${round(stroke.opacity)}"`}`;
  return {
    rect: (x, y, width, height, fill) => void parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" fill="${fill}"/>`),
    line: (x1, y1, x2, y2, stroke) => void parts.push(`<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" ${stroked(stroke)}/>`),
    link(x1, y1, x2, y2, stroke) {
      const middle = round((y1 + y2) / 2);
      parts.push(`<path d="M${round(x1)},${round(y1)}C${round(x1)},${middle},${round(x2)},${middle},${round(x2)},${round(y2)}" fill="none" ${stroked(stroke)}/>`);
    },
    glyph(kind, x, y, radius, fill, stroke) {
      if (kind === Kind.Feature) parts.push(`<circle cx="${round(x)}" cy="${round(y)}" r="${round(radius)}" fill="${fill}" ${stroked(stroke)}/>`);
      else parts.push(`<path d="M${corners(kind, x, y, radius).map((corner) => corner.map(round).join(",")).join("L")}Z" fill="${fill}" ${stroked(stroke)}/>`);
    },
    ring: (x, y, radius, stroke) => void parts.push(`<circle cx="${round(x)}" cy="${round(y)}" r="${round(radius)}" fill="none" ${stroked(stroke)}/>`),
    text(x, y, text, { fill, size = 12, anchor = "start", angle = 0, bold }) {
      const turned = angle ? ` transform="rotate(${angle} ${round(x)} ${round(y)})"` : "";
      const heavy = bold ? ' font-weight="600"' : "";
      parts.push(`<text x="${round(x)}" y="${round(y)}" dominant-baseline="central" font-size="${size}" text-anchor="${anchor}" fill="${fill}"${heavy}${turned}>${escaped(text)}</text>`);
    },
  };
}
