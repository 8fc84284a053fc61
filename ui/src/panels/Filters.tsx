// Filters on nodes and edges, with how much they leave.
import { everything, heldByRanked } from "../filters.ts";
import { number, percent, quoted } from "../format.ts";
import type { Graph } from "../graph.ts";
import { shownLine } from "../panes/LinkGraph.tsx";
import * as store from "../store.ts";

/** Slider positions 0 to 100 as edge shares: 0, then from 0.01% to 50% in even ratios. */
export const edgeOf = (at: number): number => (at <= 0 ? 0 : 1e-4 * 5000 ** ((at - 1) / 99));
const sliderOf = (share: number): number => (share <= 0 ? 0 : 1 + (99 * Math.log(share / 1e-4)) / Math.log(5000));
const densityOf = (at: number): number => (at >= 100 ? 1 : 1e-4 * 1e4 ** (at / 100));

export function Filters({ graph }: { graph: Graph }) {
  const filters = store.filters.value;
  const last = graph.view.layers - 1;
  const end = graph.view.tokens.length - 1;
  const set = store.setFilters;
  const held = heldByRanked(graph);
  return (
    <div class="panel">
      <p class="status-text" role="status">{shownLine()}.</p>
      <Slider
        label="Nodes that hold the influence"
        shown={filters.influence >= held ? `all of this file: ${percent(held, 0)}` : `strongest ${percent(filters.influence, 0)}`}
        value={Math.min(filters.influence, held) * 100}
        max={Math.ceil(held * 200) / 2}
        onInput={(value) => set({ influence: value / 100 >= held ? 1 : value / 100 })}
      />
      <p class="hint">
        {graph.influenceKnown ? `Of the whole graph's influence; pruning left ${percent(held, 0)} in this file.` : "Of the influence in this file, which does not say how much pruning took."} Tokens, outputs and pinned nodes always stay.
      </p>
      <Slider label="Least share of an edge" shown={filters.edge ? `${number(filters.edge * 100, 2)}% of its target's input` : "all"} value={sliderOf(filters.edge)} max={100} onInput={(value) => set({ edge: edgeOf(value) })} />
      {graph.view.nodes.density && (
        <Slider
          label="Largest density"
          shown={filters.density >= 1 ? "all" : percent(filters.density, 2)}
          value={filters.density >= 1 ? 100 : (100 * Math.log(filters.density / 1e-4)) / Math.log(1e4)}
          max={100}
          onInput={(value) => set({ density: densityOf(value) })}
        />
      )}
      <fieldset>
        <legend>Sign of edges</legend>
        <div class="segments">
          {(["both", "positive", "negative"] as const).map((sign) => (
            <label>
              <input type="radio" name="sign" checked={filters.sign === sign} onChange={() => set({ sign })} />
              <span>{sign === "both" ? "both" : sign === "positive" ? "+ positive" : "− negative"}</span>
            </label>
          ))}
        </div>
      </fieldset>
      <label class="check">
        <input type="checkbox" checked={filters.errors} onChange={(event) => set({ errors: event.currentTarget.checked })} /> Error nodes
      </label>
      <fieldset>
        <legend>Layers</legend>
        <Range low={filters.layers[0]} high={Math.min(last, filters.layers[1])} max={last} name="layer" onChange={(low, high) => set({ layers: [low, high >= last ? Infinity : high] })} />
      </fieldset>
      <fieldset>
        <legend>Tokens</legend>
        <div class="range">
          {(["first", "last"] as const).map((side, place) => (
            <select
              aria-label={`${side} token`}
              value={String(Math.min(end, filters.positions[place]))}
              onChange={(event) => {
                const value = Number(event.currentTarget.value);
                set({ positions: place === 0 ? [value, filters.positions[1]] : [filters.positions[0], value >= end ? Infinity : value] });
              }}
            >
              {graph.view.tokens.map((text, position) => (
                <option value={String(position)}>
                  {position} {quoted(text)}
                </option>
              ))}
            </select>
          ))}
        </div>
      </fieldset>
      <button type="button" class="tool" onClick={() => set(everything)}>
        Show everything
      </button>
    </div>
  );
}

function Slider(props: { label: string; shown: string; value: number; max: number; onInput: (value: number) => void }) {
  return (
    <label class="slider">
      <span>
        {props.label} <span class="amount">{props.shown}</span>
      </span>
      <input type="range" min={0} max={props.max} step={0.5} value={props.value} onInput={(event) => props.onInput(Number(event.currentTarget.value))} />
    </label>
  );
}

function Range(props: { low: number; high: number; max: number; name: string; onChange: (low: number, high: number) => void }) {
  const number = (value: number): number => Math.max(0, Math.min(props.max, Math.round(value) || 0));
  return (
    <div class="range">
      <input type="number" aria-label={`lowest ${props.name}`} min={0} max={props.max} value={props.low} onChange={(event) => props.onChange(number(+event.currentTarget.value), props.high)} />
      <span>to</span>
      <input type="number" aria-label={`highest ${props.name}`} min={0} max={props.max} value={props.high} onChange={(event) => props.onChange(props.low, number(+event.currentTarget.value))} />
    </div>
  );
}
