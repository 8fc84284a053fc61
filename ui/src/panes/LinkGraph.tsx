// The link-graph pane: what is drawn for the present selection, filters and pins, and the keyboard walk.
import { useMemo, useRef } from "preact/hooks";
import type { Theme } from "../colour.ts";
import { type Link, strongestFlows } from "../draw.ts";
import { edgePasses } from "../filters.ts";
import { count, nodeLine, nodeName, percent, quoted } from "../format.ts";
import { edgesAt, featureKey, featurePlaces, type Graph, strongestLogit } from "../graph.ts";
import type { LinkLayout } from "../layout.ts";
import { connections } from "../links.ts";
import * as store from "../store.ts";
import { along, instead, sideways, type Step, type Walk } from "../walk.ts";
import { IconButton, Pane } from "../widgets.tsx";
import { litRows } from "./why/state.ts";
import { LinkCanvas, type LinkHandle } from "./LinkCanvas.tsx";

/** Links drawn faintly behind everything, and links drawn for what is selected, at most. */
const FAINT = 700;
const STRONG = 500;

export const mainLinkGraph: { current: LinkHandle | null } = { current: null };

/** What the link graph shows of the present state; the same for screen and figures. */
export function useScene(graph: Graph) {
  const flows = useMemo(() => strongestFlows(graph, 6000), [graph]);
  const shown = store.shown.value!;
  const filters = store.filters.value;
  const rows = store.selectedRows.value;
  const pinned = store.pinnedRows.value;
  const annotations = store.annotations.value;
  const kind = store.linkType.value;
  const gathered = store.gathering.value;
  const theme = store.theme.value;
  const comparing = store.pair.value;
  const lit = litRows.value;
  return useMemo(() => {
    const { mask } = shown;
    const faint: Link[] = [];
    for (const e of flows) {
      if (faint.length >= FAINT) break;
      const [source, target] = [graph.source[e], graph.target[e]];
      if (mask[source] && mask[target] && edgePasses(filters, graph.weight[e], graph.share[e])) faint.push({ source, target, share: Math.sign(graph.weight[e]) * graph.share[e] });
    }
    const strong: Link[] = [];
    const linked = rows.length ? new Map<number, number>() : null;
    const edges = (row: number, direction: "in" | "out") => store.edgesOf(graph, row, direction);
    if (linked) {
      for (const direction of ["in", "out"] as const) {
        for (const { row, share, weight } of connections(rows, direction, edges).list) {
          if (mask[row] && edgePasses(filters, weight, Math.abs(share))) linked.set(row, share);
        }
        for (const row of rows) {
          for (const [other, weight, share] of edges(row, direction).edges) {
            if (!mask[other] || !edgePasses(filters, weight, share) || strong.length >= 4 * STRONG) continue;
            const value = Math.sign(weight) * share;
            strong.push(direction === "in" ? { source: other, target: row, share: value } : { source: row, target: other, share: value });
          }
        }
      }
    } else if (pinned.size) {
      for (const row of pinned) {
        for (const [source, weight, share] of edgesAt(graph, row, "in")) {
          const wanted = kind === "input" || kind === "either" || pinned.has(source);
          if (wanted && mask[source] && edgePasses(filters, weight, share)) strong.push({ source, target: row, share: Math.sign(weight) * share });
        }
        if (kind !== "output" && kind !== "either") continue;
        for (const [target, weight, share] of edgesAt(graph, row, "out")) {
          if (!pinned.has(target) && mask[target] && edgePasses(filters, weight, share)) strong.push({ source: row, target, share: Math.sign(weight) * share });
        }
      }
    }
    strong.sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).splice(STRONG);
    strong.reverse(); // the strongest are drawn last, on top
    const marked = new Map([...[...lit].map((row) => [row, theme.accent] as const), ...(gathered?.ids ?? []).flatMap((id) => (graph.row.has(id) ? [[graph.row.get(id)!, theme.accent] as const] : []))]);
    const tinted = comparing ? sharedTint(graph, comparing.comparison.shared.map(([a]) => a), theme) : undefined;
    return { selected: new Set(rows), linked, pinned, marked, tinted, faint, strong, logitNames: (row: number) => nodeName(graph, annotations, row) };
  }, [graph, shown, filters, rows, pinned, annotations, kind, gathered, theme, flows, comparing, lit]);
}

/** Features of a graph that the other has too, coloured. */
export function sharedTint(graph: Graph, rows: readonly number[], theme: Theme): Map<number, string> {
  return new Map(rows.filter((row) => featureKey(graph, row)).map((row) => [row, theme.shared]));
}

export function shownLine(): string {
  const shown = store.shown.value;
  if (!shown) return "";
  const known = store.graph.value!.influenceKnown;
  return `${count(shown.nodes)} of ${count(shown.ofNodes)} nodes, ${count(shown.edges)} of ${count(shown.ofEdges)} edges, ${store.graph.value!.influenceTotal > 0 ? `${percent(shown.influence)} of ${known ? "" : "this file's "}influence shown` : "no influence is known"}`;
}

