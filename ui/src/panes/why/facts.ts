// An explanation as `unweave explain` stores it; docs/explain.md says what the figures are.

export interface ExplainedGroup {
  name: string;
  place: string;
  kind: string;
  position: number;
  layers: [number, number];
  evidence: string;
  against: boolean;
  parts: string[];
  /** Of the difference, swapped alone; with all other groups held; of random parts at most. */
  share: number;
  direct: number;
  random: number;
  /** The answer's, with this group swapped. */
  probability: number;
  top?: string;
  /** Tokens it pushes for in other contexts, how many of its members do, and what most of its members' pages are labelled. */
  pushes?: string[];
  support?: number | null;
  members?: number;
  label?: string | null;
  /** The share that a response graph predicts. */
  predicted?: number | null;
}

export interface ExplainedArrow {
  source: number;
  target: number | "answer";
  moved: number;
  carried: number;
  random: number;
  passed: boolean;
  heads: string[];
  by_heads: number | null;
  /** What a response graph predicts of how far the target moves. */
  predicted?: number | null;
}

export interface Facts {
  headline: string;
  /** How figures and names are to be read. */
  legend?: string;
  prompt: string;
  tokens: string[];
  model: string;
  answer: { token: string; id: number; probability: number };
  rival: { token: string; id: number };
  baseline: { kind: "instead" | "mean" | "zero"; instead: string | null; proposed?: boolean; probability?: number };
  found: boolean;
  sentences: { text: string; kind: string; value: number; control: number; groups: number[] }[];
  groups: ExplainedGroup[];
  arrows: ExplainedArrow[];
  together: { share: number; kept: number };
}

export interface ExplanationAnswer {
  explanation: Facts | null;
  error: string | null;
  /** The graph's model is loaded, so it can be explained and groups can be put to other values. */
  live: boolean;
  /** Without an explanation: groups that the server read off the graph's edges. */
  groups?: ReadOff[];
}

/** Rows of a group, those that count most first, and its signed effect on the answer, as the graph has it. */
export interface ReadOff {
  rows: number[];
  effect: number;
}

export interface OffToken {
  token: string;
  before: number;
  after: number;
}

/** What is said without a group. */
export interface Off {
  answer: OffToken;
  tokens: OffToken[];
  top: string;
  /** By group, how far it goes to its values in the contrast; null for those that are put, or where it is not known. */
  moved: (number | null)[];
}
