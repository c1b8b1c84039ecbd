/** The client rule of docs/protocol.md, section 9, frame by frame. What a turn shows is turn_state.test.ts's. */

import { describe, expect, test } from "vitest";

import { Transcript } from "../src/transcript.js";
import {
  accepted,
  cursor,
  delta,
  done,
  ended,
  errorBody,
  malformed,
  ofTurn,
  opened,
  SESSION,
  snapshot,
  started,
} from "./support/frames.js";
import { adopt, openOf, reader, standsAt, take, texts, view } from "./support/reader.js";

/** A reader of a session with one running turn, "t1", which has said "Hello" and stands at seq 3. */
function running(): Transcript {
  const transcript = reader();
  take(transcript, accepted("t1", 1), started("t1", 2), delta("t1", 3, "Hello"));
  return transcript;
}

describe("opening", () => {
  test("RESUME-1: the first open names no cursor, for there is none", () => {
    const transcript = new Transcript(SESSION);
    expect(transcript.resume()).toEqual({ type: "session.open", id: "o1", session: SESSION, history: 20 });
    expect(transcript.loaded).toBe(false);
  });

  test("RESUME-1: after a lost connection it names the cursor of the last numbered frame that it has", () => {
    const transcript = running();
    transcript.lost();
    expect(transcript.resume().after).toEqual(cursor(3, "t1"));
  });

  test("RESUME-1: after a session frame the cursor's turn is null", () => {
    const transcript = running();
    take(transcript, { type: "session.updated", session: SESSION, seq: 4, at: 0, title: "Sky", metadata: {} });
    expect(transcript.title).toBe("Sky");
    expect(standsAt(transcript)).toEqual(cursor(4, null));
  });

  test("RESUME-1: a merged delta moves the cursor to the last of what it stands for", () => {
    const transcript = running();
    take(transcript, delta("t1", 8, " world", { first_seq: 4 }));
    expect(standsAt(transcript)).toEqual(cursor(8, "t1"));
    expect(texts(transcript)).toEqual(["Hello world"]);
  });

  test("OPEN-4: a session without any turn is loaded, and its next open names no cursor", () => {
    const transcript = new Transcript(SESSION);
    const { id } = transcript.resume();
    adopt(transcript, [], { gen: null, reply_to: id as string });
    expect(transcript.loaded).toBe(true);
    expect(standsAt(transcript)).toBeUndefined();
  });

  test("OPEN-2: the first turn's gen comes unasked, and its frames are taken from there", () => {
    const transcript = new Transcript(SESSION);
    const { id } = transcript.resume();
    adopt(transcript, [], { gen: null, reply_to: id as string });
    expect(adopt(transcript, [], { gen: "g_new" })).toEqual({});
    take(transcript, accepted("t1", 1));
    expect(standsAt(transcript)).toEqual(cursor(1, "t1", "g_new"));
  });

  test("OPEN-1: a numbered frame in a session that has no gen yet makes it open again", () => {
    const transcript = new Transcript(SESSION);
    const { id } = transcript.resume();
    adopt(transcript, [], { gen: null, reply_to: id as string });
    expect(openOf(transcript.receive(accepted("t1", 1), 0)).after).toBeUndefined();
  });

  test("RESUME-1: a replay goes on where the reader stands", () => {
    const transcript = running();
    transcript.lost();
    const { id } = transcript.resume();
    take(transcript, opened({ mode: "replay", seq: 3, turn: "t1", reply_to: id as string }), delta("t1", 4, "!"));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });

  test.each([
    ["another place", { seq: 2 }],
    ["another history", { seq: 3, gen: "g_2" }],
  ])("RESUME-1: a replay from %s than the reader's is not taken, and it opens without a cursor", (_, fields) => {
    const transcript = running();
    transcript.lost();
    const { id } = transcript.resume();
    const outcome = transcript.receive(opened({ mode: "replay", turn: "t1", reply_to: id as string, ...fields }), 0);
    expect(openOf(outcome).after).toBeUndefined();
    expect(texts(transcript)).toEqual(["Hello"]);
  });

  test("OPEN-3: a session that a create has opened, before the reader had anything of it, is opened whole", () => {
    const transcript = new Transcript(SESSION);
    const outcome = transcript.receive(opened({ mode: "replay", seq: 7, turn: "t0" }), 0);
    expect(openOf(outcome).after).toBeUndefined();
    expect(transcript.loaded).toBe(false);
  });

  test("the history that is asked for covers what is loaded, from 20 up to 200 turns", () => {
    const few = reader([ended("t1", "a")]);
    expect(few.resume().history).toBe(20);
    const some = reader(Array.from({ length: 33 }, (_, number) => ended(`t${number}`, "a")));
    expect(some.resume().history).toBe(33);
    const many = reader(Array.from({ length: 250 }, (_, number) => ended(`t${number}`, "a")));
    expect(many.resume().history).toBe(200);
  });

  test("an open that was refused is shown as the session's problem, until the next resume", () => {
    const transcript = new Transcript(SESSION);
    const { id } = transcript.resume();
    expect(transcript.refused(id as string, errorBody({ message: "Too many sessions." }))).toBe(true);
    expect(transcript.problem).toBe("Too many sessions.");
    expect(transcript.receive(opened(), 0)).toEqual({});
    expect(transcript.loaded).toBe(false);
    expect(transcript.resume().after).toBeUndefined();
    expect(transcript.problem).toBeUndefined();
  });

  test("a refusal of an older open changes nothing", () => {
    const transcript = new Transcript(SESSION);
    const first = transcript.resume();
    transcript.resume();
    expect(transcript.refused(first.id as string, errorBody())).toBe(false);
    expect(transcript.problem).toBeUndefined();
  });
});

