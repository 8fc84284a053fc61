// The frame: top bar, four panes that resize, a drawer, dialogs.
import { signal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { inlined } from "./api.ts";
import { cycleTheme, toggleDrawer } from "./commands.ts";
import { token } from "./format.ts";
import type { Graph } from "./graph.ts";
import { Attention } from "./panels/Attention.tsx";
import { Compare, OtherGraph } from "./panels/Compare.tsx";
import { Export } from "./panels/Export.tsx";
import { Filters } from "./panels/Filters.tsx";
import { Help } from "./panels/Help.tsx";
import { Notes } from "./panels/Notes.tsx";
import { Palette } from "./panels/Palette.tsx";
import { Steer } from "./panels/Steer.tsx";
import { Study } from "./panels/Study.tsx";
import { Trace } from "./panels/Trace.tsx";
import { Trust, trustSummary } from "./panels/Trust.tsx";
import { Views } from "./panels/Views.tsx";
import { Connections } from "./panes/Connections.tsx";
import { Feature } from "./panes/Feature.tsx";
import { LinkGraph } from "./panes/LinkGraph.tsx";
import { Subgraph } from "./panes/Subgraph.tsx";
import { SaveState } from "./SaveState.tsx";
import { KindOfGraph } from "./panes/why/Sibling.tsx";
import * as why from "./panes/why/state.ts";
import { Why, WhyStrip } from "./panes/why/Why.tsx";
import { Jobs } from "./Jobs.tsx";
import { Start } from "./Start.tsx";
import * as store from "./store.ts";
import { CTRL, IconButton, maximised } from "./widgets.tsx";

const DRAWERS = { study: Study, attention: Attention, filters: Filters, steer: Steer, trust: Trust, notes: Notes, views: Views, compare: Compare, export: Export };
const TITLES = { study: "Study", attention: "Why heads looked there", filters: "Filters", steer: "Steer", trust: "How far to trust this", notes: "Notes", views: "Saved subgraphs", compare: "Compare", export: "Export" };

/** Milliseconds between looks at what runs on the server, beside a graph. */
const ELSEWHERE = 4000;

export function goTo(slug: string): void {
  location.hash = `#${encodeURIComponent(slug)}`;
}

export function App() {
  const graph = store.graph.value;
  const { overlay, message } = store;
  return (
    <>
      {store.loading.value !== null ? <p class="loading" aria-busy="true" role="status">{store.loading.value}</p> : graph ? <Explorer graph={graph} /> : <Start onOpen={goTo} />}
      {overlay.value === "palette" && <Palette />}
      {overlay.value === "help" && <Help />}
      {overlay.value === "trace" && <Trace onOpen={goTo} prompt={graph?.view.prompt ?? ""} />}
      <div class="messages" role="status" aria-live="polite">
        {message.value && <p class={message.value.error ? "message error" : "message"}>{message.value.text}</p>}
      </div>
    </>
  );
}

function Explorer({ graph }: { graph: Graph }) {
  const name = store.drawer.value;
  const Drawer = name && DRAWERS[name];
  return (
    <div class={`explorer ${store.gathering.value ? "gathering" : ""}`}>
      <TopBar graph={graph} />
      {!inlined && why.job.value === null && store.overlay.value !== "trace" && <Jobs onEnd={why.refresh} every={ELSEWHERE} />}
      <div class="body">
        {why.screen.value === "why" ? (
          <main class="explorer-main">
            <Why graph={graph} />
          </main>
        ) : (
          <div class="explorer-main">
            <WhyStrip graph={graph} />
            <Panes graph={graph} />
          </div>
        )}
        {Drawer && (
          <aside class="drawer" aria-label={TITLES[name]}>
            <header>
              <h2>{TITLES[name]}</h2>
              <IconButton label="Close" icon="close" onClick={() => (store.drawer.value = null)} />
            </header>
            <div class="scroll" tabIndex={0} role="group" aria-label={TITLES[name]}>
              <Drawer graph={graph} />
            </div>
          </aside>
        )}
      </div>
    </div>
  );
}

function TopBar({ graph }: { graph: Graph }) {
  const { view } = graph;
  const drawer = store.drawer.value;
  const choice = store.themeChoice.value;
  const panel = (name: NonNullable<typeof drawer>, icon: string, label: string, keys?: string) => (
    <IconButton label={label} icon={icon} keys={keys} pressed={drawer === name} onClick={() => toggleDrawer(name)}>
      <span class="tool-text">{label}</span>
    </IconButton>
  );
  return (
    <header class="top-bar">
      {!inlined && <IconButton label="All graphs" icon="back" onClick={() => (location.hash = "")} />}
      <h1 title={view.prompt ?? view.title}>
        {view.tokens.slice(0, 60).map((text, place) => (
          <span class={/^<.*>$/.test(text) ? "token special" : "token"} key={place}>
            {token(text).replace(/^·/, "\u2009")}
          </span>
        ))}
      </h1>
      <KindOfGraph graph={graph} />
      <span class="model muted">{view.model}</span>
      <span class="spacer" />
      <SaveState />
      <IconButton label="Undo" icon="undo" keys={`${CTRL}+Z`} disabled={!store.canUndo.value} onClick={store.undo} />
      <IconButton label="Redo" icon="redo" keys={`${CTRL}+Shift+Z`} disabled={!store.canRedo.value} onClick={store.redo} />
      <IconButton label="Search" icon="search" keys="/" onClick={() => (store.overlay.value = "palette")} />
      {view.has_study && !inlined && panel("study", "notes", "Study")}
      {panel("filters", "filter", "Filters", "F")}
      {(!inlined || store.annotations.value.history.length > 0) && panel("steer", "steer", "Steer", "S")}
      <IconButton label="Trust" icon="shield" pressed={drawer === "trust"} onClick={() => toggleDrawer("trust")}>
        Trust <span class="muted">{trustSummary(graph)}</span>
      </IconButton>
      {!inlined && panel("compare", "compare", "Compare")}
      {panel("notes", "notes", "Notes")}
      {panel("export", "export", "Export")}
      <IconButton label={`Theme: ${choice}`} icon={choice} onClick={cycleTheme} />
      <IconButton label="Help" icon="help" keys="?" onClick={() => (store.overlay.value = "help")} />
    </header>
  );
}

/** Shares of the panes: width of the left column above and below, height of the upper row. */
const split = signal(store.stored("split", { top: 0.62, bottom: 0.6, upper: 0.58 }));

function Panes({ graph }: { graph: Graph }) {
  const frame = useRef<HTMLDivElement>(null);
  const comparing = store.pair.value;
  const { top, bottom, upper } = split.value;
  const full = maximised.value;
  const one = (row: "upper" | "lower"): string => (full === null ? "" : (row === "upper") === (full === "link" || (full === "connections" && !comparing)) ? "only" : "gone");
  return (
    <main class="panes" ref={frame}>
      <div class={`pane-row ${one("upper")}`} style={{ flexGrow: String(full ? 1 : upper) }}>
        <div class={`cell ${full === "connections" ? "gone" : ""}`} style={{ flexGrow: String(top) }}>
          <LinkGraph graph={graph} />
        </div>
        <Splitter frame={frame} part="top" label="Width of the link graph" />
        <div class={`cell ${full === "link" ? "gone" : ""}`} style={{ flexGrow: String(1 - top) }}>
          {comparing ? <OtherGraph graph={graph} pair={comparing} /> : <Connections graph={graph} />}
        </div>
      </div>
      <Splitter frame={frame} part="upper" label="Height of the upper panes" />
      <div class={`pane-row ${one("lower")}`} style={{ flexGrow: String(full ? 1 : 1 - upper) }}>
        {comparing && (
          <div class={`cell beside ${full && full !== "connections" ? "gone" : ""}`}>
            <Connections graph={graph} />
          </div>
        )}
        <div class={`cell ${full === "feature" || (comparing && full === "connections") ? "gone" : ""}`} style={{ flexGrow: String(bottom) }}>
          <Subgraph graph={graph} />
        </div>
        <Splitter frame={frame} part="bottom" label="Width of the subgraph" />
        <div class={`cell ${full === "subgraph" || (comparing && full === "connections") ? "gone" : ""}`} style={{ flexGrow: String(1 - bottom) }}>
          <Feature graph={graph} />
        </div>
      </div>
    </main>
  );
}

function Splitter({ frame, part, label }: { frame: { current: HTMLElement | null }; part: "top" | "bottom" | "upper"; label: string }) {
  const across = part === "upper";
  const set = (share: number): void => {
    split.value = { ...split.value, [part]: Math.max(0.15, Math.min(0.85, share)) };
    store.keep("split", split.value);
  };
  return (
    <div
      class={`splitter ${across ? "across" : "along"}`}
      role="separator"
      tabIndex={0}
      aria-label={label}
      aria-orientation={across ? "horizontal" : "vertical"}
      aria-valuenow={Math.round(split.value[part] * 100)}
      aria-valuemin={15}
      aria-valuemax={85}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        event.preventDefault();
      }}
      onPointerMove={(event) => {
        if (!event.currentTarget.hasPointerCapture(event.pointerId)) return;
        const bounds = frame.current!.getBoundingClientRect();
        set(across ? (event.clientY - bounds.top) / bounds.height : (event.clientX - bounds.left) / bounds.width);
      }}
      onKeyDown={(event) => {
        const by = { ArrowLeft: -0.03, ArrowUp: -0.03, ArrowRight: 0.03, ArrowDown: 0.03 }[event.key];
        if (by) {
          event.preventDefault();
          set(split.value[part] + by);
        }
      }}
    />
  );
}
