import { effect } from "@preact/signals";
import { render } from "preact";
import { inlined } from "./api.ts";
import { App } from "./App.tsx";
import "./app.css";
import { onKeyDown, onKeyUp } from "./commands.ts";
import * as store from "./store.ts";

/** The address names the graph and the selected node: #slug/12_345_5. */
function fromAddress(): { slug: string; node?: string } {
  const [slug, node] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return { slug: inlined?.view.slug ?? slug, node };
}

function follow(): void {
  const { slug, node } = fromAddress();
  if (!slug) return store.close();
  if (store.graph.value?.view.slug !== slug) void store.open(slug, node);
  else if (node && store.selected.value !== node && store.graph.value.row.has(node)) store.select(node);
}

effect(() => {
  const graph = store.graph.value;
  if (!graph) return;
  const node = store.selected.value;
  document.title = `${graph.view.title} · unweave`;
  const wanted = `#${encodeURIComponent(graph.view.slug)}${node ? `/${encodeURIComponent(node)}` : ""}`;
  try {
    if (location.hash !== wanted) history.replaceState(null, "", wanted);
  } catch {
    // a frame without an address of its own, as in a notebook, cannot name what it shows
  }
});

window.addEventListener("hashchange", follow);
window.addEventListener("keydown", onKeyDown);
window.addEventListener("keyup", onKeyUp);
window.addEventListener("blur", () => {
  if (store.gathering.value?.held) store.gathering.value = null;
});
follow();
render(<App />, document.getElementById("app")!);
