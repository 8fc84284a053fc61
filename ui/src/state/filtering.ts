// The filters: a part of what is saved with a graph, so they can be undone and are there again.
import { computed } from "@preact/signals";
import { applyFilters, type Filters, filtersOf, type Shown, thresholdsOf } from "../filters.ts";
import { graph } from "./graph.ts";
import { annotations, edit, pinnedIds } from "./work.ts";

const text = computed(() => JSON.stringify(annotations.value.thresholds));
export const filters = computed<Filters>(() => filtersOf(JSON.parse(text.value)));
export const shown = computed<Shown | null>(() => (graph.value ? applyFilters(graph.value, filters.value, pinnedIds.value) : null));

export function setFilters(change: Partial<Filters>): void {
  const thresholds = thresholdsOf({ ...filters.peek(), ...change });
  edit((state) => ({ ...state, thresholds: { ...state.thresholds, ...thresholds } }), `filters ${Object.keys(change).join(" ")}`);
}
