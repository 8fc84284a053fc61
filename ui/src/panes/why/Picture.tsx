// The picture: cards in rows from tokens to the answer, arrows as thick as what they carry; on screen and in figures.
import { render } from "preact";
import { type Theme, linkColour, PRINT } from "../../colour.ts";
import { clipped } from "../../draw.ts";
import { percent, token } from "../../format.ts";
import { FONT } from "../../pen.ts";
import { arrowKey, arrowWidth, type Box, type Places, placeStory, REST, TALL, tokenWidth, type Way, wrapped } from "./place.ts";
import { ANSWER, type Arrow, type Card, type Story, tokenCard } from "./story.ts";

export interface Gestures {
  lit: string | null;
  chosen: string | null;
  onPoint: (id: string | null) => void;
  onChoose: (id: string) => void;
}

interface PictureProps {
  story: Story;
  places: Places;
  theme: Theme;
  /** What is said on a card after a group was switched off. */
  marks?: ReadonlyMap<string, string>;
  gestures?: Gestures;
}

const SIGNS_PER_PIXEL = 1 / 6.9;
const BOLD_SIGNS_PER_PIXEL = 1 / 7.3;

export function Picture({ story, places, theme, marks, gestures }: PictureProps) {
  const lit = gestures?.lit ?? null;
  const touches = (arrow: Arrow): boolean => lit !== null && (arrow.source === lit || arrow.target === lit);
  const shown = story.arrows.filter((arrow) => places.boxes.has(arrow.source) && places.boxes.has(arrow.target)).sort((a, b) => Math.abs(a.size) - Math.abs(b.size));
  const fed = new Set(shown.map((arrow) => arrow.target));
  return (
    <>
      {story.cards
        .filter((card) => !fed.has(card.id) && places.boxes.has(tokenCard(card.position)))
        .map((card) => (
          <Seat key={card.id} from={places.boxes.get(tokenCard(card.position))!} to={places.boxes.get(card.id)!} theme={theme} />
        ))}
      {shown.map((arrow) => (
        <ArrowLine key={`${arrow.source} ${arrow.target}`} arrow={arrow} places={places} theme={theme} faded={lit !== null && !touches(arrow)} />
      ))}
      {story.tokens.map((text, position) => (
        <TokenChip key={position} text={text} box={places.boxes.get(tokenCard(position))!} theme={theme} strong={story.cards.some((card) => card.position === position)} />
      ))}
      <AnswerCard story={story} box={places.boxes.get(ANSWER)!} theme={theme} mark={marks?.get(ANSWER)} />
      <RestCard rest={story.rest} box={places.boxes.get(REST)!} theme={theme} />
      {story.cards.map((card) => (
        <CardBox key={card.id} card={card} box={places.boxes.get(card.id)!} theme={theme} mark={marks?.get(card.id)} gestures={gestures} />
      ))}
      {shown.map((arrow) => (
        <ArrowLabel key={`${arrow.source} ${arrow.target}`} arrow={arrow} places={places} theme={theme} on={touches(arrow)} outgoing={arrow.source === lit} />
      ))}
    </>
  );
}

/** Where a group sits: a thin grey line from its token; no measurement. */
function Seat({ from, to, theme }: { from: Box; to: Box; theme: Theme }) {
  return <path d={curve(from, to)} fill="none" stroke={theme.muted} stroke-width="1" stroke-dasharray="1 3" opacity="0.8" />;
}

const middle = (box: Box): number => box.x + box.width / 2;

function curve(from: Box, to: Box): string {
  const [x1, y1, x2, y2] = [middle(from), from.y, middle(to), to.y + to.height];
  const half = (y1 + y2) / 2;
  return y1 > y2 ? `M${x1},${y1}C${x1},${half},${x2},${half},${x2},${y2}` : sideways(from, to);
}

/** A way as a line that bends between rows and runs straight beside cards. */
function drawn(way: Way, tip: number): string {
  let path = `M${way[0].x},${way[0].y}`;
  for (let at = 1; at < way.length; at += 2) {
    const [from, to] = [way[at - 1], way[at]];
    const end = at === way.length - 1 ? to.y + tip : to.y;
    const half = (from.y + end) / 2;
    path += `C${from.x},${half},${to.x},${half},${to.x},${end}`;
    if (at + 1 < way.length) path += `L${way[at + 1].x},${way[at + 1].y}`;
  }
  return path;
}

