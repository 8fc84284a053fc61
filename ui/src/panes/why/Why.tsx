// The first screen: the answer in one line, sentences, the picture, and the evidence of what is chosen.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { download, png } from "../../figure.tsx";
import { count, percent, token } from "../../format.ts";
import type { Graph } from "../../graph.ts";
import * as store from "../../store.ts";
import { Icon } from "../../widgets.tsx";
import { Evidence } from "./Evidence.tsx";
import { kindOf } from "./kind.ts";
import { Picture, pictureSvg } from "./Picture.tsx";
import { placeStory } from "./place.ts";
import * as why from "./state.ts";
import "./why.css";
import { ANSWER, type Sentence, share, type Story } from "./story.ts";

/** Sentences shown before the others are asked for. */
const FEW = 3;

export function Why({ graph }: { graph: Graph }) {
  const story = why.story.value;
  return (
    <div class="why">
      {story ? (
        <div class="why-body" tabIndex={0} role="group" aria-label="Why">
          <Headline story={story} />
          <Said story={story} />
          <NotMeasured graph={graph} story={story} />
          <div class="why-main">
            <section class="why-picture" aria-label="Picture">
              <Drawing story={story} />
              <Legend story={story} graph={graph} />
            </section>
            <aside class="why-side" aria-label="Evidence" tabIndex={0}>
              <Evidence graph={graph} story={story} />
            </aside>
          </div>
        </div>
      ) : (
        <p class="loading" aria-busy="true">Looking for an explanation…</p>
      )}
      <button type="button" class="why-fold" aria-expanded={false} onClick={() => why.show("graph")}>
        ▸ The whole graph: {count(graph.size)} nodes, {count(graph.view.total_edges)} edges
      </button>
    </div>
  );
}

const plain = (text: string): string => token(text).replace(/^·/, "");

function Headline({ story }: { story: Story }) {
  const { answer, rival } = story;
  return (
    <p class="why-head">
      <span class="why-tokens">
        {story.tokens.slice(-40).map((text, place) => (
          <span key={place} class={/^<.*>$/.test(text) ? "why-token special" : "why-token"}>
            {plain(text)}
          </span>
        ))}
      </span>
      <span aria-hidden="true">→</span>
      {answer.text ? (
        <strong class="why-answer">
          {plain(answer.text)}
          {answer.probability !== null && <> {percent(answer.probability, 0)}</>}
        </strong>
      ) : (
        <span class="muted">this graph has no outputs</span>
      )}
      {rival && (
        <span class="muted">
          rather than <b>{plain(rival.text)}</b>
          {rival.probability !== null && ` ${percent(rival.probability, rival.probability < 0.0995 ? 1 : 0)}`}
        </span>
      )}
      {story.against && <span class="muted why-against">{story.against}</span>}
    </p>
  );
}

function Said({ story }: { story: Story }) {
  const all = useSignal(false);
  const few = story.sentences.length > FEW + 1 ? FEW : FEW + 1;
  const shown = all.value ? story.sentences : story.sentences.slice(0, few);
  if (!story.sentences.length) return <p class="notice">Nothing was found that the answer hangs on: no group does more than random parts of equal size.</p>;
  return (
    <div class="why-said">
      <ol>
        {shown.map((sentence, at) => (
          <li key={at}>
            <Spoken sentence={sentence} />
          </li>
        ))}
      </ol>
      {story.sentences.length > few && (
        <button type="button" class="link" aria-expanded={all.value} onClick={() => (all.value = !all.value)}>
          {all.value ? "fewer" : `${story.sentences.length - few} more sentences`}
        </button>
      )}
    </div>
  );
}

function Spoken({ sentence }: { sentence: Sentence }) {
  return (
    <span title={sentence.full}>
      {sentence.pieces.map((piece, at) =>
        piece.card === null ? (
          piece.text
        ) : (
          <GroupLink key={at} card={piece.card}>
            {piece.text}
          </GroupLink>
        ),
      )}
    </span>
  );
}

/** A group's name: pointing at it lights the group everywhere, a click chooses it. */
export function GroupLink({ card, children }: { card: string; children: preact.ComponentChildren }) {
  const point = (id: string | null) => () => (why.pointed.value = id);
  return (
    <button
      type="button"
      class={`why-group ${why.subject.value?.id === card ? "current" : ""}`}
      aria-pressed={why.chosen.value === card}
      onClick={() => (why.chosen.value = card)}
      onMouseEnter={point(card)}
      onMouseLeave={point(null)}
      onFocus={point(card)}
      onBlur={point(null)}
    >
      {children}
    </button>
  );
}

