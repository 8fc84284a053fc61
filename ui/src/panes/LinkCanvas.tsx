// The link graph on canvas: pan, zoom, nearest-node pointing, keyboard. What is selected and what a click means come from outside.
import { Delaunay } from "d3-delaunay";
import { select as d3select } from "d3-selection";
import { zoom as d3zoom, zoomIdentity, type D3ZoomEvent, type ZoomBehavior } from "d3-zoom";
import type { Ref } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Theme } from "../colour.ts";
import { drawLinkGraph, IDENTITY, nodeRadius, roomForOutputs, type Scene, toScreen, type Transform } from "../draw.ts";
import type { Graph } from "../graph.ts";
import { type Box, linkLayout, type LinkLayout } from "../layout.ts";
import { canvasPen } from "../pen.ts";

/** Farthest from a node, in pixels, that the pointer still means it. */
const REACH = 30;
const MARGIN = { left: 38, right: 14, bottom: 70 };

export interface Pointing {
  ctrlKey: boolean;
  metaKey: boolean;
  shiftKey: boolean;
}

export interface LinkCanvasProps {
  graph: Graph;
  mask: Uint8Array;
  theme: Theme;
  /** All that the drawing needs beyond geometry. */
  scene: Pick<Scene, "selected" | "linked" | "pinned" | "marked" | "tinted" | "faint" | "strong" | "logitNames">;
  hovered: number | null;
  /** Rows ringed with a dashed line: the same feature elsewhere. */
  echoes: readonly number[];
  label: string;
  describe: (row: number) => string;
  tooltip: (row: number, detailed: boolean) => preact.ComponentChildren;
  onHover: (row: number | null) => void;
  onClick: (row: number | null, event: Pointing) => void;
  onKey?: (event: KeyboardEvent, layout: LinkLayout) => void;
  handle?: Ref<LinkHandle>;
}

export interface LinkHandle {
  scene: () => Scene;
  zoomBy: (factor: number) => void;
  reset: () => void;
  reveal: (row: number) => void;
}

declare global {
  interface HTMLElement {
    /** Where a node is drawn, in client pixels; for tests and scripts. */
    nodeAt?: (id: string) => [number, number] | null;
  }
}

