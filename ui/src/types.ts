// What the server and the page say to each other; docs/server.md is the description for people.

export enum Kind {
  Feature,
  Error,
  Embedding,
  Logit,
}

export interface View {
  version: number;
  slug: string;
  title: string;
  prompt: string | null;
  tokens: string[];
  model: string;
  transcoders: string;
  layers: number;
  nodes: {
    id: string[];
    kind: Kind[];
    layer: number[];
    position: number[];
    index: number[];
    activation: (number | null)[];
    influence: (number | null)[];
    rank: (number | null)[];
    label: string[];
    promotes?: (string[] | null)[] | null;
    density?: (number | null)[] | null;
    /** Of a response graph: the change of the target without the node, to first order. */
    effect?: (number | null)[] | null;
    input_total?: (number | null)[] | null;
    /** Number of edges in the whole file, also those not sent. */
    inputs?: number[] | null;
    outputs?: number[] | null;
  };
  edges: { source: number[]; target: number[]; weight: number[]; share: number[] };
  shown_edges: number;
  total_edges: number;
  influence_total?: number | null;
  scores: Scores | null;
  residual: number | null;
  logits_error: number | null;
  provenance: Record<string, unknown>;
  validation: Validation | null;
  live: boolean;
  /** The model that is loaded, whether it fits this graph or not. */
  loaded?: string | null;
  /** What a reader has to know about the file. */
  warnings?: string[];
  /** Whether it is of a study, whose files lie beside it. */
  has_study?: boolean;
  /** Where Neuronpedia shows a feature, with {layer} and {index} to be filled in. */
  feature_address?: string | null;
}

export interface Scores {
  replacement: number | null;
  completeness: number | null;
  replacement_peer?: number | null;
  completeness_peer?: number | null;
  replacement_file?: number | null;
  completeness_file?: number | null;
  replacement_file_peer?: number | null;
  completeness_file_peer?: number | null;
}

export interface Validation {
  verdict?: string | { text?: string; level?: string; reasons?: unknown[] };
  level?: string;
  figures?: { group?: string; name: string; value: number | string | null; low?: number | null; high?: number | null; note?: string | null }[];
  [other: string]: unknown;
}

export interface Supernode {
  id: string;
  name: string;
  members: string[];
  collapsed?: boolean;
}

/** A subgraph saved by name, and what of the first screen was seen with it. */
export interface SavedView {
  id: string;
  name: string;
  pins: string[];
  supernodes: Supernode[];
  layout: Record<string, [number, number]>;
  screen?: "why" | "graph";
  chosen?: string | null;
}

export interface Annotations {
  pins: string[];
  supernodes: Supernode[];
  labels: Record<string, string>;
  notes: string;
  layout: Record<string, [number, number]>;
  thresholds: Record<string, number | boolean | null>;
  history: SteerRun[];
  views: SavedView[];
}

export type Action = "ablate" | "scale" | "set" | "add";

export interface Change {
  action: Action;
  nodes: string[];
  /** None for ablation. */
  value?: number;
  name?: string;
}

export interface SteerRequest {
  changes: Change[];
  swap_from: string | null;
  swap_factor: number;
  mode: "frozen_attention" | "open" | "frozen";
  watch: string[];
  generate: number;
}

export interface SteerFacts {
  tokens?: string[];
  mode?: string;
  changed?: { node: string; token: string; before: number; after: number; promotes?: string[]; label?: string; supernode?: string | null }[];
  /** Changed features that are not active on this prompt. */
  inactive?: string[];
  idle?: string[];
  watched?: { node: string; token: string; before: number; after: number }[];
  next?: { id?: number; text: string; probability_before: number; probability_after: number; logit_change: number; log_probability_change?: number }[];
  kl?: number | null;
  generation?: { default: { text: string }; steered: { text: string } };
  [other: string]: unknown;
}

export interface SteerRun {
  id: string;
  time: string;
  request: SteerRequest;
  facts: SteerFacts;
}

export interface FeatureDetails {
  layer: number;
  index: number;
  /** Of a page of a neuron: which of its two. */
  sign?: string;
  label?: string | null;
  density?: number | null;
  promoted?: [string, number | null][] | null;
  suppressed?: [string, number | null][] | null;
  histogram?: { edges: number[]; counts: number[] } | null;
  quantiles?: number[] | Record<string, number> | null;
  contexts?: { tokens: string[]; activations: number[]; quantile?: string | number | null; peak?: number | null }[] | null;
  source?: string;
  /** Why nothing is known, if nothing is. */
  why?: string | null;
}

export interface GraphEntry {
  slug: string;
  title: string;
  prompt?: string | null;
  model: string;
  /** Name of its file, and its likeliest output. */
  file?: string;
  answer?: string;
  /** Not read yet: there is nothing but slug and file. */
  pending?: boolean;
  has_study?: boolean;
  transcoders?: string;
  nodes: number;
  edges: number;
  features?: number;
  created?: string;
  scores?: { replacement: number | null; completeness: number | null } | null;
  has_validation?: boolean;
  has_explanation?: boolean;
  kind?: "attribution" | "response";
  /** Why the file could not be read; then there is nothing else. */
  error?: string;
}

/** The study that a graph is of. */
export interface StudyFacts {
  title: string;
  question: string;
  verdict: string;
  holds: boolean | null;
  steps: { name: string; holds?: boolean | null; summary?: string }[];
  graphs: { slug: string; file: string }[];
  /** Markdown. */
  report: string;
}

export interface GraphList {
  graphs: GraphEntry[];
  live: boolean;
  model: string | null;
}

/** An edge as the server lists it: the other node's row, the weight, its share of all absolute input of the target. */
export type ListedEdge = [number, number, number];

export interface EdgePage {
  edges: ListedEdge[];
  total: number;
  weight_total: number;
}

export interface Comparison {
  shared: [number, number][];
  only_a: number[];
  only_b: number[];
  tokens: [number, number][];
  anywhere?: [number, number, number[], number[]][];
  delta_influence?: (number | null)[] | null;
  delta_activation?: (number | null)[] | null;
  /** Of both explanations, where both graphs have one. */
  explanations?: ExplanationsCompared | null;
}

/** A group of both explanations, or of one alone: its number in each and its share of the difference. */
export interface GroupCompared {
  groups: [number | null, number | null];
  name: string;
  shares: [number | null, number | null];
  against: boolean;
}

export interface ExplanationsCompared {
  answers: { token: string; probability: number; rival: string }[];
  shared: GroupCompared[];
  only_a: GroupCompared[];
  only_b: GroupCompared[];
}
