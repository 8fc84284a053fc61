// How an edge of a response graph travels, and why heads looked where they did; both are worked out by the loaded model.
import { useEffect, useState } from "preact/hooks";
import * as api from "../api.ts";
import { nodeName, quoted, weight } from "../format.ts";
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
          {told === null ? <span class="muted">Working it out…</span> : typeof told === "string" ? <span class="error">{told}</span> : <RouteList told={told} />}
        </div>
      )}
    </>
  );
}

function RouteList({ told }: { told: api.RoutesAnswer }) {
  const rest = told.weight - told.routes.reduce((sum, [, value]) => sum + value, 0);
  return (
    <ul>
      {told.routes.map(([name, value]) => (
        <li key={name}>
          <span class="name">{name}</span> <span class="value">{weight(value)}</span>
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

/** The heads that carry most, each with its place in the pattern and the nodes that made it look there. */
export function Heads({ graph }: { graph: Graph }) {
  const [heads, setHeads] = useState<api.HeadFacts[] | string | null>(null);
  const [open, setOpen] = useState(false);
  useEffect(() => {
    setHeads(null);
    setOpen(false);
  }, [graph]);
  const load = (): void => {
    if (heads === null || typeof heads === "string") void api.loadHeads(graph.view.slug).then(({ heads: found }) => setHeads(found), (error: Error) => setHeads(error.message));
  };
  const { tokens } = graph.view;
  return (
    <details
      class="heads"
      open={open}
      onToggle={(event) => {
        setOpen(event.currentTarget.open);
        if (event.currentTarget.open) load();
      }}
    >
      <summary>Why did heads look where they did?</summary>
      {heads === null ? (
        <p class="muted" aria-busy="true">Following heads…</p>
      ) : typeof heads === "string" ? (
        <p class="error">{heads}</p>
      ) : (
        <ol>
          {heads.map((head) => (
            <li key={`${head.layer} ${head.head} ${head.query} ${head.key}`}>
              <p>
                <b>
                  Head {head.layer}.{head.head}
                </b>{" "}
                at {quoted(tokens[head.query])} looks at {quoted(tokens[head.key])}: {Math.round(100 * head.pattern)}% of its attention; carries {weight(head.carried)}
              </p>
              <Terms graph={graph} title="without, by the query" terms={head.by_query} />
              <Terms graph={graph} title="without, by the key" terms={head.by_key} />
            </li>
          ))}
        </ol>
      )}
      <p class="hint">Figures of nodes: what the share of attention would lose or gain without them, to first order.</p>
    </details>
  );
}

function Terms({ graph, title, terms }: { graph: Graph; title: string; terms: [number, number][] }) {
  const point = (row: number | null) => () => (store.hovered.value = row);
  return (
    <p class="chips">
      <span class="hint">{title}:</span>
      {terms.length === 0 && <span class="hint">none of the graph's nodes</span>}
      {terms.map(([row, value]) => (
        <button type="button" class="chip" key={row} onClick={() => store.select(graph.view.nodes.id[row])} onMouseEnter={point(row)} onMouseLeave={point(null)} onFocus={point(row)} onBlur={point(null)}>
          {nodeName(graph, store.annotations.value, row)} {weight(value)}
        </button>
      ))}
    </p>
  );
}
