/** What frames make of one turn, as people see it. Which frames a session takes is transcript.test.ts's. */

import { crc32 as zlib } from "node:zlib";

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { crc32 } from "../src/crc32.js";
import type { Transcript } from "../src/transcript.js";
import { errorOf } from "../src/turn_state.js";
import {
  accepted,
  AT,
  delta,
  done,
  ended,
  errorBody,
  failed,
  ofTurn,
  snapshot,
  started,
  summaries,
} from "./support/frames.js";
import { adopt, openOf, reader, take, view } from "./support/reader.js";

const retrying = ofTurn("turn.retrying", "t1", 3, { attempt: 2, delay_ms: 500, code: "upstream_timeout" });
const asked = (seq: number, request: string) =>
  ofTurn("turn.asked", "t1", seq, { request, kind: "approval", detail: { question: "May I?" } });
const responded = (seq: number, request: string) => ofTurn("turn.responded", "t1", seq, { request, by: "u_1" });
const cancelling = (seq: number) => ofTurn("turn.cancelling", "t1", seq, { by: "u_1" });

/** A reader with "t1" accepted at seq 1 and started at 2. */
function running(): Transcript {
  const transcript = reader();
  take(transcript, accepted("t1", 1), started("t1", 2));
  return transcript;
}

describe("the status of a turn", () => {
  test("TURN-1: an accepted turn shows its input, its parent, its model and when it was", () => {
    const transcript = reader();
    take(transcript, accepted("t1", 1, { at: AT, again: "t0", model: "demo/slow", parent: "t0" }));
    expect(view(transcript, "t1")).toEqual({
      id: "t1",
      parent: "t0",
      siblings: ["t1"],
      again: "t0",
      model: "demo/slow",
      input: [{ type: "text", text: "question of t1" }],
      parts: [],
      asks: [],
      text: "",
      status: "running",
      createdAt: new Date(AT),
    });
  });

  test("a queued turn waits until it is started, and shows the model that took it", () => {
    const transcript = reader();
    take(transcript, accepted("t1", 1, { state: "queued" }));
    expect(view(transcript, "t1").status).toBe("queued");
    take(transcript, started("t1", 2, { model: "fallback" }));
    expect(view(transcript, "t1")).toMatchObject({ status: "running", model: "fallback" });
  });

  test("a retry is shown until the next attempt begins", () => {
    const transcript = running();
    take(transcript, retrying);
    expect(view(transcript, "t1").retrying).toEqual({ attempt: 2, delayMs: 500, code: "upstream_timeout" });
    take(transcript, started("t1", 4, { attempt: 2 }));
    expect(view(transcript, "t1").retrying).toBeUndefined();
  });

  test.each([
    ["failed", failed("t1", 4, [])],
    ["was cancelled", done("t1", 4, [], { finish_reason: "cancelled" })],
  ])("a turn that %s does not say that it tries again", (_, terminal) => {
    const transcript = running();
    take(transcript, retrying, terminal);
    expect(view(transcript, "t1").retrying).toBeUndefined();
  });

  test("ASK-1: a turn that asks is parked and shows what it asks, until it is answered", () => {
    const transcript = running();
    take(transcript, asked(3, "r1"), asked(4, "r2"));
    const ask = { turn: "t1", kind: "approval", detail: { question: "May I?" } };
    expect(view(transcript, "t1")).toMatchObject({
      status: "parked",
      asks: [
        { ...ask, request: "r1" },
        { ...ask, request: "r2" },
      ],
    });
    take(transcript, responded(5, "r1"));
    expect(view(transcript, "t1").asks.map(({ request }) => request)).toEqual(["r2"]);
    take(transcript, responded(6, "r2"), started("t1", 7, { step: 2 }));
    expect(view(transcript, "t1")).toMatchObject({ status: "running", asks: [] });
  });

  test("a parked turn that ends asks nothing any more", () => {
    const transcript = running();
    take(transcript, asked(3, "r1"), done("t1", 4, [], { finish_reason: "cancelled" }));
    expect(view(transcript, "t1")).toMatchObject({ status: "cancelled", asks: [] });
  });

  test("a turn that is being stopped stays so until it ends, also where a step begins on the way", () => {
    const transcript = running();
    take(transcript, cancelling(3), started("t1", 4, { step: 2 }));
    expect(view(transcript, "t1").status).toBe("stopping");
    take(transcript, done("t1", 5, [], { finish_reason: "cancelled", first_token_ms: null }));
    expect(view(transcript, "t1").status).toBe("cancelled");
    expect(view(transcript, "t1").firstTokenMs).toBeUndefined();
  });

  test("a finished turn shows how it went, in camelCase", () => {
    const transcript = running();
    const usage = { input_tokens: 3, cached_input_tokens: 1, output_tokens: 5, reasoning_tokens: 2, estimated: true };
    const cost = { amount: "0.0042", currency: "USD" };
    take(transcript, done("t1", 3, [], { usage, cost, finish_reason: "length", model: "other", duration_ms: 99 }));
    expect(view(transcript, "t1")).toMatchObject({
      status: "done",
      finishReason: "length",
      usage: { inputTokens: 3, cachedInputTokens: 1, outputTokens: 5, reasoningTokens: 2, estimated: true },
      cost,
      model: "other",
      firstTokenMs: 12,
      durationMs: 99,
      proved: true,
    });
  });

  test("PARTIAL-1: a failed turn shows its error and keeps what it said", () => {
    const transcript = running();
    const error = errorBody({ code: "overloaded", retry_after_ms: 7, upgrade_url: "https://example.com/more" });
    take(transcript, delta("t1", 3, "half an ans"), failed("t1", 4, ["half an ans"], { error }));
    expect(view(transcript, "t1")).toMatchObject({
      status: "error",
      text: "half an ans",
      proved: true,
      error: { code: "overloaded", retryAfterMs: 7, upgradeUrl: "https://example.com/more", retry: "new_turn" },
    });
    expect(view(transcript, "t1").usage).toBeUndefined();
    expect(view(transcript, "t1").cost).toBeUndefined();
    expect(view(transcript, "t1").unsent).toBeUndefined();
  });

  test("a failed turn shows what it cost all the same", () => {
    const transcript = running();
    const usage = { input_tokens: 3, output_tokens: 5, estimated: true };
    const cost = { amount: "0.01", currency: "USD" };
    take(transcript, failed("t1", 3, [], { usage, cost }));
    expect(view(transcript, "t1")).toMatchObject({ status: "error", cost, usage: { inputTokens: 3, estimated: true } });
  });

  test.each([
    ["queued", "queued"],
    ["running", "running"],
    ["parked", "parked"],
  ] as const)("a snapshot of a turn that is %s shows it so", (state, status) => {
    const transcript = reader();
    adopt(transcript, [snapshot("t1", { state })], { seq: 1 });
    expect(view(transcript, "t1").status).toBe(status);
  });

  test("a turn that was refused is unsent, and one that the server has told of is not", () => {
    const transcript = reader();
    transcript.tree.add({ type: "turn.create", session: "s_1", turn: "mine", input: [] }, AT);
    expect(view(transcript, "mine")).toMatchObject({ status: "sending", createdAt: new Date(AT) });
    const mine = transcript.tree.get("mine");
    if (mine) transcript.tree.fail(mine, errorBody({ code: "busy" }));
    expect(view(transcript, "mine")).toMatchObject({ status: "error", unsent: true, error: { code: "busy" } });
    expect(mine && errorOf(mine)?.code).toBe("busy");
  });

  test("a turn that has an end of its own has no other error", () => {
    const transcript = running();
    take(transcript, failed("t1", 3, []));
    const turn = transcript.tree.get("t1");
    expect(turn && errorOf(turn)?.code).toBe("upstream_truncated");
  });
});

