// Changes of the annotations, each a pure function from one state to the next.
import type { Annotations, SavedView, SteerRun } from "./types.ts";

export const MOST_PINS = 200;
const MOST_RUNS = 30;
const MOST_VIEWS = 100;

export function pin(state: Annotations, ids: readonly string[]): Annotations {
  const fresh = ids.filter((id) => !state.pins.includes(id));
  return { ...state, pins: [...state.pins, ...fresh].slice(0, MOST_PINS) };
}

/** Unpinning a node takes it out of its supernode; a supernode of one is dissolved. */
export function unpin(state: Annotations, ids: readonly string[]): Annotations {
  return { ...dropMembers(state, ids), pins: state.pins.filter((id) => !ids.includes(id)) };
}

export function togglePin(state: Annotations, id: string): Annotations {
  return state.pins.includes(id) ? unpin(state, [id]) : pin(state, [id]);
}

function dropMembers(state: Annotations, ids: readonly string[]): Annotations {
  const supernodes = state.supernodes.map((group) => ({ ...group, members: group.members.filter((id) => !ids.includes(id)) }));
  return { ...state, supernodes: supernodes.filter((group) => group.members.length > 1) };
}

/** Makes a supernode of two or more nodes (they leave the groups they were in); `members` may name supernodes, which join with all of theirs. */
export function group(state: Annotations, members: readonly string[], id: string, name: string): Annotations {
  const ids = [...new Set(members.flatMap((member) => state.supernodes.find((other) => other.id === member)?.members ?? [member]))];
  if (ids.length < 2) return state;
  const without = dropMembers(state, ids);
  return pin({ ...without, supernodes: [...without.supernodes, { id, name, members: ids, collapsed: true }] }, ids);
}

export function ungroup(state: Annotations, id: string): Annotations {
  const { [id]: _, ...layout } = state.layout;
  return { ...state, layout, supernodes: state.supernodes.filter((other) => other.id !== id) };
}

export function changeGroup(state: Annotations, id: string, change: { name?: string; collapsed?: boolean }): Annotations {
  return { ...state, supernodes: state.supernodes.map((other) => (other.id === id ? { ...other, ...change } : other)) };
}

/** Sets the label of a feature ("layer_index") or of one node (its id); an empty text takes the label away. */
export function label(state: Annotations, key: string, text: string): Annotations {
  const { [key]: _, ...others } = state.labels;
  return { ...state, labels: text.trim() ? { ...others, [key]: text.trim() } : others };
}

export function place(state: Annotations, id: string, at: [number, number]): Annotations {
  return { ...state, layout: { ...state.layout, [id]: at } };
}

export function remember(state: Annotations, run: SteerRun): Annotations {
  return { ...state, history: [...state.history, run].slice(-MOST_RUNS) };
}

/** Saves pins, supernodes and places of cards under a name; one of that name is written over. */
export function saveView(state: Annotations, name: string, seen: Pick<SavedView, "screen" | "chosen">): Annotations {
  const there = state.views.find((view) => view.name === name);
  const view = { id: there?.id ?? `view-${Date.now().toString(36)}${Math.random().toString(36).slice(2, 7)}`, name, pins: state.pins, supernodes: state.supernodes, layout: state.layout, ...seen };
  const views = there ? state.views.map((one) => (one.id === there.id ? view : one)) : [...state.views, view];
  return { ...state, views: views.slice(-MOST_VIEWS) };
}

/** Puts a saved subgraph in place of the present one, without nodes that the graph does not have. */
export function openView(state: Annotations, view: SavedView, known: (id: string) => boolean): Annotations {
  const supernodes = view.supernodes.map((group) => ({ ...group, members: group.members.filter(known) })).filter((group) => group.members.length > 1);
  return { ...state, pins: view.pins.filter(known), supernodes, layout: view.layout };
}

export function dropView(state: Annotations, id: string): Annotations {
  return { ...state, views: state.views.filter((view) => view.id !== id) };
}
