// What is known of a feature: the texts it is active on first, then what it promotes, then numbers.
import { useState } from "preact/hooks";
import { number, plain, token } from "../format.ts";
import type { FeatureDetails } from "../types.ts";

export function Details({ details, here }: { details: FeatureDetails; here: number | null }) {
  const contexts = distinct(details.contexts ?? []);
  const most = Math.max(here ?? 0, ...contexts.flatMap((context) => context.activations));
  const [first, ...rest] = [...new Set(contexts.map((context) => String(context.quantile ?? "")))];
  const of = (quantile: string) => contexts.filter((context) => String(context.quantile ?? "") === quantile);
  return (
    <>
      {details.sign && <p class="muted">Of this neuron where it is strongly {details.sign === "-" ? "negative" : "positive"}, as it is here.</p>}
      {first !== undefined && <Texts title={titleOf(first)} contexts={of(first)} most={most} />}
      {((details.promoted?.length ?? 0) > 0 || (details.suppressed?.length ?? 0) > 0) && (
        <div class="logits">
          <Tokens title="Promotes" list={details.promoted ?? []} />
          <Tokens title="Suppresses" list={details.suppressed ?? []} />
        </div>
      )}
      {details.source === "decoder" && (
        <p class="muted">From the decoder's direct effect on the vocabulary; only the order means something. There are no feature pages for this dictionary, so texts it is active on are not known.</p>
      )}
      {details.histogram && details.histogram.counts.length > 0 && <Histogram {...details.histogram} here={here} />}
      {rest.map((quantile) => (
        <Texts key={quantile} title={titleOf(quantile)} contexts={of(quantile)} most={most} />
      ))}
    </>
  );
}

type Example = NonNullable<FeatureDetails["contexts"]>[number] & { times: number };

/** Examples of one and the same text are shown once, with how often it came. */
function distinct(contexts: NonNullable<FeatureDetails["contexts"]>): Example[] {
  const found = new Map<string, Example>();
  for (const context of contexts) {
    const key = `${context.quantile ?? ""}\n${context.tokens.join("").trim()}\n${context.peak ?? ""}`;
    const known = found.get(key);
    if (known) known.times++;
    else found.set(key, { ...context, times: 1 });
  }
  return [...found.values()];
}

function titleOf(quantile: string): string {
  if (!quantile || quantile === "strongest") return "Texts it is most active on";
  if (Number.isFinite(Number(quantile))) return `Quantile ${quantile}`;
  return /%$/.test(quantile) ? `Texts from the ${quantile} of its activations` : quantile;
}

const FEW = 5;

function Texts({ title, contexts, most }: { title: string; contexts: Example[]; most: number }) {
  const [all, setAll] = useState(false);
  return (
    <>
      <h4>{title}</h4>
      {contexts.slice(0, all ? undefined : FEW).map((context, place) => (
        <Context key={place} {...context} most={most} />
      ))}
      {!all && contexts.length > FEW && (
        <button type="button" class="more" onClick={() => setAll(true)}>
          {contexts.length - FEW} more
        </button>
      )}
    </>
  );
}

function Tokens({ title, list }: { title: string; list: [string, number | null][] }) {
  const most = Math.max(1e-9, ...list.map(([, value]) => Math.abs(value ?? 0)));
  return (
    <div>
      <h4>{title}</h4>
      <ol class="tokens">
        {list.slice(0, 10).map(([word, value]) => (
          <li key={word}>
            <span class="word">{token(word)}</span>
            {value !== null && (
              <>
                <span class={`tiny-bar ${value < 0 ? "negative" : "positive"}`} style={{ width: `${(Math.abs(value) / most) * 60}px` }} />
                <span class="value">{number(value, 2)}</span>
              </>
            )}
          </li>
        ))}
      </ol>
    </div>
  );
}

function Histogram({ edges, counts, here }: { edges: number[]; counts: number[]; here: number | null }) {
  const [width, height] = [300, 64];
  const tallest = Math.log1p(Math.max(...counts));
  const [low, high] = [edges[0], Math.max(edges.at(-1)!, here ?? -Infinity)];
  const x = (value: number): number => ((value - low) / (high - low || 1)) * width;
  return (
    <figure class="histogram">
      <figcaption>Activations (log count){here !== null && `, here ${number(here)}`}</figcaption>
      <svg viewBox={`0 -4 ${width} ${height + 18}`} role="img" aria-label={`Histogram of activations from ${number(low)} to ${number(high)}${here === null ? "" : `; ${number(here)} here`}`}>
        {counts.map((value, bin) => {
          const tall = tallest ? (Math.log1p(value) / tallest) * height : 0;
          return <rect key={bin} x={x(edges[bin])} width={Math.max(0.5, x(edges[bin + 1]) - x(edges[bin]) - 0.6)} y={height - tall} height={tall} class="bin" />;
        })}
        {here !== null && <line x1={x(here)} x2={x(here)} y1={-4} y2={height} class="here" />}
        <text x="0" y={height + 12}>{number(low, 2)}</text>
        <text x={width} y={height + 12} text-anchor="end">{number(high, 2)}</text>
      </svg>
    </figure>
  );
}

/** A text with its tokens shaded by activation; the strongest is also underlined, so colour is not alone. */
export function Context({ tokens, activations, peak, most, times = 1 }: Omit<Example, "times"> & { most: number; times?: number }) {
  const top = peak ?? activations.indexOf(Math.max(...activations));
  return (
    <p class="context">
      {tokens.map((word, place) => {
        const value = activations[place] ?? 0;
        const strength = most > 0 ? Math.round(Math.min(1, Math.max(0, value / most)) * 8) : 0;
        return (
          <span key={place} class={`heat-${strength} ${place === top ? "peak" : ""}`} title={value ? number(value) : undefined}>
            {plain(word.replaceAll("\n", "⏎"))}
          </span>
        );
      })}
      {times > 1 && <span class="muted"> (this text {times} times)</span>}
    </p>
  );
}

export function Promoted({ words, note }: { words: string[] | null | undefined; note: string }) {
  return (
    <>
      {words && words.length > 0 && (
        <>
          <h4>Promotes</h4>
          <p class="chips">
            {words.map((word) => (
              <span key={word} class="chip">{token(word)}</span>
            ))}
          </p>
        </>
      )}
      <p class="muted">{note}</p>
    </>
  );
}