export function LinkCanvas(props: LinkCanvasProps) {
  const { graph, mask, theme } = props;
  const wrapper = useRef<HTMLDivElement>(null);
  const base = useRef<HTMLCanvasElement>(null);
  const over = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState<[number, number]>([0, 0]);
  const [detailed, setDetailed] = useState(false);
  const transform = useRef<Transform>(IDENTITY);
  const zooming = useRef<ZoomBehavior<HTMLDivElement, unknown> | null>(null);

  const { logitNames } = props.scene;
  const top = useMemo(() => Math.min(roomForOutputs(graph, logitNames), Math.max(40, size[1] / 3)), [graph, logitNames, size[1]]);
  const box: Box = useMemo(() => ({ width: size[0], height: size[1], top, ...MARGIN }), [size[0], size[1], top]);
  const layout = useMemo(() => linkLayout(graph, box, (row) => mask[row] === 1), [graph, box, mask]);
  const finder = useMemo(() => {
    const rows = Uint32Array.from([...mask.keys()].filter((row) => mask[row]));
    return { rows, points: rows.length ? Delaunay.from(rows, (row: number) => layout.x[row], (row: number) => layout.y[row]) : null };
  }, [layout]);
  const scene = (): Scene => ({ ...latest.current.scene, graph, layout, box, transform: transform.current, theme, mask });
  const latest = useRef(props);
  latest.current = props;

  const frame = useRef(0);
  const draw = (): void => {
    cancelAnimationFrame(frame.current);
    frame.current = requestAnimationFrame(() => {
      if (!base.current || !box.width) return;
      drawLinkGraph(canvasPen(prepared(base.current, box)), scene());
      drawOver();
    });
  };
  const drawOver = (): void => {
    if (!over.current || !box.width) return;
    const context = prepared(over.current, box);
    const pen = canvasPen(context);
    const now = scene();
    const { hovered, echoes } = latest.current;
    const radius = nodeRadius(now);
    for (const row of echoes) if (mask[row]) pen.ring(...toScreen(now, row), radius + 4, { colour: theme.accent, width: 1.5, dash: [3, 2] });
    if (hovered !== null && mask[hovered]) pen.ring(...toScreen(now, hovered), radius + 4, { colour: theme.accent, width: 2 });
  };
  const redraw = useRef(draw);
  redraw.current = draw;

  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setSize([Math.round(entry.contentRect.width), Math.round(entry.contentRect.height)]));
    watch.observe(wrapper.current!);
    return () => watch.disconnect();
  }, []);
  useEffect(draw, [layout, theme, props.scene]);
  useEffect(drawOver, [props.hovered, props.echoes]);

  useEffect(() => {
    const behaviour = d3zoom<HTMLDivElement, unknown>()
      .filter((event: MouseEvent) => event.type === "wheel" || (!event.ctrlKey && !event.metaKey && event.button === 0))
      .clickDistance(4)
      .on("zoom", (event: D3ZoomEvent<HTMLDivElement, unknown>) => {
        transform.current = event.transform;
        redraw.current();
      });
    zooming.current = behaviour;
    d3select(wrapper.current!).call(behaviour).on("dblclick.zoom", null);
  }, []);
  useEffect(() => {
    zooming.current?.scaleExtent([1, 16]).extent([[0, 0], size]).translateExtent([[0, 0], size]);
  }, [size[0], size[1]]);

  const near = (event: MouseEvent): number | null => {
    const bounds = wrapper.current!.getBoundingClientRect();
    const { k, x, y } = transform.current;
    const [px, py] = [(event.clientX - bounds.left - x) / k, (event.clientY - bounds.top - y) / k];
    if (!finder.points) return null;
    const row = finder.rows[finder.points.find(px, py)];
    return Math.hypot(layout.x[row] - px, layout.y[row] - py) * k <= REACH ? row : null;
  };
  const change = (how: (behaviour: ZoomBehavior<HTMLDivElement, unknown>) => void): void => {
    if (zooming.current) how(zooming.current);
  };
  const handle: LinkHandle = {
    scene,
    zoomBy: (factor) => change((behaviour) => behaviour.scaleBy(d3select(wrapper.current!), factor)),
    reset: () => change((behaviour) => behaviour.transform(d3select(wrapper.current!), zoomIdentity)),
    reveal: (row) => {
      const [x, y] = toScreen(scene(), row);
      if (x < MARGIN.left || y < 0 || x > box.width || y > box.height - MARGIN.bottom) change((behaviour) => behaviour.translateTo(d3select(wrapper.current!), layout.x[row], layout.y[row]));
    },
  };
  if (props.handle && typeof props.handle === "object") props.handle.current = handle;
  useEffect(() => {
    wrapper.current!.nodeAt = (id) => {
      const row = graph.row.get(id);
      if (row === undefined || !mask[row]) return null;
      const bounds = wrapper.current!.getBoundingClientRect();
      const [x, y] = toScreen(scene(), row);
      return [bounds.left + x, bounds.top + y];
    };
  });

  const { hovered } = props;
  const spot = hovered !== null && mask[hovered] && size[0] ? toScreen(scene(), hovered) : null;
  return (
    <div
      class="link-canvas"
      ref={wrapper}
      tabIndex={0}
      role="application"
      aria-roledescription="link graph"
      aria-label={props.label}
      onMouseMove={(event) => {
        setDetailed(event.ctrlKey || event.metaKey);
        if (!event.shiftKey && !event.buttons) props.onHover(near(event));
      }}
      onMouseLeave={(event) => !event.shiftKey && props.onHover(null)}
      onClick={(event) => props.onClick(near(event), event)}
      onDblClick={() => handle.reset()}
      onKeyDown={(event) => props.onKey?.(event, layout)}
    >
      <canvas ref={base} aria-hidden="true" />
      <canvas ref={over} aria-hidden="true" />
      {spot && (
        <div
          class="tooltip"
          role="tooltip"
          style={{
            left: spot[0] < size[0] / 2 ? `${spot[0] + 12}px` : "auto",
            right: spot[0] < size[0] / 2 ? "auto" : `${size[0] - spot[0] + 12}px`,
            top: spot[1] < size[1] / 2 ? `${spot[1] + 10}px` : "auto",
            bottom: spot[1] < size[1] / 2 ? "auto" : `${size[1] - spot[1] + 10}px`,
          }}
        >
          {props.tooltip(hovered!, detailed)}
        </div>
      )}
    </div>
  );
}

/** The canvas at the screen's resolution, cleared, with a context in CSS pixels. */
function prepared(canvas: HTMLCanvasElement, box: Box): CanvasRenderingContext2D {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  const context = canvas.getContext("2d")!;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.style.width = `${box.width}px`;
    canvas.style.height = `${box.height}px`;
  }
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  return context;
}
