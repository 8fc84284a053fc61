// What the chosen group rests on: texts first, then what it pushes for, then numbers; and what is said without it.
import { inlined } from "../../api.ts";
import { group as makeGroup } from "../../edits.ts";
import { featureAddress, featureName, nodeName, percent, token } from "../../format.ts";
import { type Graph, isResponse } from "../../graph.ts";
import * as store from "../../store.ts";
import { type FeatureDetails, Kind } from "../../types.ts";
import { Context } from "../FeatureDetails.tsx";
import { routable, WhyLooked } from "../Routes.tsx";
import { importance, pushedOutputs } from "./derive.ts";
import type { Facts } from "./facts.ts";
import * as why from "./state.ts";
import { ANSWER, type Card, share, type Story, tokenCard } from "./story.ts";

/** Features whose texts are shown, and texts of each. */
const FEATURES = 2;
const TEXTS = 3;
/** Features whose pages elsewhere are linked. */
const LINKED = 5;
/** Features that are active on more tokens than this tell little, and come last. */
const OFTEN = 0.1;

export function Evidence({ graph, story }: { graph: Graph; story: Story }) {
  const card = why.subject.value;
  if (!card) return <p class="empty">No groups were found.</p>;
  const facts = why.facts.value;
  return (
    <div class="why-evidence">
      <h2>{story.measured ? card.place : card.name}</h2>
      {!story.measured && card.name !== card.place && <p class="muted">{card.place}</p>}
      <WithoutIt graph={graph} story={story} card={card} facts={facts} />
      <Texts graph={graph} card={card} />
      <Promoted graph={graph} card={card} facts={facts} />
      <Numbers card={card} facts={facts} story={story} />
      <Members graph={graph} card={card} facts={facts} />
      {routable(graph) && <WhyLooked parts={facts?.groups[Number(card.id.split("-")[1])]?.parts ?? []} />}
      {facts?.legend && (
        <details>
          <summary>How to read the figures</summary>
          <p class="hint">{facts.legend}</p>
        </details>
      )}
    </div>
  );
}

const PUTS: Record<why.Put, (facts: Facts | null) => string> = {
  contrast: (facts) => (facts?.baseline.kind === "instead" ? `its values from “${facts.baseline.instead}”` : "as the explanation has it"),
  mean: () => "its mean over text",
  zero: () => "zero",
};

function WithoutIt({ graph, story, card, facts }: { graph: Graph; story: Story; card: Card; facts: Facts | null }) {
  const now = why.off.value;
  const mine = now?.card === card.id ? now : null;
  const live = story.measured ? why.answer.value!.live : graph.view.live && card.rows.some((row) => graph.view.nodes.kind[row] === Kind.Feature);
  const to = mine?.to ?? "contrast";
  const run = (put: why.Put): void => void why.switchOff(card, put);
  return (
    <div class="why-off">
      {!inlined && <button type="button" class="tool primary" disabled={!live || (mine !== null && !mine.found && !mine.failure)} onClick={() => run(to)}>
        {mine && !mine.found && !mine.failure ? "Running…" : "What if it were off?"}
      </button>}
      {live && story.measured && (
        <label class="why-put">
          <span class="muted">put to</span>
          <select value={to} onChange={(event) => run(event.currentTarget.value as why.Put)}>
            {(Object.keys(PUTS) as why.Put[]).map((put) => (
              <option value={put} key={put}>
                {PUTS[put](facts)}
              </option>
            ))}
          </select>
        </label>
      )}
      {!live && <p class="hint">{notLive(graph, story)}</p>}
      <div aria-live="polite">
        {mine?.failure && <p class="error">{mine.failure}</p>}
        {mine?.found && <BeforeAfter found={mine.found} />}
      </div>
    </div>
  );
}

function notLive(graph: Graph, story: Story): string {
  if (inlined) return "This file holds what was measured; to try more, open the graph with unweave serve.";
  const model = graph.view.model || "its model";
  if (graph.view.provenance.origin === "json") return `This graph came from another tool: nothing can be tried in ${model} here.`;
  if (!story.measured && isResponse(graph)) return "Explain the prompt first: groups of a response graph's units are switched off there.";
  return `Start unweave serve --model ${model} to try it.`;
}

