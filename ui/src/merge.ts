// Three-way merge of annotations, so that two tabs never lose each other's work; undo is the same merge run backwards.
import type { Annotations } from "./types.ts";

export const nothing: Annotations = { pins: [], supernodes: [], labels: {}, notes: "", layout: {}, thresholds: {}, history: [], views: [] };

const same = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);

/** A list of strings: theirs, without what we took out, with what we added. */
function mergeList(base: readonly string[], mine: readonly string[], theirs: readonly string[]): string[] {
  if (same(base, theirs)) return [...mine];
  const removed = new Set(base.filter((item) => !mine.includes(item)));
  const kept = theirs.filter((item) => !removed.has(item));
  return [...kept, ...mine.filter((item) => !base.includes(item) && !kept.includes(item))];
}

/** An object by its keys: what we changed is ours, the rest is theirs. */
function mergeKeys<T>(base: Record<string, T>, mine: Record<string, T>, theirs: Record<string, T>): Record<string, T> {
  const merged: Record<string, T> = { ...theirs };
  for (const key of new Set([...Object.keys(base), ...Object.keys(mine)])) {
    if (same(base[key], mine[key])) continue;
    if (key in mine) merged[key] = mine[key];
    else delete merged[key];
  }
  return merged;
}

/** Items with an id: each is merged by its fields; an item that one side deleted stays deleted unless the other changed it. */
function mergeItems<T extends { id: string }>(base: readonly T[], mine: readonly T[], theirs: readonly T[], both: (base: T | undefined, mine: T, theirs: T) => T): T[] {
  const of = (list: readonly T[], id: string): T | undefined => list.find((item) => item.id === id);
  const merged: T[] = [];
  for (const item of theirs) {
    const [before, ours] = [of(base, item.id), of(mine, item.id)];
    if (ours) merged.push(same(before, ours) ? item : same(before, item) ? ours : both(before, ours, item));
    else if (!before || !same(before, item)) merged.push(item);
  }
  for (const item of mine) {
    if (of(theirs, item.id)) continue;
    const before = of(base, item.id);
    if (!before || !same(before, item)) merged.push(item);
  }
  return merged;
}

/** Notes that both sides changed keep both texts, ours first. */
function mergeText(base: string, mine: string, theirs: string): string {
  if (mine === base || mine === theirs) return theirs;
  if (theirs === base) return mine;
  if (mine.startsWith(theirs)) return mine;
  return theirs.startsWith(mine) ? theirs : `${mine}\n\n${theirs}`;
}

/** What `mine` changed since `base`, applied to `theirs`. */
export function merge(base: Annotations, mine: Annotations, theirs: Annotations): Annotations {
  const supernodes = mergeItems(base.supernodes, mine.supernodes, theirs.supernodes, (before, ours, other) => ({
    ...other,
    name: before && same(before.name, ours.name) ? other.name : ours.name,
    collapsed: before && same(before.collapsed, ours.collapsed) ? other.collapsed : ours.collapsed,
    members: mergeList(before?.members ?? [], ours.members, other.members),
  }));
  const taken = new Set<string>(); // a node is in one supernode only, also when two tabs grouped it at once
  return {
    ...theirs,
    pins: mergeList(base.pins, mine.pins, theirs.pins),
    supernodes: supernodes
      .map((group) => ({ ...group, members: group.members.filter((id) => !taken.has(id) && taken.add(id)) }))
      .filter((group) => group.members.length > 1),
    labels: mergeKeys(base.labels, mine.labels, theirs.labels),
    notes: mergeText(base.notes, mine.notes, theirs.notes),
    layout: mergeKeys(base.layout, mine.layout, theirs.layout),
    thresholds: mergeKeys(base.thresholds, mine.thresholds, theirs.thresholds),
    history: mergeItems(base.history, mine.history, theirs.history, (_, ours) => ours),
    views: mergeItems(base.views, mine.views, theirs.views, (_, ours) => ours),
  };
}

/** Annotations from anywhere (a server, a file, a browser's storage): missing parts are empty. */
export function complete(partial: Partial<Annotations> | null | undefined): Annotations {
  const list = <T>(value: unknown): T[] => (Array.isArray(value) ? value : []);
  const table = <T>(value: unknown): Record<string, T> => (value && typeof value === "object" && !Array.isArray(value) ? (value as Record<string, T>) : {});
  return {
    ...partial,
    pins: list(partial?.pins),
    supernodes: list(partial?.supernodes),
    labels: table(partial?.labels),
    notes: typeof partial?.notes === "string" ? partial.notes : "",
    layout: table(partial?.layout),
    thresholds: table(partial?.thresholds),
    history: list(partial?.history),
    views: list(partial?.views),
  };
}
