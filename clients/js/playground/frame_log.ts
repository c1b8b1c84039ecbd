/** The newest frames that passed, in a ring: what the inspector shows. Pure, and nothing is done for a frame but keeping it. */

import type { OnFrame } from "@turnwire/client";

export const FRAMES_MAX = 2_000;

export type Direction = Parameters<OnFrame>[0];
type Frame = Parameters<OnFrame>[1];

export type Entry = {
  /** Counts all frames from 1, also those that are not kept any more. */
  readonly number: number;
  readonly direction: Direction;
  readonly frame: Frame;
  /** In ms since 1970. */
  readonly at: number;
};

export class FrameLog {
  readonly #ring: Entry[] = [];
  /** How many have passed since the log was cleared. */
  passed = 0;

  add(direction: Direction, frame: Frame, at: number): void {
    this.#ring[this.passed % FRAMES_MAX] = { number: this.passed + 1, direction, frame, at };
    this.passed += 1;
  }

  clear(): void {
    this.#ring.length = 0;
    this.passed = 0;
  }

  /** What is kept behind the frame `number`, oldest first; at most `count`. */
  after(number: number, count: number): Entry[] {
    const first = Math.max(number, this.passed - FRAMES_MAX);
    const last = Math.min(this.passed, first + count);
    const entries: Entry[] = [];
    for (let index = first; index < last; index += 1) {
      const entry = this.#ring[index % FRAMES_MAX];
      if (entry) entries.push(entry);
    }
    return entries;
  }
}

/** Whether a frame is what `filter` looks for: a part of its JSON, upper and lower case alike. */
export function matches({ frame }: Entry, filter: string): boolean {
  return filter === "" || JSON.stringify(frame).toLowerCase().includes(filter.toLowerCase());
}

/** Frames as the lines of a recorded session. */
export function asLines(entries: readonly Entry[]): string {
  const lines = entries.map(({ direction, frame }) =>
    JSON.stringify({ from: direction === "in" ? "server" : "client", frame }),
  );
  return lines.join("\n");
}

/** Where the frame stands in its session's log, if it does; 3–7 for one that was merged. */
export function seqOf(frame: Frame): string {
  if (!("seq" in frame)) return "";
  const first = "first_seq" in frame ? frame.first_seq : undefined;
  return first === undefined ? `${frame.seq}` : `${first}–${frame.seq}`;
}

/** What the frame takes as JSON, in bytes of UTF-8. */
export function bytesOf(frame: Frame): number {
  return new TextEncoder().encode(JSON.stringify(frame)).length;
}
