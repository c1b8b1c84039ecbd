/** Tells how a connection that was cut heals: where it was cut, how long it took, and what was replayed. */

import type { OnFrame } from "@turnwire/client";
import { say } from "./dom.js";
import { duration } from "./wording.js";

const TOLD_MS = 12_000;

type Frame = Parameters<OnFrame>[1];

export class Healing {
  readonly #element: HTMLElement;
  /** The session on the page, and the last numbered frame of it that came. */
  #session = "";
  #seq = 0;
  #cut: { seq: number; at: number; back?: number } | null = null;
  #timer = 0;

  constructor(element: HTMLElement) {
    this.#element = element;
  }

  watch(session: string): void {
    if (session === this.#session) return;
    this.#session = session;
    this.#seq = 0;
    this.#cut = null;
    this.#tell("");
  }

  /** The plug was pulled now. `cut`: there was a connection to cut. */
  pulled(cut: boolean): void {
    if (!cut) return this.#tell("There is no connection to cut just now.");
    this.#cut = { seq: this.#seq, at: performance.now() };
    this.#tell(`Cut at seq ${this.#seq} · coming back …`);
  }

  /** Each frame that passes. */
  frame(direction: "in" | "out", frame: Frame): void {
    if (direction === "out") return;
    if (frame.type === "welcome" && this.#cut) this.#cut.back = performance.now();
    if (!("session" in frame) || frame.session !== this.#session) return;
    if (frame.type === "session.opened") this.#opened(frame);
    if ("seq" in frame && frame.type !== "ack") this.#seq = frame.seq;
  }

  #opened({ mode, seq }: Frame & { type: "session.opened" }): void {
    if (!this.#cut) return;
    const { seq: from, at, back = performance.now() } = this.#cut;
    this.#cut = null;
    const how = mode === "replay" ? `replayed from seq ${seq}` : `shown anew as of seq ${seq}, from a snapshot`;
    this.#tell(`Cut at seq ${from} · back in ${duration(back - at)} · ${how}`);
  }

  #tell(sentence: string): void {
    clearTimeout(this.#timer);
    say(this.#element, sentence);
    if (sentence && !this.#cut) this.#timer = setTimeout(() => say(this.#element, ""), TOLD_MS);
  }
}
