// The address of what a reader sees, copied and taken up.
import { batch } from "@preact/signals";
import { complete } from "../../merge.ts";
import * as store from "../../store.ts";
import { packed, type Seen, unpacked, withSeen } from "./seen.ts";
import * as why from "./state.ts";

const MOST_CHARACTERS = 60_000;

export function address(): string {
  const graph = store.graph.value!;
  const { pins, supernodes } = complete(store.annotations.value);
  const seen: Seen = { pins, groups: supernodes.map(({ name, members }) => [name, members]), screen: why.screen.value, chosen: why.chosen.value };
  const node = store.selected.value;
  return `${location.href.split("#")[0]}#${encodeURIComponent(graph.view.slug)}${node ? `/${encodeURIComponent(node)}` : ""}?seen=${packed(seen)}`;
}

/** Shows what an address carries in the open graph; its pins and groups are added, and can be undone. */
export function adopt(text: string): void {
  const graph = store.graph.value;
  const seen = unpacked(text);
  if (!graph) return;
  if (!seen) return store.say("The address is damaged: what it was to show is lost, the graph is not.", true);
  batch(() => {
    store.edit((state) => withSeen(state, seen, (id) => graph.row.has(id)));
    why.show(seen.screen);
    why.chosen.value = seen.chosen;
  });
}

export async function copyAddress(): Promise<void> {
  const text = address();
  if (text.length > MOST_CHARACTERS) return store.say("There is too much to put in an address; take “Annotations alone” under Export.", true);
  try {
    await navigator.clipboard.writeText(text);
    store.say("Copied: the address shows this graph with your pins, supernodes and view, where the same server runs.");
  } catch {
    store.say("The browser does not let the page copy; take the address from the address bar.", true);
    history.replaceState(null, "", text);
  }
}
