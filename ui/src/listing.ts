// The list of graphs as a reader wants it: searched and sorted.
import type { GraphEntry } from "./types.ts";

export const ORDERS = { newest: "newest first", name: "by name", answer: "by answer", size: "largest first" } as const;
export type Order = keyof typeof ORDERS;

const nameOf = (entry: GraphEntry): string => entry.title || entry.prompt || entry.slug;

/** Entries that have every word of a query in their title, prompt, file, model or answer, in an order; equal ones stay as they came. */
export function listed(entries: readonly GraphEntry[], query: string, order: Order): GraphEntry[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (entry: GraphEntry): string => [entry.title, entry.prompt, entry.file, entry.slug, entry.model, entry.answer].join("\n").toLowerCase();
  const found = words.length ? entries.filter((entry) => words.every((word) => text(entry).includes(word))) : [...entries];
  const by = (a: string, b: string): number => a.localeCompare(b, "en", { numeric: true });
  switch (order) {
    case "name":
      return found.sort((a, b) => by(nameOf(a), nameOf(b)));
    case "answer":
      return found.sort((a, b) => by((a.answer ?? "\uffff").trim(), (b.answer ?? "\uffff").trim()));
    case "size":
      return found.sort((a, b) => (b.edges ?? 0) - (a.edges ?? 0));
    default:
      return found;
  }
}
