// The graph on screen, and how its opening goes.
import { computed, signal } from "@preact/signals";
import { featureKey, type Graph } from "../graph.ts";

export const graph = signal<Graph | null>(null);
export const failure = signal<string | null>(null);
/** How far the opening of a graph is, in words; null while none is being opened. */
export const loading = signal<string | null>(null);

/** Row under the pointer. */
export const hovered = signal<number | null>(null);
/** The same feature in the other graph of a comparison is ringed too. */
export const hoveredKey = computed(() => (graph.value && hovered.value !== null ? featureKey(graph.value, hovered.value) : null));
