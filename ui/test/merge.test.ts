import assert from "node:assert/strict";
import { test } from "node:test";
import * as edits from "../src/edits.ts";
import { complete, merge, nothing } from "../src/merge.ts";
import type { Annotations } from "../src/types.ts";

const base = edits.group(edits.pin(complete({ notes: "first", labels: { "1_2": "city" } }), ["a", "b", "c", "d"]), ["a", "b"], "g1", "G");

test("what only one side changed is kept, from either side", () => {
  const mine = edits.label(edits.pin(base, ["e"]), "3_4", "river");
  const theirs = { ...edits.unpin(base, ["d"]), notes: "second" };
  for (const merged of [merge(base, mine, theirs), merge(base, theirs, mine)]) {
    assert.deepEqual(new Set(merged.pins), new Set(["a", "b", "c", "e"]));
    assert.deepEqual(merged.labels, { "1_2": "city", "3_4": "river" });
    assert.equal(merged.notes, "second");
  }
});

test("two tabs that write notes at once lose neither", () => {
  const merged = merge(base, { ...base, notes: "mine" }, { ...base, notes: "theirs" });
  assert.ok(merged.notes.includes("mine") && merged.notes.includes("theirs"));
});

test("a supernode renamed here and extended there is both", () => {
  const mine = edits.changeGroup(base, "g1", { name: "Capitals" });
  const theirs: Annotations = { ...base, supernodes: [{ ...base.supernodes[0], members: ["a", "b", "c"] }] };
  const [group] = merge(base, mine, theirs).supernodes;
  assert.equal(group.name, "Capitals");
  assert.deepEqual(group.members, ["a", "b", "c"]);
});

test("a node that two tabs grouped differently ends in one supernode", () => {
  const mine = edits.group(base, ["c", "d"], "g2", "mine");
  const theirs = edits.group(base, ["c", "e"], "g3", "theirs");
  const members = merge(base, mine, theirs).supernodes.flatMap((group) => group.members);
  assert.equal(new Set(members).size, members.length);
});

test("deleted here, changed there: the change is kept; deleted here, untouched there: gone", () => {
  const gone = edits.ungroup(base, "g1");
  assert.equal(merge(base, gone, edits.changeGroup(base, "g1", { name: "new" })).supernodes.length, 1);
  assert.equal(merge(base, gone, edits.pin(base, ["z"])).supernodes.length, 0);
});

test("undo is a merge backwards and leaves later work of others", () => {
  const after = edits.pin(base, ["e"]);
  const now = edits.label(after, "9_9", "later");
  const undone = merge(after, base, now);
  assert.ok(!undone.pins.includes("e"));
  assert.equal(undone.labels["9_9"], "later");
  assert.ok(merge(base, after, undone).pins.includes("e"));
});

test("a saved subgraph comes back as it was, without nodes that are gone, and its name is written over", () => {
  const own = edits.group(edits.pin(nothing, ["c"]), ["a", "b"], "g", "G");
  const once = edits.saveView(own, "first", { screen: "graph", chosen: null });
  const twice = edits.saveView({ ...once, pins: ["a"] }, "first", { screen: "why", chosen: "group-1" });
  assert.deepEqual([once.views.length, twice.views.length, twice.views[0].id], [1, 1, once.views[0].id]);
  const opened = edits.openView({ ...once, pins: [], supernodes: [], notes: "mine" }, once.views[0], () => true);
  assert.deepEqual([opened.pins, opened.supernodes, opened.notes], [own.pins, own.supernodes, "mine"]);
  const poorer = edits.openView(once, once.views[0], (id) => id !== "b");
  assert.deepEqual([poorer.pins, poorer.supernodes], [["c", "a"], []]);
  assert.deepEqual(edits.dropView(once, once.views[0].id).views, []);
  const theirs = edits.saveView(own, "theirs", {});
  assert.deepEqual(merge(own, once, theirs).views.map((view) => view.name), ["theirs", "first"]);
  assert.deepEqual(complete({ pins: ["a"] }).views, []);
});

test("merging with oneself changes nothing", () => {
  assert.deepEqual(merge(base, base, base), base);
  assert.deepEqual(merge(nothing, base, nothing), base);
});

test("unpinning takes a node out of its group, and dissolves a group of one", () => {
  assert.deepEqual(edits.unpin(base, ["a"]).supernodes, []);
  const three = edits.group(base, ["g1", "c"], "g2", "all");
  assert.deepEqual(three.supernodes.map(({ id, members }) => [id, members]), [["g2", ["a", "b", "c"]]]);
  assert.deepEqual(edits.unpin(three, ["c"]).supernodes[0].members, ["a", "b"]);
});

test("grouping pins its members; one node is no group", () => {
  assert.ok(edits.group(nothing, ["x", "y"], "g", "G").pins.includes("y"));
  assert.equal(edits.group(base, ["x"], "g", "G"), base);
});

test("pins stop at 200, labels can be taken away, history keeps the latest", () => {
  assert.equal(edits.pin(nothing, Array.from({ length: 250 }, (_, i) => `n${i}`)).pins.length, 200);
  assert.deepEqual(edits.label(base, "1_2", " ").labels, {});
  let state = nothing;
  for (let i = 0; i < 40; i++) state = edits.remember(state, { id: `r${i}`, time: "", request: {} as never, facts: {} });
  assert.equal(state.history.length, 30);
  assert.equal(state.history.at(-1)!.id, "r39");
});

test("annotations with missing or wrong parts are completed, unknown ones kept", () => {
  const read = complete({ pins: "no" as never, extra: 1 } as never);
  assert.deepEqual(read.pins, []);
  assert.equal((read as unknown as { extra: number }).extra, 1);
});
