// Everything the page asks the server, or the data inlined in an exported file.
import { edgesAt, type Graph } from "./graph.ts";
import { complete } from "./merge.ts";
import type { ExplanationAnswer, Facts, Off, ReadOff } from "./panes/why/facts.ts";
import type { HeadAt } from "./state/attention.ts";
import type { Annotations, Comparison, EdgePage, FeatureDetails, GraphList, SteerFacts, SteerRequest, StudyFacts, View } from "./types.ts";

/** A refusal of the server in its own words. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly body: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

export interface Inlined {
  view: View;
  annotations?: Partial<Annotations>;
  features?: Record<string, FeatureDetails>;
  explanation?: Facts | null;
  groups?: ReadOff[];
}

function inlinedData(): Inlined | null {
  const element = document.getElementById("unweave-data");
  return element?.textContent ? (JSON.parse(element.textContent) as Inlined) : null;
}

/** The graph inside an exported file; null when a server is behind the page. */
export const inlined = inlinedData();

const tokenIn = (page: Document): string => page.querySelector<HTMLMetaElement>('meta[name="unweave-token"]')?.content ?? "";
let token = tokenIn(document);

/** The token of a server that was started anew stands in its page. Whether there is another now. */
async function renewToken(): Promise<boolean> {
  const before = token;
  try {
    const page = await (await fetch("/", { cache: "no-store" })).text();
    token = tokenIn(new DOMParser().parseFromString(page, "text/html")) || token;
  } catch {
    // no server at the moment: said by whoever asked it for something
  }
  return token !== before;
}

/** An answer that says now and then how much of it has come. */
function counted(response: Response, received?: (bytes: number) => void): Response {
  if (!received || !response.body) return response;
  let bytes = 0;
  const counter = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(part, out) {
      received((bytes += part.length));
      out.enqueue(part);
    },
  });
  return new Response(response.body.pipeThrough(counter));
}

const SILENT = "The server does not answer. Is `unweave serve` still running?";

/** A file that the server makes. */
export async function fetchBytes(path: string, received: (bytes: number) => void): Promise<Blob> {
  const response = await fetch(path).catch(() => {
    throw new Refusal(SILENT, 0);
  });
  if (!response.ok) {
    const said = (await response.json().catch(() => null)) as { error?: string } | null;
    throw new Refusal(said?.error ?? `The server answered ${response.status}`, response.status);
  }
  return counted(response, received).blob();
}

async function ask<T>(path: string, init: RequestInit = {}, received?: (bytes: number) => void): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new Refusal(SILENT, 0);
  }
  const text = await counted(response, received).text().catch(() => {
    throw new Refusal("The server stopped answering. Is `unweave serve` still running?", 0);
  });
  let body: unknown = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    // a proxy's error page, or an answer cut short: said below
  }
  if (!response.ok || body === null) {
    const said = (body as { error?: string } | null)?.error;
    throw new Refusal(said ?? `The server answered ${response.status} to ${path.split("?")[0]}`, response.status, (body ?? {}) as Record<string, unknown>);
  }
  return body as T;
}

async function write<T>(method: string, path: string, body: unknown, headers: Record<string, string> = {}): Promise<T> {
  const bytes = body instanceof Blob ? body : JSON.stringify(body);
  const type = body instanceof Blob ? "application/octet-stream" : "application/json";
  const send = (): Promise<T> => ask<T>(path, { method, body: bytes, headers: { "X-Unweave-Token": token, "Content-Type": type, ...headers } });
  try {
    return await send();
  } catch (error) {
    if (!(error instanceof Refusal && error.status === 403 && (await renewToken()))) throw error;
    return send();
  }
}

const at = (slug: string, rest = ""): string => `/api/graphs/${encodeURIComponent(slug)}${rest}`;

/** All graphs; without waiting those whose files take longer to read are pending. */
export function listGraphs(wait = true): Promise<GraphList> {
  return ask(wait ? "/api/graphs" : "/api/graphs?wait=false");
}

export interface Job {
  job: string;
  what: string;
  share: number;
  title: string;
}

export async function listJobs(): Promise<Job[]> {
  return (await ask<{ jobs: Job[] }>("/api/jobs")).jobs;
}

export function cancelJob(job: string): void {
  write("DELETE", `/api/jobs/${encodeURIComponent(job)}`, {}).catch(() => {});
}

export function loadStudy(slug: string): Promise<StudyFacts> {
  return ask(at(slug, "/study"));
}

export async function loadView(slug: string, edges?: number, received?: (bytes: number) => void): Promise<View> {
  return inlined ? inlined.view : ask<View>(at(slug, edges ? `?edges=${edges}` : ""), {}, received);
}

export async function loadEdges(graph: Graph, row: number, direction: "in" | "out", limit: number): Promise<EdgePage> {
  if (inlined || graph.whole) {
    const edges = edgesAt(graph, row, direction);
    return { edges, total: edges.length, weight_total: edges.reduce((sum, edge) => sum + Math.abs(edge[1]), 0) };
  }
  return ask(at(graph.view.slug, `/edges?node=${row}&direction=${direction}&limit=${limit}`));
}

