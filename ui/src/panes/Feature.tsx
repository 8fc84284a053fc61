// The feature pane: what the hovered or selected node is, how active it is here, and what it does elsewhere.
import { useEffect, useState } from "preact/hooks";
import { label as setLabel } from "../edits.ts";
import { featureName, KIND_NAMES, nodeName, number, percent, quoted, token } from "../format.ts";
import { featureKey, type Graph } from "../graph.ts";
import * as store from "../store.ts";
import { type FeatureDetails, Kind } from "../types.ts";
import { Editable, Glyph, IconButton, Pane } from "../widgets.tsx";

/** Milliseconds the pointer rests on a node before the pane follows it. */
const REST = 130;

/** The node that the pane shows: the hovered one, once the pointer rests, else the selected one. */
function useSubject(): number | null {
  const [resting, setResting] = useState<number | null>(null);
  const hovered = store.hovered.value;
  useEffect(() => {
    const timer = window.setTimeout(() => setResting(hovered), REST);
    return () => clearTimeout(timer);
  }, [hovered]);
  return resting ?? store.selectedRows.value[0] ?? null;
}

export function Feature({ graph }: { graph: Graph }) {
  const row = useSubject();
  const usable = row !== null && row < graph.size;
  return (
    <Pane name="feature" title={usable ? KIND_NAMES[graph.view.nodes.kind[row]] : "Feature"}>
      {usable ? <Node graph={graph} row={row} key={graph.view.nodes.id[row]} /> : <p class="empty">Point at a node to see what it is: its activation, the tokens it promotes, the texts it is active on.</p>}
    </Pane>
  );
}

