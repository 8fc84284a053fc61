// Free text about the graph; saved with everything else.
import { useEffect, useRef } from "preact/hooks";
import type { Graph } from "../graph.ts";
import { nodeName } from "../format.ts";
import * as store from "../store.ts";

export function Notes({ graph }: { graph: Graph }) {
  const timer = useRef(0);
  const field = useRef<HTMLTextAreaElement>(null);
  const { notes, labels, supernodes } = store.annotations.value;
  const write = (): void => {
    clearTimeout(timer.current);
    const text = field.current!.value;
    if (text !== store.annotations.value.notes) store.edit((state) => ({ ...state, notes: text }));
  };
  useEffect(() => {
    if (field.current && document.activeElement !== field.current) field.current.value = notes;
  }, [notes]);
  return (
    <div class="panel">
      <label class="stack">
        Notes on this graph
        <textarea
          ref={field}
          rows={12}
          defaultValue={notes}
          placeholder="What does this prompt do, and how do you know?"
          onInput={() => {
            clearTimeout(timer.current);
            timer.current = window.setTimeout(write, 600);
          }}
          onBlur={write}
        />
      </label>
      {supernodes.length > 0 && (
        <>
          <h3>Supernodes</h3>
          <ul class="plain">
            {supernodes.map((group) => (
              <li>
                <button type="button" class="link" onClick={() => store.select(group.id)}>
                  {group.name}
                </button>
                <span class="muted"> {group.members.map((id) => (graph.row.has(id) ? nodeName(graph, store.annotations.value, graph.row.get(id)!) : id)).join(", ")}</span>
              </li>
            ))}
          </ul>
        </>
      )}
      {Object.keys(labels).length > 0 && (
        <>
          <h3>Labels you gave</h3>
          <ul class="plain">
            {Object.entries(labels).map(([key, text]) => (
              <li>
                {text} <span class="muted">{key}</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}
