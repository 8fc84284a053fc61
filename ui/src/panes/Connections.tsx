// The connections pane: what drives the selected node, and what it drives; raw weight and share of all input.
import { RouteButton, routable } from "./Routes.tsx";
import { litRows } from "./why/state.ts";
import { useState } from "preact/hooks";
import { inlined } from "../api.ts";
import { edgePasses } from "../filters.ts";
import { count, featureName, layerName, nodeLine, nodeName, number, percent, quoted, weight } from "../format.ts";
import { type Graph, isResponse } from "../graph.ts";
import { type Connection, connections, inputMix, type Side } from "../links.ts";
import * as store from "../store.ts";
import { Kind } from "../types.ts";
import { Glyph, Icon, IconButton, Pane, ShareBar } from "../widgets.tsx";

const PAGE = 16;
const MIX_NAMES = ["features", "errors", "tokens", "", "not in this file"];
const MIX_NAMES_OF_RESPONSES = ["units", "rests of MLPs", "tokens", "", "not in this file"];

export function Connections({ graph }: { graph: Graph }) {
  const rows = store.selectedRows.value;
  return (
    <Pane name="connections" title="Connections">
      {rows.length ? <Selected graph={graph} rows={rows} key={store.selected.value} /> : <Nothing graph={graph} />}
    </Pane>
  );
}

