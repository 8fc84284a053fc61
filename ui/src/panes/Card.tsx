// One card of the subgraph: dragged, clicked, unfolded; and how it looks, on screen and in figures.
import { drag as d3drag } from "d3-drag";
import { select as d3select } from "d3-selection";
import { useEffect, useRef } from "preact/hooks";
import type { Entity } from "../aggregate.ts";
import type { Theme } from "../colour.ts";
import * as edits from "../edits.ts";
import { GLYPHS, layerName, quoted } from "../format.ts";
import type { Graph } from "../graph.ts";
import { fitted, FONT } from "../pen.ts";
import * as store from "../store.ts";
import { BELOW_SIZE, BESIDE, CARD_HEIGHT, NAME_SIZE, type Placed } from "../subgraph-layout.ts";
import { Kind } from "../types.ts";
import { litRows } from "./why/state.ts";

/** The second line of a card: how many nodes, or where the node is. */
export function below(graph: Graph, entity: Entity): string {
  const row = entity.members[0];
  const { kind, position } = graph.view.nodes;
  if (entity.name !== null) return `${entity.members.length} nodes`;
  return kind[row] === Kind.Logit ? "output" : kind[row] === Kind.Embedding ? "token" : `${layerName(graph, row)} on ${quoted(graph.view.tokens[position[row]])}`;
}

interface CardProps {
  graph: Graph;
  entity: Entity;
  name: string;
  place: Placed;
  scale: number;
  onMove: (moving: { id: string; x: number; y: number } | null) => void;
  onRename: () => void;
}

export function Card({ graph, entity, name, place, scale, onMove, onRename }: CardProps) {
  const card = useRef<SVGGElement>(null);
  const latest = useRef({ place, scale });
  latest.current = { place, scale };
  useEffect(() => {
    let at = { x: 0, y: 0 };
    let moved = false;
    const behaviour = d3drag<SVGGElement, unknown>()
      .container(() => card.current!.ownerSVGElement!)
      .filter((event: MouseEvent) => !event.ctrlKey && !event.metaKey && event.button === 0)
      .clickDistance(4)
      .on("start", () => {
        at = { ...latest.current.place };
        moved = false;
      })
      .on("drag", (event: { dx: number; dy: number }) => {
        at = { x: at.x + event.dx / latest.current.scale, y: at.y + event.dy / latest.current.scale };
        moved ||= event.dx !== 0 || event.dy !== 0;
        onMove({ id: entity.id, ...at });
      })
      .on("end", () => {
        onMove(null);
        if (moved) store.edit((state) => edits.place(state, entity.id, [Math.round(at.x), Math.round(at.y)]));
      });
    d3select(card.current!).call(behaviour);
  }, []);

  const gathered = store.gathering.value?.ids.includes(entity.id) ?? false;
  const selected = store.selected.value === entity.id;
  const own = entity.name !== null;
  const toggle = (): void => store.edit((state) => edits.changeGroup(state, entity.group!.id, { collapsed: entity.group!.collapsed === false }));
  return (
    <g
      ref={card}
      class={`card ${selected ? "selected" : ""} ${gathered ? "gathered" : ""}`}
      data-card={entity.id}
      transform={`translate(${place.x - place.width / 2},${place.y - CARD_HEIGHT / 2})`}
      tabIndex={0}
      role="button"
      aria-pressed={selected}
      onClick={(event) => (own && (event.ctrlKey || event.metaKey) && !store.gathering.value ? store.edit((state) => edits.ungroup(state, entity.id)) : store.clickNode(entity.id, event))}
      onDblClick={onRename}
      onMouseEnter={() => (store.hovered.value = entity.members[0])}
      onMouseLeave={(event) => !event.shiftKey && (store.hovered.value = null)}
      onKeyDown={(event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          store.clickNode(entity.id, event);
        } else if (event.key === "F2") onRename();
        else if (event.key === "Delete") store.edit((state) => (own ? edits.ungroup(state, entity.id) : edits.unpin(state, [entity.id])));
      }}
    >
      <CardFace graph={graph} entity={entity} name={name} place={place} theme={store.theme.value} selected={selected || gathered || entity.members.some((row) => litRows.value.has(row))} />
      <title>{name}</title>
      {entity.group && (
        <text class="card-button" x={place.width - 13} y={CARD_HEIGHT / 2} aria-hidden="true" onClick={(event) => (event.stopPropagation(), toggle())}>
          {own ? "▸" : "▾"}
        </text>
      )}
    </g>
  );
}

/** How a card looks, on screen and in figures: all colours are attributes. */
export function CardFace({ graph, entity, name, place, theme, selected }: { graph: Graph; entity: Entity; name: string; place: Placed; theme: Theme; selected: boolean }) {
  const own = entity.name !== null;
  const row = entity.members[0];
  const rect = { width: place.width, height: CARD_HEIGHT, rx: 7, fill: theme.node, stroke: selected ? theme.accent : theme.outline, "stroke-width": selected ? 2 : 0.9 };
  const room = place.width - BESIDE.left - (entity.group ? BESIDE.button : BESIDE.right) + 2;
  return (
    <>
      {own && <rect {...rect} x={4} y={-4} opacity={0.6} />}
      {own && <rect {...rect} x={2} y={-2} opacity={0.8} />}
      <rect {...rect} stroke-dasharray={!own && entity.group ? "3 2" : undefined} />
      {own ? (
        <path d="M8 15h7v7h-7zM11 15v-3h7v7h-3" fill="none" stroke={theme.muted} stroke-width="1.2" />
      ) : (
        <text aria-hidden="true" x={13} y={CARD_HEIGHT / 2} font-size="12" font-family={FONT} text-anchor="middle" dominant-baseline="central" fill={theme.muted}>
          {GLYPHS[graph.view.nodes.kind[row]]}
        </text>
      )}
      <text x={BESIDE.left} y={13.5} font-size={NAME_SIZE} font-family={FONT} dominant-baseline="central" fill={theme.ink} font-weight={own ? 600 : 400}>
        {fitted(name, room, NAME_SIZE, own)}
      </text>
      <text x={BESIDE.left} y={29} font-size={BELOW_SIZE} font-family={FONT} dominant-baseline="central" fill={theme.muted}>
        {fitted(below(graph, entity), room, BELOW_SIZE)}
      </text>
    </>
  );
}
