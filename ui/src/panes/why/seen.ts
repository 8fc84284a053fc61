// What an address carries of what a reader sees: pins, supernodes, the screen and the chosen group.
import * as edits from "../../edits.ts";
import type { Annotations } from "../../types.ts";

export interface Seen {
  pins: string[];
  groups: [string, string[]][];
  screen: "why" | "graph";
  chosen: string | null;
}

/** Text for an address, without signs that addresses read otherwise. */
export function packed(seen: Seen): string {
  const bytes = new TextEncoder().encode(JSON.stringify([seen.pins, seen.groups, seen.screen, seen.chosen]));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** What an address carries; null if it is damaged. */
export function unpacked(text: string): Seen | null {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) => sign.charCodeAt(0));
    const [pins, groups, screen, chosen] = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as unknown[];
    const texts = (list: unknown): list is string[] => Array.isArray(list) && list.every((one) => typeof one === "string");
    if (!texts(pins) || !Array.isArray(groups) || !groups.every((one) => Array.isArray(one) && typeof one[0] === "string" && texts(one[1]))) return null;
    return { pins, groups: groups as Seen["groups"], screen: screen === "graph" ? "graph" : "why", chosen: typeof chosen === "string" ? chosen : null };
  } catch {
    return null;
  }
}

/** Annotations with pins and groups of an address added; what is there stays, groups that are there are not made again. */
export function withSeen(state: Annotations, seen: Seen, known: (id: string) => boolean): Annotations {
  let now = edits.pin(state, seen.pins.filter(known));
  seen.groups.forEach(([name, members], place) => {
    const here = members.filter(known);
    const there = now.supernodes.some((group) => group.name === name && group.members.length === here.length && here.every((id) => group.members.includes(id)));
    if (!there && here.length > 1) now = edits.group(now, here, `shared-${place}-${here[0]}`, name.slice(0, 200));
  });
  return now;
}
