// The first screen's state: the explanation of the open graph, which group is chosen or pointed at, what was switched off.
import { computed, effect, signal } from "@preact/signals";
import * as api from "../../api.ts";
import { nothing } from "../../merge.ts";
import * as store from "../../store.ts";
import { Kind } from "../../types.ts";
import { derived } from "./derive.ts";
import type { ExplanationAnswer, Facts, Off } from "./facts.ts";
import { type Card, type Story, storyOf } from "./story.ts";

export type Put = "contrast" | "mean" | "zero";
export type Screen = "why" | "graph";

/** Why, or the whole graph; kept while the tab is open. */
export const screen = signal<Screen>(kept());
/** Undefined while it is on its way. */
export const answer = signal<ExplanationAnswer | undefined>(undefined);
export const chosen = signal<string | null>(null);
export const pointed = signal<string | null>(null);
export const off = signal<{ card: string; to: Put; found?: Off; failure?: string } | null>(null);
export const job = signal<{ now: api.Progress; cancel: () => void } | null>(null);

function kept(): Screen {
  try {
    return sessionStorage.getItem("unweave.screen") === "graph" ? "graph" : "why";
  } catch {
    return "why";
  }
}

export function show(next: Screen): void {
  screen.value = next;
  try {
    sessionStorage.setItem("unweave.screen", next);
  } catch {
    // a browser without storage opens on why each time
  }
}

// what a story is told by: other annotations, such as pins, do not tell it anew
const supernodes = computed(() => store.annotations.value.supernodes);
const labels = computed(() => store.annotations.value.labels);

/** The explanation of the open graph, if it was measured. */
export const facts = computed<Facts | null>(() => answer.value?.explanation ?? null);

export const story = computed<Story | null>(() => {
  const graph = store.graph.value;
  if (!graph || answer.value === undefined) return null;
  return facts.value ? storyOf(facts.value, graph) : derived(graph, { ...nothing, supernodes: supernodes.value, labels: labels.value }, answer.value.groups ?? []);
});

export const cardOf = (id: string | null): Card | null => story.value?.cards.find((card) => card.id === id) ?? null;

/** The chosen card, else the first that counts most. */
export const subject = computed<Card | null>(() => cardOf(chosen.value) ?? story.value?.cards[0] ?? null);

/** Nodes that are lit in every pane: of the group pointed at, else, beside the whole graph, of the one chosen. */
export const litRows = computed<ReadonlySet<number>>(() => new Set(cardOf(pointed.value ?? (screen.value === "graph" ? chosen.value : null))?.rows ?? []));

let opened = "";
effect(() => {
  const graph = store.graph.value;
  if (graph?.view.slug === opened) return;
  opened = graph?.view.slug ?? "";
  answer.value = undefined;
  chosen.value = null;
  pointed.value = null;
  off.value = null;
  if (graph) void load(opened);
});

async function load(slug: string): Promise<void> {
  const nothing: ExplanationAnswer = { explanation: null, error: null, live: false };
  const found = await api.loadExplanation(slug).catch((error: Error) => ({ ...nothing, error: error.message }));
  if (slug === opened) answer.value = found;
}

/** Looks again for an explanation, when some work of the server has ended. */
export function refresh(): void {
  if (opened && answer.value && !answer.value.explanation) void load(opened);
}

/** Explains the open graph's prompt in the model; the explanation is shown once it is there. */
export async function explain(): Promise<void> {
  const slug = opened;
  try {
    const running = await api.explain(slug, (now) => job.value && (job.value = { ...job.value, now }));
    job.value = { now: { share: 0, title: "waiting" }, cancel: running.cancel };
    if ((await running.done) === null) store.say("Cancelled; nothing was stored.");
    else await load(slug);
  } catch (error) {
    store.say((error as Error).message, true);
  } finally {
    job.value = null;
  }
}

/** Runs the model without a group: parts of an explanation are put to other values, features of a graph are ablated. */
export async function switchOff(card: Card, to: Put): Promise<void> {
  const [graph, slug] = [store.graph.value!, opened];
  const running = { card: card.id, to };
  off.value = running;
  try {
    const found = story.value!.measured ? await api.switchOff(slug, [Number(card.id.split("-")[1])], to) : await ablated(card);
    if (off.value === running) off.value = { ...running, found };
  } catch (error) {
    if (off.value === running) off.value = { ...running, failure: (error as Error).message };
  }

  async function ablated({ rows, name }: Card): Promise<Off> {
    const { id, kind } = graph.view.nodes;
    const nodes = rows.filter((row) => kind[row] === Kind.Feature).map((row) => id[row]);
    const facts = await api.steer(slug, { changes: [{ action: "ablate", nodes, name }], swap_from: null, swap_factor: 1, mode: "open", watch: [], generate: 0 });
    const tokens = (facts.next ?? []).map((next) => ({ token: next.text, before: next.probability_before, after: next.probability_after }));
    const top = tokens.toSorted((a, b) => b.after - a.after)[0]?.token ?? "";
    const said = tokens.find((next) => next.token === story.value?.answer.text) ?? tokens.toSorted((a, b) => b.before - a.before)[0];
    return { answer: said, tokens, top, moved: [] };
  }
}