describe("numbered frames", () => {
  test("CLIENT-1: frames at or before the cursor are dropped", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, "Hello"), accepted("t1", 1), delta("t1", 2, "again", { first_seq: 1 }));
    take(transcript, delta("t1", 4, "!"), delta("t1", 4, "!"));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });

  test("CLIENT-1: the frame that continues the cursor is applied", () => {
    const transcript = running();
    take(transcript, delta("t1", 4, ", "), delta("t1", 6, "world", { first_seq: 5 }));
    expect(texts(transcript)).toEqual(["Hello, world"]);
  });

  test.each([
    ["that left one out", delta("t1", 5, "gap")],
    ["whose first_seq left one out", delta("t1", 9, "gap", { first_seq: 5 })],
    ["that overlaps what is there", delta("t1", 5, "lo there", { first_seq: 3 })],
  ])("CLIENT-1: at a frame %s it opens again from its cursor", (_, frame) => {
    const transcript = running();
    expect(openOf(transcript.receive(frame, 0)).after).toEqual(cursor(3, "t1"));
    expect(texts(transcript)).toEqual(["Hello"]);
  });

  test("CLIENT-2: while an open is unanswered all frames of the session are dropped", () => {
    const transcript = running();
    transcript.lost();
    const { id } = transcript.resume();
    take(transcript, delta("t1", 4, " old"), snapshot("t9"), opened({ gen: "g_9", turns: 0 }));
    expect(texts(transcript)).toEqual(["Hello"]);
    take(transcript, opened({ mode: "replay", seq: 3, turn: "t1", reply_to: id as string }), delta("t1", 4, " new"));
    expect(texts(transcript)).toEqual(["Hello new"]);
  });

  test("CLIENT-2: the answer to an older open is none to the newest", () => {
    const transcript = running();
    transcript.lost();
    const older = transcript.resume();
    const newer = transcript.resume();
    take(transcript, opened({ gen: "g_9", turns: 0, reply_to: older.id as string }), delta("t1", 4, " old"));
    expect(texts(transcript)).toEqual(["Hello"]);
    take(transcript, opened({ mode: "replay", seq: 3, turn: "t1", reply_to: newer.id as string }), delta("t1", 4, "!"));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });

  test("CLIENT-2: an answer that nothing waits for is dropped", () => {
    const transcript = running();
    take(transcript, opened({ gen: "g_9", turns: 0, reply_to: "o_old" }), delta("t1", 4, "!"));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });

  test("CLIENT-2: what a lost connection had asked for is not waited for", () => {
    const transcript = new Transcript(SESSION);
    transcript.resume();
    transcript.lost();
    adopt(transcript, [snapshot("t1")], { seq: 1 });
    expect(texts(transcript)).toEqual([""]);
  });

  test("FRAME-2: a frame of an unknown type is skipped and its seq counted", () => {
    const transcript = running();
    take(transcript, malformed({ type: "turn.sang", session: SESSION, turn: "t1", seq: 4 }));
    take(transcript, malformed({ type: "session.painted", session: SESSION, seq: 5 }));
    take(transcript, malformed({ type: "turn.constructor", session: SESSION, turn: "t7", seq: 6 }));
    expect(standsAt(transcript)).toEqual(cursor(6, "t7"));
    take(transcript, opened({ mode: "snapshot", seq: 6, turn: "t1", turns: 1 }), snapshot("t1"), delta("t1", 7, "!"));
  });

  test("FRAME-2: a frame of an unknown type that has no seq changes nothing", () => {
    const transcript = running();
    take(transcript, malformed({ type: "session.waved", session: SESSION }));
    take(transcript, delta("t1", 4, "!"));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });

  test("FRAME-2: unknown fields are ignored", () => {
    const transcript = running();
    take(transcript, malformed({ ...delta("t1", 4, "!"), mood: "good" }));
    expect(texts(transcript)).toEqual(["Hello!"]);
  });
});