describe("parts", () => {
  test("PART-1: parts of several kinds stand side by side, and only text parts make the text", () => {
    const transcript = running();
    take(
      transcript,
      delta("t1", 3, "Hm", { kind: "reasoning" }),
      delta("t1", 4, "Well, ", { part: 1 }),
      delta("t1", 5, "m", { kind: "reasoning", last: true }),
      delta("t1", 6, "No.", { part: 2, kind: "refusal", last: true }),
      delta("t1", 7, "it is", { part: 1, last: true }),
      delta("t1", 8, " so", { part: 3 }),
    );
    expect(view(transcript, "t1")).toMatchObject({
      text: "Well, it is so",
      parts: [
        { kind: "reasoning", text: "Hmm", complete: true },
        { kind: "text", text: "Well, it is", complete: true },
        { kind: "refusal", text: "No.", complete: true },
        { kind: "text", text: " so", complete: false },
      ],
    });
  });

  test("PART-2: a tool call has its arguments once they are complete and if they are JSON", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, '{"city":', { kind: "tool_call", call: "c1", name: "weather" }));
    const call = { kind: "tool_call", call: "c1", name: "weather" };
    expect(view(transcript, "t1").parts).toEqual([{ ...call, argsText: '{"city":', complete: false }]);
    take(transcript, delta("t1", 4, '"Ulm"}', { kind: "tool_call" }), delta("t1", 5, "", { kind: "tool_call", last: true }));
    const args = { city: "Ulm" };
    expect(view(transcript, "t1").parts).toEqual([{ ...call, argsText: '{"city":"Ulm"}', args, complete: true }]);
    take(transcript, delta("t1", 6, "{", { part: 1, kind: "tool_call", call: "c2", name: "weather", last: true }));
    expect(view(transcript, "t1").parts[1]).toEqual({ ...call, call: "c2", argsText: "{", complete: true });
  });

  test("PART-2: a data part has its value once it is complete", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, "[1,", { kind: "data", name: "chart" }));
    expect(view(transcript, "t1").parts).toEqual([{ kind: "data", name: "chart", complete: false }]);
    take(transcript, delta("t1", 4, "2]", { kind: "data", last: true }));
    expect(view(transcript, "t1").parts).toEqual([{ kind: "data", name: "chart", value: [1, 2], complete: true }]);
  });

  test("a part that did not change is the same object", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, "a", { last: true }), delta("t1", 4, "b", { part: 1 }));
    const [first, second] = view(transcript, "t1").parts;
    take(transcript, delta("t1", 5, "c", { part: 1 }));
    expect(view(transcript, "t1").parts[0]).toBe(first);
    expect(view(transcript, "t1").parts[1]).not.toBe(second);
  });

  test("a turn that did not change is the same object, and what was shown once stays as it was", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, "a"));
    const before = view(transcript, "t1");
    expect(view(transcript, "t1")).toBe(before);
    take(transcript, accepted("t2", 4, { parent: "t1", state: "queued" }), delta("t1", 3, "a"));
    expect(view(transcript, "t1")).toBe(before);
    take(transcript, delta("t1", 5, "b"));
    expect(view(transcript, "t1")).not.toBe(before);
    expect(before).toMatchObject({ text: "a", parts: [{ text: "a" }], siblings: ["t1"] });
  });

  test("a turn whose siblings changed is another object", () => {
    const transcript = running();
    const before = view(transcript, "t1");
    transcript.tree.show("t1");
    take(transcript, accepted("t2", 3, { state: "queued" }));
    expect(view(transcript, "t1")).not.toBe(before);
    expect(view(transcript, "t1").siblings).toEqual(["t1", "t2"]);
  });
});

