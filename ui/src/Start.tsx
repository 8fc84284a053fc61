// The first screen: the graphs there are, a prompt to trace, a file to add.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import * as api from "./api.ts";
import { cycleTheme } from "./commands.ts";
import { count, number } from "./format.ts";
import * as store from "./store.ts";
import type { GraphEntry, GraphList } from "./types.ts";
import { Icon, IconButton } from "./widgets.tsx";

export function Start({ onOpen }: { onOpen: (slug: string) => void }) {
  const list = useSignal<GraphList | null>(null);
  const failure = useSignal<string | null>(store.failure.value);
  const over = useSignal(false);
  useEffect(() => {
    api.listGraphs().then(
      (found) => (list.value = found),
      (error: Error) => (failure.value = error.message),
    );
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
      <ul class="graph-list">
        {list.value?.graphs.map((entry) => (
          <li key={entry.slug}>{entry.error ? <Broken entry={entry} /> : <GraphCard entry={entry} onOpen={onOpen} />}</li>
        ))}
      </ul>
    </main>
  );
}

function Broken({ entry }: { entry: GraphEntry }) {
  return (
    <div class="graph-card broken">
      <h2>{entry.slug}</h2>
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
      <h2>{entry.title || entry.prompt || entry.slug}</h2>
      <p class="muted">{entry.model}</p>
      <p class="graph-facts">
        <span>{count(entry.nodes)} nodes</span>
        <span>{count(entry.edges)} edges</span>
        {entry.scores?.replacement != null && <span>replacement {number(entry.scores.replacement, 2)}</span>}
        {entry.has_validation && <span>validated</span>}
        {entry.created && <span>{entry.created.slice(0, 10)}</span>}
      </p>
    </a>
  );
}
