// Names and numbers as people read them.
import { type Graph, isResponse } from "./graph.ts";
import { type Annotations, Kind } from "./types.ts";

/** A text with what is not seen named: signs that turn the direction of what follows would do so to all of the page. */
export function plain(text: string): string {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (sign) => `‹${sign.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}›`);
}

/** A token with its white space made visible. */
export function token(text: string | undefined): string {
  if (text === undefined) return "?";
  return plain(text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "·")) || "∅";
}

export function quoted(text: string | undefined): string {
  return `“${token(text).replace(/^·/, "")}”`;
}

/** Signed, three significant digits: +0.123, −4.56, +1.2e+4. */
export function weight(value: number): string {
  const size = Math.abs(value);
  const text = size >= 1e4 || (size > 0 && size < 1e-3) ? size.toExponential(1) : size.toPrecision(3);
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** Made once: a formatter costs more than all it formats. */
const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });

export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return GROUPED.format(Number(value.toPrecision(digits))).replace("-", "−");
}

export function percent(value: number | null | undefined, digits = 1): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = (Math.abs(value) * 100).toFixed(digits);
  return `${value < 0 ? "−" : ""}${text}%`;
}

export function count(value: number): string {
  return GROUPED.format(value);
}

export const GLYPHS = { [Kind.Feature]: "●", [Kind.Error]: "◆", [Kind.Embedding]: "■", [Kind.Logit]: "■" } as const;
export const KIND_NAMES = { [Kind.Feature]: "Feature", [Kind.Error]: "Error", [Kind.Embedding]: "Token", [Kind.Logit]: "Output" } as const;

/** What kind of thing a node is: in response graphs units can be neurons, and errors are what else an MLP does. */
export function kindName(graph: Graph, row: number): string {
  const kind = graph.view.nodes.kind[row];
  if (isResponse(graph) && kind === Kind.Error) return "Rest";
  return kind === Kind.Feature && graph.view.provenance.units === "neurons" ? "Neuron" : KIND_NAMES[kind];
}

/** A feature's name without its place: 12/345. */
export function featureName(graph: Graph, row: number): string {
  const { layer, index } = graph.view.nodes;
  return `L${layer[row]}/${index[row]}`;
}

/** A feature's page on Neuronpedia, where the graph is theirs. */
export function featureAddress(graph: Graph, row: number): string | null {
  const { kind, layer, index } = graph.view.nodes;
  if (kind[row] !== Kind.Feature) return null;
  return graph.view.feature_address?.replace("{layer}", String(layer[row])).replace("{index}", String(index[row])) ?? null;
}

/** What a node is called: its label if there is one, else what it promotes, else its number. */
export function nodeName(graph: Graph, annotations: Annotations, row: number): string {
  return plain(nameGiven(graph, annotations, row));
}

/** Where a feature's name comes from, in words; null where the name says so itself. */
export function nameSource(graph: Graph, annotations: Annotations, row: number): string | null {
  const { id, kind, layer, index, label, promotes } = graph.view.nodes;
  if (kind[row] !== Kind.Feature) return null;
  if (annotations.labels[id[row]] || annotations.labels[`${layer[row]}_${index[row]}`]) return "named by you";
  if (label[row]) return /^[‘']/.test(label[row]) ? "named by the tokens it is active on" : "named in the file or its feature page";
  return promotes?.[row]?.length ? "named by the tokens it promotes" : null;
}

function nameGiven(graph: Graph, annotations: Annotations, row: number): string {
  const { id, kind, layer, index, position, label, promotes } = graph.view.nodes;
  const own = annotations.labels[id[row]] ?? (kind[row] === Kind.Feature ? annotations.labels[`${layer[row]}_${index[row]}`] : undefined);
  if (own) return own;
  switch (kind[row]) {
    case Kind.Embedding:
      return quoted(label[row] || graph.view.tokens[position[row]]);
    case Kind.Logit:
      return quoted(label[row] || String(index[row]));
    case Kind.Error:
      return `${isResponse(graph) ? "Rest of MLP" : "Error"} L${layer[row]}`;
    default: {
      const words = promotes?.[row];
      return label[row] || (words?.length ? words.slice(0, 3).map(token).join(" ") : featureName(graph, row));
    }
  }
}

/** Layer of a node as the rows of the link graph name it. */
export function layerName(graph: Graph, row: number): string {
  const { kind, layer } = graph.view.nodes;
  return kind[row] === Kind.Embedding ? "Emb" : kind[row] === Kind.Logit ? "Lgt" : `L${layer[row]}`;
}

/** One line about a node for tooltips and screen readers. */
export function nodeLine(graph: Graph, annotations: Annotations, row: number): string {
  const { kind, position, activation } = graph.view.nodes;
  const place = kind[row] === Kind.Logit ? (isResponse(graph) ? "the target" : `p = ${number(activation[row])}`) : `${layerName(graph, row)} on ${quoted(graph.view.tokens[position[row]])}`;
  return `${kindName(graph, row)} ${nodeName(graph, annotations, row)}, ${place}`;
}