function Node({ graph, row }: { graph: Graph; row: number }) {
  const [editing, setEditing] = useState(false);
  const [scope, setScope] = useState<"feature" | "node">("feature");
  const { id, kind, activation, influence, rank, position } = graph.view.nodes;
  const feature = kind[row] === Kind.Feature;
  const details = feature ? store.detailsOf(graph, row) : undefined;
  const key = feature && scope === "feature" ? featureKey(graph, row)! : id[row];
  const name = nodeName(graph, store.annotations.value, row);
  const known = typeof details === "object" ? details : null;
  return (
    <div class="scroll feature" tabIndex={0} role="group" aria-label="Node details">
      <div class="feature-head">
        <Glyph kind={kind[row]} />
        {editing ? (
          <>
            <Editable
              text={store.annotations.value.labels[key] ?? (name === featureName(graph, row) ? "" : name)}
              label="Label"
              editing
              onEdit={setEditing}
              onSave={(text) => store.edit((state) => setLabel(state, key, text === nodeName(graph, { ...state, labels: {} }, row) ? "" : text))}
            />
            {feature && (
              <label class="scope" onMouseDown={(event) => event.preventDefault()}>
                <input type="checkbox" checked={scope === "node"} onClick={() => setScope(scope === "node" ? "feature" : "node")} tabIndex={-1} /> only here
              </label>
            )}
          </>
        ) : (
          <>
            <h3>{name}</h3>
            <IconButton label="Edit label" icon="edit" keys="E" onClick={() => setEditing(true)} />
          </>
        )}
      </div>
      <p class="facts">
        {feature && <span>{featureName(graph, row)}</span>}
        <span>on {quoted(graph.view.tokens[position[row]])}</span>
        <span>
          {kind[row] === Kind.Logit ? "probability" : feature ? "activation" : "norm"} <b>{number(activation[row])}</b>
        </span>
        {influence[row] !== null && graph.influence[row] > 0 && kind[row] !== Kind.Logit && (
          <span title={`With everything above it: ${percent(rank[row])} of the influence`}>
            influence <b>{percent(graph.influence[row] / graph.influenceTotal, 2)}</b>
          </span>
        )}
        {known?.density != null && (
          <span>
            active on <b>{percent(known.density, 2)}</b> of tokens
          </span>
        )}
      </p>
      {kind[row] === Kind.Error && <p class="muted">What the dictionary misses of this layer's MLP output on this token. It has no meaning of its own, but its influence counts against the scores.</p>}
      {feature && <Elsewhere graph={graph} row={row} />}
      {feature && details === undefined && <p class="muted" aria-busy="true">Looking up this feature…</p>}
      {typeof details === "string" && details && <Promoted words={graph.view.nodes.promotes?.[row]} note={details} />}
      {known && <Details details={known} here={activation[row]} />}
    </div>
  );
}

/** Other tokens of the prompt on which the same feature is active. */
function Elsewhere({ graph, row }: { graph: Graph; row: number }) {
  const key = featureKey(graph, row);
  const rows = [...Array(graph.size).keys()].filter((other) => featureKey(graph, other) === key);
  if (rows.length < 2) return null;
  return (
    <p class="chips" aria-label="Active on these tokens of the prompt">
      {rows.map((other) => (
        <button type="button" class={other === row ? "chip current" : "chip"} onClick={(event) => store.clickNode(graph.view.nodes.id[other], event)}>
          {quoted(graph.view.tokens[graph.view.nodes.position[other]])} {number(graph.view.nodes.activation[other], 2)}
        </button>
      ))}
    </p>
  );
}

function Promoted({ words, note }: { words: string[] | null | undefined; note: string }) {
  return (
    <>
      {words && words.length > 0 && (
        <>
          <h4>Promotes</h4>
          <p class="chips">
            {words.map((word) => (
              <span class="chip">{token(word)}</span>
            ))}
          </p>
        </>
      )}
      <p class="muted">{note}</p>
    </>
  );
}

function Details({ details, here }: { details: FeatureDetails; here: number | null }) {
  const contexts = details.contexts ?? [];
  const most = Math.max(here ?? 0, ...contexts.flatMap((context) => context.activations));
  const quantiles = [...new Set(contexts.map((context) => String(context.quantile ?? "")))];
  return (
    <>
      {details.histogram && details.histogram.counts.length > 0 && <Histogram {...details.histogram} here={here} />}
      {((details.promoted?.length ?? 0) > 0 || (details.suppressed?.length ?? 0) > 0) && (
        <div class="logits">
          <Tokens title="Promotes" list={details.promoted ?? []} />
          <Tokens title="Suppresses" list={details.suppressed ?? []} />
        </div>
      )}
      {details.source === "decoder" && (
        <p class="muted">From the decoder's direct effect on the vocabulary; only the order means something. There are no feature pages for this dictionary, so texts it is active on are not known.</p>
      )}
      {quantiles.map((quantile) => (
        <>
          <h4>{quantile ? (Number.isFinite(Number(quantile)) ? `Quantile ${quantile}` : quantile) : "Top activations"}</h4>
          {contexts
            .filter((context) => String(context.quantile ?? "") === quantile)
            .map((context) => (
              <Context {...context} most={most} />
            ))}
        </>
      ))}
    </>
  );
}

function Tokens({ title, list }: { title: string; list: [string, number | null][] }) {
  const most = Math.max(1e-9, ...list.map(([, value]) => Math.abs(value ?? 0)));
  return (
    <div>
      <h4>{title}</h4>
      <ol class="tokens">
        {list.slice(0, 10).map(([word, value]) => (
          <li>
            <span class="word">{token(word)}</span>
            {value !== null && (
              <>
                <span class={`tiny-bar ${value < 0 ? "negative" : "positive"}`} style={{ width: `${(Math.abs(value) / most) * 60}px` }} />
                <span class="value">{number(value, 2)}</span>
              </>
            )}
          </li>
        ))}
      </ol>
    </div>
  );
}

function Histogram({ edges, counts, here }: { edges: number[]; counts: number[]; here: number | null }) {
  const [width, height] = [300, 64];
  const tallest = Math.log1p(Math.max(...counts));
  const [low, high] = [edges[0], Math.max(edges.at(-1)!, here ?? -Infinity)];
  const x = (value: number): number => ((value - low) / (high - low || 1)) * width;
  return (
    <figure class="histogram">
      <figcaption>Activations (log count){here !== null && `, here ${number(here)}`}</figcaption>
      <svg viewBox={`0 -4 ${width} ${height + 18}`} role="img" aria-label={`Histogram of activations from ${number(low)} to ${number(high)}${here === null ? "" : `; ${number(here)} here`}`}>
        {counts.map((value, bin) => {
          const tall = tallest ? (Math.log1p(value) / tallest) * height : 0;
          return <rect x={x(edges[bin])} width={Math.max(0.5, x(edges[bin + 1]) - x(edges[bin]) - 0.6)} y={height - tall} height={tall} class="bin" />;
        })}
        {here !== null && <line x1={x(here)} x2={x(here)} y1={-4} y2={height} class="here" />}
        <text x="0" y={height + 12}>{number(low, 2)}</text>
        <text x={width} y={height + 12} text-anchor="end">{number(high, 2)}</text>
      </svg>
    </figure>
  );
}

/** A text with its tokens shaded by activation; the strongest is also underlined, so colour is not alone. */
export function Context({ tokens, activations, peak, most }: { tokens: string[]; activations: number[]; peak?: number | null; most: number }) {
  const top = peak ?? activations.indexOf(Math.max(...activations));
  return (
    <p class="context">
      {tokens.map((word, place) => {
        const value = activations[place] ?? 0;
        const strength = most > 0 ? Math.round(Math.min(1, Math.max(0, value / most)) * 8) : 0;
        return (
          <span class={`heat-${strength} ${place === top ? "peak" : ""}`} title={value ? number(value) : undefined}>
            {word.replaceAll("\n", "⏎")}
          </span>
        );
      })}
    </p>
  );
}
