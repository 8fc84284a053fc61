// Steering: change features in the real model and see what it says then, beside what it says now.
import { useSignal } from "@preact/signals";
import * as api from "../api.ts";
import { remember } from "../edits.ts";
import { nodeName, number, percent, token } from "../format.ts";
import type { Graph } from "../graph.ts";
import * as store from "../store.ts";
import { type Action, type Change, Kind, type SteerRequest, type SteerRun } from "../types.ts";
import { IconButton } from "../widgets.tsx";
import { best, Result } from "./SteerResult.tsx";

const ACTIONS: Record<Action, { says: string; value?: number }> = {
  ablate: { says: "ablate (set to 0)" },
  scale: { says: "multiply by", value: -2 },
  set: { says: "set to", value: 0 },
  add: { says: "add", value: 1 },
};
const MODES = {
  frozen_attention: "attention patterns held, all else live",
  open: "all live",
  frozen: "all held but what the features write: linear",
} as const;

/** What can be steered of the selection: its features. */
function subject(graph: Graph): { name: string; nodes: string[] } | null {
  const { id, kind } = graph.view.nodes;
  const nodes = store.selectedRows.value.filter((row) => kind[row] === Kind.Feature).map((row) => id[row]);
  if (!nodes.length) return null;
  const group = store.annotations.value.supernodes.find((other) => other.id === store.selected.value);
  return { name: group?.name ?? nodeName(graph, store.annotations.value, graph.row.get(nodes[0])!), nodes };
}

/** Why nothing can be run here. */
function whyNot(graph: Graph): string {
  const { loaded, model, transcoders } = graph.view;
  if (api.inlined) return "This file has no model behind it: open its graph in `unweave serve --model` to steer.";
  if (!loaded) return "No model is loaded: start `unweave serve` with --model to steer.";
  const which = loaded === model ? `with another dictionary than this graph's${transcoders ? `, ${transcoders}` : ""}` : `and this graph is of ${model || "another model"}`;
  return `${loaded} is loaded ${which}: start \`unweave serve\` with the graph's own to steer.`;
}

