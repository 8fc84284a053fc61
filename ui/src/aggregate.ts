// Supernodes: which groups of nodes the subgraph shows, and how strongly one group drives another.
import type { Annotations, ListedEdge, Supernode } from "./types.ts";

export interface Entity {
  id: string;
  name: string | null;
  /** Rows of its nodes; one for a node of its own. */
  members: number[];
  group: Supernode | null;
}

export interface EntityEdge {
  source: string;
  target: string;
  weight: number;
}

/** Pinned nodes in the graph, supernodes taken together unless they are expanded. */
export function entities(annotations: Annotations, row: ReadonlyMap<string, number>): Entity[] {
  const found: Entity[] = [];
  const grouped = new Set<string>();
  for (const group of annotations.supernodes) {
    const members = group.members.filter((id) => row.has(id));
    if (!members.length || group.collapsed === false) continue;
    for (const id of members) grouped.add(id);
    found.push({ id: group.id, name: group.name, members: members.map((id) => row.get(id)!), group });
  }
  const groupOf = new Map(annotations.supernodes.flatMap((group) => group.members.map((id) => [id, group] as const)));
  const alone = new Set([...annotations.pins, ...annotations.supernodes.filter((group) => group.collapsed === false).flatMap((group) => group.members)]);
  for (const id of alone) {
    if (grouped.has(id) || !row.has(id)) continue;
    found.push({ id, name: null, members: [row.get(id)!], group: groupOf.get(id) ?? null });
  }
  return found;
}

/**
 * Edges between entities. An entity's input counts from outside only: each member's edges are divided by its absolute
 * input from non-members, and members are averaged with weights in proportion to the share of their input that comes
 * from outside. For two single nodes this is the edge's share of all input of its target, with its sign.
 */
export function entityEdges(list: readonly Entity[], inputs: (row: number) => readonly ListedEdge[], inputTotal: (row: number) => number): EntityEdge[] {
  const owner = new Map<number, Entity>();
  for (const entity of list) for (const row of entity.members) owner.set(row, entity);
  const edges: EntityEdge[] = [];
  for (const target of list) {
    const parts = target.members.map((row) => {
      const listed = inputs(row);
      const inside = listed.reduce((sum, [other, weight]) => sum + (owner.get(other) === target ? Math.abs(weight) : 0), 0);
      const total = inputTotal(row);
      const outside = Math.max(0, total - inside);
      return { listed, outside, weighting: total > 0 ? outside / total : 0 };
    });
    const all = parts.reduce((sum, part) => sum + part.weighting, 0);
    if (!(all > 0)) continue;
    const sums = new Map<string, number>();
    for (const { listed, outside, weighting } of parts) {
      if (!(outside > 0)) continue;
      for (const [other, weight] of listed) {
        const source = owner.get(other);
        if (source && source !== target) sums.set(source.id, (sums.get(source.id) ?? 0) + (weight / outside) * (weighting / all));
      }
    }
    for (const [source, weight] of sums) edges.push({ source, target: target.id, weight });
  }
  return edges;
}
