// The first screen: the graphs there are, a prompt to trace, a file to add.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as api from "./api.ts";
import { cycleTheme } from "./commands.ts";
import { count, number, plain, token } from "./format.ts";
import { Jobs } from "./Jobs.tsx";
import { listed, type Order, ORDERS } from "./listing.ts";
import * as store from "./store.ts";
import type { GraphEntry, GraphList } from "./types.ts";
import { Icon, IconButton } from "./widgets.tsx";

/** Cards at first: a thousand of them would take longer to draw than to read. */
const PAGE = 60;

export function Start({ onOpen }: { onOpen: (slug: string) => void }) {
  const list = useSignal<GraphList | null>(null);
  const failure = useSignal<string | null>(store.failure.value);
  const over = useSignal(false);
  const query = useSignal("");
  const order = useSignal<Order>("newest");
  const most = useSignal(PAGE);
  /** Asks until everything is read: the names stand here at once, what is in the files follows. */
  const refresh = async (): Promise<void> => {
    try {
      do list.value = await api.listGraphs(false);
      while (list.value.graphs.some((entry) => entry.pending) && !gone.current);
    } catch (error) {
      failure.value = (error as Error).message;
    }
  };
  const gone = useRef(false);
  useEffect(() => {
    void refresh();
    return () => void (gone.current = true);
  }, []);
  const add = async (files: FileList | null | undefined): Promise<void> => {
    try {
      let last = "";
      for (const file of files ?? []) last = (await api.upload(file)).slug;
      if (last) onOpen(last);
    } catch (error) {
      failure.value = (error as Error).message;
    }
  };
  const all = list.value?.graphs ?? [];
  const shown = listed(all, query.value, order.value);
  const pending = all.filter((entry) => entry.pending).length;
  return (
    <main
      class={`start ${over.value ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        over.value = true;
      }}
      onDragLeave={() => (over.value = false)}
      onDrop={(event) => {
        event.preventDefault();
        over.value = false;
        void add(event.dataTransfer?.files);
      }}
    >
      <header>
        <h1>
          un<b>weave</b>
        </h1>
        <p class="muted">Which learned features caused the next token, and how far the picture can be trusted.</p>
        <span class="spacer" />
        <IconButton label={`Theme: ${store.themeChoice.value}`} icon={store.themeChoice.value} onClick={cycleTheme} />
        <IconButton label="Help" icon="help" keys="?" onClick={() => (store.overlay.value = "help")} />
      </header>
      {(failure.value ?? store.failure.value) && (
        <p class="error" role="alert">
          {failure.value ?? store.failure.value}
        </p>
      )}
      <div class="start-actions">
        {list.value?.live && (
          <button type="button" class="tool primary" onClick={() => (store.overlay.value = "trace")}>
            Trace a prompt
          </button>
        )}
        <label class="tool file">
          <Icon name="plus" /> Add a graph file
          <input type="file" accept=".json,.safetensors" multiple onChange={(event) => void add(event.currentTarget.files)} />
        </label>
        <span class="muted">{list.value && (list.value.live ? `model: ${list.value.model}` : "no model loaded: graphs can be looked at; start with --model to trace and steer")}</span>
      </div>
      {list.value && list.value.graphs.length === 0 && (
        <p class="empty">
          There are no graphs here yet. {list.value.live ? "Trace a prompt, or drop" : "Make one with `unweave trace`, or drop"} a graph file on this page (ours, or the JSON of circuit-tracer, Anthropic or Neuronpedia).
        </p>
      )}
      <Jobs onEnd={() => void refresh()} />
      {list.value === null && !failure.value && <p class="muted" aria-busy="true">Looking for graphs…</p>}
      {all.length > 1 && (
        <div class="list-tools">
          <input type="search" aria-label="Search graphs" placeholder="Search prompts, answers, files, models" value={query.value} onInput={(event) => (query.value = event.currentTarget.value)} />
          <select aria-label="Order" value={order.value} onChange={(event) => (order.value = event.currentTarget.value as Order)}>
            {Object.entries(ORDERS).map(([name, says]) => (
              <option key={name} value={name}>
                {says}
              </option>
            ))}
          </select>
          <span class="muted" role="status">
            {count(shown.length)} of {count(all.length)}
            {pending > 0 && `, ${count(pending)} still being read`}
          </span>
        </div>
      )}
      <ul class="graph-list">
        {shown.slice(0, most.value).map((entry) => (
          <li key={entry.slug}>{entry.error ? <Broken entry={entry} /> : <GraphCard entry={entry} onOpen={onOpen} />}</li>
        ))}
      </ul>
      {shown.length > most.value && (
        <button type="button" class="tool" onClick={() => (most.value += 5 * PAGE)}>
          Show more of {count(shown.length)}
        </button>
      )}
    </main>
  );
}

function Broken({ entry }: { entry: GraphEntry }) {
  return (
    <div class="graph-card broken">
      <h2>{entry.file ?? entry.slug}</h2>
      <p class="error">{entry.error}</p>
    </div>
  );
}

function GraphCard({ entry, onOpen }: { entry: GraphEntry; onOpen: (slug: string) => void }) {
  return (
    <a
      class="graph-card"
      href={`#${encodeURIComponent(entry.slug)}`}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        onOpen(entry.slug);
      }}
    >
      <h2>
        <bdi>{plain(entry.title || entry.prompt || entry.slug)}</bdi>
        {entry.answer && <span class="answer"> → {token(entry.answer).replace(/^·/, "")}</span>}
      </h2>
      <p class="muted">
        {entry.model} {entry.model && "·"} {entry.file}
      </p>
      {entry.pending && <p class="muted" aria-busy="true">being read…</p>}
      <p class="graph-facts">
        {entry.nodes !== undefined && <span>{count(entry.nodes)} nodes</span>}
        {entry.edges !== undefined && <span>{count(entry.edges)} edges</span>}
        {entry.scores?.replacement != null && <span>replacement {number(entry.scores.replacement, 2)}</span>}
        {entry.has_study && <span>study</span>}
        {entry.has_validation && <span>validated</span>}
        {entry.created && <span>{entry.created.slice(0, 10)}</span>}
      </p>
    </a>
  );
}