export function Steer({ graph }: { graph: Graph }) {
  const changes = useSignal<Change[]>([]);
  const swap = useSignal("");
  const factor = useSignal(1);
  const mode = useSignal<keyof typeof MODES>("frozen_attention");
  const generate = useSignal(0);
  const running = useSignal(false);
  const failure = useSignal<string | null>(null);
  const open = useSignal<string | null>(null);
  const target = subject(graph);
  const history = store.annotations.value.history;
  const run = history.find((other) => other.id === open.value) ?? null;

  const add = (action: Action): void => {
    const others = changes.value.filter((other) => !other.nodes.some((id) => target!.nodes.includes(id))); // a feature is changed in one way at a time
    changes.value = [...others, { action, nodes: target!.nodes, value: ACTIONS[action].value, name: target!.name }];
  };
  const change = (place: number, value: Partial<Change>): void => {
    changes.value = changes.value.map((other, i) => (i === place ? { ...other, ...value } : other));
  };
  const start = async (): Promise<void> => {
    const { id, kind } = graph.view.nodes;
    const watch = store.annotations.value.pins.filter((pin) => graph.row.has(pin) && kind[graph.row.get(pin)!] === Kind.Feature && id);
    const request: SteerRequest = {
      changes: changes.value, swap_from: swap.value.trim() || null, swap_factor: factor.value, mode: mode.value, watch, generate: generate.value,
    }; // prettier-ignore
    running.value = true;
    failure.value = null;
    try {
      const facts = await api.steer(graph.view.slug, request);
      const done: SteerRun = { id: `run-${Date.now().toString(36)}`, time: new Date().toISOString(), request, facts };
      store.edit((state) => remember(state, done));
      open.value = done.id;
    } catch (error) {
      failure.value = (error as Error).message;
    } finally {
      running.value = false;
    }
  };

  return (
    <div class="panel steer">
      {!graph.view.live && (
        <p class="notice">{whyNot(graph)}{history.length > 0 && " Earlier runs are shown below."}</p>
      )}
      {!api.inlined && (
        <>
      <h3>Changes</h3>
      {changes.value.length === 0 && <p class="hint">Select a feature or a supernode, then choose what to do with it.</p>}
      <ul class="changes">
        {changes.value.map((item, place) => (
          <li key={place}>
            <span class="name" title={`${item.name}: ${item.nodes.join(", ")}`}>
              {item.name} {item.nodes.length > 1 && <span class="muted">({item.nodes.length})</span>}
            </span>
            <select aria-label={`Action on ${item.name}`} value={item.action} onChange={(event) => change(place, { action: event.currentTarget.value as Action, value: ACTIONS[event.currentTarget.value as Action].value })}>
              {Object.entries(ACTIONS).map(([action, { says }]) => (
                <option key={action} value={action}>{says}</option>
              ))}
            </select>
            {item.value !== undefined && <input type="number" step="any" aria-label={`Value for ${item.name}`} value={item.value} onInput={(event) => change(place, { value: Number(event.currentTarget.value) })} />}
            <IconButton label={`Remove the change of ${item.name}`} icon="close" onClick={() => (changes.value = changes.value.filter((_, i) => i !== place))} />
          </li>
        ))}
      </ul>
      {target ? (
        <div class="choices" role="group" aria-label={`Change ${target.name}`}>
          <span class="muted">{target.name}:</span>
          {(Object.keys(ACTIONS) as Action[]).map((action) => (
            <button key={action} type="button" class="tool" disabled={!graph.view.live} onClick={() => add(action)}>
              {action}
            </button>
          ))}
        </div>
      ) : null}
      <details>
        <summary>Swap from another prompt, mode, text</summary>
        <label class="stack">
          Swap in the features of this prompt
          <input value={swap.value} placeholder="of as many tokens as this one" onInput={(event) => (swap.value = event.currentTarget.value)} />
        </label>
        <label class="stack">
          with factor
          <input type="number" step="any" value={factor.value} onInput={(event) => (factor.value = Number(event.currentTarget.value))} />
        </label>
        <label class="stack">
          What is held fixed
          <select value={mode.value} onChange={(event) => (mode.value = event.currentTarget.value as keyof typeof MODES)}>
            {Object.entries(MODES).map(([name, says]) => (
              <option key={name} value={name}>
                {says}
              </option>
            ))}
          </select>
        </label>
        <label class="stack">
          Tokens to write on after the prompt
          <input type="number" min={0} max={100} value={generate.value} onInput={(event) => (generate.value = Math.max(0, Math.round(Number(event.currentTarget.value))))} />
        </label>
      </details>
      <button type="button" class="tool primary wide" disabled={!graph.view.live || running.value || (!changes.value.length && !swap.value.trim())} onClick={() => void start()}>
        {running.value ? "Running…" : "Run"}
      </button>
        </>
      )}
      <div aria-live="polite">
        {failure.value && <p class="error">{failure.value}</p>}
        {run && <Result graph={graph} facts={run.facts} />}
      </div>
      {history.length > 0 && (
        <>
          <h3>History</h3>
          <ul class="plain history">
            {history.toReversed().map((item) => (
              <li key={item.id}>
                <button type="button" class={`link ${item.id === open.value ? "current" : ""}`} onClick={() => (open.value = item.id === open.value ? null : item.id)}>
                  {summary(item)}
                </button>
                <button
                  type="button"
                  class="link muted"
                  hidden={Boolean(api.inlined)}
                  onClick={() => {
                    changes.value = item.request.changes;
                    swap.value = item.request.swap_from ?? "";
                    mode.value = item.request.mode;
                  }}
                >
                  use again
                </button>
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

function summary({ request, facts }: SteerRun): string {
  const parts = (request.changes ?? []).map((change) => `${change.action}${change.value === undefined ? "" : ` ${number(change.value)}`} ${change.name ?? change.nodes.join(", ")}`);
  if (request.swap_from) parts.push(`swap from “${request.swap_from}”`);
  const top = best(facts, "probability_after");
  return `${parts.join("; ")}${top ? ` → ${token(top.text)} ${percent(top.probability_after, 0)}` : ""}`;
}
