// What the reader adds to a graph. Every change goes through `edit`, so that it can be undone and is saved.
import { batch, computed, signal } from "@preact/signals";
import * as api from "../api.ts";
import { entities } from "../aggregate.ts";
import { complete, merge, nothing } from "../merge.ts";
import type { Annotations } from "../types.ts";
import { graph } from "./graph.ts";
import { type Draft, Saver } from "./saving.ts";
import { keep, keptNames, stored } from "./storage.ts";

export const annotations = signal<Annotations>(nothing);

interface Step {
  before: Annotations;
  after: Annotations;
  /** Changes of one kind that follow each other at once, as from a slider, are one step. */
  kind: string;
  time: number;
}
const MOST_STEPS = 200;
const ONE_MOVE = 1200;
const past = signal<Step[]>([]);
const future = signal<Step[]>([]);
export const canUndo = computed(() => past.value.length > 0);
export const canRedo = computed(() => future.value.length > 0);

// ---- saving ----
/** A tab's own draft, beside those that other tabs, or tabs that are gone, left; those taken up here go with the own one. */
const tab = Math.random().toString(36).slice(2);
let taken: string[] = [];
const drafts = {
  read(name: string): Draft[] {
    taken = keptNames(`draft:${name}:`);
    return taken.map((key) => stored<Draft | null>(key, null)).filter((draft) => draft !== null).map(({ base, now }) => ({ base: complete(base), now: complete(now) }));
  },
  write: (name: string, draft: Draft): boolean => keep(`draft:${name}:${tab}`, draft),
  clear(name: string): void {
    for (const key of [...taken, `draft:${name}:${tab}`]) keep(key, undefined);
    taken = [];
  },
};
const clock = { after: (milliseconds: number, run: () => void): number => window.setTimeout(run, milliseconds), cancel: (timer: number): void => window.clearTimeout(timer) };
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("unweave") : null;
export const saver = new Saver(annotations, { load: api.loadAnnotations, save: api.saveAnnotations }, drafts, clock, (slug) => tabs?.postMessage(slug));
export const saving = saver.state;
export const save = (): Promise<void> => saver.save();

function refresh(): void {
  if (graph.value && !api.inlined) void saver.refresh();
}

if (tabs) tabs.onmessage = (event: MessageEvent<string>) => event.data === graph.value?.view.slug && refresh();
window.addEventListener("focus", () => {
  saver.retry();
  refresh();
});
window.addEventListener("online", () => saver.retry());
window.addEventListener("beforeunload", (event) => {
  if (saving.value === "saved") return;
  void save();
  if (saver.unkept || saving.value === "failed") event.preventDefault();
});

// ---- editing ----
/** A graph that was opened: nothing to undo yet. */
export function beginWork(slug: string, name: string, saved: { revision: number; annotations: Annotations }): void {
  past.value = [];
  future.value = [];
  saver.begin(slug, name, saved);
}

export function edit(change: (state: Annotations) => Annotations, kind = ""): void {
  const before = annotations.value;
  const after = change(before);
  if (after === before) return;
  const last = past.value.at(-1);
  const time = performance.now();
  const goesOn = kind !== "" && last?.kind === kind && last.after === before && time - last.time < ONE_MOVE;
  batch(() => {
    annotations.value = after;
    past.value = [...(goesOn ? past.value.slice(0, -1) : past.value.slice(1 - MOST_STEPS)), { before: goesOn ? last.before : before, after, kind, time }];
    future.value = [];
  });
  saver.changed();
}

/** Undo takes back what one step changed and leaves everything since then, also another tab's work, as it is. */
export function undo(): void {
  const step = past.value.at(-1);
  if (!step) return;
  batch(() => {
    past.value = past.value.slice(0, -1);
    future.value = [...future.value, step];
    annotations.value = merge(step.after, step.before, annotations.value);
  });
  saver.changed();
}

export function redo(): void {
  const step = future.value.at(-1);
  if (!step) return;
  batch(() => {
    future.value = future.value.slice(0, -1);
    past.value = [...past.value, step];
    annotations.value = merge(step.before, step.after, annotations.value);
  });
  saver.changed();
}

// ---- what follows from it ----
export const pinnedIds = computed(() => new Set(annotations.value.pins));
export const pinnedRows = computed(() => new Set(annotations.value.pins.map((id) => graph.value?.row.get(id)).filter((row) => row !== undefined)));
export const subgraph = computed(() => (graph.value ? entities(annotations.value, graph.value.row) : []));