/** What was not measured, and the button that does. */
function NotMeasured({ graph, story }: { graph: Graph; story: Story }) {
  const { error, live } = why.answer.value!;
  const job = why.job.value;
  if (story.measured) return null;
  return (
    <div class="why-notice">
      {error && <p class="error">{error}</p>}
      <span>
        <b>Nothing here was measured in the model.</b> {graph.view.provenance.origin === "json" && "This graph came from another tool. "}Groups and shares are read off the graph: {story.how}.
      </span>
      {job ? (
        <span class="progress" aria-live="polite">
          <progress max={1} value={job.now.share} aria-label="Progress" />
          <span>{job.now.title}</span>
          <button type="button" class="tool" onClick={job.cancel}>
            Cancel
          </button>
        </span>
      ) : live ? (
        <button type="button" class="tool primary" title="Measures in the model what the answer hangs on; about a minute" onClick={() => void why.explain()}>
          Explain
        </button>
      ) : null}
    </div>
  );
}

/** What the other groups do while one is switched off. */
function marks(): ReadonlyMap<string, string> {
  const now = why.off.value;
  if (!now?.found) return new Map();
  const { answer, moved } = now.found;
  const found = new Map<string, string>(moved.flatMap((value, number) => (value === null ? [] : [[`group-${number}`, `goes ${share(value)} of the way`] as [string, string]])));
  found.set(now.card, now.to === "zero" ? "off: put to zero" : now.to === "mean" ? "off: put to its mean" : "off");
  if (answer) found.set(ANSWER, `then ${percent(answer.after, answer.after < 0.0995 ? 1 : 0)}`);
  return found;
}

function Drawing({ story }: { story: Story }) {
  const frame = useRef<HTMLDivElement>(null);
  const [room, setRoom] = useState<[number, number]>([0, 0]);
  useLayoutEffect(() => {
    const measure = (): void => {
      const { clientWidth, clientHeight } = frame.current!;
      setRoom((before) => (before[0] === clientWidth && before[1] === clientHeight ? before : [clientWidth, clientHeight]));
    };
    const watch = new ResizeObserver(measure);
    watch.observe(frame.current!);
    measure();
    return () => watch.disconnect();
  }, []);
  const places = useMemo(() => (room[0] ? placeStory(story, room[0] - 4, room[1] - 6) : null), [story, room]);
  const gestures = {
    lit: why.pointed.value,
    chosen: why.subject.value?.id ?? null,
    onPoint: (id: string | null) => (why.pointed.value = id),
    onChoose: (id: string) => (why.chosen.value = id),
  };
  return (
    <div class="why-drawing" ref={frame} tabIndex={0} role="group" aria-label="Groups from the tokens, below, to the answer, above">
      {places && (
        <svg width={places.width} height={places.height} viewBox={`0 0 ${places.width} ${places.height}`}>
          <Picture story={story} places={places} theme={store.theme.value} marks={marks()} gestures={gestures} />
        </svg>
      )}
    </div>
  );
}

function Legend({ story, graph }: { story: Story; graph: Graph }) {
  const save = async (format: "svg" | "png"): Promise<void> => {
    const svg = pictureSvg(story, captionOf(story, graph));
    try {
      download(format === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await png(svg), `${graph.view.slug}-why.${format}`);
    } catch (error) {
      store.say((error as Error).message, true);
    }
  };
  return (
    <p class="why-legend hint">
      <span>
        Thickness: {story.measured ? "the part of the difference that passes" : "share of its target's input"}. Solid green: for; dashed purple: against.
      </span>
      <span class="spacer" />
      <button type="button" class="link" onClick={() => void save("svg")}>
        SVG
      </button>
      <button type="button" class="link" onClick={() => void save("png")}>
        PNG
      </button>
    </p>
  );
}

export function captionOf(story: Story, graph: Graph): string {
  const version = graph.view.provenance.version;
  const answer = `${plain(story.answer.text)}${story.answer.probability === null ? "" : ` (${percent(story.answer.probability, 0)})`}`;
  const how = story.measured ? `Arrows: the part of the difference that passes, measured with all other groups held; ${story.against}.` : `Arrows: shares of input in the ${kindOf(graph)}; nothing was measured.`;
  return `Why ${graph.view.model} continues “${story.tokens.join("").trim()}” with ${answer}${story.rival ? ` rather than ${plain(story.rival.text)}` : ""}. ${how} Dashed: against. ${story.rest.name}: ${story.rest.line}.${version ? ` unweave ${version}.` : ""}`;
}

/** Above the whole graph: the answer and its groups, to light them in every pane. */
export function WhyStrip({ graph }: { graph: Graph }) {
  const story = why.story.value;
  return (
    <nav class="why-strip" aria-label="Why">
      <button type="button" class="tool" aria-expanded={true} onClick={() => why.show("why")}>
        <Icon name="back" /> Why
      </button>
      <span class="why-strip-groups" tabIndex={0} role="group" aria-label="Groups">
        {story?.cards.map((card) => (
          <GroupLink key={card.id} card={card.id}>
            {card.name.length > 40 ? `${card.name.slice(0, 39)}…` : card.name}
          </GroupLink>
        ))}
      </span>
      <span class="muted">{count(graph.size)} nodes</span>
    </nav>
  );
}