describe("terminals", () => {
  test("CLIENT-3: a terminal whose lengths and checksums are right proves the turn", () => {
    const transcript = running();
    take(transcript, done("t1", 4, ["Hello"]));
    expect(view(transcript, "t1")).toMatchObject({ status: "done", proved: true, text: "Hello" });
  });

  test.each([
    ["length", [{ part: 0, kind: "text" as const, bytes: 4, crc32: 0xf7d18982 }]],
    ["checksum", [{ part: 0, kind: "text" as const, bytes: 5, crc32: 1 }]],
    ["part", []],
    ["number", [{ part: 1, kind: "text" as const, bytes: 5, crc32: 0xf7d18982 }]],
  ])("CLIENT-3: with a wrong %s it is not believed, and the session is opened without a cursor", (_, parts) => {
    const transcript = running();
    const outcome = transcript.receive(done("t1", 4, ["Hello"], { parts }), 0);
    expect(openOf(outcome)).toEqual({ type: "session.open", id: "o2", session: SESSION, history: 20 });
    expect(view(transcript, "t1").status).toBe("running");
    expect(view(transcript, "t1").proved).toBeUndefined();
  });

  test("CLIENT-3: the snapshot that follows repairs the text, and a handle is told that it begins anew", () => {
    const transcript = running();
    const before = transcript.tree.get("t1")?.epoch as number;
    const { id } = openOf(transcript.receive(done("t1", 4, ["Hullo"]), 0));
    expect(adopt(transcript, [ended("t1", "Hullo")], { seq: 4, reply_to: id as string })).toEqual({});
    expect(view(transcript, "t1")).toMatchObject({ text: "Hullo", proved: true, status: "done" });
    expect(transcript.tree.get("t1")?.epoch).toBe(before + 1);
  });

  test("TERM-1: nothing is taken of a turn behind its terminal", () => {
    const transcript = running();
    take(transcript, done("t1", 4, ["Hello"]));
    const outcome = transcript.receive(delta("t1", 5, "!"), 0);
    expect(outcome.fault).toMatch(/^A turn\.delta frame makes no sense/);
    expect(openOf(outcome).after).toBeUndefined();
    expect(texts(transcript)).toEqual(["Hello"]);
  });

  test("TERM-2: a deleted session ends what has not ended, and hears nothing more", () => {
    const transcript = reader([ended("t1", "old")], 1);
    take(transcript, accepted("t2", 2, { parent: "t1" }), delta("t2", 3, "part of"));
    take(transcript, { type: "session.deleted", session: SESSION, seq: 4, at: 0 });
    expect(transcript.deleted).toBe(true);
    expect(view(transcript, "t1").status).toBe("done");
    expect(view(transcript, "t2")).toMatchObject({ status: "error", text: "part of", error: { code: "not_found" } });
    expect(transcript.tree.busy).toBe(false);
    take(transcript, accepted("t3", 5), malformed({ type: "turn.delta" }));
    expect(transcript.tree.views()).toHaveLength(2);
  });
});

