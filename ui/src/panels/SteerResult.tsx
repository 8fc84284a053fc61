// What became of a steering run: the answer before and after, the next tokens, pinned features, texts.
import { count, nodeName, number, percent, token } from "../format.ts";
import type { Graph } from "../graph.ts";
import * as store from "../store.ts";
import type { SteerFacts } from "../types.ts";

export function Result({ graph, facts }: { graph: Graph; facts: SteerFacts }) {
  const [before, after] = [best(facts, "probability_before"), best(facts, "probability_after")];
  // runs of earlier versions kept the change of the logit alone
  const change = (next: NonNullable<SteerFacts["next"]>[number]): number => next.log_probability_change ?? Math.log(next.probability_after / next.probability_before);
  const largest = Math.max(1e-9, ...(facts.next ?? []).map((next) => Math.abs(change(next))).filter(Number.isFinite));
  /** What the run itself wrote: what these features would have been is not what they were. */
  const written = new Map((facts.changed ?? []).map((item) => [item.node, item.after]));
  const names = new Map((facts.changed ?? []).map((item) => [item.node, item.label || item.node]));
  return (
    <div class="result">
      <div class="answers">
        <div>
          <h4>Baseline</h4>
          <strong>{token(before?.text)}</strong> <span>{percent(before?.probability_before)}</span>
        </div>
        <div>
          <h4>Steered</h4>
          <strong>{token(after?.text)}</strong> <span>{percent(after?.probability_after)}</span>
        </div>
      </div>
      {facts.next && (
        <table class="next">
          <caption class="hidden">Probabilities of the next token before and after, and the change of its log-probability</caption>
          <thead>
            <tr>
              <th>token</th>
              <th>before</th>
              <th>after</th>
              <th title="Change of the log-probability in nats; the change of the logit stands in each row's title">log-prob</th>
            </tr>
          </thead>
          <tbody>
            {facts.next.map((next) => (
              <tr key={next.text}>
                <th scope="row">{token(next.text)}</th>
                <td>
                  <span class="bar before" style={{ width: `${next.probability_before * 36}px` }} /> {percent(next.probability_before)}
                </td>
                <td>
                  <span class="bar after" style={{ width: `${next.probability_after * 36}px` }} /> {percent(next.probability_after)}
                </td>
                <td class="logit" title={`logit ${next.logit_change < 0 ? "−" : "+"}${Math.abs(next.logit_change).toFixed(2)}`}>
                  <span class={`bar ${change(next) < 0 ? "negative" : "positive"}`} style={{ width: `${Math.min(1, Math.abs(change(next)) / largest) * 26}px` }} />
                  {change(next) < 0 ? "−" : "+"}
                  {Math.abs(change(next)).toFixed(2)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {facts.kl != null && <p class="hint">KL divergence {number(facts.kl)} nats</p>}
      {facts.watched && facts.watched.length > 0 && (
        <>
          <h4>Pinned nodes</h4>
          <ul class="watched">
            {facts.watched.map(({ node, before: was, after: now }) => {
              const row = graph.row.get(node);
              const wrote = written.get(node);
              const is = wrote ?? now;
              const part = was > 0 ? is / was : 0;
              return (
                <li key={node}>
                  <span class="name" title={wrote === undefined ? undefined : `Changed by this run; by itself it would be ${number(now, 2)}`}>{row === undefined ? node : nodeName(graph, store.annotations.value, row)}</span>
                  <span class="track" aria-hidden="true">
                    <span style={{ width: `${Math.max(0, Math.min(1.5, part)) * 66.7}%` }} />
                  </span>
                  <span class="value">
                    {number(was, 2)} → {number(is, 2)} <span class="muted">{wrote !== undefined ? (is === 0 ? "ablated" : "written") : was > 0 ? percent(part, 0) : ""}</span>
                  </span>
                </li>
              );
            })}
          </ul>
        </>
      )}
      {facts.inactive && facts.inactive.length > 0 && (
        <p class="hint">
          Not active here: {facts.inactive.slice(0, 5).map((node) => names.get(node) ?? node).join(", ")}
          {facts.inactive.length > 5 && ` and ${count(facts.inactive.length - 5)} more`}
        </p>
      )}
      {facts.idle && facts.idle.length > 0 && <p class="hint">Writes nowhere: {facts.idle.join(", ")}</p>}
      {facts.changed && <p class="hint">{facts.changed.length === 1 ? "1 feature changed" : `${count(facts.changed.length)} features changed`}</p>}
      {facts.generation && (
        <div class="answers text">
          <div>
            <h4>Baseline text</h4>
            <p>…{facts.generation.default.text}</p>
          </div>
          <div>
            <h4>Steered text</h4>
            <p>…{facts.generation.steered.text}</p>
          </div>
        </div>
      )}
    </div>
  );
}

/** The likeliest token before or after. */
export function best(facts: SteerFacts, by: "probability_before" | "probability_after") {
  return facts.next?.toSorted((a, b) => b[by] - a[by])[0];
}
