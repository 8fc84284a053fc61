// Light or dark, as the reader or the system wants it.
import { computed, effect, signal } from "@preact/signals";
import { DARK, LIGHT } from "../colour.ts";
import { keep, stored } from "./storage.ts";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(dark.matches);
dark.addEventListener("change", () => (systemDark.value = dark.matches));
export const themeChoice = signal<"system" | "light" | "dark">(stored("theme", "system"));
export const theme = computed(() => ((themeChoice.value === "system" ? systemDark.value : themeChoice.value === "dark") ? DARK : LIGHT));
effect(() => {
  document.documentElement.dataset.theme = theme.value.name;
  keep("theme", themeChoice.value);
});