describe("a deleted session", () => {
  const deleted = (): Transcript => {
    const transcript = running();
    take(transcript, { type: "session.deleted", session: SESSION, seq: 4, at: 0 });
    transcript.lost();
    return transcript;
  };

  test("OPEN-4: stays deleted, with all that was shown, when it opens empty", () => {
    const transcript = deleted();
    const { id } = transcript.resume();
    take(transcript, opened({ gen: null, reply_to: id as string }), accepted("t9", 1));
    expect(transcript.deleted).toBe(true);
    expect(texts(transcript)).toEqual(["Hello"]);
    expect(view(transcript, "t1").error?.code).toBe("not_found");
  });

  test("is another one when its name is taken anew", () => {
    const transcript = deleted();
    const { id } = transcript.resume();
    adopt(transcript, [ended("new", "Fresh")], { gen: "g_2", seq: 3, reply_to: id as string });
    expect(transcript.deleted).toBe(false);
    expect(texts(transcript)).toEqual(["Fresh"]);
    take(transcript, accepted("next", 4, { parent: "new" }));
    expect(transcript.tree.views().map((turn) => turn.id)).toEqual(["new", "next"]);
  });
});

describe("frames that make no sense", () => {
  test.each([
    ["a seq that is no integer", { ...delta("t1", 4, "!"), seq: "4" }],
    ["a first_seq that is no integer", { ...delta("t1", 4, "!"), first_seq: 3.5 }],
    ["a delta without text", { ...delta("t1", 4, "!"), text: undefined }],
    ["a delta whose text is a number", { ...delta("t1", 4, "!"), text: 7 }],
    ["a first delta of a part without text", { ...delta("t1", 4, "!"), part: 1, text: undefined }],
    ["a delta that leaves a part out", delta("t1", 4, "!", { part: 2 })],
    ["a delta of part -1", delta("t1", 4, "!", { part: -1 })],
    ["a delta whose part is a word", { ...delta("t1", 4, "!"), part: "length" }],
    ["a delta of a turn that was never accepted", delta("t9", 4, "!")],
    ["a delta without turn", { ...delta("t1", 4, "!"), turn: undefined }],
    ["a turn that is accepted twice", accepted("t1", 4)],
    ["an accepted turn without input", { ...accepted("t2", 4), input: undefined }],
    ["an accepted turn whose input is a number", { ...accepted("t2", 4), input: 7 }],
    ["a terminal without parts", { ...done("t1", 4, []), parts: undefined }],
    ["a terminal whose parts are null", { ...done("t1", 4, []), parts: [null] }],
    ["a turn.error without error", { ...done("t1", 4, ["Hello"]), type: "turn.error" }],
    ["a turn.error whose error is null", { ...done("t1", 4, ["Hello"]), type: "turn.error", error: null }],
  ])("the session is opened without a cursor, and the fault is told: %s", (_, frame) => {
    const transcript = running();
    const outcome = transcript.receive(malformed(frame), 0);
    expect(outcome.fault).toMatch(/^A turn\.[a-z]+ frame makes no sense/);
    expect(openOf(outcome).after).toBeUndefined();
    transcript.lost();
    expect(standsAt(transcript)).toEqual(cursor(3, "t1"));
    expect(view(transcript, "t1")).toMatchObject({ text: "Hello", status: "running", parts: [{ text: "Hello" }] });
  });

  test("a turn.error that is empty makes the session opened again also where nothing was said yet", () => {
    const transcript = reader();
    take(transcript, accepted("t1", 1));
    const outcome = transcript.receive(
      malformed({ ...ofTurn("turn.started", "t1", 2, { step: 1, attempt: 1, model: "" }), type: "turn.error" }),
      0,
    );
    expect(outcome.fault).toBeDefined();
  });

  test("a turn that is typed here and not told of cannot be continued by the server", () => {
    const transcript = reader();
    transcript.tree.add({ type: "turn.create", session: SESSION, turn: "t1", input: [] }, 0);
    expect(transcript.receive(started("t1", 1), 0).fault).toBeDefined();
  });
});

describe("turns of this client", () => {
  test("an ack whose seq lies behind the reader names a turn that is shown no more", () => {
    const transcript = running();
    expect(transcript.passed(3)).toBe(true);
    expect(transcript.passed(4)).toBe(false);
  });

  test("nothing is passed while the reader does not know where it stands", () => {
    const transcript = running();
    take(transcript, opened({ seq: 9, turn: "t1", turns: 1 }));
    expect(transcript.passed(1)).toBe(false);
    take(transcript, snapshot("t1"));
    expect(transcript.passed(9)).toBe(true);
    transcript.resume();
    expect(transcript.passed(1)).toBe(false);
  });

  test("before anything was loaded nothing is passed", () => {
    expect(new Transcript(SESSION).passed(1)).toBe(false);
  });
});
