// The subgraph pane: pinned nodes and supernodes as cards, with the strength of the links between them.
import { drag as d3drag } from "d3-drag";
import { select as d3select } from "d3-selection";
import { zoom as d3zoom, zoomIdentity, type D3ZoomEvent, type ZoomBehavior } from "d3-zoom";
import { render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Entity, entityEdges, type EntityEdge } from "../aggregate.ts";
import { linkColour, PRINT, type Theme } from "../colour.ts";
import { clipped, IDENTITY, NEGATIVE_DASH } from "../draw.ts";
import * as edits from "../edits.ts";
import { GLYPHS, layerName, nodeName, quoted, weight } from "../format.ts";
import type { Graph } from "../graph.ts";
import { FONT } from "../pen.ts";
import * as store from "../store.ts";
import { CARD_HEIGHT, type Placed, placeCards } from "../subgraph-layout.ts";
import { type Annotations, Kind } from "../types.ts";
import { Editable, IconButton, Pane } from "../widgets.tsx";
import { FirstSteps } from "./FirstSteps.tsx";
import { litRows } from "./why/state.ts";

/** Pixels of width for a link that is all of its target's input. */
const WIDEST = 15;
const LEAST = 0.005;

function entityName(graph: Graph, annotations: Annotations, entity: Entity): string {
  return entity.name ?? nodeName(graph, annotations, entity.members[0]);
}

/** The second line of a card: how many nodes, or where the node is. */
function below(graph: Graph, entity: Entity): string {
  const row = entity.members[0];
  const { kind, position } = graph.view.nodes;
  if (entity.name !== null) return `${entity.members.length} nodes`;
  return kind[row] === Kind.Logit ? "output" : kind[row] === Kind.Embedding ? "token" : `${layerName(graph, row)} on ${quoted(graph.view.tokens[position[row]])}`;
}

function useSubgraph(graph: Graph) {
  const list = store.subgraph.value;
  const annotations = store.annotations.value;
  const inputs = store.inputsOf(graph);
  // reading the lists here makes the pane follow the server's answers
  const pages = list.flatMap((entity) => entity.members.map((row) => inputs(row)));
  const edges = useMemo(() => entityEdges(list, inputs, (row) => graph.inputTotal[row]), [graph, list, pages.length, pages.reduce((sum, page) => sum + page.length, 0)]);
  const name = (entity: Entity): string => entityName(graph, annotations, entity);
  const names = list.map(name).join("\n");
  const places = useMemo(() => placeCards(graph, list, edges, (entity) => [name(entity), below(graph, entity)], annotations.layout), [graph, edges, names, annotations.layout]);
  return { list, edges, places, name };
}