function BeforeAfter({ found }: { found: NonNullable<NonNullable<typeof why.off.value>["found"]> }) {
  return (
    <div class="why-result">
      <p>
        <b>{token(found.answer?.token).replace(/^·/, "")}</b> {percent(found.answer?.before, 1)} → <b>{percent(found.answer?.after, 1)}</b>
        {found.top && found.top !== found.answer?.token && (
          <>
            ; <b>{token(found.top).replace(/^·/, "")}</b> comes first
          </>
        )}
      </p>
      <table class="next">
        <caption class="hidden">Probabilities of the next token with the group and without it</caption>
        <thead>
          <tr>
            <th>token</th>
            <th>with it</th>
            <th>without</th>
          </tr>
        </thead>
        <tbody>
          {found.tokens.slice(0, 6).map((next) => (
            <tr key={next.token}>
              <th scope="row">{token(next.token)}</th>
              <td>
                <span class="bar before" style={{ width: `${next.before * 60}px` }} /> {percent(next.before)}
              </td>
              <td>
                <span class="bar after" style={{ width: `${next.after * 60}px` }} /> {percent(next.after)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Features of the group, or of its place, that matter most. */
function strongest(graph: Graph, card: Card): number[] {
  if (graph.view.provenance.units === "neurons") return [];
  const weight = importance(graph);
  const often = (row: number): number => ((graph.view.nodes.density?.[row] ?? 0) > OFTEN ? 1 : 0);
  return card.rows.filter((row) => graph.view.nodes.kind[row] === Kind.Feature).sort((a, b) => often(a) - often(b) || weight[b] - weight[a]);
}

function Texts({ graph, card }: { graph: Graph; card: Card }) {
  const rows = strongest(graph, card).slice(0, FEATURES);
  const known = rows.map((row) => ({ row, details: store.detailsOf(graph, row) }));
  const told = known.filter((one): one is { row: number; details: FeatureDetails } => typeof one.details === "object" && (one.details.contexts?.length ?? 0) > 0);
  return (
    <section aria-label="Texts">
      <h3>Texts</h3>
      {told.map(({ row, details }) => {
        const most = Math.max(...details.contexts!.flatMap((context) => context.activations));
        const distinct = details.contexts!.filter((context, at, all) => all.findIndex((other) => other.tokens.join("") === context.tokens.join("")) === at);
        return (
          <div key={row}>
            <p class="hint">
              {card.exact ? "the feature" : "a feature at its place:"}{" "}
              <button type="button" class="link" onClick={() => (store.select(graph.view.nodes.id[row]), why.show("graph"))}>
                {nodeName(graph, store.annotations.value, row)}
              </button>{" "}
              is active on
            </p>
            {distinct.slice(0, TEXTS).map((context, at) => (
              <Context key={at} {...context} most={most} />
            ))}
          </div>
        );
      })}
      {told.length === 0 && <p class="hint">{known.some((one) => one.details === undefined) ? "Looking them up…" : noTexts(graph, card)}</p>}
      <Elsewhere graph={graph} rows={strongest(graph, card).slice(0, LINKED)} />
    </section>
  );
}

/** Where else features of the group are described. */
function Elsewhere({ graph, rows }: { graph: Graph; rows: number[] }) {
  const links = rows.flatMap((row) => {
    const address = featureAddress(graph, row);
    return address ? [{ row, address }] : [];
  });
  if (!links.length) return null;
  return (
    <p class="hint">
      On Neuronpedia:{" "}
      {links.map(({ row, address }, place) => (
        <span key={row}>
          {place > 0 && ", "}
          <a href={address} target="_blank" rel="noreferrer noopener">
            {featureName(graph, row)}
          </a>
        </span>
      ))}
    </p>
  );
}

function noTexts(graph: Graph, card: Card): string {
  if (graph.view.provenance.units === "neurons") return "Neurons have no pages of texts. In an attribution graph of this prompt, features at the same place have some.";
  return card.rows.length ? `No texts are known of these features: give unweave serve their pages with --features${graph.view.provenance.origin === "json" ? "" : ", or load the model"}.` : "The graph has no node at its place.";
}

function Promoted({ graph, card, facts }: { graph: Graph; card: Card; facts: Facts | null }) {
  const group = facts?.groups[Number(card.id.split("-")[1])];
  const pushed = group?.pushes?.length ? group.pushes : null;
  const rows = strongest(graph, card).slice(0, FEATURES);
  const outputs = facts ? [] : pushedOutputs(graph, card.rows);
  const words = rows.map((row) => ({ row, words: graph.view.nodes.promotes?.[row] ?? [] })).filter((one) => one.words.length);
  return (
    <section aria-label="What it pushes for">
      <h3>Pushes for</h3>
      {pushed && (
        <p class="chips">
          {pushed.map((word) => (
            <span class="chip" key={word}>
              {token(word)}
            </span>
          ))}
          {group?.support != null && (group.members ?? 1) > 1 && (
            <span class="hint">
              {group.support} of {group.members} members
            </span>
          )}
        </p>
      )}
      {words.map((one) => (
        <p class="chips" key={one.row}>
          <span class="hint">{nodeName(graph, store.annotations.value, one.row)}:</span>
          {one.words.slice(0, 6).map((word) => (
            <span class="chip" key={word}>
              {token(word)}
            </span>
          ))}
        </p>
      ))}
      {outputs.length > 0 && (
        <p class="chips">
          <span class="hint">by its edges:</span>
          {outputs.map((row) => (
            <span class="chip" key={row}>
              {token(graph.view.nodes.label[row])}
            </span>
          ))}
        </p>
      )}
      {!pushed && outputs.length === 0 && words.length === 0 && <p class="hint">{facts ? "no token surely by most members, in other contexts" : "none of the outputs directly"}</p>}
    </section>
  );
}

function Numbers({ card, facts, story }: { card: Card; facts: Facts | null; story: Story }) {
  const group = facts?.groups[Number(card.id.split("-")[1])];
  const name = (id: string): string => (id === ANSWER ? "the answer" : (story.cards.find((other) => other.id === id)?.name ?? tokenText(id)));
  const tokenText = (id: string): string => story.tokens.map((text, position) => (tokenCard(position) === id ? `the token ${token(text)}` : "")).join("") || id;
  const into = story.arrows.filter((arrow) => arrow.target === card.id).sort((a, b) => Math.abs(b.size) - Math.abs(a.size));
  const out = story.arrows.filter((arrow) => arrow.source === card.id).sort((a, b) => Math.abs(b.size) - Math.abs(a.size));
  const list = (arrows: typeof into, end: "source" | "target") => (
    <ul class="why-list">
      {arrows.slice(0, 8).map((arrow) => (
        <li key={arrow[end]} title={arrow.title}>
          <span class="name">{name(arrow[end])}</span>
          <span class="value">
            {arrow.label}
            {arrow.heads && ` ${arrow.heads}`}
          </span>
        </li>
      ))}
    </ul>
  );
  return (
    <section aria-label="Numbers">
      <h3>Numbers</h3>
      {group && facts ? (
        <dl class="facts-list">
          <dt>swapped alone, of the difference</dt>
          <dd>{share(group.share)}</dd>
          <dt>with all other groups held</dt>
          <dd>{share(group.direct)}</dd>
          {typeof group.predicted === "number" && (
            <>
              <dt>predicted by a response graph, to first order</dt>
              <dd>{share(group.predicted)}</dd>
            </>
          )}
          <dt>random parts like it, at most</dt>
          <dd>{share(group.random)}</dd>
          <dt>the answer then</dt>
          <dd>{percent(group.probability, 1)}</dd>
        </dl>
      ) : (
        <p>{card.line}</p>
      )}
      {group && <p class="hint">Its name rests on: {group.evidence}.</p>}
      {into.length > 0 && <h3>{story.measured ? "Acted on by" : "Input from"}</h3>}
      {into.length > 0 && list(into, "source")}
      {out.length > 0 && <h3>{story.measured ? "Acts on" : "Output to"}</h3>}
      {out.length > 0 && list(out, "target")}
    </section>
  );
}

function Members({ graph, card, facts }: { graph: Graph; card: Card; facts: Facts | null }) {
  const parts = facts?.groups[Number(card.id.split("-")[1])]?.parts ?? card.rows.map((row) => graph.view.nodes.id[row]);
  const ids = card.rows.map((row) => graph.view.nodes.id[row]);
  const keep = (): void => {
    store.edit((state) => makeGroup(state, ids, `group-${Date.now().toString(36)}`, card.name.slice(0, 200)));
    store.say("Kept as a supernode in the subgraph of the whole graph.");
  };
  return (
    <details>
      <summary>
        {parts.length} part{parts.length === 1 ? "" : "s"}
        {!card.exact && `, ${card.rows.length} node${card.rows.length === 1 ? "" : "s"} of this graph at its place`}
      </summary>
      <p class="why-parts">{parts.slice(0, 200).join(", ")}</p>
      {card.exact && ids.length > 1 && ids.length <= 200 && (
        <button type="button" class="tool" onClick={keep}>
          Keep as a supernode
        </button>
      )}
    </details>
  );
}
