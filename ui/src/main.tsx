import { effect } from "@preact/signals";
import { render } from "preact";
import { inlined } from "./api.ts";
import { App } from "./App.tsx";
import "./app.css";
import { onKeyDown, onKeyUp } from "./commands.ts";
import { adopt } from "./panes/why/share.ts";
import * as store from "./store.ts";

/** The address names the graph and the selected node, #slug/12_345_5, and may carry what a reader saw. */
function fromAddress(): { slug: string; node?: string; seen?: string } {
  const [place, seen] = location.hash.slice(1).split("?seen=");
  const [slug, node] = place.split("/").map(decodeURIComponent);
  return { slug: inlined?.view.slug ?? slug, node, seen };
}

function follow(): void {
  const { slug, node, seen } = fromAddress();
  if (!slug) return store.close();
  if (store.graph.value?.view.slug !== slug) void store.open(slug, node).then(() => seen && adopt(seen));
  else if (seen) adopt(seen);
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