/** Between cards of one row, or downwards: round the side. */
function sideways(from: Box, to: Box): string {
  const right = middle(to) > middle(from);
  const [x1, x2] = right ? [from.x + from.width, to.x] : [from.x, to.x + to.width];
  const [y1, y2] = [from.y + from.height / 2, to.y + to.height / 2];
  return `M${x1},${y1}C${(x1 + x2) / 2},${y1},${(x1 + x2) / 2},${y2},${x2},${y2}`;
}

function ArrowLine({ arrow, places, theme, faded }: { arrow: Arrow; places: Places; theme: Theme; faded: boolean }) {
  const [from, to] = [places.boxes.get(arrow.source)!, places.boxes.get(arrow.target)!];
  const wide = arrowWidth(arrow.size);
  const colour = linkColour(theme, Math.sign(arrow.size) * Math.max(0.2, Math.abs(arrow.size)));
  const head = 3 + wide / 2;
  const way = places.ways.get(arrowKey(arrow));
  const path = way ? drawn(way, head) : sideways(from, to);
  const { x, y } = way?.at(-1) ?? { x: 0, y: 0 };
  return (
    <g class="why-arrow" opacity={faded ? 0.15 : 0.85}>
      <path d={path} fill="none" stroke={colour} stroke-width={wide} stroke-dasharray={arrow.size < 0 ? `${Math.max(5, wide)} ${Math.max(3, wide * 0.7)}` : undefined} />
      {way && <path d={`M${x - head},${y + head + 1}L${x + head},${y + head + 1}L${x},${y}Z`} fill={colour} />}
      <path class="why-arrow-target" d={path} fill="none" stroke="transparent" stroke-width={Math.max(12, wide)}>
        <title>{arrow.title}</title>
      </path>
    </g>
  );
}

/** The number of an arrow at the end that is not pointed at, where ends of others are not. */
function ArrowLabel({ arrow, places, theme, on, outgoing }: { arrow: Arrow; places: Places; theme: Theme; on: boolean; outgoing: boolean }) {
  const [from, to] = [places.boxes.get(arrow.source)!, places.boxes.get(arrow.target)!];
  const text = [on ? arrow.label : "", arrow.heads].filter(Boolean).join(" ");
  if (!text) return null;
  const way = places.ways.get(arrowKey(arrow));
  const end = way?.at(outgoing ? -1 : 0);
  const [x, y] = end ? [end.x, outgoing ? end.y + 14 : end.y - 6] : [(middle(from) + middle(to)) / 2, from.y - 4];
  return (
    <text x={x} y={y} font-size="12.5" font-weight="600" font-family={FONT} text-anchor="middle" fill={theme.ink} stroke={theme.background} stroke-width="4" paint-order="stroke" pointer-events="none">
      {text}
    </text>
  );
}

function TokenChip({ text, box, theme, strong }: { text: string; box: Box; theme: Theme; strong: boolean }) {
  return (
    <g>
      <rect x={box.x} y={box.y} width={box.width} height={box.height} rx={6} fill={theme.band} stroke={strong ? theme.outline : theme.line} />
      <text x={middle(box)} y={box.y + box.height / 2} font-size="12.5" font-family={FONT} font-weight={strong ? 600 : 400} text-anchor="middle" dominant-baseline="central" fill={strong ? theme.ink : theme.muted}>
        {clipped(token(text).replace(/^·/, ""), Math.floor((tokenWidth(text) - 8) / 7.2))}
      </text>
    </g>
  );
}

interface LineProps {
  box: Box;
  theme: Theme;
  texts: { text: string; bold?: boolean; fill: string }[];
  /** From screen readers, which are told the whole name. */
  hidden?: boolean;
}

function Lines({ box, theme, texts, hidden }: LineProps) {
  const each = 15;
  const top = box.y + (box.height - each * texts.length) / 2 + each / 2;
  return (
    <>
      {texts.map(({ text, bold, fill }, line) => (
        <text key={line} aria-hidden={hidden} x={box.x + box.width / 2} y={top + line * each} font-size="12.5" font-family={FONT} font-weight={bold ? 600 : 400} text-anchor="middle" dominant-baseline="central" fill={fill || theme.ink}>
          {text}
        </text>
      ))}
    </>
  );
}