describe("checksums", () => {
  test("CHECKSUM-1: a checksum is zlib's, whatever the bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 2_000 }), (bytes) => crc32(bytes) === zlib(bytes)));
    expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
    expect(crc32(new Uint8Array())).toBe(0);
  });

  test.each(["", "plain", "größer", "日本語", "👩‍👩‍👧 🏳️‍🌈", "a\u0000b", "é e\u0301"])(
    "CLIENT-3: length and checksum are those of the UTF-8 of a part's whole text: %j",
    (text) => {
      const transcript = running();
      const units = text.split("");
      for (const [number, unit] of units.entries()) take(transcript, delta("t1", 3 + number, unit));
      if (text === "") take(transcript, delta("t1", 3, "", { last: true }));
      take(transcript, done("t1", transcriptSeq(units), [text]));
      expect(view(transcript, "t1")).toMatchObject({ text, proved: true });
    },
  );

  test("CLIENT-3: each part is proved by itself", () => {
    const transcript = running();
    take(transcript, delta("t1", 3, "ab", { kind: "reasoning" }), delta("t1", 4, "cd", { part: 1 }));
    const outcome = transcript.receive(done("t1", 5, [], { parts: summaries(["abcd", ""]) }), 0);
    expect(openOf(outcome).after).toBeUndefined();
  });

  test("CLIENT-3: a part that the terminal does not name is no part of a proved turn, and the other way round", () => {
    const more = running();
    take(more, delta("t1", 3, "a"), delta("t1", 4, "b", { part: 1 }));
    openOf(more.receive(done("t1", 5, ["a"]), 0));
    const less = running();
    take(less, delta("t1", 3, "a"));
    openOf(less.receive(done("t1", 4, ["a", "b"]), 0));
  });

  test("a finished turn of a snapshot is proved like any other", () => {
    expect(view(reader([ended("t1", "größer")]), "t1").proved).toBe(true);
  });
});

/** Where the terminal stands behind these deltas; an empty text has one delta too. */
function transcriptSeq(units: readonly string[]): number {
  return 3 + Math.max(1, units.length);
}
