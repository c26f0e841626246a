import assert from "node:assert/strict";
import { test } from "node:test";

import type { Welcome } from "../src/frames.js";
import { Acks, Ledger } from "../src/ledger.js";

const welcome = (fields: Partial<Welcome> = {}) =>
  ({ type: "welcome", epoch: "e", seq: 7, resumed: false, pending: 3, ...fields }) as Welcome;

function opened(fields: Partial<Welcome> = {}): Ledger {
  const ledger = new Ledger();
  ledger.opened(welcome(fields), []);
  return ledger;
}

function apply(ledger: Ledger, ...seqs: number[]): Ledger {
  for (const seq of seqs) {
    ledger.received(seq);
    ledger.applied(seq, ledger.epoch);
  }
  return ledger;
}

const at = (last_seq: number, epoch = "e") => ({ epoch, last_seq });
const gap = (from_seq: number, to_seq: number) =>
  ({ type: "gap", from_seq, to_seq, count: 1, reason: "expired" }) as const;
const resync = (epoch: string, seq: number) =>
  ({ type: "resync", reason: "epoch_changed", epoch, seq }) as const;

test("DLV-5: nothing is claimed while the backlog is still coming", () => {
  assert.equal(apply(opened(), 7, 2).claim, null);
});

test("after the backlog the newest seq is claimed", () => {
  assert.deepEqual(apply(opened(), 7, 2, 4).claim, at(7));
});

test("an empty mailbox is a complete backlog", () => {
  assert.deepEqual(opened({ pending: 0 }).claim, at(7));
});

test("the first live message ends a backlog shorter than announced", () => {
  assert.deepEqual(apply(opened(), 2, 8).claim, at(8));
});

test("a repeated message is not counted twice", () => {
  assert.equal(apply(opened(), 2, 2, 2).claim, null);
});

test("DLV-5: a hole in the live messages is not claimed, a gap closes it", () => {
  const ledger = apply(opened({ pending: 0 }), 8, 10);
  assert.deepEqual(ledger.claim, at(8));
  assert.ok(ledger.lacks(10));
  ledger.gap(gap(9, 9));
  assert.deepEqual(ledger.claim, at(10));
  assert.ok(!ledger.lacks(10));
});

test("what was received and not applied holds the position, a gap over it too", () => {
  const ledger = opened({ pending: 0 });
  ledger.received(8);
  apply(ledger, 9);
  ledger.gap(gap(8, 9));
  assert.deepEqual(ledger.claim, at(7));
  assert.ok(!ledger.lacks(9), "it is in our hands");
});

test("a resumed connection keeps the old position until it has caught up", () => {
  const ledger = opened({ pending: 0 });
  ledger.opened(welcome({ seq: 9, resumed: true, pending: 1 }), []);
  assert.deepEqual(ledger.claim, at(7));
  assert.deepEqual(apply(ledger, 9, 8).claim, at(9));
});

test("what is still in our hands when a connection resumes holds the position", () => {
  const ledger = opened({ pending: 0 });
  ledger.received(8);
  ledger.opened(welcome({ seq: 9, resumed: true }), [8]);
  assert.deepEqual(apply(ledger, 10).claim, at(7));
  ledger.applied(8, "e");
  assert.deepEqual(ledger.claim, at(10));
});

test("a refused resume drops the position", () => {
  const ledger = opened({ pending: 0 });
  ledger.opened(welcome({ epoch: "new", seq: 2, pending: 1 }), [8]);
  assert.equal(ledger.claim, null);
  ledger.applied(8, "e"); // 旧的一代
  assert.deepEqual(apply(ledger, 2).claim, at(2, "new"));
});

test("a resync on a live connection moves the position, one after welcome waits", () => {
  const live = apply(opened({ pending: 0 }), 8);
  live.resynced(resync("new", 1));
  assert.deepEqual(live.claim, at(1, "new"));
  const fresh = opened();
  fresh.resynced(resync("e", 7));
  assert.equal(fresh.claim, null);
});

test("thousands of messages in reverse order end as one position", () => {
  const seqs = Array.from({ length: 2_000 }, (_, index) => 2_000 - index);
  assert.deepEqual(apply(opened({ seq: 2_000, pending: 2_000 }), ...seqs).claim, at(2_000));
});

test("DLV-1: an ack in flight is sent again on the next connection", () => {
  const acks = new Acks();
  acks.add("a");
  acks.add("b");
  const first = acks.take();
  assert.deepEqual(first?.ids, ["a", "b"]);
  assert.equal(acks.take(), null);
  acks.confirmed(first?.request);
  acks.add("c");
  assert.deepEqual(acks.take()?.ids, ["c"]);
  acks.add("d");
  acks.reopen(65_536);
  assert.deepEqual(acks.take()?.ids, ["c", "d"]);
});

test("a batch that the server could not take is sent again, a foreign number is nobody's", () => {
  const acks = new Acks(["a"]);
  const batch = acks.take();
  assert.ok(!acks.again("another"));
  assert.ok(acks.again(batch?.request));
  assert.deepEqual(acks.take()?.ids, ["a"]);
});

test("a frame of acks stays under the limit of the server", () => {
  const acks = new Acks(Array.from({ length: 1_500 }, (_, index) => String(index)));
  acks.reopen(128 + 29 * 10);
  assert.equal(acks.take()?.ids.length, 10);
  acks.reopen(65_536);
  assert.equal(acks.take()?.ids.length, 1_000);
});
