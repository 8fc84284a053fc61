// How far a response graph can be trusted: agreement with the model's own derivative, and what passes by no unit.
import { count, number, percent } from "../format.ts";
import type { Graph } from "../graph.ts";

export function ResponseTrust({ graph }: { graph: Graph }) {
  const { provenance } = graph.view;
  const value = (name: string): number | null => (typeof provenance[name] === "number" ? (provenance[name] as number) : null);
  return (
    <>
      <h3>Exactness</h3>
      <dl class="facts-list">
        <dt>against one backward pass</dt>
        <dd>{number(value("agreement"))}</dd>
        <dt>passes through other units</dt>
        <dd>{percent(value("mediated"), 0)}</dd>
        <dt>units, of those there are</dt>
        <dd>
          {value("max_features") === null ? "–" : count(value("max_features")!)}
          {value("active_features") !== null && ` of ${count(value("active_features")!)}`}
        </dd>
      </dl>
      <p class="hint">
        Paths of this graph add up to the model's own derivative within the first figure. What passes through no other unit is direct, or goes through the rests of MLPs (◆). It is first order: large changes, and many at once, need not add up. Scores of attribution graphs mean nothing here.
      </p>
    </>
  );
}
