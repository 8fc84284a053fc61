// How annotations get to the server, and are not lost on the way: one state machine, without a view and without a network.
//
//   saved ──edit──▶ waiting ──a moment──▶ saving ──▶ saved
//                      ▲                    │ refused for another's revision: merge, save again
//                      │                    │ no answer, a server that is busy or was restarted: ▼
//                      └──edit── failed ◀───┴──▶ retrying ──after 0.5 s, 1 s, 2 s … 15 s, or when asked: again
//
// Whatever the state, what is not saved is also in a draft that outlives the page.
import { type Signal, signal } from "@preact/signals";
import { merge, nothing } from "../merge.ts";
import type { Annotations } from "../types.ts";

export type SavingState = "saved" | "waiting" | "saving" | "retrying" | "failed";

export interface Saved {
  revision: number;
  annotations: Annotations;
}

/** Unsaved work: what it was made from, and what it is. */
export interface Draft {
  base: Annotations;
  now: Annotations;
}

/** Where annotations are saved. Both fail with an error that has a `status`: 0 without an answer. */
export interface Place {
  load(slug: string): Promise<Saved>;
  save(slug: string, revision: number, annotations: Annotations): Promise<number>;
}

/** Where unsaved work is kept meanwhile. `write` says whether it could be; `read` gives all there are of a graph. */
export interface Drafts {
  read(graph: string): Draft[];
  write(graph: string, draft: Draft): boolean;
  clear(graph: string): void;
}

export interface Clock {
  after(milliseconds: number, run: () => void): number;
  cancel(timer: number): void;
}

const PAUSE = 350;
const RETRIES = [500, 1000, 2000, 4000, 8000, 15_000];
const MOST_MERGES = 5;
/** Refusals that say something about the work itself: the same again would be refused again. */
const FINAL = new Set([400, 405, 411, 413, 415, 422, 428]);

const statusOf = (error: unknown): number => (error as { status?: number }).status ?? 0;

export class Saver {
  readonly state = signal<SavingState>("saved");
  /** Why the last try failed; null while nothing failed. */
  readonly problem = signal<string | null>(null);
  private slug = "";
  private graph = "";
  private base: Annotations = nothing;
  private revision = 0;
  private timer = 0;
  private tries = 0;
  private drafted = true;
  private running: Promise<void> | null = null;

  constructor(
    private readonly now: Signal<Annotations>,
    private readonly place: Place,
    private readonly drafts: Drafts,
    private readonly clock: Clock,
    private readonly onSaved: (slug: string) => void = () => {},
  ) {}

  /** Whether leaving now would lose something that no draft holds. */
  get unkept(): boolean {
    return this.state.value !== "saved" && !this.drafted;
  }

  /** Begins with a graph as it is saved, and what earlier visits left unsaved put on top. `graph` names it beyond its slug. */
  begin(slug: string, graph: string, saved: Saved): void {
    this.clock.cancel(this.timer);
    [this.slug, this.graph, this.base, this.revision, this.tries] = [slug, graph, saved.annotations, saved.revision, 0];
    const left = this.drafts.read(graph);
    this.now.value = left.reduce((state, draft) => merge(draft.base, draft.now, state), saved.annotations);
    this.problem.value = null;
    this.state.value = "saved";
    if (left.length) this.changed();
  }

  /** Something was changed: it will be saved in a moment. */
  changed(): void {
    this.drafted = this.drafts.write(this.graph, { base: this.base, now: this.now.value });
    if (this.state.value !== "retrying") this.state.value = "waiting";
    if (this.state.value === "waiting") this.later(PAUSE);
  }

  /** Saves at once; settles when this try is over, however it ended. */
  async save(): Promise<void> {
    this.clock.cancel(this.timer);
    await this.running;
    this.running = this.attempt().finally(() => (this.running = null));
    return this.running;
  }

  /** Tries again at once if a try failed. */
  retry(): void {
    if (this.state.value === "retrying" || this.state.value === "failed") void this.save();
  }

  /** Takes in what another tab or browser saved. */
  async refresh(): Promise<void> {
    await this.running;
    const { graph } = this;
    const theirs = await this.place.load(this.slug).catch(() => null);
    if (theirs && this.graph === graph && theirs.revision !== this.revision) {
      this.adopt(theirs);
      if (this.now.value !== this.base) this.changed();
    }
  }

  private later(milliseconds: number): void {
    this.clock.cancel(this.timer);
    this.timer = this.clock.after(milliseconds, () => void this.save());
  }

  private async attempt(): Promise<void> {
    const { graph, slug } = this;
    for (let merges = 0; this.graph === graph && this.now.value !== this.base; ) {
      if (this.state.value !== "retrying") this.state.value = "saving"; // what is said of a failure stays until one works
      const sent = this.now.value;
      try {
        const revision = await this.place.save(slug, this.revision, sent);
        if (this.graph !== graph) return;
        [this.revision, this.base] = [revision, sent];
        this.onSaved(slug);
      } catch (error) {
        if (this.graph !== graph) return;
        if (statusOf(error) !== 409 || ++merges > MOST_MERGES) return this.gaveUp(error as Error);
        try {
          const theirs = await this.place.load(slug);
          if (this.graph === graph) this.adopt(theirs);
        } catch (failure) {
          if (this.graph === graph) this.gaveUp(failure as Error);
          return;
        }
      }
    }
    if (this.graph !== graph) return;
    this.tries = 0;
    this.drafts.clear(graph);
    this.problem.value = null;
    this.state.value = "saved";
  }

  private gaveUp(error: Error): void {
    this.problem.value = error.message;
    if (FINAL.has(statusOf(error))) {
      this.state.value = "failed";
      return;
    }
    this.state.value = "retrying";
    this.later(RETRIES[Math.min(this.tries++, RETRIES.length - 1)]);
  }

  /** What was changed here since the last save is put on top of what others saved. */
  private adopt(theirs: Saved): void {
    this.now.value = this.now.value === this.base ? theirs.annotations : merge(this.base, this.now.value, theirs.annotations);
    [this.base, this.revision] = [theirs.annotations, theirs.revision];
    if (this.now.value !== this.base) this.drafted = this.drafts.write(this.graph, { base: this.base, now: this.now.value });
  }
}
