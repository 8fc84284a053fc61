// Everything that can be done without pointing: the palette lists it, keys call it.
import { inlined } from "./api.ts";
import * as edits from "./edits.ts";
import { everything } from "./filters.ts";
import { type Graph, strongest, strongestLogit } from "./graph.ts";
import { exportFigure } from "./panels/Export.tsx";
import * as store from "./store.ts";
import { CTRL, maximised, type PaneName } from "./widgets.tsx";

export interface Command {
  name: string;
  keys?: string;
  run: () => void;
}

const PANES: PaneName[] = ["link", "connections", "subgraph", "feature"];
const PANE_TITLES = ["link graph", "connections", "subgraph", "feature details"];

export function cycleTheme(): void {
  const order = ["system", "light", "dark"] as const;
  store.themeChoice.value = order[(order.indexOf(store.themeChoice.value) + 1) % order.length];
}

export function toggleDrawer(name: NonNullable<typeof store.drawer.value>): void {
  store.drawer.value = store.drawer.value === name ? null : name;
}

export function commands(graph: Graph | null): Command[] {
  const always: Command[] = [
    { name: "Change theme: system, light, dark", run: cycleTheme },
    { name: "Help: gestures and keys", keys: "?", run: () => (store.overlay.value = "help") },
  ];
  if (!graph) return always;
  return [
    { name: "Pin the strongest nodes", run: () => store.edit((state) => edits.pin(state, strongest(graph, 8))) },
    { name: "Select the likeliest output", run: () => store.select(graph.view.nodes.id[strongestLogit(graph) ?? 0]) },
    { name: "Unpin all nodes", run: () => store.edit((state) => edits.unpin(state, state.pins)) },
    { name: "Undo", keys: `${CTRL} Z`, run: store.undo },
    { name: "Redo", keys: `${CTRL} Shift Z`, run: store.redo },
    { name: "Filters", keys: "F", run: () => toggleDrawer("filters") },
    { name: "Show everything (reset filters)", run: () => store.setFilters(everything) },
    ...(inlined ? [] : [{ name: "Steer", keys: "S", run: () => toggleDrawer("steer") }, { name: "Compare two graphs", run: () => toggleDrawer("compare") }]),
    { name: "Trust: scores, exactness, validation", run: () => toggleDrawer("trust") },
    { name: "Notes", run: () => toggleDrawer("notes") },
    { name: "Saved subgraphs", run: () => toggleDrawer("views") },
    { name: "Export", run: () => toggleDrawer("export") },
    { name: "Export link graph as SVG", run: () => void exportFigure(graph, "link-graph", "svg") },
    { name: "Export link graph as PNG", run: () => void exportFigure(graph, "link-graph", "png") },
    { name: "Export subgraph as SVG", run: () => void exportFigure(graph, "subgraph", "svg") },
    { name: "Export subgraph as PNG", run: () => void exportFigure(graph, "subgraph", "png") },
    { name: "Forget where subgraph cards were dragged", run: () => store.edit((state) => ({ ...state, layout: {} })) },
    ...PANES.map((pane, place) => ({
      name: `Maximise ${PANE_TITLES[place]}`,
      keys: String(place + 1),
      run: () => (maximised.value = maximised.value === pane ? null : pane),
    })),
    ...always,
  ];
}

function inField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}

/** Keys that work everywhere but in fields. */
export function onKeyDown(event: KeyboardEvent): void {
  const control = event.ctrlKey || event.metaKey;
  if (inField(event.target) || document.querySelector("dialog[open]")) return;
  const graph = store.graph.value;
  const act = (run: () => void): void => {
    event.preventDefault();
    run();
  };
  if (control) {
    const key = event.key.toLowerCase();
    if (key === "k") act(() => (store.overlay.value = "palette"));
    else if (key === "z" && graph) act(event.shiftKey ? store.redo : store.undo);
    else if (key === "y" && graph) act(store.redo);
    return;
  }
  if (event.altKey) return;
  if (event.key === "/") return act(() => (store.overlay.value = "palette"));
  if (event.key === "?") return act(() => (store.overlay.value = "help"));
  if (!graph) return;
  switch (event.key) {
    case "g":
    case "G":
      if (!event.repeat && !store.gathering.value) store.gathering.value = { ids: [], held: true };
      return;
    case "p":
      if (store.selectedRows.value.length) for (const row of store.selectedRows.value.slice(0, 1)) store.togglePin(graph.view.nodes.id[row]);
      return;
    case "e":
      document.querySelector<HTMLElement>('.pane-feature [aria-label="Edit label"]')?.click();
      return act(() => {});
    case "s":
      return inlined ? undefined : toggleDrawer("steer");
    case "f":
      return toggleDrawer("filters");
    case "Escape":
      if (store.gathering.value) store.gathering.value = null;
      else if (maximised.value) maximised.value = null;
      else if (store.drawer.value) store.drawer.value = null;
      else store.select(null);
      return;
    default: {
      const pane = PANES[Number(event.key) - 1];
      if (pane) maximised.value = maximised.value === pane ? null : pane;
    }
  }
}

export function onKeyUp(event: KeyboardEvent): void {
  if (event.key.toLowerCase() === "g" && store.gathering.value?.held) store.finishGathering();
}
