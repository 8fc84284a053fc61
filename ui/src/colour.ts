// Colours of what is drawn. PRGn (ColorBrewer) tells signs apart for colour-blind readers; negative links are dashed as well.

export interface Theme {
  name: "light" | "dark" | "print";
  background: string;
  band: string;
  ink: string;
  muted: string;
  line: string;
  node: string;
  nodeStrong: string;
  outline: string;
  accent: string;
  /** Nodes of two compared graphs: in both, and in one only. */
  shared: string;
  positive: readonly string[];
  negative: readonly string[];
}

const GREENS = ["#b9dfb4", "#a6dba0", "#5aae61", "#1b7837", "#00441b"];
const PURPLES = ["#d6bfdd", "#c2a5cf", "#9970ab", "#762a83", "#40004b"];

export const LIGHT: Theme = {
  name: "light",
  background: "#ffffff",
  band: "#f4f5f7",
  ink: "#1d2330",
  muted: "#5d6678",
  line: "#e4e7ec",
  node: "#ffffff",
  nodeStrong: "#c9d3e6",
  outline: "#3c4558",
  accent: "#b8246d",
  shared: "#4c78a8",
  positive: GREENS,
  negative: PURPLES,
};

export const PRINT: Theme = { ...LIGHT, name: "print", ink: "#000000", muted: "#333333", outline: "#000000", line: "#dddddd" };

export const DARK: Theme = {
  name: "dark",
  background: "#171a21",
  band: "#1d212a",
  ink: "#e8ebf2",
  muted: "#9aa4b8",
  line: "#2b313d",
  node: "#222733",
  nodeStrong: "#4a5672",
  outline: "#aeb8cc",
  accent: "#ff7ab6",
  shared: "#6fa3d8",
  positive: ["#4d7d5d", "#55a06a", "#63b577", "#8fd69c", "#c9f5cf"],
  negative: ["#735f8e", "#8a6bb4", "#9d7bc4", "#c2a0e2", "#e6d3f8"],
};

/** Shares at which colour and width reach their ends. */
const FULL = 0.4;
const WIDEST = 3;

function channel(hex: string, at: number): number {
  return parseInt(hex.slice(at, at + 2), 16);
}

/** A colour between two, as `#rrggbb`. */
export function mix(from: string, to: string, t: number): string {
  const part = (at: number): string => Math.round(channel(from, at) + (channel(to, at) - channel(from, at)) * t).toString(16).padStart(2, "0");
  return `#${part(1)}${part(3)}${part(5)}`;
}

/** Colour of a link by its signed share of the target's input: green supports, purple opposes. */
export function linkColour(theme: Theme, share: number): string {
  const ramp = share < 0 ? theme.negative : theme.positive;
  const at = Math.min(1, Math.abs(share) / FULL) * (ramp.length - 1);
  const step = Math.min(ramp.length - 2, Math.floor(at));
  return mix(ramp[step], ramp[step + 1], at - step);
}

/** Width of a link in pixels: the square root of its share, 3 at most. */
export function linkWidth(share: number): number {
  return Math.max(0.5, WIDEST * Math.sqrt(Math.min(1, Math.abs(share))));
}

/** Black or white text, whichever reads better on a colour. */
export function textOn(colour: string): string {
  const level = (at: number): number => {
    const value = channel(colour, at) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  const luminance = 0.2126 * level(1) + 0.7152 * level(3) + 0.0722 * level(5);
  return luminance > 0.18 ? "#10131a" : "#ffffff";
}
