// What a new reader does first, ticked off while they do it; gone once there is a supernode.
import { effect, signal } from "@preact/signals";
import * as edits from "../edits.ts";
import { type Graph, strongest } from "../graph.ts";
import * as store from "../store.ts";
import { CTRL } from "../widgets.tsx";

const dismissed = signal(store.stored("steps-dismissed", false));
const clicked = signal(false);
effect(() => {
  if (store.selected.value) clicked.value = true;
});

export function FirstSteps({ graph }: { graph: Graph }) {
  const { pins, supernodes } = store.annotations.value;
  if (dismissed.value || supernodes.length) return pins.length ? null : <p class="empty">Nothing is pinned. {CTRL}+click a node to pin it here.</p>;
  const steps: [boolean, preact.ComponentChildren][] = [
    [clicked.value || pins.length > 0, <>Click a node in the link graph.</>],
    [pins.length > 1, <>Pin two or more: <kbd>{CTRL}</kbd>+click, or <kbd>P</kbd> for the selected one.</>],
    [false, <>Hold <kbd>G</kbd>, click cards that belong together, let go: a supernode.</>],
  ];
  const hide = (
    <button
      type="button"
      class="tool"
      onClick={() => {
        dismissed.value = true;
        store.keep("steps-dismissed", true);
      }}
    >
      Hide
    </button>
  );
  if (pins.length) {
    return (
      <aside class="next-step" aria-label="Next step">
        <p>{steps.find(([done]) => !done)![1]}</p>
        {hide}
      </aside>
    );
  }
  return (
    <aside class="first-steps" aria-label="First steps">
      <h3>First steps</h3>
      <ol>
        {steps.map(([done, text], place) => (
          <li key={place} class={done ? "done" : ""}>
            <span class="tick">{done ? "✓" : place + 1}</span> <span>{text}{done && <span class="hidden"> (done)</span>}</span>
          </li>
        ))}
      </ol>
      <p>
        <button type="button" class="tool primary" onClick={() => store.edit((state) => edits.pin(state, strongest(graph, 8)))}>
          Pin the strongest nodes
        </button>
        {hide}
      </p>
    </aside>
  );
}
