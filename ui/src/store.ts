// The page's state: the graph, what is selected, and what the reader adds to it.
import { batch, computed, effect, signal } from "@preact/signals";
import * as api from "./api.ts";
import { DARK, LIGHT } from "./colour.ts";
import { entities } from "./aggregate.ts";
import * as edits from "./edits.ts";
import { applyFilters, everything, type Filters, type Shown } from "./filters.ts";
import { buildGraph, edgesAt, featureKey, type Graph } from "./graph.ts";
import { merge, nothing } from "./merge.ts";
import type { Annotations, Comparison, EdgePage, FeatureDetails, ListedEdge } from "./types.ts";

export const graph = signal<Graph | null>(null);
export const failure = signal<string | null>(null);
export const loading = signal(false);

/** Id of the clicked node or supernode. */
export const selected = signal<string | null>(null);
/** Row under the pointer. */
export const hovered = signal<number | null>(null);
/** The same feature in the other graph of a comparison is ringed too. */
export const hoveredKey = computed(() => (graph.value && hovered.value !== null ? featureKey(graph.value, hovered.value) : null));
export const linkType = signal<"both" | "input" | "output" | "either">("both");
export const filters = signal<Filters>(everything);
/** Ids gathered for a supernode while g is held or the grouping mode is on. */
export const gathering = signal<{ ids: string[]; held: boolean } | null>(null);
export const drawer = signal<"filters" | "steer" | "trust" | "notes" | "compare" | "export" | null>(null);
export const overlay = signal<"palette" | "help" | "trace" | null>(null);
export const message = signal<{ text: string; error: boolean } | null>(null);

let messageTimer = 0;
export function say(text: string, error = false): void {
  message.value = { text, error };
  clearTimeout(messageTimer);
  messageTimer = window.setTimeout(() => (message.value = null), error ? 8000 : 3500);
}

// ---- theme ----
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(dark.matches);
dark.addEventListener("change", () => (systemDark.value = dark.matches));
export const themeChoice = signal<"system" | "light" | "dark">(stored("theme", "system"));
export const theme = computed(() => ((themeChoice.value === "system" ? systemDark.value : themeChoice.value === "dark") ? DARK : LIGHT));
effect(() => {
  document.documentElement.dataset.theme = theme.value.name;
  keep("theme", themeChoice.value);
});

export function stored<T>(key: string, missing: T): T {
  try {
    return (JSON.parse(localStorage.getItem(`unweave.${key}`) ?? "null") as T) ?? missing;
  } catch {
    return missing;
  }
}

export function keep(key: string, value: unknown): void {
  try {
    localStorage.setItem(`unweave.${key}`, JSON.stringify(value));
  } catch {
    // a browser without storage forgets arrangements; nothing else depends on them
  }
}

// ---- annotations: every change goes through `edit`, so that it can be undone and is saved ----
export const annotations = signal<Annotations>(nothing);
export const saving = signal<"saved" | "waiting" | "saving" | "failed">("saved");
interface Step {
  before: Annotations;
  after: Annotations;
}
const past = signal<Step[]>([]);
const future = signal<Step[]>([]);
export const canUndo = computed(() => past.value.length > 0);
export const canRedo = computed(() => future.value.length > 0);
let saved: Annotations = nothing;
let revision = 0;
let timer = 0;
let running: Promise<void> | null = null;
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("unweave") : null;

export function edit(change: (state: Annotations) => Annotations): void {
  const before = annotations.value;
  const after = change(before);
  if (after === before) return;
  annotations.value = after;
  past.value = [...past.value.slice(-199), { before, after }];
  future.value = [];
  saveSoon();
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
  saveSoon();
}

export function redo(): void {
  const step = future.value.at(-1);
  if (!step) return;
  batch(() => {
    future.value = future.value.slice(0, -1);
    past.value = [...past.value, step];
    annotations.value = merge(step.before, step.after, annotations.value);
  });
  saveSoon();
}

function saveSoon(): void {
  saving.value = "waiting";
  clearTimeout(timer);
  timer = window.setTimeout(() => void save(), 350);
}

export async function save(): Promise<void> {
  clearTimeout(timer);
  if (running) await running;
  running = saveNow().finally(() => (running = null));
  return running;
}

async function saveNow(): Promise<void> {
  const now = graph.value;
  if (!now || annotations.value === saved) {
    if (saving.value === "waiting") saving.value = "saved";
    return;
  }
  saving.value = "saving";
  for (let attempt = 0; attempt < 5; attempt++) {
    const sent = annotations.value;
    try {
      revision = await api.saveAnnotations(now.view.slug, revision, sent);
      saved = sent;
      saving.value = annotations.value === sent ? "saved" : "waiting";
      if (annotations.value !== sent) saveSoon();
      tabs?.postMessage(now.view.slug);
      return;
    } catch (error) {
      if (!(error instanceof api.Refusal) || error.status !== 409 || !error.body.annotations) {
        saving.value = "failed";
        say(`Not saved: ${(error as Error).message}`, true);
        return;
      }
      adopt(await api.loadAnnotations(now.view.slug));
    }
  }
  saving.value = "failed";
  say("Not saved: other tabs keep changing these annotations. Change something to try again.", true);
}

/** Takes in what another tab saved; what was changed here since the last save is put on top. */
function adopt(theirs: { revision: number; annotations: Annotations }): void {
  annotations.value = annotations.value === saved ? theirs.annotations : merge(saved, annotations.value, theirs.annotations);
  if (annotations.value !== theirs.annotations) saveSoon();
  saved = theirs.annotations;
  revision = theirs.revision;
}

async function refresh(): Promise<void> {
  const now = graph.value;
  if (!now || api.inlined) return;
  await running;
  const theirs = await api.loadAnnotations(now.view.slug).catch(() => null);
  if (theirs && theirs.revision !== revision && graph.value === now) adopt(theirs);
}

