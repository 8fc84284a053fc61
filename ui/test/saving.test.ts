import assert from "node:assert/strict";
import { test } from "node:test";
import { signal } from "@preact/signals";
import * as edits from "../src/edits.ts";
import { merge, nothing } from "../src/merge.ts";
import { type Draft, type Saved, Saver } from "../src/state/saving.ts";
import type { Annotations } from "../src/types.ts";

const refusal = (status: number): Error => Object.assign(new Error(`refused with ${status}`), { status });

/** A server that can be down, refuse, or be written to by another tab; a browser's storage; a clock that is moved by hand. */
function world() {
  const server = { revision: 0, annotations: nothing as Annotations, refuses: null as number | null, saves: 0 };
  const storage = new Map<string, Draft>();
  const timers = new Map<number, { at: number; run: () => void }>();
  let [time, last] = [0, 0];
  const place = {
    load: async (): Promise<Saved> => {
      if (server.refuses !== null) throw refusal(server.refuses);
      return { revision: server.revision, annotations: server.annotations };
    },
    save: async (_: string, revision: number, annotations: Annotations): Promise<number> => {
      if (server.refuses !== null) throw refusal(server.refuses);
      if (revision !== server.revision) throw refusal(409);
      server.saves++;
      server.annotations = structuredClone(annotations);
      return ++server.revision;
    },
  };
  const clock = {
    after: (milliseconds: number, run: () => void): number => {
      timers.set(++last, { at: time + milliseconds, run });
      return last;
    },
    cancel: (timer: number): void => void timers.delete(timer),
  };
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 50; turn++) await Promise.resolve();
  };
  const pass = async (milliseconds: number): Promise<void> => {
    await settle();
    for (const end = time + milliseconds; ; ) {
      const next = [...timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      time = next ? next[1].at : end;
      if (!next) return;
      timers.delete(next[0]);
      next[1].run();
      await settle();
    }
  };
  const tab = (name: string) => {
    const now = signal<Annotations>(nothing);
    const drafts = {
      read: (graph: string) => [...storage].filter(([key]) => key.startsWith(graph)).map(([, draft]) => draft),
      write: (graph: string, draft: Draft) => Boolean(storage.set(`${graph}:${name}`, structuredClone(draft))),
      clear: (graph: string) => [...storage.keys()].filter((key) => key.startsWith(graph)).forEach((key) => storage.delete(key)),
    };
    const saver = new Saver(now, place, drafts, clock);
    const edit = (change: (state: Annotations) => Annotations): void => {
      now.value = change(now.value);
      saver.changed();
    };
    return { now, saver, edit, begin: async () => saver.begin("g", "g|1", await place.load()) };
  };
  return { server, storage, tab, pass };
}

const pins = (...ids: string[]) => (state: Annotations): Annotations => edits.pin(state, ids);

test("an edit is saved after a moment, many edits at once, and no draft is left", async () => {
  const { server, storage, tab, pass } = world();
  const one = tab("1");
  await one.begin();
  one.edit(pins("a"));
  assert.equal(one.saver.state.value, "waiting");
  assert.equal(storage.size, 1, "what is not saved yet is in a draft");
  one.edit(pins("b"));
  await pass(400);
  assert.deepEqual([one.saver.state.value, server.saves, server.annotations.pins, storage.size], ["saved", 1, ["a", "b"], 0]);
});

for (const [why, status] of [["does not answer", 0], ["was started anew", 403], ["serves other graphs now", 404], ["is busy", 429], ["fails", 500]] as const) {
  test(`nothing is lost while the server ${why}`, async () => {
    const { server, storage, tab, pass } = world();
    const one = tab("1");
    await one.begin();
    server.refuses = status;
    one.edit(pins("a"));
    await pass(60_000);
    assert.equal(one.saver.state.value, "retrying");
    assert.match(one.saver.problem.value!, /refused/);
    one.edit(pins("b"));
    await pass(1000);
    assert.equal(storage.get("g|1:1")!.now.pins.length, 2);
    server.refuses = null;
    await pass(15_000);
    assert.deepEqual([one.saver.state.value, server.annotations.pins, storage.size, one.saver.problem.value], ["saved", ["a", "b"], 0, null]);
  });
}

test("retries become rarer, and one can be asked for at once", async () => {
  const { server, tab, pass } = world();
  const one = tab("1");
  await one.begin();
  server.refuses = 0;
  one.edit(pins("a"));
  await pass(120_000);
  server.refuses = null;
  one.saver.retry();
  await pass(0);
  assert.equal(one.saver.state.value, "saved");
});

test("what is refused for good is not sent again by itself, but after the next edit", async () => {
  const { server, tab, pass } = world();
  const one = tab("1");
  await one.begin();
  server.refuses = 422;
  one.edit(pins("a"));
  await pass(1000);
  assert.equal(one.saver.state.value, "failed");
  server.refuses = null;
  await pass(60_000);
  assert.equal(server.saves, 0);
  one.edit(pins("b"));
  await pass(1000);
  assert.deepEqual(server.annotations.pins, ["a", "b"]);
});

test("a page that was closed before it could save is taken up again, on top of what others did since", async () => {
  const { server, storage, tab, pass } = world();
  const gone = tab("1");
  await gone.begin();
  server.refuses = 0;
  gone.edit(pins("mine"));
  await pass(1000);
  server.refuses = null;
  server.annotations = edits.pin(server.annotations, ["theirs"]);
  server.revision = 5;
  const again = tab("2");
  await again.begin();
  assert.deepEqual(new Set(again.now.value.pins), new Set(["mine", "theirs"]));
  await pass(1000);
  assert.deepEqual(new Set(server.annotations.pins), new Set(["mine", "theirs"]));
  assert.equal(storage.size, 0);
});

test("two tabs that edit at once lose nothing, whoever is first", async () => {
  const { server, tab, pass } = world();
  const [one, two] = [tab("1"), tab("2")];
  await Promise.all([one.begin(), two.begin()]);
  one.edit(pins("a"));
  two.edit(pins("b"));
  await pass(5000);
  assert.deepEqual(new Set(server.annotations.pins), new Set(["a", "b"]));
  await one.saver.refresh();
  await two.saver.refresh();
  assert.deepEqual(new Set(one.now.value.pins), new Set(["a", "b"]));
  assert.deepEqual(merge(nothing, one.now.value, nothing), merge(nothing, server.annotations, nothing));
});

test("another graph that is opened meanwhile gets none of it", async () => {
  const { server, tab, pass } = world();
  const one = tab("1");
  await one.begin();
  server.refuses = 0;
  one.edit(pins("a"));
  await pass(1000);
  server.refuses = null;
  one.saver.begin("other", "other|1", { revision: 0, annotations: nothing });
  await pass(60_000);
  assert.deepEqual([one.now.value.pins, server.saves, one.saver.state.value], [[], 0, "saved"]);
});
