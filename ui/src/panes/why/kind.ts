// Which kind of graph is on screen, and which is the other of the same prompt.
import { type Graph, isResponse } from "../../graph.ts";
import type { GraphEntry } from "../../types.ts";

export function kindOf(graph: Graph): string {
  return isResponse(graph) ? "response graph" : "attribution graph";
}

/** What its edges say. */
export function kindTitle(graph: Graph): string {
  const { units, baseline, instead } = graph.view.provenance as { units?: string; baseline?: string; instead?: string | null };
  if (!isResponse(graph)) return "Attribution graph: what each logit and feature is made of, with attention and norms as they are";
  const put = instead ? `given their values from “${instead}”` : baseline === "zero" ? "put to zero" : "put to their mean over text";
  return `Response graph of ${units || "units"}: what would change, to first order, if they were ${put}, everything else responding`;
}

/** A graph of the other kind, of the same prompt and model. */
export function siblingOf(graph: Graph, entries: readonly GraphEntry[]): GraphEntry | null {
  const wanted = isResponse(graph) ? "attribution" : "response";
  const { prompt, model, slug } = graph.view;
  return entries.find((entry) => !entry.error && entry.slug !== slug && entry.kind === wanted && entry.model === model && (entry.prompt ?? "").trim() === (prompt ?? "").trim()) ?? null;
}
