/** Snapshots, changed histories, and how often a reader opens again: CLIENT-4 to CLIENT-6 of docs/protocol.md. */

import { describe, expect, test } from "vitest";

import type { Transcript } from "../src/transcript.js";
import { turnsOf } from "../src/turn_state.js";
import {
  accepted,
  cursor,
  delta,
  done,
  ended,
  GEN,
  malformed,
  ofTurn,
  opened,
  SESSION,
  snapshot,
  started,
  summaries,
} from "./support/frames.js";
import { adopt, openOf, reader, standsAt, take, texts, view } from "./support/reader.js";

const WINDOW_MS = 10_000;

/** A reader with a finished turn "t1" and a running one "t2" that has said "so far", at seq 12. */
function running(): Transcript {
  const transcript = reader([ended("t1", "first")], 9);
  take(transcript, accepted("t2", 10, { parent: "t1" }), started("t2", 11), delta("t2", 12, "so far"));
  return transcript;
}

describe("snapshots", () => {
  test("SNAP-1: a snapshot counts only once it is whole; until then all that was known stands", () => {
    const transcript = running();
    take(transcript, opened({ gen: "g_2", seq: 5, turn: "t4", turns: 2 }), snapshot("t3"));
    expect(texts(transcript)).toEqual(["first", "so far"]);
    transcript.lost();
    expect(standsAt(transcript)).toEqual(cursor(12, "t2"));
  });

  test("SNAP-1: a numbered frame before the snapshot is whole makes the reader open again from its old cursor", () => {
    const transcript = running();
    take(transcript, opened({ seq: 20, turn: "t4", turns: 2 }), snapshot("t3"));
    expect(openOf(transcript.receive(delta("t3", 21, "x"), 0)).after).toEqual(cursor(12, "t2"));
    expect(texts(transcript)).toEqual(["first", "so far"]);
  });

  test("SNAP-1: a turn.snapshot that belongs to no session.opened is no frame that makes sense", () => {
    const transcript = running();
    const outcome = transcript.receive(snapshot("t3"), 0);
    expect(outcome.fault).toMatch(/^A turn\.snapshot frame makes no sense/);
    expect(openOf(outcome).after).toBeUndefined();
    expect(texts(transcript)).toEqual(["first", "so far"]);
  });

  test("SNAP-1: another session.opened begins the snapshot anew", () => {
    const transcript = running();
    take(transcript, opened({ seq: 20, turn: "t3", turns: 2 }), snapshot("t3"));
    expect(adopt(transcript, [ended("t1", "first"), snapshot("t2", { parent: "t1" })], { seq: 21 })).toEqual({});
    expect(texts(transcript)).toEqual(["first", ""]);
  });

  test("SNAP-3: frames go on behind the place of the snapshot", () => {
    const transcript = running();
    const parts = [{ part: 0, kind: "text" as const, text: "so far and" }];
    adopt(transcript, [ended("t1", "first"), snapshot("t2", { parent: "t1", parts })], { seq: 14 });
    take(transcript, delta("t2", 14, "dropped"), delta("t2", 15, " on"));
    expect(texts(transcript)).toEqual(["first", "so far and on"]);
  });

  test("SNAP-2: the pieces of a long turn are joined, input, parts and what only the last one has", () => {
    const long = [
      snapshot("t1", { parts: [{ part: 0, kind: "reasoning", text: "I th" }] }),
      snapshot("t1", {
        continued: true,
        input: [{ type: "text", text: "more of the question" }],
        parts: [
          { part: 0, kind: "reasoning", text: "ink", last: true },
          { part: 1, kind: "text", text: "A long" },
        ],
      }),
      snapshot("t1", { continued: true, input: [], parts: [{ part: 1, kind: "text", text: " ans" }] }),
      snapshot("t1", {
        continued: true,
        state: "parked",
        input: [],
        parts: [{ part: 2, kind: "tool_call", call: "c1", name: "look", text: "{}", last: true }],
        pending: [{ request: "c1", kind: "tool_result", detail: { name: "look" } }],
      }),
    ];
    const transcript = reader();
    expect(adopt(transcript, long, { seq: 30 })).toEqual({});
    expect(view(transcript, "t1")).toMatchObject({
      text: "A long ans",
      input: [{ text: "question of t1" }, { text: "more of the question" }],
      parts: [
        { kind: "reasoning", text: "I think", complete: true },
        { kind: "text", text: "A long ans", complete: false },
        { kind: "tool_call", call: "c1", name: "look", args: {} },
      ],
      asks: [{ turn: "t1", request: "c1" }],
    });
    take(transcript, delta("t1", 31, "wer", { part: 1, last: true }));
    expect(texts(transcript)).toEqual(["A long answer"]);
  });

  test("SNAP-2: a long turn that has ended is proved by the terminal of its last piece", () => {
    const terminal = done("t1", 30, ["ab"]);
    const first = snapshot("t1", { state: "done", parts: [{ part: 0, kind: "text", text: "a" }] });
    const second = { continued: true as const, state: "done" as const, input: [], terminal };
    const transcript = reader();
    adopt(transcript, [first, snapshot("t1", { ...second, parts: [{ part: 0, kind: "text", text: "b", last: true }] })]);
    expect(view(transcript, "t1")).toMatchObject({ text: "ab", proved: true, status: "done" });
  });

  test.each([
    ["a piece of another turn", [snapshot("t1"), snapshot("t2", { continued: true })]],
    ["a piece of no turn", [snapshot("t1", { continued: true })]],
    ["a turn that is shown twice", [snapshot("t1"), snapshot("t1")]],
    ["a turn that is shown twice, not in a row", [snapshot("t1"), snapshot("t2"), snapshot("t1")]],
    ["no input", [malformed({ ...snapshot("t1"), input: undefined })]],
    ["no parts", [malformed({ ...snapshot("t1"), parts: undefined })]],
    ["no list of parts", [malformed({ ...snapshot("t1"), parts: { 0: "a" } })]],
    ["no pending requests", [malformed({ ...snapshot("t1"), pending: undefined })]],
    ["a part that is none", [malformed({ ...snapshot("t1"), parts: [null] })]],
    ["a part without text", [malformed({ ...snapshot("t1"), parts: [{ part: 0, kind: "text" }] })]],
    ["parts out of order", [snapshot("t1", { parts: [{ part: 1, kind: "text", text: "b" }] })]],
    ["a terminal that is none", [malformed({ ...ended("t1", "x"), terminal: { type: "turn.done" } })]],
    [
      "a continued piece without input",
      [snapshot("t1"), malformed({ ...snapshot("t1", { continued: true }), input: null })],
    ],
  ])("a snapshot that makes no sense is not taken, and the fault is told: %s", (_, frames) => {
    const transcript = running();
    const outcome = adopt(transcript, frames as never, { gen: "g_2", seq: 3 });
    expect(outcome.fault).toMatch(/^A turn\.snapshot frame makes no sense/);
    expect(openOf(outcome).after).toBeUndefined();
    transcript.lost();
    expect(standsAt(transcript)).toEqual(cursor(12, "t2"));
    expect(texts(transcript)).toEqual(["first", "so far"]);
  });

  test.each([
    ["without turns", { turns: undefined }],
    ["with turns that are no number", { turns: null }],
    ["with less than no turns", { turns: -1 }],
    ["without seq", { seq: undefined }],
    ["with a seq that is no integer", { seq: "9" }],
  ])("a session.opened %s is not taken, and the fault is told", (_, fields) => {
    const transcript = running();
    const outcome = transcript.receive(malformed({ ...opened({ gen: "g_2", seq: 3 }), ...fields }), 0);
    expect(outcome.fault).toMatch(/^A session\.opened frame makes no sense/);
    expect(openOf(outcome).after).toBeUndefined();
    expect(texts(transcript)).toEqual(["first", "so far"]);
    expect(view(transcript, "t2").status).toBe("running");
  });

  test("CLIENT-3: a snapshot whose terminal proves other text is not taken", () => {
    const transcript = running();
    const wrong = ended("t1", "first", { terminal: done("t1", 9, [], { parts: summaries(["other"]) }) });
    const outcome = adopt(transcript, [wrong], { seq: 20 });
    expect(openOf(outcome).after).toBeUndefined();
    expect(texts(transcript)).toEqual(["first", "so far"]);
  });

  test("earlier turns that came over HTTP are read as a snapshot's are, and a damaged page throws", () => {
    expect(turnsOf([ended("t1", "a"), ended("t2", "b")]).map(({ id }) => id)).toEqual(["t1", "t2"]);
    expect(() => turnsOf([malformed({ ...ended("t1", "a"), parts: [] }) as never])).toThrow(TypeError);
  });

  test("there may be earlier turns when the snapshot is full, or its oldest turn has a parent that is not there", () => {
    expect(reader([ended("t1", "a")]).tree.hasEarlier).toBe(false);
    expect(reader([ended("t2", "a", { parent: "t1" })]).tree.hasEarlier).toBe(true);
    expect(reader([]).tree.hasEarlier).toBe(false);
    const full = Array.from({ length: 20 }, (_, number) => ended(`t${number}`, "a"));
    expect(reader(full).tree.hasEarlier).toBe(true);
    const unfinished = full.map((turn, number) => (number < 19 ? turn : snapshot("t19")));
    expect(reader(unfinished).tree.hasEarlier).toBe(false);
  });
});

