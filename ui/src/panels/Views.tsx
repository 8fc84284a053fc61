// Subgraphs saved by name: pins, supernodes and where cards lie, taken up again with one click.
import { useSignal } from "@preact/signals";
import * as edits from "../edits.ts";
import { count } from "../format.ts";
import type { Graph } from "../graph.ts";
import { copyAddress } from "../panes/why/share.ts";
import * as why from "../panes/why/state.ts";
import * as store from "../store.ts";

const LONGEST = 60;

export function Views({ graph }: { graph: Graph }) {
  const name = useSignal("");
  const { views, pins } = store.annotations.value;
  const save = (): void => {
    const wanted = name.value.trim().slice(0, LONGEST);
    if (!wanted) return;
    store.edit((state) => edits.saveView(state, wanted, { screen: why.screen.value, chosen: why.chosen.value }));
    store.say(`Saved as “${wanted}”.`);
    name.value = "";
  };
  const open = (id: string): void => {
    const view = views.find((one) => one.id === id)!;
    store.edit((state) => edits.openView(state, view, (node) => graph.row.has(node)));
    why.show(view.screen === "why" ? "why" : "graph");
    why.chosen.value = view.chosen ?? null;
  };
  return (
    <div class="panel views">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          save();
        }}
      >
        <label class="stack">
          Name of this subgraph
          <input value={name.value} maxLength={LONGEST} placeholder="France to Paris" onInput={(event) => (name.value = event.currentTarget.value)} />
        </label>
        <button type="submit" class="tool primary" disabled={!name.value.trim() || !pins.length}>
          Save
        </button>
        {!pins.length && <p class="hint">Nothing is pinned yet.</p>}
      </form>
      <ul class="plain" aria-label="Saved subgraphs">
        {views.map((view) => (
          <li key={view.id}>
            <button type="button" class="link" title="Put these pins and supernodes in place of the present ones; undo takes it back" onClick={() => open(view.id)}>
              {view.name}
            </button>{" "}
            <span class="muted">
              {count(view.pins.length)} nodes, {count(view.supernodes.length)} supernodes
            </span>{" "}
            <button type="button" class="tool" aria-label={`Delete ${view.name}`} onClick={() => store.edit((state) => edits.dropView(state, view.id))}>
              Delete
            </button>
          </li>
        ))}
      </ul>
      <p class="hint">Saved with the graph's annotations; a name that is there already is written over. To send what you see:</p>
      <p>
        <button type="button" class="tool" onClick={() => void copyAddress()}>
          Copy an address of this view
        </button>
      </p>
    </div>
  );
}