if (tabs) tabs.onmessage = (event: MessageEvent<string>) => void (event.data === graph.value?.view.slug && refresh());
window.addEventListener("focus", () => void refresh());
window.addEventListener("beforeunload", (event) => {
  if (saving.value !== "saved") {
    void save();
    event.preventDefault();
  }
});

// ---- opening a graph ----
export async function open(slug: string, nodeId?: string): Promise<void> {
  if (running || saving.value === "waiting") await save();
  loading.value = true;
  failure.value = null;
  try {
    const wanted = Number(new URLSearchParams(location.search).get("edges")) || undefined;
    const [view, own] = await Promise.all([api.loadView(slug, wanted), api.loadAnnotations(slug)]);
    const built = buildGraph(view);
    const { thresholds } = own.annotations;
    batch(() => {
      saved = own.annotations;
      revision = own.revision;
      annotations.value = own.annotations;
      past.value = [];
      future.value = [];
      saving.value = "saved";
      fetched.value = new Map();
      features.value = new Map();
      hovered.value = null;
      gathering.value = null;
      pair.value = null;
      filters.value = { ...everything, influence: thresholds.node ?? 1, edge: thresholds.edge ?? 0, errors: (thresholds.errors ?? 1) !== 0 };
      selected.value = nodeId && built.row.has(nodeId) ? nodeId : null;
      graph.value = built;
      loading.value = false;
    });
  } catch (error) {
    batch(() => {
      loading.value = false;
      graph.value = null;
      failure.value = (error as Error).message;
    });
  }
}

export function close(): void {
  batch(() => {
    graph.value = null;
    selected.value = null;
    drawer.value = null;
    overlay.value = null;
  });
}

// ---- what is shown and selected ----
export const pinnedIds = computed(() => new Set(annotations.value.pins));
export const shown = computed<Shown | null>(() => (graph.value ? applyFilters(graph.value, filters.value, pinnedIds.value) : null));
export const pinnedRows = computed(() => new Set(annotations.value.pins.map((id) => graph.value?.row.get(id)).filter((row) => row !== undefined)));
export const subgraph = computed(() => (graph.value ? entities(annotations.value, graph.value.row) : []));
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

export function setFilters(change: Partial<Filters>): void {
  filters.value = { ...filters.value, ...change };
  const { influence, edge, errors } = filters.value;
  window.clearTimeout(filterTimer);
  filterTimer = window.setTimeout(() => {
    const thresholds = { ...annotations.value.thresholds, node: influence, edge, errors: errors ? 1 : 0 };
    if (graph.value) annotations.value = { ...annotations.value, thresholds };
    saveSoon();
  }, 500);
}
let filterTimer = 0;

// ---- edges of single nodes and details of features, asked for when looked at ----
const fetched = signal<ReadonlyMap<string, EdgePage>>(new Map());
const asked = new Set<string>();
const MOST_LISTED = 2000;

/** Edges at a node: from the whole graph once the server has listed them, until then those the page holds. */
export function edgesOf(now: Graph, row: number, direction: "in" | "out"): EdgePage {
  const key = `${now.view.slug}:${direction}:${row}`;
  const known = fetched.value.get(key);
  if (known) return known;
  if (!now.whole && !asked.has(key)) {
    asked.add(key);
    api
      .loadEdges(now, row, direction, MOST_LISTED)
      .then((page) => (fetched.value = new Map(fetched.value).set(key, page)))
      .catch((error: Error) => say(error.message, true))
      .finally(() => asked.delete(key));
  }
  const edges = edgesAt(now, row, direction);
  const total = (direction === "in" ? now.view.nodes.inputs : now.view.nodes.outputs)?.[row] ?? edges.length;
  return { edges, total, weight_total: edges.reduce((sum, edge) => sum + Math.abs(edge[1]), 0) };
}

export function inputsOf(now: Graph): (row: number) => ListedEdge[] {
  return (row) => edgesOf(now, row, "in").edges;
}

export const features = signal<ReadonlyMap<string, FeatureDetails | string>>(new Map());
const MOST_FEATURES = 300;

/** Details of a feature; a text says why there are none; undefined while they are on their way. */
export function detailsOf(now: Graph, row: number): FeatureDetails | string | undefined {
  const key = featureKey(now, row);
  if (!key) return "";
  const known = features.value.get(key);
  if (known !== undefined || asked.has(key)) return known;
  asked.add(key);
  api
    .loadFeature(now.view.slug, now.view.nodes.layer[row], now.view.nodes.index[row])
    .catch((error: Error) => error.message)
    .then((details) => {
      asked.delete(key);
      if (graph.value !== now) return;
      const kept = [...features.value].slice(-MOST_FEATURES);
      features.value = new Map(kept).set(key, details);
    });
  return undefined;
}

// ---- comparison ----
export interface Pair {
  other: Graph;
  comparison: Comparison;
}

/** The graph beside this one, and what both have. */
export const pair = signal<Pair | null>(null);

// ---- gathering nodes into a supernode ----
export function gather(id: string): void {
  const now = gathering.value;
  if (!now) return;
  gathering.value = { ...now, ids: now.ids.includes(id) ? now.ids.filter((other) => other !== id) : [...now.ids, id] };
}

export function finishGathering(): void {
  const ids = gathering.value?.ids ?? [];
  gathering.value = null;
  if (ids.length < 2) return;
  const id = `group-${Date.now().toString(36)}`;
  edit((state) => edits.group(state, ids, id, "Supernode"));
  selected.value = id;
  newest.value = id;
}

/** The supernode just made; the subgraph opens its name for writing. */
export const newest = signal<string | null>(null);

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