export function LinkGraph({ graph }: { graph: Graph }) {
  const scene = useScene(graph);
  const handle = useRef<LinkHandle>(null);
  const walk = useRef<Walk | null>(null);
  const shown = store.shown.value!;
  const hovered = store.hovered.value;
  const hoveredKey = store.hoveredKey.value;
  const annotations = store.annotations.value;
  const places = useMemo(() => featurePlaces(graph), [graph]);
  const echoes = (hoveredKey && places.get(hoveredKey)) || NONE;
  mainLinkGraph.current = handle.current;

  const onKey = (event: KeyboardEvent, layout: LinkLayout): void => {
    const step = stepFor(event, graph, layout, walk.current, shown.mask);
    if (step) {
      event.preventDefault();
      walk.current = step.walk;
      store.select(graph.view.nodes.id[step.row]);
      handle.current?.reveal(step.row);
    } else if (event.key === "Enter" && store.selected.value) {
      event.preventDefault();
      if (store.gathering.value) store.gather(store.selected.value);
      else store.togglePin(store.selected.value);
    }
  };

  const { filters } = store;
  // links that were not sent are no doing of the reader's: only filters are pointed out
  const filtered = shown.nodes < shown.ofNodes || shown.edges < graph.weight.length;
  return (
    <Pane
      name="link"
      title="Link graph"
      extra={
        <>
          <button type="button" class={`status ${filtered ? "filtered" : ""}`} title={`${shownLine()}. Click for filters.`} onClick={() => (store.drawer.value = store.drawer.value === "filters" ? null : "filters")}>
            {shownLine()}
          </button>
          <select aria-label="Which links of pinned nodes are drawn" value={store.linkType.value} onChange={(event) => (store.linkType.value = event.currentTarget.value as "both")}>
            <option value="both">between pins</option>
            <option value="input">into pins</option>
            <option value="output">out of pins</option>
            <option value="either">all of pins</option>
          </select>
          <IconButton label="Zoom in" icon="plus" onClick={() => handle.current?.zoomBy(1.5)} />
          <IconButton label="Zoom out" icon="minus" onClick={() => handle.current?.zoomBy(1 / 1.5)} />
          <IconButton label="Whole graph" icon="fit" onClick={() => handle.current?.reset()} />
        </>
      }
    >
      {graph.view.warnings?.map((text) => (
        <p class="warning" role="note" key={text}>
          Take care: {text}.
        </p>
      ))}
      <LinkCanvas
        graph={graph}
        mask={shown.mask}
        theme={store.theme.value}
        scene={scene}
        hovered={hovered}
        echoes={echoes}
        handle={handle}
        label={`Link graph by token and layer. ${shownLine()}. Arrow keys walk along the strongest edges; Enter pins.`}
        describe={(row) => nodeLine(graph, annotations, row)}
        tooltip={(row, detailed) => <Tooltip graph={graph} row={row} detailed={detailed} />}
        onHover={(row) => {
          if (store.hovered.value !== row) store.hovered.value = row;
        }}
        onClick={(row, event) => {
          walk.current = null;
          if (row !== null) store.clickNode(graph.view.nodes.id[row], event);
          else if (!store.gathering.value && !event.ctrlKey && !event.metaKey) store.select(null);
        }}
        onKey={onKey}
      />
      {filters.value.edge > 0 && <p class="corner-note">links under {percent(filters.value.edge, 2)} of their target's input are hidden</p>}
    </Pane>
  );
}

const NONE: number[] = [];

function stepFor(event: KeyboardEvent, graph: Graph, layout: LinkLayout, walk: Walk | null, mask: Uint8Array): Step | null {
  if (event.ctrlKey || event.metaKey || event.altKey || !event.key.startsWith("Arrow")) return null;
  const here = store.selectedRows.value[0];
  if (here === undefined) return { row: strongestLogit(graph) ?? 0, walk: null };
  switch (event.key) {
    case "ArrowDown":
      return along(graph, here, "in", mask);
    case "ArrowUp":
      return along(graph, here, "out", mask);
    default: {
      const by = event.key === "ArrowRight" ? 1 : -1;
      return (walk && !event.shiftKey && instead(graph, walk, by, mask)) || sideways(graph, layout, here, by, mask);
    }
  }
}

function Tooltip({ graph, row, detailed }: { graph: Graph; row: number; detailed: boolean }) {
  const { nodes, tokens } = graph.view;
  const share = graph.influenceTotal > 0 ? graph.influence[row] / graph.influenceTotal : null;
  if (!detailed) {
    return (
      <>
        <strong>{nodeName(graph, store.annotations.value, row)}</strong>
        <span>{nodeLine(graph, store.annotations.value, row).split(", ").at(-1)}</span>
        {share !== null && share > 0 && <span>{percent(share, 2)} of the influence</span>}
      </>
    );
  }
  const facts: [string, unknown][] = [
    ["id", nodes.id[row]], ["layer", nodes.layer[row]], ["position", `${nodes.position[row]} ${quoted(tokens[nodes.position[row]])}`], ["index", nodes.index[row]],
    ["activation", nodes.activation[row]], ["influence", nodes.influence[row]], ["rank", nodes.rank[row]], ["all absolute input", graph.inputTotal[row]],
  ]; // prettier-ignore
  return (
    <dl>
      {facts.map(([name, value]) => (
        <>
          <dt>{name}</dt>
          <dd>{typeof value === "number" ? Number(value.toPrecision(5)) : String(value ?? "–")}</dd>
        </>
      ))}
    </dl>
  );
}