export async function loadFeature(slug: string, layer: number, index: number): Promise<FeatureDetails> {
  if (!inlined) {
    const known = await ask<FeatureDetails>(at(slug, `/features/${layer}/${index}`));
    if (known.source === "none") throw new Refusal(`Nothing is known of this feature: ${known.why ?? "there are no feature pages"}.`, 404);
    return known;
  }
  const details = inlined.features?.[`${layer}_${index}`];
  if (!details) throw new Refusal("This file holds no details of this feature.", 404);
  return details;
}

const storageKey = (slug: string): string => `unweave:${slug}`;

export async function loadAnnotations(slug: string): Promise<{ revision: number; annotations: Annotations }> {
  if (inlined) {
    let own: Partial<Annotations> | null = null;
    try {
      own = JSON.parse(localStorage.getItem(storageKey(slug)) ?? "null");
    } catch {
      // storage is closed to files in some browsers; the annotations of the file are shown then
    }
    return { revision: 0, annotations: complete(own ?? inlined.annotations) };
  }
  const saved = await ask<{ revision: number; annotations: Partial<Annotations> }>(at(slug, "/annotations"));
  return { revision: saved.revision, annotations: complete(saved.annotations) };
}

/** Saves and gives the new revision; a Refusal of status 409 carries what is saved already. */
export async function saveAnnotations(slug: string, revision: number, annotations: Annotations): Promise<number> {
  if (inlined) {
    try {
      localStorage.setItem(storageKey(slug), JSON.stringify(annotations));
    } catch {
      // in a notebook's frame there is no storage: work lasts as long as the frame, Export keeps it
    }
    return revision + 1;
  }
  return (await write<{ revision: number }>("PUT", at(slug, "/annotations"), { annotations }, { "If-Match": `"${revision}"` })).revision;
}

export function steer(slug: string, request: SteerRequest): Promise<SteerFacts> {
  return write("POST", at(slug, "/steer"), request);
}

export function compare(a: string, b: string): Promise<Comparison> {
  return ask(`/api/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`);
}

export function upload(file: File): Promise<{ slug: string }> {
  return write("POST", `/api/graphs?name=${encodeURIComponent(file.name)}`, file);
}

export const neuronpediaAddress = (slug: string): string => at(slug, "/neuronpedia.json");
export const htmlAddress = (slug: string): string => at(slug, "/export.html");

export interface TraceRequest {
  prompt: string;
  max_features?: number;
  targets?: string[];
  position_zero?: string;
}

export interface Progress {
  share: number;
  title: string;
}

export interface Running {
  /** Settles with the graph's slug, or null when cancelled. */
  done: Promise<string | null>;
  /** Asks the server to stop. */
  cancel: () => void;
}

export function trace(request: TraceRequest, progress: (now: Progress) => void): Promise<Running> {
  return work("/api/trace", request, progress);
}

/** Explains a graph's prompt; the explanation is stored beside the graph. */
export function explain(slug: string, progress: (now: Progress) => void): Promise<Running> {
  return work(at(slug, "/explain"), {}, progress);
}

export async function loadExplanation(slug: string): Promise<ExplanationAnswer> {
  return inlined ? { explanation: inlined.explanation ?? null, error: null, live: false, groups: inlined.groups ?? [] } : ask(at(slug, "/explanation"));
}

export function switchOff(slug: string, groups: number[], to: string): Promise<Off> {
  return write("POST", at(slug, "/explanation/off"), { groups, to });
}

export interface RoutesAnswer {
  weight: number;
  /** The largest, by name. */
  routes: [string, number][];
}

export interface HeadFacts {
  layer: number;
  head: number;
  query: number;
  key: number;
  pattern: number;
  carried: number;
  /** Rows, and what the share of attention changes by without them. */
  by_query: [number, number][];
  by_key: [number, number][];
  /** How much goes to each key that the query sees. */
  row: number[];
}

/** Rows of a node of the query and one of the key, and what the two add to the score. */
export interface LookFacts extends HeadFacts {
  pairs: [number, number, number][];
}

export function loadRoutes(slug: string, target: number, source: number): Promise<RoutesAnswer> {
  return ask(at(slug, `/routes?target=${target}&source=${source}`));
}

export function loadHeads(slug: string): Promise<{ heads: HeadFacts[] }> {
  return ask(at(slug, "/heads"));
}

export function loadLook(slug: string, { layer, head, query, key }: HeadAt): Promise<LookFacts> {
  return ask(at(slug, `/heads/${layer}/${head}?query=${query}${key === undefined ? "" : `&key=${key}`}`));
}

/** Starts long work on the server and follows it. */
async function work(address: string, request: unknown, progress: (now: Progress) => void): Promise<Running> {
  const { job } = await write<{ job: string }>("POST", address, request);
  const path = `/api/jobs/${encodeURIComponent(job)}`;
  const done = new Promise<string | null>((resolve, reject) => {
    const events = new EventSource(`${path}/events`);
    const data = (event: Event): Record<string, unknown> => JSON.parse((event as MessageEvent<string>).data || "{}");
    const end = (settle: () => void): void => {
      events.close();
      settle();
    };
    events.addEventListener("progress", (event) => progress(data(event) as unknown as Progress));
    events.addEventListener("done", (event) => end(() => resolve(String(data(event).slug))));
    events.addEventListener("cancelled", () => end(() => resolve(null)));
    events.addEventListener("failed", (event) => end(() => reject(new Refusal(String(data(event).error), 422))));
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) end(() => reject(new Refusal("The server stopped answering during this work.", 0)));
    };
  });
  return { done, cancel: () => cancelJob(job) };
}
