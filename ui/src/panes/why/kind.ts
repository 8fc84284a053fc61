// Which kind of graph is on screen.
import type { Graph } from "../../graph.ts";
import { isResponse } from "./story.ts";

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