export function Subgraph({ graph }: { graph: Graph }) {
  const { list, edges, places, name } = useSubgraph(graph);
  const svg = useRef<SVGSVGElement>(null);
  const zooming = useRef<ZoomBehavior<SVGSVGElement, unknown> | null>(null);
  const [transform, setTransform] = useState(IDENTITY);
  const [renaming, setRenaming] = useState<string | null>(null);
  const [moving, setMoving] = useState<{ id: string; x: number; y: number } | null>(null);
  const gathering = store.gathering.value;

  useEffect(() => {
    if (!list.length) return;
    const behaviour = d3zoom<SVGSVGElement, unknown>()
      .scaleExtent([0.2, 4])
      .clickDistance(4)
      .on("zoom", (event: D3ZoomEvent<SVGSVGElement, unknown>) => setTransform(event.transform));
    zooming.current = behaviour;
    d3select(svg.current!).call(behaviour).on("dblclick.zoom", null);
  }, [list.length > 0]);

  const fit = (): void => {
    if (!svg.current || !zooming.current || !places.size) return;
    const bounds = extent(places);
    const { width, height } = svg.current.getBoundingClientRect();
    const k = Math.min(1.4, (width - 48) / bounds.width, (height - 48) / bounds.height);
    const centred = zoomIdentity.translate(width / 2 - k * (bounds.left + bounds.width / 2), height / 2 - k * (bounds.top + bounds.height / 2)).scale(k);
    d3select(svg.current).call(zooming.current.transform, centred);
  };
  const latestFit = useRef(fit);
  latestFit.current = fit;
  useEffect(() => latestFit.current(), [list.length, graph]);
  useEffect(() => {
    if (!svg.current) return;
    const watch = new ResizeObserver(() => latestFit.current());
    watch.observe(svg.current);
    return () => watch.disconnect();
  }, [list.length > 0]);
  useLayoutEffect(() => {
    if (store.newest.value) {
      setRenaming(store.newest.value);
      store.newest.value = null;
    }
  }, [store.newest.value]);

  const shownPlaces = moving ? new Map(places).set(moving.id, { ...places.get(moving.id)!, x: moving.x, y: moving.y }) : places;
  const renamed = renaming === null ? undefined : list.find((entity) => entity.id === renaming);
  const spot = renamed && shownPlaces.get(renamed.id);
  return (
    <Pane
      name="subgraph"
      title="Subgraph"
      extra={
        <>
          <span class="muted pane-note">{gathering ? `grouping: ${gathering.ids.length} chosen` : list.length ? `${store.annotations.value.pins.length} pinned` : ""}</span>
          {gathering && !gathering.held ? (
            <>
              <button type="button" class="tool primary" disabled={gathering.ids.length < 2} onClick={store.finishGathering}>
                Make supernode
              </button>
              <button type="button" class="tool" onClick={() => (store.gathering.value = null)}>
                Cancel
              </button>
            </>
          ) : (
            <IconButton label="Group nodes" icon="group" keys="hold G" pressed={gathering !== null} onClick={() => (store.gathering.value = { ids: [], held: false })}>
              Group
            </IconButton>
          )}
          <IconButton label="Fit subgraph" icon="fit" onClick={fit} />
        </>
      }
    >
      {list.length === 0 || !store.annotations.value.supernodes.length ? <FirstSteps graph={graph} /> : null}
      {list.length > 0 && (
        <svg
          ref={svg}
          class="subgraph"
          role="group"
          aria-label={`Subgraph of ${list.length} cards`}
          onClick={(event) => event.target === svg.current && !gathering && store.select(null)}
        >
          <g transform={`translate(${transform.x},${transform.y}) scale(${transform.k})`}>
            <Edges edges={edges} places={shownPlaces} theme={store.theme.value} selected={store.selected.value} names={new Map(list.map((entity) => [entity.id, name(entity)]))} />
            {list.map((entity) => (
              <Card
                key={entity.id}
                graph={graph}
                entity={entity}
                name={name(entity)}
                place={shownPlaces.get(entity.id)!}
                scale={transform.k}
                onMove={setMoving}
                onRename={() => entity.group && entity.name !== null && setRenaming(entity.id)}
              />
            ))}
          </g>
        </svg>
      )}
      {spot && (
        <div class="rename" style={{ left: `${transform.x + transform.k * spot.x - 90}px`, top: `${transform.y + transform.k * spot.y - 16}px` }}>
          <Editable
            text={renamed!.name ?? ""}
            label="Name of the supernode"
            editing
            onEdit={(editing) => !editing && setRenaming(null)}
            onSave={(text) => text.trim() && text !== renamed!.name && store.edit((state) => edits.changeGroup(state, renamed!.id, { name: text.trim() }))}
          />
        </div>
      )}
    </Pane>
  );
}

function extent(places: ReadonlyMap<string, Placed>): { left: number; top: number; width: number; height: number } {
  const all = [...places.values()];
  const left = Math.min(...all.map(({ x, width }) => x - width / 2)) - 8;
  const top = Math.min(...all.map(({ y }) => y - CARD_HEIGHT / 2)) - 12;
  return { left, top, width: Math.max(...all.map(({ x, width }) => x + width / 2)) + 8 - left, height: Math.max(...all.map(({ y }) => y + CARD_HEIGHT / 2)) + 12 - top };
}

interface EdgesProps {
  edges: readonly EntityEdge[];
  places: ReadonlyMap<string, Placed>;
  theme: Theme;
  selected: string | null;
  names: ReadonlyMap<string, string>;
}

function Edges({ edges, places, theme, selected, names }: EdgesProps) {
  const drawn = edges.filter((edge) => Math.abs(edge.weight) >= LEAST).sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight));
  return (
    <g>
      {drawn.map((edge) => {
        const [from, to] = [places.get(edge.source)!, places.get(edge.target)!];
        const up = from.y > to.y;
        const [y1, y2] = up ? [from.y - CARD_HEIGHT / 2, to.y + CARD_HEIGHT / 2 + 5] : [from.y + CARD_HEIGHT / 2, to.y - CARD_HEIGHT / 2 - 5];
        const bend = Math.max(18, Math.abs(y2 - y1) / 2) * (up ? -1 : 1);
        const width = Math.max(1, WIDEST * Math.min(1, Math.abs(edge.weight)));
        const colour = linkColour(theme, edge.weight);
        const dim = selected !== null && names.has(selected) && edge.source !== selected && edge.target !== selected;
        const head = 3 + width * 0.6;
        return (
          <g key={`${edge.source} ${edge.target}`} opacity={dim ? 0.35 : 0.95}>
            <path
              d={`M${from.x},${y1}C${from.x},${y1 + bend},${to.x},${y2 - bend},${to.x},${y2}`}
              fill="none"
              stroke={colour}
              stroke-width={width}
              stroke-dasharray={edge.weight < 0 ? NEGATIVE_DASH.map((part) => part + width / 2).join(" ") : undefined}
            >
              <title>{`${names.get(edge.source)} → ${names.get(edge.target)}: ${weight(edge.weight)} of its input`}</title>
            </path>
            <path d={`M${to.x - head},${y2}L${to.x + head},${y2}L${to.x},${y2 + (up ? -5 : 5)}Z`} fill={colour} />
            {Math.abs(edge.weight) > 0.1 && (
              <text x={(from.x + to.x) / 2} y={(y1 + y2) / 2} font-size="11" font-family={FONT} text-anchor="middle" fill={theme.muted} stroke={theme.background} stroke-width="3" paint-order="stroke">
                {weight(edge.weight)}
              </text>
            )}
          </g>
        );
      })}
    </g>
  );
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