describe("histories", () => {
  test("CLIENT-4: a snapshot of the same history takes the place of all that was known", () => {
    const transcript = running();
    expect(adopt(transcript, [ended("t2", "so far, so good", { parent: "t1" })], { seq: 20 })).toEqual({});
    expect(transcript.tree.views().map(({ id }) => id)).toEqual(["t2"]);
    expect(transcript.tree.hasEarlier).toBe(true);
  });

  test("CLIENT-4: a gen is taken from session.opened, and what is unconfirmed is to be sent again", () => {
    const transcript = running();
    expect(adopt(transcript, [ended("t1", "first")], { gen: "g_2", seq: 9 })).toEqual({ resend: true });
    expect(standsAt(transcript)).toEqual(cursor(9, "t1", "g_2"));
    take(transcript, accepted("t3", 10, { parent: "t1" }));
  });

  test("CLIENT-4: a gen that comes with the frames of a turn is no gen", () => {
    const transcript = running();
    take(transcript, malformed({ ...delta("t2", 13, " on"), gen: "g_9" }));
    expect(standsAt(transcript)?.gen).toBe(GEN);
  });

  test("CLIENT-4: a session that has got its first gen has lost nothing", () => {
    const transcript = reader();
    const empty = reader();
    adopt(empty, [], { gen: null });
    expect(adopt(empty, [], { gen: "g_2" })).toEqual({});
    expect(adopt(transcript, [], { gen: null })).toEqual({ resend: true });
  });

  test("CLIENT-5: an unfinished turn that a snapshot lacks has ended with store_lost, and keeps what it said", () => {
    const transcript = running();
    adopt(transcript, [ended("t1", "first")], { gen: "g_2", seq: 9 });
    expect(view(transcript, "t2")).toMatchObject({ status: "error", text: "so far", error: { code: "store_lost" } });
    expect(view(transcript, "t2").unsent).toBeUndefined();
    expect(transcript.tree.busy).toBe(false);
  });

  test("CLIENT-5: a lost turn is still there after the next snapshot, and a finished one that is lacked is not", () => {
    const transcript = running();
    adopt(transcript, [ended("t1", "first")], { gen: "g_2", seq: 9 });
    adopt(transcript, [ended("t3", "third")], { gen: "g_2", seq: 15 });
    expect(transcript.tree.all().map(({ id }) => id)).toEqual(["t3", "t2"]);
  });

  test("CLIENT-5: a lost turn that a later snapshot shows is there again", () => {
    const transcript = running();
    adopt(transcript, [], { gen: "g_2" });
    const parts = [{ part: 0, kind: "text" as const, text: "so far" }];
    adopt(transcript, [snapshot("t2", { parts })], { gen: "g_2", seq: 2 });
    expect(view(transcript, "t2")).toMatchObject({ status: "running", text: "so far" });
    expect(view(transcript, "t2").error).toBeUndefined();
    expect(transcript.tree.get("t2")?.epoch).toBe(0);
  });

  test("section 11: a turn that was lost whole is accepted anew when it is sent again, and its handle begins anew", () => {
    const transcript = running();
    adopt(transcript, [ended("t1", "first")], { gen: "g_2", seq: 9 });
    const epoch = transcript.tree.get("t2")?.epoch as number;
    take(transcript, accepted("t2", 10, { parent: "t1" }), started("t2", 11), delta("t2", 12, "anew"));
    take(transcript, done("t2", 13, ["anew"]));
    expect(view(transcript, "t2")).toMatchObject({ status: "done", text: "anew", proved: true });
    expect(view(transcript, "t2").error).toBeUndefined();
    expect(transcript.tree.get("t2")?.epoch).toBeGreaterThan(epoch);
  });

  test("what was said goes on in a snapshot that shows more of it, and begins anew in one that shows other text", () => {
    const transcript = running();
    const shows = (text: string, seq: number) =>
      adopt(transcript, [snapshot("t2", { parts: [{ part: 0, kind: "text", text }] })], { seq });
    shows("so far so", 20);
    expect(transcript.tree.get("t2")?.epoch).toBe(0);
    shows("so fat", 21);
    expect(transcript.tree.get("t2")?.epoch).toBe(1);
    adopt(transcript, [snapshot("t2")], { seq: 22 });
    expect(transcript.tree.get("t2")?.epoch).toBe(2);
  });

  test("a turn of this client that is not told of yet outlives every snapshot", () => {
    const transcript = running();
    transcript.tree.add({ type: "turn.create", session: SESSION, turn: "mine", input: [], parent: "t2" }, 0);
    adopt(transcript, [ended("t1", "first")], { gen: "g_2", seq: 9 });
    expect(transcript.tree.get("mine")).toMatchObject({ told: false, phase: "sending" });
    expect(transcript.tree.busy).toBe(true);
  });
});

