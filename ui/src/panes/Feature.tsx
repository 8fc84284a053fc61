// The feature pane: what the hovered or selected node is, how active it is here, and what it does elsewhere.
import { useEffect, useState } from "preact/hooks";
import { label as setLabel } from "../edits.ts";
import { featureAddress, featureName, kindName, nameSource, nodeName, number, percent, quoted } from "../format.ts";
import { featureKey, type Graph, isResponse } from "../graph.ts";
import * as store from "../store.ts";
import { Kind } from "../types.ts";
import { Editable, Glyph, IconButton, Pane } from "../widgets.tsx";
import { Details, Promoted } from "./FeatureDetails.tsx";

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
    <Pane name="feature" title={usable ? kindName(graph, row) : "Feature"}>
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
  const source = nameSource(graph, store.annotations.value, row);
  const address = feature ? featureAddress(graph, row) : null;
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
        {source && <span>{source}</span>}
        <span>on {quoted(graph.view.tokens[position[row]])}</span>
        <span>
          {kind[row] === Kind.Logit ? (isResponse(graph) ? "weight" : "probability") : feature ? "activation" : "norm"} <b>{number(activation[row])}</b>
        </span>
        {influence[row] !== null && graph.influence[row] > 0 && kind[row] !== Kind.Logit && (
          <span title={`With everything above it: ${percent(rank[row])} of the influence`}>
            influence <b>{percent(graph.influence[row] / graph.influenceTotal, 2)}</b>
          </span>
        )}
        {address && (
          <a href={address} target="_blank" rel="noreferrer noopener">
            on Neuronpedia ↗
          </a>
        )}
        {known?.density != null && (
          <span>
            active on <b>{percent(known.density, 2)}</b> of tokens
          </span>
        )}
      </p>
      {kind[row] === Kind.Error && <p class="muted">{isResponse(graph) ? "What this layer's MLP does on this token beside the units of the graph." : "What the dictionary misses of this layer's MLP output on this token. It has no meaning of its own, but its influence counts against the scores."}</p>}
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
        <button key={other} type="button" class={other === row ? "chip current" : "chip"} onClick={(event) => store.clickNode(graph.view.nodes.id[other], event)}>
          {quoted(graph.view.tokens[graph.view.nodes.position[other]])}
          <sub title="position in the prompt">{graph.view.nodes.position[other]}</sub> {number(graph.view.nodes.activation[other], 2)}
        </button>
      ))}
    </p>
  );
}
