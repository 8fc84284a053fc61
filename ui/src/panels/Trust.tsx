// How far the picture can be trusted: scores, exactness, validation, where it came from.
import { count, number, percent } from "../format.ts";
import { type Graph, isResponse } from "../graph.ts";
import { Kind, type Validation } from "../types.ts";
import { ResponseTrust } from "./ResponseTrust.tsx";

const SCORES = [
  ["replacement", "Replacement", "share of the influence that starts in tokens, not in errors"],
  ["completeness", "Completeness", "share of all input that is features and tokens, weighted by influence"],
] as const;

export function Trust({ graph }: { graph: Graph }) {
  const { scores, residual, logits_error: logitsError, provenance, validation } = graph.view;
  const value = (name: string): number | null => ((scores as Record<string, number | null> | null)?.[name] ?? null);
  return (
    <div class="panel">
      {isResponse(graph) ? <ResponseTrust graph={graph} /> : <h3>Scores</h3>}
      {(isResponse(graph) ? [] : SCORES).map(([name, title, meaning]) => {
        const whole = value(name) !== null;
        const score = value(whole ? name : `${name}_file`);
        const peer = value(whole ? `${name}_peer` : `${name}_file_peer`);
        const file = value(`${name}_file`);
        const filePeer = value(`${name}_file_peer`);
        return (
          <div class="score" key={name}>
            <div>
              <strong>{title}</strong> <b>{number(score)}</b>
            </div>
            <Meter value={score} peer={peer} label={title} />
            <p class="hint">
              {meaning}; {whole ? "of the whole graph, before pruning" : "of this file"}.
              {peer !== null && ` Peer style (first token's errors not counted; the mark in the bar): ${number(peer)}.`}
              {whole && file !== null && file !== score && ` This file alone, all that was pruned counted as error: ${number(file)}${filePeer === null ? "" : `, peer style ${number(filePeer)}`}.`}
            </p>
          </div>
        );
      })}
      {!isResponse(graph) && <h3>Exactness</h3>}
      <dl class="facts-list">
        <dt>largest residual of a row</dt>
        <dd>{number(residual)}</dd>
        <dt>largest error of a logit</dt>
        <dd>{number(logitsError)}</dd>
      </dl>
      <p class="hint">
        {residual === null ? "This file does not say how exact it is; other tools' graphs do not." : "In every row, weights and bias sum to the pre-activation up to this residual. Attention patterns are inputs to the graph."}
      </p>
      <h3>Validation</h3>
      {validation ? <Report report={validation} /> : <p class="hint">Not validated: no interventions have tested this graph yet. Run <code>unweave validate</code> on it.</p>}
      <h3>Where it comes from</h3>
      <dl class="facts-list">
        <dt>model</dt>
        <dd>{graph.view.model || "–"}</dd>
        <dt>transcoders</dt>
        <dd>{graph.view.transcoders || "–"}</dd>
        <dt>nodes, edges</dt>
        <dd>
          {count(graph.size)}, {count(graph.view.total_edges)}
          {!graph.whole && ` (${count(graph.weight.length)} strongest loaded)`}
        </dd>
        {Object.entries(provenance)
          .filter(([name, fact]) => fact !== null && fact !== "" && typeof fact !== "object" && !["model", "transcoders"].includes(name))
          .map(([name, fact]) => (
            <>
              <dt>{name.replaceAll("_", " ")}</dt>
              <dd>{String(fact)}</dd>
            </>
          ))}
        {Array.isArray(provenance.pruning) && (
          <>
            <dt>pruning</dt>
            <dd>{provenance.pruning.join(", ")}</dd>
          </>
        )}
      </dl>
    </div>
  );
}

function Meter({ value, peer, label }: { value: number | null; peer: number | null; label: string }) {
  if (value === null) return null;
  return (
    <svg class="meter" viewBox="0 0 200 10" preserveAspectRatio="none" role="img" aria-label={`${label} ${number(value)}${peer === null ? "" : `, peer style ${number(peer)}`}`}>
      <rect class="meter-all" width="200" height="10" />
      <rect class="meter-value" width={200 * Math.max(0, Math.min(1, value))} height="10" />
      {peer !== null && <rect class="meter-peer" x={200 * Math.max(0, Math.min(1, peer)) - 1} width="2" height="10" />}
    </svg>
  );
}

const GROUPS: Record<string, string> = {
  explained: "How much is explained",
  ranks: "Does influence say which features matter?",
  signs: "Does the graph say which way they push?",
  links: "Where its misses come from",
  pairs: "From feature to feature",
  faithfulness: "Disturbances in the replacement model",
};
const RIVALS: Record<string, string> = { control: "Random dictionary", neurons: "The model's own neurons" };

/** What a group of figures asks, and of what if not of the graph's own dictionary (`control: ranks`). */
function question(group: string): string {
  const [, rival, asked] = /^(\w+): (.*)$/.exec(group) ?? [null, "", group];
  return (rival ? `${RIVALS[rival] ?? rival}: ` : "") + (GROUPS[asked] ?? asked);
}

/** Any report: a verdict with its reasons, figures with their intervals by group, then whatever else it says in plain values. */
function Report({ report }: { report: Validation }) {
  const { verdict, figures, level, ...others } = report;
  const full = typeof verdict === "object" && verdict ? verdict : null;
  const text = full ? full.text : verdict;
  const grade = full?.level ?? level ?? "none";
  const plain = Object.entries(others).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  const groups = new Map<string, Figures>();
  for (const figure of Array.isArray(figures) ? figures : []) {
    const group = String(figure.group ?? "");
    groups.set(group, [...(groups.get(group) ?? []), figure]);
  }
  return (
    <>
      {text && <p class={`verdict verdict-${String(grade).replace(/\W/g, "")}`}>{String(text)}</p>}
      {Array.isArray(full?.reasons) && (
        <ul class="reasons">
          {full.reasons.map((reason) => (
            <li>{String(reason)}</li>
          ))}
        </ul>
      )}
      {[...groups].map(([group, members]) =>
        group ? (
          <details>
            <summary>{question(group)}</summary>
            <FigureList figures={members} />
          </details>
        ) : (
          <FigureList figures={members} />
        ),
      )}
      {plain.length > 0 && (
        <dl class="facts-list">
          {plain.map(([name, value]) => (
            <>
              <dt>{name.replaceAll("_", " ")}</dt>
              <dd>{typeof value === "number" ? number(value) : String(value)}</dd>
            </>
          ))}
        </dl>
      )}
    </>
  );
}

type Figures = NonNullable<Validation["figures"]>;

function FigureList({ figures }: { figures: Figures }) {
  return (
    <dl class="facts-list">
      {figures.map(({ name, value, low, high, note }) => (
        <>
          <dt>
            {name}
            {note && <span class="hint"> {note}</span>}
          </dt>
          <dd>
            {typeof value === "number" ? number(value) : String(value ?? "–")}
            {typeof low === "number" && typeof high === "number" && (
              <span class="muted">
                {" "}
                {number(low)} to {number(high)}
              </span>
            )}
          </dd>
        </>
      ))}
    </dl>
  );
}

/** The scores in a few signs, for the top bar. */
export function trustSummary(graph: Graph): string {
  const { scores, nodes } = graph.view;
  if (isResponse(graph)) return "";
  if (!nodes.kind.includes(Kind.Logit)) return "–"; // nothing to trust or not
  const replacement = scores?.replacement ?? scores?.replacement_file;
  return replacement === null || replacement === undefined ? "" : percent(replacement, 0);
}