function AnswerCard({ story, box, theme, mark }: { story: Story; box: Box; theme: Theme; mark?: string }) {
  const signs = Math.floor(box.width * SIGNS_PER_PIXEL);
  const { answer, rival } = story;
  const chance = answer.probability === null ? "" : ` ${percent(answer.probability, 0)}`;
  const texts = [
    { text: clipped(`${token(answer.text).replace(/^·/, "")}${chance}`, signs), bold: true, fill: theme.ink },
    { text: clipped(mark ?? (rival ? `rather than ${token(rival.text).replace(/^·/, "")}` : "the answer"), signs), fill: mark ? theme.accent : theme.muted },
  ];
  return (
    <g>
      <rect x={box.x} y={box.y} width={box.width} height={box.height} rx={8} fill={theme.node} stroke={theme.ink} stroke-width="1.8" />
      <Lines box={box} theme={theme} texts={texts} />
    </g>
  );
}

function RestCard({ rest, box, theme }: { rest: Story["rest"]; box: Box; theme: Theme }) {
  const signs = Math.floor(box.width * SIGNS_PER_PIXEL);
  return (
    <g>
      <title>{`${rest.name}: ${rest.line}`}</title>
      <rect x={box.x} y={box.y} width={box.width} height={box.height} rx={8} fill={theme.line} stroke={theme.muted} stroke-dasharray="3 3" />
      <Lines box={box} theme={theme} texts={[{ text: rest.name, bold: true, fill: theme.ink }, { text: clipped(rest.line, signs), fill: theme.ink }]} />
    </g>
  );
}

function CardBox({ card, box, theme, mark, gestures }: { card: Card; box: Box; theme: Theme; mark?: string; gestures?: Gestures }) {
  const signs = Math.floor((box.width - 10) * SIGNS_PER_PIXEL);
  const on = gestures?.chosen === card.id;
  const colour = card.against ? theme.negative[3] : theme.positive[3];
  const [where, second] = card.short;
  const bold = Math.floor((box.width - 10) * BOLD_SIGNS_PER_PIXEL);
  const name = wrapped(where, bold, second && box.height < TALL ? 1 : 2).map((text) => ({ text, bold: true, fill: theme.ink }));
  const texts = [...name, ...(second ? [{ text: clipped(second, signs), fill: theme.ink }] : []), { text: clipped(mark ?? card.line, signs), fill: mark ? theme.accent : colour }];
  const face = (
    <>
      <title>{`${card.name}. ${mark ?? card.line}`}</title>
      <rect x={box.x} y={box.y} width={box.width} height={box.height} rx={8} fill={theme.node} stroke={on || gestures?.lit === card.id ? theme.accent : colour} stroke-width={on ? 2.6 : 1.6} stroke-dasharray={card.against ? "5 3" : undefined} />
      <Lines box={box} theme={theme} texts={texts} hidden={gestures !== undefined} />
    </>
  );
  if (!gestures) return <g>{face}</g>;
  return (
    <g
      class="why-card"
      data-card={card.id}
      role="button"
      tabIndex={0}
      aria-pressed={on}
      onClick={() => gestures.onChoose(card.id)}
      onMouseEnter={() => gestures.onPoint(card.id)}
      onMouseLeave={() => gestures.onPoint(null)}
      onFocus={() => gestures.onPoint(card.id)}
      onBlur={() => gestures.onPoint(null)}
      onKeyDown={(event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        gestures.onChoose(card.id);
      }}
    >
      {face}
    </g>
  );
}

/** The picture as SVG text for a paper, with a caption. */
export function pictureSvg(story: Story, caption: string, theme: Theme = PRINT): string {
  const places = placeStory(story, 900, 620);
  const lines = wrapped(caption, 140, 4);
  const height = places.height + 14 + lines.length * 17;
  const holder = document.createElement("div");
  render(
    <svg xmlns="http://www.w3.org/2000/svg" width={places.width} height={height} viewBox={`0 0 ${places.width} ${height}`}>
      <rect width="100%" height="100%" fill={theme.background} />
      <Picture story={story} places={places} theme={theme} />
      {lines.map((line, at) => (
        <text key={at} x={4} y={places.height + 18 + at * 17} font-size="12.5" font-family={FONT} fill={theme.ink}>
          {line}
        </text>
      ))}
    </svg>,
    holder,
  );
  return new XMLSerializer().serializeToString(holder.firstElementChild!);
}
