// Edges of single nodes and details of features, asked for when they are looked at.
import { signal } from "@preact/signals";
import * as api from "../api.ts";
import { edgesAt, featureKey, type Graph } from "../graph.ts";
import type { EdgePage, FeatureDetails, ListedEdge } from "../types.ts";
import { graph } from "./graph.ts";
import { say } from "./messages.ts";

const MOST_LISTED = 2000;
const MOST_FEATURES = 300;
const fetched = signal<ReadonlyMap<string, EdgePage>>(new Map());
/** What the page itself holds, listed once: the same list each time, so that nothing is worked out anew. */
const held = new Map<string, EdgePage>();
const asked = new Set<string>();
export const features = signal<ReadonlyMap<string, FeatureDetails | string>>(new Map());

export function forgetLookups(): void {
  fetched.value = new Map();
  held.clear();
  features.value = new Map();
}

/** Edges at a node: from the whole graph once the server has listed them, until then those the page holds. */
export function edgesOf(now: Graph, row: number, direction: "in" | "out"): EdgePage {
  const key = `${now.view.slug}:${direction}:${row}`;
  const known = fetched.value.get(key);
  if (known) return known;
  if (!now.whole && !asked.has(key)) {
    asked.add(key);
    api
      .loadEdges(now, row, direction, MOST_LISTED)
      .then((page) => (fetched.value = new Map(fetched.value).set(key, page)))
      .catch((error: Error) => say(error.message, true))
      .finally(() => asked.delete(key));
  }
  const listed = held.get(key);
  if (listed) return listed;
  const edges = edgesAt(now, row, direction);
  const total = (direction === "in" ? now.view.nodes.inputs : now.view.nodes.outputs)?.[row] ?? edges.length;
  const page = { edges, total, weight_total: edges.reduce((sum, edge) => sum + Math.abs(edge[1]), 0) };
  held.set(key, page);
  return page;
}

export function inputsOf(now: Graph): (row: number) => ListedEdge[] {
  return (row) => edgesOf(now, row, "in").edges;
}

/** Details of a feature; a text says why there are none; undefined while they are on their way. */
export function detailsOf(now: Graph, row: number): FeatureDetails | string | undefined {
  const key = featureKey(now, row);
  if (!key) return "";
  const known = features.value.get(key);
  if (known !== undefined || asked.has(key)) return known;
  asked.add(key);
  api
    .loadFeature(now.view.slug, now.view.nodes.layer[row], now.view.nodes.index[row])
    .catch((error: Error) => error.message)
    .then((details) => {
      asked.delete(key);
      if (graph.value !== now) return;
      const kept = [...features.value].slice(-MOST_FEATURES);
      features.value = new Map(kept).set(key, details);
    });
  return undefined;
}
