// The subgraph pane: pinned nodes and supernodes as cards, with the strength of the links between them.
import { select as d3select } from "d3-selection";
import { zoom as d3zoom, zoomIdentity, type D3ZoomEvent, type ZoomBehavior } from "d3-zoom";
import { render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Entity, entityEdges } from "../aggregate.ts";
import { PRINT, type Theme } from "../colour.ts";
import { IDENTITY } from "../draw.ts";
import * as edits from "../edits.ts";
import { nodeName } from "../format.ts";
import type { Graph } from "../graph.ts";
import * as store from "../store.ts";
import { CARD_HEIGHT, type Placed, placeCards, ROW } from "../subgraph-layout.ts";
import type { Annotations } from "../types.ts";
import { Editable, IconButton, Pane } from "../widgets.tsx";
import { below, Card, CardFace } from "./Card.tsx";
import { CardEdges } from "./CardEdges.tsx";
import { FirstSteps } from "./FirstSteps.tsx";

/** Least and largest scale at which all cards are fitted in; below it texts would be hard to read. */
const [SMALLEST, LARGEST] = [1, 1.4];
const MARGIN = 20;

function entityName(graph: Graph, annotations: Annotations, entity: Entity): string {
  return entity.name ?? nodeName(graph, annotations, entity.members[0]);
}

/** The same list until one of its members is another. */
function useSame<T>(list: readonly T[]): readonly T[] {
  const last = useRef(list);
  if (last.current.length !== list.length || last.current.some((item, place) => item !== list[place])) last.current = list;
  return last.current;
}

function useSubgraph(graph: Graph, room: number, most: number) {
  const list = store.subgraph.value;
  const annotations = store.annotations.value;
  const inputs = store.inputsOf(graph);
  // reading the lists here makes the pane follow the server's answers
  const pages = useSame(list.flatMap((entity) => entity.members.map((row) => inputs(row))));
  const edges = useMemo(() => entityEdges(list, inputs, (row) => graph.inputTotal[row]), [graph, list, pages]);
  const name = (entity: Entity): string => entityName(graph, annotations, entity);
  const names = list.map(name).join("\n");
  const places = useMemo(() => placeCards(graph, list, edges, (entity) => [name(entity), below(graph, entity)], annotations.layout, room, most), [graph, edges, names, annotations.layout, room, most]);
  return { list, edges, places, name };
}

/** Width for cards in a pane, in steps, so that a small change of the pane moves nothing. */
const roomIn = (width: number): number => Math.max(420, Math.floor((width - 2 * MARGIN) / 80) * 80);

export function Subgraph({ graph }: { graph: Graph }) {
  const [room, setRoom] = useState(720);
  const [most, setMost] = useState(4);
  const { list, edges, places, name } = useSubgraph(graph, room, most);
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
    if (!width || !height) return;
    const k = Math.max(SMALLEST, Math.min(LARGEST, (width - 2 * MARGIN) / bounds.width, (height - 2 * MARGIN) / bounds.height));
    // what does not fit is reached by dragging; the outputs, above at the right, are seen in any case
    const x = k * bounds.width <= width ? width / 2 - k * (bounds.left + bounds.width / 2) : width - MARGIN - k * (bounds.left + bounds.width);
    const y = k * bounds.height <= height ? height / 2 - k * (bounds.top + bounds.height / 2) : MARGIN - k * bounds.top;
    const centred = zoomIdentity.translate(x, y).scale(k);
    d3select(svg.current).call(zooming.current.transform, centred);
  };
  const latestFit = useRef(fit);
  latestFit.current = fit;
  useEffect(() => latestFit.current(), [list.length, graph, room, most]);
  useEffect(() => {
    if (!svg.current) return;
    const watch = new ResizeObserver(([entry]) => {
      if (entry.contentRect.width) {
        setRoom(roomIn(entry.contentRect.width));
        setMost(Math.max(3, Math.floor((entry.contentRect.height - MARGIN) / ROW)));
      }
      latestFit.current();
    });
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
          <IconButton label="Saved subgraphs" icon="notes" onClick={() => (store.drawer.value = "views")} />
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
            <CardEdges edges={edges} places={shownPlaces} theme={store.theme.value} selected={store.selected.value} names={new Map(list.map((entity) => [entity.id, name(entity)]))} />
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
      <CardEdges edges={edges} places={places} theme={theme} selected={null} names={new Map(list.map((entity) => [entity.id, name(entity)]))} />
      {list.map((entity) => (
        <g key={entity.id} transform={`translate(${places.get(entity.id)!.x - places.get(entity.id)!.width / 2},${places.get(entity.id)!.y - CARD_HEIGHT / 2})`}>
          <CardFace graph={graph} entity={entity} name={name(entity)} place={places.get(entity.id)!} theme={theme} selected={false} />
        </g>
      ))}
    </svg>,
    holder,
  );
  return new XMLSerializer().serializeToString(holder.firstElementChild!);
}