function Nothing({ graph }: { graph: Graph }) {
  const { kind, activation } = graph.view.nodes;
  const logits = [...kind.keys()].filter((row) => kind[row] === Kind.Logit).sort((a, b) => (activation[b] ?? 0) - (activation[a] ?? 0));
  return (
    <div class="scroll empty">
      <p>Click a node to see what drives it and what it drives. The outputs of this prompt:</p>
      <ul class="rows">
        {logits.map((row) => (
          <li key={row}>
            <button type="button" class="row" onClick={(event) => store.clickNode(graph.view.nodes.id[row], event)} onMouseEnter={() => (store.hovered.value = row)}>
              <Glyph kind={Kind.Logit} />
              <span class="name">{nodeName(graph, store.annotations.value, row)}</span>
              {!isResponse(graph) && (
                <>
                  <span class="probability" aria-hidden="true">
                    <span style={{ width: `${(activation[row] ?? 0) * 100}%` }} />
                  </span>
                  <span class="value">{percent(activation[row])}</span>
                </>
              )}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Selected({ graph, rows }: { graph: Graph; rows: number[] }) {
  const annotations = store.annotations.value;
  const group = annotations.supernodes.find((other) => other.id === store.selected.value);
  const edges = (row: number, direction: "in" | "out") => store.edgesOf(graph, row, direction);
  const row = rows[0];
  const id = graph.view.nodes.id[row];
  const pinned = group ? true : store.pinnedIds.value.has(id);
  const [inputs, outputs] = [connections(rows, "in", edges), connections(rows, "out", edges)];
  return (
    <>
      <div class="selected-head">
        {group ? <Icon name="group" /> : <Glyph kind={graph.view.nodes.kind[row]} />}
        <div>
          <strong>{group ? group.name : nodeName(graph, annotations, row)}</strong>
          <span class="muted">{group ? `supernode of ${rows.length} nodes` : `${nodeLine(graph, annotations, row).split(", ").at(-1)} · ${id}`}</span>
        </div>
        {!group && (
          <IconButton label={pinned ? "Unpin" : "Pin"} icon="pin" keys="P" pressed={pinned} onClick={() => store.togglePin(id)}>
            {pinned ? "Pinned" : "Pin"}
          </IconButton>
        )}
        {!inlined && rows.some((member) => graph.view.nodes.kind[member] === Kind.Feature) && (
          <IconButton label="Steer" icon="steer" keys="S" onClick={() => (store.drawer.value = "steer")}>
            Steer
          </IconButton>
        )}
      </div>
      <Mix graph={graph} shares={inputMix(graph, rows, edges)} />
      <div class={inputs.total && outputs.total ? "columns" : "columns one"}>
        {(inputs.total > 0 || !outputs.total) && <Column graph={graph} from={row} incoming={group ? null : true} title="Inputs" side={inputs} />}
        {outputs.total > 0 && <Column graph={graph} from={row} incoming={group ? null : false} title="Outputs" side={outputs} />}
      </div>
    </>
  );
}

/** A bar of where the input comes from, so that errors and what was pruned are never forgotten. */
function Mix({ graph, shares }: { graph: Graph; shares: number[] }) {
  if (!shares.length) return null;
  const parts = [0, 2, 1, 4].filter((part) => shares[part] >= 0.0005);
  const text = parts.map((part) => `${percent(shares[part], 0)} ${(isResponse(graph) ? MIX_NAMES_OF_RESPONSES : MIX_NAMES)[part]}`).join(", ");
  return (
    <div class="mix" title={`Of all absolute input: ${text}`}>
      <div class="mix-bar" aria-hidden="true">
        {parts.map((part) => (
          <span key={part} class={`mix-${part}`} style={{ flexGrow: shares[part] }} />
        ))}
      </div>
      <p class="muted">Input: {text}</p>
    </div>
  );
}

function Column({ graph, from, incoming, title, side }: { graph: Graph; from: number; incoming: boolean | null; title: string; side: Side }) {
  const filters = store.filters.value;
  const mask = store.shown.value!.mask;
  const list = side.list.filter(({ row, weight: value, share }) => mask[row] && edgePasses(filters, value, Math.abs(share)));
  const hidden = side.total - list.length;
  return (
    <div class="column">
      <h3>
        {title} <span class="muted">{count(list.length)}{hidden > 0 ? ` of ${count(side.total)}` : ""}</span>
      </h3>
      <div class="scroll" tabIndex={0} role="group" aria-label={title}>
        <Section graph={graph} from={from} incoming={incoming} title="Positive" list={list.filter(({ share }) => share >= 0)} />
        <Section graph={graph} from={from} incoming={incoming} title="Negative" list={list.filter(({ share }) => share < 0)} />
      </div>
    </div>
  );
}

function Section({ graph, from, incoming, title, list }: { graph: Graph; from: number; incoming: boolean | null; title: string; list: Connection[] }) {
  const [most, setMost] = useState(PAGE);
  if (!list.length) return null;
  return (
    <>
      <h4>
        {title} <span class="muted">{count(list.length)}</span>
      </h4>
      <ul class="rows">
        {list.slice(0, most).map((connection) => (
          <Row key={connection.row} graph={graph} from={from} incoming={incoming} connection={connection} />
        ))}
      </ul>
      {list.length > most && (
        <button type="button" class="more" onClick={() => setMost(most + 5 * PAGE)}>
          show more of {count(list.length)}
        </button>
      )}
    </>
  );
}

/** `incoming`: whether the edge goes into `from`; null where that is several nodes. */
function Row({ graph, from, incoming, connection }: { graph: Graph; from: number; incoming: boolean | null; connection: Connection }) {
  const { row, share } = connection;
  const { id, kind, position } = graph.view.nodes;
  const away = position[row] - position[from];
  const pinned = store.pinnedIds.value.has(id[row]);
  const name = nodeName(graph, store.annotations.value, row);
  return (
    <li>
      <button
        type="button"
        class={`row ${pinned ? "pinned" : ""} ${litRows.value.has(row) ? "lit" : ""}`}
        data-node={id[row]}
        title={`${nodeLine(graph, store.annotations.value, row)}\nweight ${weight(connection.weight)}, ${percent(Math.abs(share), 2)} of all absolute input of the target`}
        onClick={(event) => store.clickNode(id[row], event)}
        onMouseEnter={() => (store.hovered.value = row)}
        onMouseLeave={(event) => !event.shiftKey && (store.hovered.value = null)}
        onFocus={() => (store.hovered.value = row)}
      >
        <Glyph kind={kind[row]} />
        <span class="name">{name}</span>
        {away !== 0 && kind[row] !== Kind.Embedding && (
          <>
            <span class="arrow">{away < 0 ? "←" : "→"}</span>
            <span class="where">{quoted(graph.view.tokens[position[row]])}</span>
          </>
        )}
        {name !== featureName(graph, row) && kind[row] !== Kind.Error && <span class="layer">{layerName(graph, row)}</span>}
        <span class="value">{weight(connection.weight)}</span>
        <span class="share">
          <ShareBar share={share} />
          <span>{number(share * 100, 2)}%</span>
        </span>
      </button>
      {incoming !== null && routable(graph) && <RouteButton key={from} graph={graph} target={incoming ? from : row} source={incoming ? row : from} />}
    </li>
  );
}
