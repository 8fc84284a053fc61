// The kind of graph on screen, and the way to the other kind of the same prompt.
import { useEffect, useState } from "preact/hooks";
import * as api from "../../api.ts";
import type { Graph } from "../../graph.ts";
import type { GraphEntry } from "../../types.ts";
import { kindOf, kindTitle, siblingOf } from "./kind.ts";

/** Milliseconds after which the other graphs are looked through: the picture comes first. */
const LATER = 1500;

export function KindOfGraph({ graph }: { graph: Graph }) {
  const [other, setOther] = useState<GraphEntry | null>(null);
  useEffect(() => {
    setOther(null);
    if (api.inlined) return;
    const timer = window.setTimeout(() => void api.listGraphs().then(({ graphs }) => setOther(siblingOf(graph, graphs)), () => {}), LATER);
    return () => clearTimeout(timer);
  }, [graph]);
  return (
    <>
      <span class="kind" title={kindTitle(graph)}>
        {kindOf(graph)}
      </span>
      {other && (
        <a class="kind kind-other" href={`#${encodeURIComponent(other.slug)}`} title={`The ${other.kind} graph of this prompt`}>
          ⇄ {other.kind}
        </a>
      )}
    </>
  );
}
