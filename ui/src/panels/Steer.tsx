// Steering: change features in the real model and see what it says then, beside what it says now.
import { useSignal } from "@preact/signals";
import * as api from "../api.ts";
import { remember } from "../edits.ts";
import { count, nodeName, number, percent, token } from "../format.ts";
import type { Graph } from "../graph.ts";
import * as store from "../store.ts";
import { type Action, type Change, Kind, type SteerFacts, type SteerRequest, type SteerRun } from "../types.ts";
import { IconButton } from "../widgets.tsx";

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
        <p class="notice">{api.inlined ? "This file has no model behind it; earlier runs are shown below." : "No model is loaded. Start `unweave serve` with --model to steer; earlier runs are shown below."}</p>
      )}
      <h3>Changes</h3>
      {changes.value.length === 0 && <p class="hint">Select a feature or a supernode, then choose what to do with it.</p>}
      <ul class="changes">
        {changes.value.map((item, place) => (
          <li key={place}>
            <span class="name" title={item.nodes.join(", ")}>
              {item.name} {item.nodes.length > 1 && <span class="muted">({item.nodes.length})</span>}
            </span>
            <select aria-label={`Action on ${item.name}`} value={item.action} onChange={(event) => change(place, { action: event.currentTarget.value as Action, value: ACTIONS[event.currentTarget.value as Action].value })}>
              {Object.entries(ACTIONS).map(([action, { says }]) => (
                <option value={action}>{says}</option>
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
            <button type="button" class="tool" onClick={() => add(action)}>
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
              <option value={name}>{says}</option>
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
      <div aria-live="polite">
        {failure.value && <p class="error">{failure.value}</p>}
        {run && <Result graph={graph} facts={run.facts} />}
      </div>
      {history.length > 0 && (
        <>
          <h3>History</h3>
          <ul class="plain history">
            {history.toReversed().map((item) => (
              <li>
                <button type="button" class={`link ${item.id === open.value ? "current" : ""}`} onClick={() => (open.value = item.id === open.value ? null : item.id)}>
                  {summary(item)}
                </button>
                <button
                  type="button"
                  class="link muted"
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

function best(facts: SteerFacts, by: "probability_before" | "probability_after") {
  return facts.next?.toSorted((a, b) => b[by] - a[by])[0];
}

function Result({ graph, facts }: { graph: Graph; facts: SteerFacts }) {
  const [before, after] = [best(facts, "probability_before"), best(facts, "probability_after")];
  // runs of earlier versions kept the change of the logit alone
  const change = (next: NonNullable<SteerFacts["next"]>[number]): number => next.log_probability_change ?? Math.log(next.probability_after / next.probability_before);
  const largest = Math.max(1e-9, ...(facts.next ?? []).map((next) => Math.abs(change(next))).filter(Number.isFinite));
  const names = new Map((facts.changed ?? []).map((item) => [item.node, item.label || item.node]));
  return (
    <div class="result">
      <div class="answers">
        <div>
          <h4>Baseline</h4>
          <strong>{token(before?.text)}</strong> <span>{percent(before?.probability_before)}</span>
        </div>
        <div>
          <h4>Steered</h4>
          <strong>{token(after?.text)}</strong> <span>{percent(after?.probability_after)}</span>
        </div>
      </div>
      {facts.next && (
        <table class="next">
          <caption class="hidden">Probabilities of the next token before and after, and the change of its log-probability</caption>
          <thead>
            <tr>
              <th>token</th>
              <th>before</th>
              <th>after</th>
              <th title="Change of the log-probability in nats; the change of the logit stands in each row's title">log-prob</th>
            </tr>
          </thead>
          <tbody>
            {facts.next.map((next) => (
              <tr>
                <th scope="row">{token(next.text)}</th>
                <td>
                  <span class="bar before" style={{ width: `${next.probability_before * 36}px` }} /> {percent(next.probability_before)}
                </td>
                <td>
                  <span class="bar after" style={{ width: `${next.probability_after * 36}px` }} /> {percent(next.probability_after)}
                </td>
                <td class="logit" title={`logit ${next.logit_change < 0 ? "−" : "+"}${Math.abs(next.logit_change).toFixed(2)}`}>
                  <span class={`bar ${change(next) < 0 ? "negative" : "positive"}`} style={{ width: `${Math.min(1, Math.abs(change(next)) / largest) * 26}px` }} />
                  {change(next) < 0 ? "−" : "+"}
                  {Math.abs(change(next)).toFixed(2)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {facts.kl != null && <p class="hint">KL divergence {number(facts.kl)} nats</p>}
      {facts.watched && facts.watched.length > 0 && (
        <>
          <h4>Pinned nodes</h4>
          <ul class="watched">
            {facts.watched.map(({ node, before: was, after: is }) => {
              const row = graph.row.get(node);
              const part = was > 0 ? is / was : 0;
              return (
                <li>
                  <span class="name">{row === undefined ? node : nodeName(graph, store.annotations.value, row)}</span>
                  <span class="track" aria-hidden="true">
                    <span style={{ width: `${Math.max(0, Math.min(1.5, part)) * 66.7}%` }} />
                  </span>
                  <span class="value">
                    {number(was, 2)} → {number(is, 2)} <span class="muted">{was > 0 ? percent(part, 0) : ""}</span>
                  </span>
                </li>
              );
            })}
          </ul>
        </>
      )}
      {facts.inactive && facts.inactive.length > 0 && (
        <p class="hint">
          Not active here: {facts.inactive.slice(0, 5).map((node) => names.get(node) ?? node).join(", ")}
          {facts.inactive.length > 5 && ` and ${count(facts.inactive.length - 5)} more`}
        </p>
      )}
      {facts.idle && facts.idle.length > 0 && <p class="hint">Writes nowhere: {facts.idle.join(", ")}</p>}
      {facts.changed && <p class="hint">{facts.changed.length === 1 ? "1 feature changed" : `${count(facts.changed.length)} features changed`}</p>}
      {facts.generation && (
        <div class="answers text">
          <div>
            <h4>Baseline text</h4>
            <p>…{facts.generation.default.text}</p>
          </div>
          <div>
            <h4>Steered text</h4>
            <p>…{facts.generation.steered.text}</p>
          </div>
        </div>
      )}
    </div>
  );
}
