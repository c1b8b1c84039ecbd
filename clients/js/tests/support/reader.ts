/** A transcript in a state that tests begin with, and the little that they ask of it. */

import { expect } from "vitest";

import { type Outcome, Transcript } from "../../src/transcript.js";
import type { Turn } from "../../src/types.js";
import type { ServerFrame, SessionOpen, TurnSnapshot } from "../../src/wire.js";
import { GEN, opened, SESSION } from "./frames.js";

/** A transcript that has been given a snapshot of these frames, at the cursor (GEN, seq, turn of the last frame). */
export function reader(frames: readonly TurnSnapshot[] = [], seq = 0): Transcript {
  const transcript = new Transcript(SESSION);
  const { id } = transcript.resume();
  adopt(transcript, frames, { seq, reply_to: id as string });
  return transcript;
}

/** Give it a whole snapshot; what it did at the last frame of it. */
export function adopt(
  transcript: Transcript,
  frames: readonly TurnSnapshot[],
  fields: Parameters<typeof opened>[0] = {},
  now = 0,
): Outcome {
  const head = opened({ gen: GEN, turn: frames.at(-1)?.turn ?? null, turns: frames.length, ...fields });
  const outcomes = [head, ...frames].map((frame) => transcript.receive(frame, now));
  return outcomes.at(-1) as Outcome;
}

/** All these frames are taken in silence. */
export function take(transcript: Transcript, ...frames: readonly ServerFrame[]): void {
  for (const frame of frames) expect(transcript.receive(frame, 0), JSON.stringify(frame)).toEqual({});
}

/** The open that an outcome asks for; fails where it asks for none. */
export function openOf(outcome: Outcome): SessionOpen {
  expect(outcome.open).toBeDefined();
  return outcome.open as SessionOpen;
}

/** Where the reader stands, as its next open would say it. It is as if the connection had been lost. */
export function standsAt(transcript: Transcript): SessionOpen["after"] {
  const { after } = transcript.resume();
  transcript.lost();
  return after;
}

export function texts(transcript: Transcript): string[] {
  return transcript.tree.views().map(({ text }) => text);
}

/** The visible turn of this id; fails where there is none. */
export function view(transcript: Transcript, id: string): Turn {
  const found = transcript.tree.views().find((turn) => turn.id === id);
  expect(found).toBeDefined();
  return found as Turn;
}
