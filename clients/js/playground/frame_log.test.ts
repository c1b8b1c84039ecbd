/** The inspector's memory: the newest frames, and no more of them than it says. */

import { expect, test } from "vitest";
import { asLines, bytesOf, FrameLog, FRAMES_MAX, matches, seqOf } from "./frame_log.js";

const delta = (seq: number, text = "x") =>
  ({ type: "turn.delta", session: "s", turn: "t", seq, part: 0, kind: "text", text }) as const;

function logOf(count: number): FrameLog {
  const log = new FrameLog();
  for (let seq = 1; seq <= count; seq += 1) log.add("in", delta(seq), seq);
  return log;
}

test("frames come back in order, from where the reader stands, as many as it wants", () => {
  const log = logOf(10);
  expect(log.after(3, 4).map(({ number }) => number)).toEqual([4, 5, 6, 7]);
  expect(log.after(10, 4)).toEqual([]);
});

test("only the newest frames are kept, and a reader who was too slow goes on with them", () => {
  const log = logOf(FRAMES_MAX + 500);
  const kept = log.after(0, Infinity);
  expect(kept.length).toBe(FRAMES_MAX);
  expect(kept[0]?.number).toBe(501);
  expect(kept.at(-1)?.number).toBe(FRAMES_MAX + 500);
});

test("a cleared log is empty and counts from the beginning", () => {
  const log = logOf(FRAMES_MAX + 3);
  log.clear();
  expect(log.after(0, Infinity)).toEqual([]);
  log.add("out", { type: "ping" }, 0);
  expect(log.after(0, Infinity)).toMatchObject([{ number: 1, direction: "out" }]);
});

test("a filter finds any part of a frame's JSON", () => {
  const [entry] = logOf(1).after(0, 1);
  expect(entry && ["", "TURN.DELTA", '"seq":1', "other"].map((filter) => matches(entry, filter))).toEqual([
    ...[true, true, true, false],
  ]);
});

test("copied frames are the lines of a recorded session", () => {
  const log = logOf(1);
  log.add("out", { type: "ping" }, 0);
  const [first, second] = asLines(log.after(0, 2)).split("\n").map((line) => JSON.parse(line) as unknown);
  expect(first).toEqual({ from: "server", frame: delta(1) });
  expect(second).toEqual({ from: "client", frame: { type: "ping" } });
});

test("a merged delta shows the range that it stands for, and sizes count bytes of UTF-8", () => {
  expect(seqOf({ ...delta(7), first_seq: 3 })).toBe("3–7");
  expect(seqOf({ type: "ping" })).toBe("");
  expect(bytesOf(delta(1, "ä")) - bytesOf(delta(1, "a"))).toBe(1);
});