describe("opening again", () => {
  const gap = (transcript: Transcript, now: number) => transcript.receive(delta("t2", 99, "gap"), now);
  /** The open is answered by a replay from where the reader stands. */
  const replayed = (transcript: Transcript, id: string, now: number) => {
    const answer = opened({ mode: "replay", seq: 12, turn: "t2", reply_to: id });
    expect(transcript.receive(answer, now)).toEqual({});
  };

  test("CLIENT-6: a second reopen within 10 s names no cursor", () => {
    const transcript = running();
    const first = openOf(gap(transcript, 0));
    expect(first.after).toEqual(cursor(12, "t2"));
    replayed(transcript, first.id as string, 1);
    expect(openOf(gap(transcript, WINDOW_MS - 1)).after).toBeUndefined();
  });

  test("CLIENT-6: a third reopen within 10 s is shown as a problem, and nothing more is asked", () => {
    const transcript = running();
    replayed(transcript, openOf(gap(transcript, 0)).id as string, 1);
    const version = transcript.tree.version;
    const second = openOf(gap(transcript, 2));
    adopt(transcript, [snapshot("t2")], { seq: 12, reply_to: second.id as string }, 3);
    expect(gap(transcript, 4)).toEqual({});
    expect(transcript.problem).toBe("This chat does not add up; reload the page.");
    expect(transcript.tree.version).toBeGreaterThan(version);
    expect(transcript.receive(delta("t2", 13, "late"), 5)).toEqual({});
    expect(texts(transcript)).toEqual([""]);
  });

  test("CLIENT-6: a reopen counts for 10 s and no longer", () => {
    const transcript = running();
    for (let now = 0; now < 20 * WINDOW_MS; now += WINDOW_MS) {
      const { id, after } = openOf(gap(transcript, now));
      expect(after).toEqual(cursor(12, "t2"));
      replayed(transcript, id as string, now);
    }
    expect(transcript.problem).toBeUndefined();
  });

  test("CLIENT-6: a reopen after a wrong checksum names no cursor, also the first", () => {
    const transcript = running();
    expect(openOf(transcript.receive(done("t2", 13, ["other"]), 0)).after).toBeUndefined();
  });

  test("CLIENT-6: a server whose text never adds up is asked twice, then people are told", () => {
    const transcript = running();
    const first = openOf(transcript.receive(done("t2", 13, ["other"]), 0));
    const wrong = ended("t2", "so far", { terminal: done("t2", 13, ["other"]) });
    const second = openOf(adopt(transcript, [wrong], { seq: 13, reply_to: first.id as string }));
    const third = adopt(transcript, [wrong], { seq: 13, reply_to: second.id as string });
    expect(third.open).toBeUndefined();
    expect(transcript.problem).toBeDefined();
    expect(view(transcript, "t2").status).toBe("running");
  });

  test("CLIENT-6: a problem is over when another connection brings the session whole", () => {
    const transcript = running();
    replayed(transcript, openOf(gap(transcript, 0)).id as string, 1);
    const second = openOf(gap(transcript, 2));
    adopt(transcript, [snapshot("t2")], { seq: 12, reply_to: second.id as string }, 3);
    gap(transcript, 4);
    transcript.lost();
    const open = transcript.resume();
    expect(open.after).toBeUndefined();
    expect(transcript.problem).toBeUndefined();
    adopt(transcript, [ended("t2", "so far, so good")], { seq: 20, reply_to: open.id as string }, 5);
    expect(texts(transcript)).toEqual(["so far, so good"]);
  });

  test("coming back after a lost connection is no reopen", () => {
    const transcript = running();
    for (let loss = 0; loss < 20; loss++) {
      transcript.lost();
      const { id, after } = transcript.resume();
      expect(after).toEqual(cursor(12, "t2"));
      replayed(transcript, id as string, 0);
    }
    expect(openOf(gap(transcript, 0)).after).toEqual(cursor(12, "t2"));
  });

  test("an unknown part of a turn, told in the middle, is asked for and healed by a snapshot", () => {
    const transcript = running();
    const outcome = transcript.receive(delta("t2", 13, "third part", { part: 3 }), 0);
    expect(outcome.fault).toBeDefined();
    const parts = ["so far", "b", "c", "third part"].map((text, part) => ({ part, kind: "text" as const, text }));
    adopt(transcript, [snapshot("t2", { parts })], { seq: 13, reply_to: openOf(outcome).id as string });
    take(transcript, ofTurn("turn.cancelling", "t2", 14, { by: "u_1" }));
    expect(view(transcript, "t2")).toMatchObject({ text: "so farbcthird part", status: "stopping" });
  });
});