function Card({ graph, entity, name, place, scale, onMove, onRename }: CardProps) {
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
      {entity.group && (
        <text class="card-button" x={place.width - 13} y={CARD_HEIGHT / 2} aria-hidden="true" onClick={(event) => (event.stopPropagation(), toggle())}>
          {own ? "▸" : "▾"}
        </text>
      )}
    </g>
  );
}

/** How a card looks, on screen and in figures: all colours are attributes. */
function CardFace({ graph, entity, name, place, theme, selected }: { graph: Graph; entity: Entity; name: string; place: Placed; theme: Theme; selected: boolean }) {
  const own = entity.name !== null;
  const row = entity.members[0];
  const rect = { width: place.width, height: CARD_HEIGHT, rx: 7, fill: theme.node, stroke: selected ? theme.accent : theme.outline, "stroke-width": selected ? 2 : 0.9 };
  const room = place.width - (entity.group ? 46 : 34);
  return (
    <>
      {own && <rect {...rect} x={4} y={-4} opacity={0.6} />}
      {own && <rect {...rect} x={2} y={-2} opacity={0.8} />}
      <rect {...rect} stroke-dasharray={!own && entity.group ? "3 2" : undefined} />
      {own ? (
        <path d="M8 13h7v7h-7zM11 13v-3h7v7h-3" fill="none" stroke={theme.muted} stroke-width="1.2" />
      ) : (
        <text aria-hidden="true" x={13} y={CARD_HEIGHT / 2} font-size="12" font-family={FONT} text-anchor="middle" dominant-baseline="central" fill={theme.muted}>
          {GLYPHS[graph.view.nodes.kind[row]]}
        </text>
      )}
      <text x={23} y={14} font-size="13" font-family={FONT} dominant-baseline="central" fill={theme.ink} font-weight={own ? 600 : 400}>
        {clipped(name, Math.floor(room / 7.2))}
      </text>
      <text x={23} y={27} font-size="11" font-family={FONT} dominant-baseline="central" fill={theme.muted}>
        {clipped(below(graph, entity), Math.floor(room / 5.8))}
      </text>
    </>
  );
}

/** The subgraph as SVG text for a paper. */
export function subgraphSvg(graph: Graph, theme: Theme = PRINT): string | null {
  const list = store.subgraph.value;
  if (!list.length) return null;
  const annotations = store.annotations.value;
  const name = (entity: Entity): string => entityName(graph, annotations, entity);
  const edges = entityEdges(list, store.inputsOf(graph), (row) => graph.inputTotal[row]);
  const places = placeCards(graph, list, edges, (entity) => [name(entity), below(graph, entity)], annotations.layout);
  const { left, top, width, height } = extent(places);
  const holder = document.createElement("div");
  render(
    <svg xmlns="http://www.w3.org/2000/svg" width={width} height={height} viewBox={`${left} ${top} ${width} ${height}`}>
      <rect x={left} y={top} width={width} height={height} fill={theme.background} />
      <Edges edges={edges} places={places} theme={theme} selected={null} names={new Map(list.map((entity) => [entity.id, name(entity)]))} />
      {list.map((entity) => (
        <g transform={`translate(${places.get(entity.id)!.x - places.get(entity.id)!.width / 2},${places.get(entity.id)!.y - CARD_HEIGHT / 2})`}>
          <CardFace graph={graph} entity={entity} name={name(entity)} place={places.get(entity.id)!} theme={theme} selected={false} />
        </g>
      ))}
    </svg>,
    holder,
  );
  return new XMLSerializer().serializeToString(holder.firstElementChild!);
}
