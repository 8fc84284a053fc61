// What is selected, and what a click on a node means.
import { computed, signal } from "@preact/signals";
import * as edits from "../edits.ts";
import { graph } from "./graph.ts";
import { say } from "./messages.ts";
import { annotations, edit } from "./work.ts";

/** Id of the clicked node or supernode. */
export const selected = signal<string | null>(null);
export const linkType = signal<"both" | "input" | "output" | "either">("both");
export const selectedRows = computed<number[]>(() => {
  const [now, id] = [graph.value, selected.value];
  if (!now || id === null) return [];
  const members = annotations.value.supernodes.find((other) => other.id === id)?.members ?? [id];
  return members.map((member) => now.row.get(member)).filter((row) => row !== undefined);
});

export function select(id: string | null): void {
  selected.value = id;
}

export function toggleSelect(id: string): void {
  selected.value = selected.value === id ? null : id;
}

export function togglePin(id: string): void {
  if (!annotations.value.pins.includes(id) && annotations.value.pins.length >= edits.MOST_PINS) return say(`At most ${edits.MOST_PINS} nodes can be pinned.`, true);
  edit((state) => edits.togglePin(state, id));
}

/** What a click on a node means, wherever the node is shown. */
export function clickNode(id: string, event: { ctrlKey: boolean; metaKey: boolean }): void {
  if (gathering.value) gather(id);
  else if (event.ctrlKey || event.metaKey) togglePin(id);
  else toggleSelect(id);
}

// ---- gathering nodes into a supernode ----
/** Ids gathered for a supernode while g is held or the grouping mode is on. */
export const gathering = signal<{ ids: string[]; held: boolean } | null>(null);
/** The supernode just made; the subgraph opens its name for writing. */
export const newest = signal<string | null>(null);

export function gather(id: string): void {
  const now = gathering.value;
  if (!now) return;
  gathering.value = { ...now, ids: now.ids.includes(id) ? now.ids.filter((other) => other !== id) : [...now.ids, id] };
}

export function finishGathering(): void {
  const ids = gathering.value?.ids ?? [];
  gathering.value = null;
  if (ids.length >= 2) makeGroup(ids, "Supernode");
}

/** A supernode of some nodes, its name open for writing. */
export function makeGroup(ids: readonly string[], name: string): void {
  const id = `group-${Date.now().toString(36)}`;
  edit((state) => edits.group(state, ids, id, name));
  selected.value = id;
  newest.value = id;
}
