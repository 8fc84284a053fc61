// The arrows between cards of the subgraph, and their numbers.
import type { EntityEdge } from "../aggregate.ts";
import { linkColour, type Theme } from "../colour.ts";
import { NEGATIVE_DASH } from "../draw.ts";
import { weight } from "../format.ts";
import { FONT, textWidth } from "../pen.ts";
import { CARD_HEIGHT, type Placed } from "../subgraph-layout.ts";

/** Pixels of width for a link that is all of its target's input. */
const WIDEST = 15;
const LEAST = 0.005;
/** Edges from here on carry their number. */
const NUMBERED = 0.05;
/** Thin lines in pale colours are not seen: the weakest link is as dark as this one. */
const PALEST = 0.14;

interface EdgesProps {
  edges: readonly EntityEdge[];
  places: ReadonlyMap<string, Placed>;
  theme: Theme;
  selected: string | null;
  names: ReadonlyMap<string, string>;
}

type Curve = [number, number, number, number, number, number, number, number];

/** From the top of a card to the foot of one above it; to one beside it or below, from foot to foot around what is between. */
function curveOf(from: Placed, to: Placed): Curve {
  const [half, tip] = [CARD_HEIGHT / 2, 5];
  if (from.y - to.y > CARD_HEIGHT * 0.8) {
    const [y1, y2] = [from.y - half, to.y + half + tip];
    const bend = Math.max(18, (y1 - y2) / 2);
    return [from.x, y1, from.x, y1 - bend, to.x, y2 + bend, to.x, y2];
  }
  const [y1, y2] = [from.y + half, to.y + half + tip];
  const low = Math.max(y1, y2) + 26;
  return [from.x, y1, from.x, low, to.x, low, to.x, y2];
}

/** A point of a curve. */
function at([x1, y1, x2, y2, x3, y3, x4, y4]: Curve, t: number): [number, number] {
  const [a, b, c, d] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
  return [a * x1 + b * x2 + c * x3 + d * x4, a * y1 + b * y2 + c * y3 + d * y4];
}

/** Where along its edge each number stands: the first of a few places where it covers neither a card nor another number. */
function numberPlaces(drawn: readonly { edge: EntityEdge; curve: Curve }[], cards: readonly Placed[]): Map<EntityEdge, [number, number]> {
  const boxes = cards.map(({ x, y, width }) => ({ x, y, width, height: CARD_HEIGHT }));
  const found = new Map<EntityEdge, [number, number]>();
  for (const { edge, curve } of drawn.toReversed()) {
    if (Math.abs(edge.weight) < NUMBERED) continue;
    const width = textWidth(weight(edge.weight), 12) + 6;
    for (const t of [0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.8]) {
      const [x, y] = at(curve, t);
      if (boxes.some((box) => Math.abs(box.x - x) < (box.width + width) / 2 && Math.abs(box.y - y) < (box.height + 14) / 2)) continue;
      boxes.push({ x, y, width, height: 14 });
      found.set(edge, [x, y]);
      break;
    }
  }
  return found;
}

export function CardEdges({ edges, places, theme, selected, names }: EdgesProps) {
  const drawn = edges
    .filter((edge) => Math.abs(edge.weight) >= LEAST)
    .sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight))
    .map((edge) => ({ edge, curve: curveOf(places.get(edge.source)!, places.get(edge.target)!) }));
  const numbers = numberPlaces(drawn, [...places.values()]);
  const faded = (edge: EntityEdge): boolean => selected !== null && names.has(selected) && edge.source !== selected && edge.target !== selected;
  return (
    <g>
      {drawn.map(({ edge, curve: [x1, y1, x2, y2, x3, y3, x4, y4] }) => {
        const width = Math.max(1.2, WIDEST * Math.min(1, Math.abs(edge.weight)));
        const colour = linkColour(theme, Math.sign(edge.weight) * Math.max(PALEST, Math.abs(edge.weight)));
        const head = 3 + width * 0.6;
        return (
          <g key={`${edge.source} ${edge.target}`} opacity={faded(edge) ? 0.4 : 0.95}>
            <path
              d={`M${x1},${y1}C${x2},${y2},${x3},${y3},${x4},${y4}`}
              fill="none"
              stroke={colour}
              stroke-width={width}
              stroke-dasharray={edge.weight < 0 ? NEGATIVE_DASH.map((part) => part + width / 2).join(" ") : undefined}
            >
              <title>{`${names.get(edge.source)} → ${names.get(edge.target)}: ${weight(edge.weight)} of its input`}</title>
            </path>
            <path d={`M${x4 - head},${y4}L${x4 + head},${y4}L${x4},${y4 - 5}Z`} fill={colour} />
          </g>
        );
      })}
      {[...numbers].map(([edge, [x, y]]) => (
        <text
          key={`${edge.source} ${edge.target}`}
          x={x}
          y={y}
          font-size="12"
          font-family={FONT}
          text-anchor="middle"
          dominant-baseline="central"
          opacity={faded(edge) ? 0.5 : 1}
          fill={theme.ink}
          stroke={theme.background}
          stroke-width="4"
          paint-order="stroke"
        >
          {weight(edge.weight)}
        </text>
      ))}
    </g>
  );
}
