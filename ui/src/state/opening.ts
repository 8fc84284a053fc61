// Opening a graph, with a second one beside it, and closing it.
import { batch, signal } from "@preact/signals";
import * as api from "../api.ts";
import { buildGraph, type Graph } from "../graph.ts";
import type { Comparison, View } from "../types.ts";
import { headAt } from "./attention.ts";
import { failure, graph, hovered, loading } from "./graph.ts";
import { forgetLookups } from "./lookups.ts";
import { drawer, overlay, say } from "./messages.ts";
import { gathering, selected } from "./selection.ts";
import { beginWork, save, saving } from "./work.ts";

/** The graph beside this one, and what both have. */
export interface Pair {
  other: Graph;
  comparison: Comparison;
}
export const pair = signal<Pair | null>(null);

/** What tells a graph from another of the same name, so that a draft never gets to the wrong one. */
const nameOf = (view: View): string => [view.slug, view.nodes.id.length, view.total_edges, String(view.provenance.created ?? "")].join("|");

/** Asked for last: an answer that comes after another graph was asked for is dropped. */
let latest = 0;

export async function open(slug: string, nodeId?: string): Promise<void> {
  const turn = ++latest;
  if (saving.value !== "saved") await save();
  loading.value = "Opening the graph…";
  failure.value = null;
  const started = performance.now();
  const clock = window.setInterval(() => (loading.value = `The server prepares the graph… ${Math.round((performance.now() - started) / 1000)} s`), 1000);
  let over = false; // of two answers the one that is refused ends it, and the other may still come
  const received = (bytes: number): void => {
    window.clearInterval(clock);
    if (turn === latest && !over) loading.value = `Receiving the graph… ${(bytes / 1e6).toFixed(1)} MB`;
  };
  try {
    const wanted = Number(new URLSearchParams(location.search).get("edges")) || undefined;
    const [view, own] = await Promise.all([api.loadView(slug, wanted, received), api.loadAnnotations(slug)]);
    if (turn !== latest) return;
    const name = nameOf(view);
    const built = buildGraph(view);
    batch(() => {
      graph.value = null;
      forgetLookups();
      hovered.value = null;
      gathering.value = null;
      pair.value = null;
      headAt.value = null;
      beginWork(slug, name, own);
      selected.value = nodeId && built.row.has(nodeId) ? nodeId : null;
      if (view.has_study && !api.inlined) drawer.value = "study";
      else if (drawer.value === "study") drawer.value = null;
      graph.value = built;
    });
  } catch (error) {
    if (turn !== latest) return;
    batch(() => {
      graph.value = null;
      failure.value = (error as Error).message;
    });
  } finally {
    over = true;
    window.clearInterval(clock);
    if (turn === latest) loading.value = null;
  }
}

export function close(): void {
  latest++;
  batch(() => {
    loading.value = null;
    graph.value = null;
    selected.value = null;
    drawer.value = null;
    overlay.value = null;
  });
}

/** Puts a second graph beside this one, or takes it away. */
export async function compareWith(slug: string): Promise<void> {
  const now = graph.value;
  pair.value = null;
  if (!slug || !now) return;
  try {
    const [view, comparison] = await Promise.all([api.loadView(slug), api.compare(now.view.slug, slug)]);
    if (graph.value === now) pair.value = { other: buildGraph(view), comparison };
  } catch (error) {
    say((error as Error).message, true);
  }
}
