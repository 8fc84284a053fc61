// Why a head looked there: its row of the pattern, the pairs of nodes that made its score, and each side's nodes.
import { useEffect, useState } from "preact/hooks";
import * as api from "../api.ts";
import { nodeName, percent, quoted, token, weight } from "../format.ts";
import type { Graph } from "../graph.ts";
import { routable } from "../panes/Routes.tsx";
import * as why from "../panes/why/state.ts";
import * as store from "../store.ts";

export function Attention({ graph }: { graph: Graph }) {
  const at = store.headAt.value;
  if (!routable(graph)) return <p class="panel muted">The model of this response graph is not loaded: start unweave serve with --model {graph.view.model}.</p>;
  return (
    <div class="panel attention">
      <Heads graph={graph} />
      {at && <Look key={`${at.layer} ${at.head} ${at.query} ${at.key}`} graph={graph} at={at} />}
      <p class="hint">To first order, by all paths. A pair is what one node gives the query times what the other gives the key; marginals are what the share of attention would lose or gain without a node.</p>
    </div>
  );
}

/** Heads to ask: those of the chosen group, then those that carry most. */
function Heads({ graph }: { graph: Graph }) {
  const [found, setFound] = useState<api.HeadFacts[] | string | null>(null);
  useEffect(() => {
    setFound(null);
    api.loadHeads(graph.view.slug).then(({ heads }) => setFound(heads), (error: Error) => setFound(error.message));
  }, [graph]);
  const parts = why.facts.value?.groups[Number(why.subject.value?.id.split("-")[1])]?.parts ?? [];
  const own = parts.flatMap((part) => store.headNamed(part, 0) ?? []);
  const others: store.HeadAt[] = typeof found === "object" && found ? found.filter((one) => !own.some((mine) => mine.layer === one.layer && mine.head === one.head && mine.query === one.query)) : [];
  useEffect(() => {
    if (store.headAt.value === null && (own.length || others.length)) store.headAt.value = own[0] ?? others[0];
  }, [found]);
  const chip = (one: store.HeadAt) => {
    const now = store.headAt.value;
    const here = now?.layer === one.layer && now.head === one.head && now.query === one.query && (one.key === undefined || now.key === one.key);
    return (
      <button type="button" class={here ? "chip current" : "chip"} aria-pressed={here} key={`${one.layer} ${one.head} ${one.query} ${one.key}`} onClick={() => store.askHead(one)}>
        {one.layer}.{one.head} at {quoted(graph.view.tokens[one.query])}
        {one.key !== undefined && ` to ${quoted(graph.view.tokens[one.key])}`}
      </button>
    );
  };
  return (
    <>
      {own.length > 0 && <p class="chips" aria-label="Heads of the chosen group">{own.map(chip)}</p>}
      {found === null ? <p class="muted" aria-busy="true">Following heads…</p> : typeof found === "string" ? <p class="error">{found}</p> : (
        <>
          <h3>Heads that carry most to the target</h3>
          <p class="chips">{others.map(chip)}</p>
        </>
      )}
    </>
  );
}

function Look({ graph, at }: { graph: Graph; at: store.HeadAt }) {
  const [told, setTold] = useState<api.LookFacts | string | null>(null);
  useEffect(() => {
    let gone = false;
    api.loadLook(graph.view.slug, at).then((found) => gone || setTold(found), (error: Error) => gone || setTold(error.message));
    return () => (gone = true);
  }, []);
  if (told === null) return <p class="muted" aria-busy="true">Working it out…</p>;
  if (typeof told === "string") return <p class="error">{told}</p>;
  const { tokens } = graph.view;
  return (
    <>
      <h3>
        Head {told.layer}.{told.head} at {quoted(tokens[told.query])} looks at {quoted(tokens[told.key])}: {percent(told.pattern, 0)}
      </h3>
      <ol class="pattern" aria-label="Its attention, by token">
        {told.row.map((value, key) => (
          <li key={key}>
            <button type="button" aria-pressed={key === told.key} title={`Why it looks at ${token(tokens[key])}`} onClick={() => store.askHead({ ...at, key })}>
              <span class="name">{token(tokens[key])}</span>
              <span class="track">
                <span class="bar" style={{ width: `${100 * value}%` }} />
              </span>
              <span class="value">{percent(value, value < 0.0995 ? 1 : 0)}</span>
            </button>
          </li>
        ))}
      </ol>
      <h3>Largest terms of its score</h3>
      {told.pairs.length === 0 && <p class="hint">No pair of the graph's nodes: what both prompts share makes this head look there.</p>}
      <ul class="pairs">
        {told.pairs.map(([query, key, value]) => (
          <li key={`${query} ${key}`}>
            <Node graph={graph} row={query} /> <span class="muted">meets</span> <Node graph={graph} row={key} /> <span class="value">{weight(value)}</span>
          </li>
        ))}
      </ul>
      <Marginals graph={graph} title="Without a node, by the query" terms={told.by_query} />
      <Marginals graph={graph} title="Without a node, by the keys" terms={told.by_key} />
    </>
  );
}

function Marginals({ graph, title, terms }: { graph: Graph; title: string; terms: [number, number][] }) {
  return (
    <>
      <h3>{title}</h3>
      <ul class="pairs">
        {terms.length === 0 && <li class="hint">none of the graph's nodes</li>}
        {terms.map(([row, value]) => (
          <li key={row}>
            <Node graph={graph} row={row} /> <span class="value">{weight(value)}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

/** A node by its name: pointing at it lights it, and its group, wherever they are shown. */
function Node({ graph, row }: { graph: Graph; row: number }) {
  const point = (on: boolean) => () => {
    store.hovered.value = on ? row : null;
    why.pointed.value = on ? (why.story.value?.cards.find((card) => card.rows.includes(row))?.id ?? null) : null;
  };
  const { id, position } = graph.view.nodes;
  return (
    <button type="button" class="link" onClick={() => store.select(id[row])} onMouseEnter={point(true)} onMouseLeave={point(false)} onFocus={point(true)} onBlur={point(false)}>
      {nodeName(graph, store.annotations.value, row)} <span class="muted">{quoted(graph.view.tokens[position[row]])}</span>
    </button>
  );
}
