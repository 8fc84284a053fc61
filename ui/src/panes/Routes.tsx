// How an edge of a response graph travels, and the way to why heads looked where they did; the loaded model works both out.
import { useState } from "preact/hooks";
import * as api from "../api.ts";
import { nodeName, weight } from "../format.ts";
import { type Graph, isResponse } from "../graph.ts";
import * as store from "../store.ts";
import { answer } from "./why/state.ts";

/** Whether the model that can tell is loaded. */
export function routable(graph: Graph): boolean {
  return isResponse(graph) && answer.value?.live === true;
}

/** A button that unfolds how the edge between two nodes travels. */
export function RouteButton({ graph, target, source }: { graph: Graph; target: number; source: number }) {
  const [told, setTold] = useState<api.RoutesAnswer | string | null>(null);
  const [open, setOpen] = useState(false);
  const toggle = (): void => {
    setOpen(!open);
    if (told === null || typeof told === "string") void api.loadRoutes(graph.view.slug, target, source).then(setTold, (error: Error) => setTold(error.message));
  };
  return (
    <>
      <button type="button" class="route-button" aria-expanded={open} aria-label={`How the edge from ${nodeName(graph, store.annotations.value, source)} travels`} title="How this edge travels: by heads, norms, rests of MLPs" onClick={toggle}>
        ⤳
      </button>
      {open && (
        <div class="routes" role="status">
          {told === null ? <span class="muted">Working it out…</span> : typeof told === "string" ? <span class="error">{told}</span> : <RouteList told={told} at={graph.view.nodes.position[target]} />}
        </div>
      )}
    </>
  );
}

/** The routes of an edge; a head leads to why it looked there, from the token of the edge's target. */
function RouteList({ told, at }: { told: api.RoutesAnswer; at: number }) {
  const name = (route: string) => {
    const head = store.headNamed(route, at);
    return head ? (
      <button type="button" class="link" title="Why did it look there?" onClick={() => store.askHead(head)}>
        {route}
      </button>
    ) : (
      route
    );
  };
  const rest = told.weight - told.routes.reduce((sum, [, value]) => sum + value, 0);
  return (
    <ul>
      {told.routes.map(([route, value]) => (
        <li key={route}>
          <span class="name">{name(route)}</span> <span class="value">{weight(value)}</span>
        </li>
      ))}
      {Math.abs(rest) > 1e-4 * Math.abs(told.weight) && (
        <li>
          <span class="name muted">all others</span> <span class="value">{weight(rest)}</span>
        </li>
      )}
    </ul>
  );
}

/** The way to the pane that says why heads looked where they did. */
export function WhyLooked({ parts }: { parts: readonly string[] }) {
  const own = parts.map((part) => store.headNamed(part, 0)).find((head) => head !== null) ?? null;
  return (
    <p>
      <button type="button" class="tool" onClick={() => store.askHead(own)}>
        {own ? `Why did head ${own.layer}.${own.head} look there?` : "Why did heads look where they did?"}
      </button>
    </p>
  );
}
