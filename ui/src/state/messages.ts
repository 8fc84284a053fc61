// What the page says for a moment, which drawer and which dialog are open.
import { signal } from "@preact/signals";

export const drawer = signal<"filters" | "steer" | "trust" | "notes" | "compare" | "export" | "study" | "attention" | "views" | null>(null);
export const overlay = signal<"palette" | "help" | "trace" | null>(null);
export const message = signal<{ text: string; error: boolean } | null>(null);

let timer = 0;
export function say(text: string, error = false): void {
  message.value = { text, error };
  clearTimeout(timer);
  timer = window.setTimeout(() => (message.value = null), error ? 8000 : 3500);
}
