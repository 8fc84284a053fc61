// Two graphs: features that both have, and those that only one has; pointing at one rings it in both.
import { computed, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import * as api from "../api.ts";
import { applyFilters } from "../filters.ts";
import { count, featureName, nodeLine, nodeName, percent, quoted } from "../format.ts";
import { featureKey, featurePlaces, type Graph, isResponse, strongestLogit } from "../graph.ts";
import { nothing } from "../merge.ts";
import { LinkCanvas } from "../panes/LinkCanvas.tsx";
import { sharedTint } from "../panes/LinkGraph.tsx";
import { pointed } from "../panes/why/state.ts";
import { groupCard, share } from "../panes/why/story.ts";
import * as store from "../store.ts";
import type { ExplanationsCompared, GraphEntry } from "../types.ts";
import { Glyph, IconButton } from "../widgets.tsx";

const choices = signal<GraphEntry[]>([]);
/** Where a shared feature is in the other graph, by place and by feature anywhere. */
const counterpart = computed(() => new Map(store.pair.value?.comparison.shared ?? []));

const MOST = 200;

export function Compare({ graph }: { graph: Graph }) {
  useEffect(() => {
    if (api.inlined) return;
    api.listGraphs().then(({ graphs }) => (choices.value = graphs.filter((entry) => !entry.error && entry.slug !== graph.view.slug)), () => {});
  }, [graph]);
  const now = store.pair.value;
  if (api.inlined) return <p class="panel notice">This file holds one graph; compare two in `unweave serve`.</p>;
  return (
    <div class="panel compare">
      <label class="stack">
        Compare with
        <select value={now?.other.view.slug ?? ""} onChange={(event) => void store.compareWith(event.currentTarget.value)}>
          <option value="">choose a graph</option>
          {choices.value.map((entry) => (
            <option key={entry.slug} value={entry.slug}>{optionName(entry)}</option>
          ))}
        </select>
      </label>
      {now && <Lists graph={graph} pair={now} />}
      {!now && <p class="hint">Features are matched by layer and number on aligned tokens, and anywhere in the prompt.</p>}
    </div>
  );
}

function Lists({ graph, pair: { other, comparison } }: { graph: Graph; pair: store.Pair }) {
  const influence = (of: Graph, row: number): number => (of.influenceTotal > 0 ? of.influence[row] / of.influenceTotal : 0);
  const shared = comparison.shared
    .filter(([a]) => featureKey(graph, a))
    .map(([a, b], place) => ({ a, b, delta: comparison.delta_influence?.[place] ?? other.influence[b] - graph.influence[a] }))
    .sort((x, y) => Math.max(influence(graph, y.a), influence(other, y.b)) - Math.max(influence(graph, x.a), influence(other, x.b)));
  const features = (of: Graph, rows: number[]): number[] => rows.filter((row) => featureKey(of, row)).sort((a, b) => of.influence[b] - of.influence[a]);
  const onlyA = features(graph, comparison.only_a);
  const onlyB = features(other, comparison.only_b);
  const anywhere = comparison.anywhere ?? [];
  return (
    <>
      <p class="both-answers">
        A says <b>{answerOf(graph, comparison.explanations?.answers[0])}</b>, B says <b>{answerOf(other, comparison.explanations?.answers[1])}</b>.
      </p>
      {comparison.explanations && <Groups found={comparison.explanations} />}
      <p class="status-text" role="status">
        {count(shared.length)} features shared on aligned tokens, {count(onlyA.length)} only in A, {count(onlyB.length)} only in B; {count(anywhere.length)} are in both on some token.
      </p>
      <details open>
        <summary>Shared ({count(shared.length)})</summary>
        <ul class="rows">
          {shared.slice(0, MOST).map(({ a, b, delta }) => (
            <Row key={a} of={graph} row={a} twin={a} value={`${percent(influence(graph, a))} → ${percent(influence(other, b))} ${delta < 0 ? "▾" : "▴"}`} />
          ))}
        </ul>
      </details>
      <details>
        <summary>Only in A ({count(onlyA.length)})</summary>
        <ul class="rows">
          {onlyA.slice(0, MOST).map((row) => (
            <Row key={row} of={graph} row={row} twin={row} value={percent(influence(graph, row))} />
          ))}
        </ul>
      </details>
      <details>
        <summary>Only in B ({count(onlyB.length)})</summary>
        <ul class="rows">
          {onlyB.slice(0, MOST).map((row) => (
            <Row key={row} of={other} row={row} twin={null} value={percent(influence(other, row))} />
          ))}
        </ul>
      </details>
      {anywhere.length > 0 && (
        <details>
          <summary>In both, on any token ({count(anywhere.length)})</summary>
          <ul class="rows">
            {anywhere.slice(0, MOST).map(([, , rowsA, rowsB]) => (
              <Row key={rowsA[0]} of={graph} row={rowsA[0]} twin={rowsA[0]} value={`${rowsA.map((row) => quoted(graph.view.tokens[graph.view.nodes.position[row]])).join(" ")} / ${rowsB.map((row) => quoted(other.view.tokens[other.view.nodes.position[row]])).join(" ")}`} />
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

/** Row of the other graph that is pointed at there; set by its canvas and by lists of what only it has. */
const hoveredOther = signal<number | null>(null);

/** Titles of two graphs of one prompt are the same: kind and file tell them apart. */
function optionName(entry: GraphEntry): string {
  const title = entry.title || entry.slug;
  const same = choices.value.some((one) => one !== entry && one.title === entry.title) || entry.title === store.graph.value?.view.title;
  return same ? `${title} (${entry.kind ?? "attribution"}, ${entry.slug})` : title;
}

/** What the explanation says it says; else the likeliest output and its probability. */
function answerOf(of: Graph, told?: ExplanationsCompared["answers"][number]): string {
  if (told) return `${quoted(told.token)} ${percent(told.probability, 0)} rather than ${quoted(told.rival)}`;
  const row = strongestLogit(of);
  if (row === null) return "nothing: it has no outputs";
  // the target of a response graph is a difference of outputs, which has no probability
  return isResponse(of) ? nodeName(of, nothing, row) : `${nodeName(of, nothing, row)} ${percent(of.view.nodes.activation[row], 0)}`;
}

/** Groups of both explanations, with the shares of the difference that they take in each; pointing lights a group of A. */
function Groups({ found }: { found: ExplanationsCompared }) {
  const rows = [...found.shared.map((group) => ({ group, where: "both" })), ...found.only_a.map((group) => ({ group, where: "A" })), ...found.only_b.map((group) => ({ group, where: "B" }))];
  return (
    <div class="groups-compared">
      <h3>
        Groups of the explanations <span class="muted">{count(found.shared.length)} in both</span>
      </h3>
      <table>
        <thead>
          <tr><th scope="col">group</th><th scope="col">A</th><th scope="col">B</th></tr>
        </thead>
        <tbody>
          {rows.map(({ group, where }) => (
            <tr
              key={`${group.groups[0]} ${group.groups[1]}`}
              class={where === "both" ? "" : "alone"}
              onMouseEnter={() => (pointed.value = group.groups[0] === null ? null : groupCard(group.groups[0]))}
              onMouseLeave={() => (pointed.value = null)}
            >
              <th scope="row">{group.name}{group.against && <span class="muted"> against it</span>}</th>
              {group.shares.map((value, side) => <td key={side}>{value === null ? "–" : share(value)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
      <p class="hint">What each takes of the difference between answer and rival, swapped alone. Groups are the same where half of the smaller one's parts are.</p>
    </div>
  );
}

function Row({ of, row, twin, value }: { of: Graph; row: number; twin: number | null; value: string }) {
  const point = (on: boolean): void => {
    if (twin !== null) store.hovered.value = on ? twin : null;
    else hoveredOther.value = on ? row : null;
  };
  const name = nodeName(of, of === store.graph.value ? store.annotations.value : nothing, row);
  return (
    <li>
      <button type="button" class="row" onMouseEnter={() => point(true)} onMouseLeave={() => point(false)} onFocus={() => point(true)} onClick={(event) => twin !== null && store.clickNode(of.view.nodes.id[row], event)}>
        <Glyph kind={of.view.nodes.kind[row]} />
        <span class="name">{name}</span>
        {featureKey(of, row) && name !== featureName(of, row) && <span class="where">{featureName(of, row)}</span>}
        <span class="where">on {quoted(of.view.tokens[of.view.nodes.position[row]])}</span>
        <span class="value">{value}</span>
      </button>
    </li>
  );
}

/** The other graph beside the first: its own canvas, with hover linked both ways. */
export function OtherGraph({ graph, pair: { other, comparison } }: { graph: Graph; pair: store.Pair }) {
  const theme = store.theme.value;
  const shown = applyFilters(other, { ...store.filters.value, layers: [0, Infinity], positions: [0, Infinity] }, new Set());
  const places = featurePlaces(other);
  const hovered = store.hovered.value;
  const twin = hovered === null ? undefined : counterpart.value.get(hovered);
  const key = hovered === null ? null : featureKey(graph, hovered);
  const echoes = key ? [...(places.get(key) ?? rowsOf(other, key))] : [];
  const sharedB = new Map(comparison.shared.map(([a, b]) => [b, a]));
  const scene = {
    selected: new Set<number>(), linked: null, faint: [], strong: [], pinned: new Set<number>(),
    marked: new Map<number, string>(), tinted: sharedTint(other, comparison.shared.map(([, b]) => b), theme),
    logitNames: (row: number) => nodeName(other, nothing, row),
  }; // prettier-ignore
  return (
    <div class="other-graph">
      <div class="other-head">
        <strong>B</strong> <span>{other.view.title}</span>
        <span class="muted">filled: in both</span>
        <IconButton label="Close the comparison" icon="close" onClick={() => void store.compareWith("")} />
      </div>
      <LinkCanvas
        graph={other}
        mask={shown.mask}
        theme={theme}
        scene={scene}
        hovered={hoveredOther.value ?? twin ?? null}
        echoes={echoes}
        label={`Link graph of the other prompt, ${other.view.title}`}
        describe={(row) => nodeLine(other, nothing, row)}
        tooltip={(row) => (
          <>
            <strong>{nodeName(other, nothing, row)}</strong>
            <span>{nodeLine(other, nothing, row).split(", ").at(-1)}</span>
            <span>{sharedB.has(row) ? "in both graphs" : "only in B"}</span>
          </>
        )}
        onHover={(row) => {
          hoveredOther.value = row;
          store.hovered.value = row === null ? null : (sharedB.get(row) ?? rowsOf(graph, featureKey(other, row))[0] ?? null);
        }}
        onClick={(row, event) => {
          const mine = row === null ? undefined : sharedB.get(row);
          if (mine !== undefined) store.clickNode(graph.view.nodes.id[mine], event);
        }}
      />
    </div>
  );
}

function rowsOf(graph: Graph, key: string | null): number[] {
  return key === null ? [] : [...Array(graph.size).keys()].filter((row) => featureKey(graph, row) === key);
}
