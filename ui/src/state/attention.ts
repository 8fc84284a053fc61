// Which head is asked why it looked where it did.
import { signal } from "@preact/signals";
import { drawer } from "./messages.ts";

/** A head at a token; without a key the one it looks at most. */
export interface HeadAt {
  layer: number;
  head: number;
  query: number;
  key?: number;
}
export const headAt = signal<HeadAt | null>(null);

/** Opens the pane on a head, or on the heads that carry most. */
export function askHead(at: HeadAt | null): void {
  headAt.value = at;
  drawer.value = "attention";
}

/** The head that a route or a part of a group names: `L24H3 value`, `23.h1@5`; of a route at the token of its target. */
export function headNamed(text: string, query: number): HeadAt | null {
  const route = /^L(\d+)H(\d+)\b/.exec(text);
  if (route) return { layer: Number(route[1]), head: Number(route[2]), query };
  const part = /^(\d+)\.h(\d+)@(\d+)$/.exec(text);
  return part && { layer: Number(part[1]), head: Number(part[2]), query: Number(part[3]) };
}
