/** A turn that this client sent, as its sender holds it: to read the text from as it comes, to await, to stop. */

import { camel } from "./names.js";
import { isOver, type TurnState } from "./turn_state.js";
import type { Delta, Outcome, Turn, TurnHandle } from "./types.js";
import type { ErrorBody } from "./wire.js";

export class Handle implements TurnHandle {
  readonly id: string;
  readonly done: Promise<Outcome>;
  ended = false;

  readonly #find: () => TurnState | undefined;
  readonly #cancel: () => Promise<void>;
  #resolve!: (outcome: Outcome) => void;
  /** Readers who wait for a change. */
  #waiting: (() => void)[] = [];

  constructor(id: string, find: () => TurnState | undefined, cancel: () => Promise<void>) {
    this.id = id;
    this.#find = find;
    this.#cancel = cancel;
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  cancel(): Promise<void> {
    return this.#cancel();
  }

  /** The turn has changed. */
  wake(): void {
    for (const go of this.#waiting.splice(0)) go();
  }

  end(turn: Turn, error: ErrorBody | undefined): void {
    this.ended = true;
    this.#resolve(error ? { ok: false, turn, error: camel(error) } : { ok: true, turn });
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Delta> {
    let epoch = this.#find()?.epoch;
    let told: number[] = [];
    for (;;) {
      const turn = this.#find();
      if (turn && turn.epoch !== epoch) {
        epoch = turn.epoch;
        told = [];
        yield { part: 0, text: "", reset: true };
        continue;
      }
      const delta = turn && untold(turn, told);
      if (delta) {
        told[delta.part] = (told[delta.part] ?? 0) + delta.text.length;
        yield delta;
      } else if (this.ended || !turn || isOver(turn)) return;
      else await new Promise<void>((go) => this.#waiting.push(go));
    }
  }
}

/** The first text that goes beyond what was told of each part. */
function untold({ parts }: TurnState, told: readonly number[]): Delta | undefined {
  const part = parts.findIndex(({ kind, text }, number) => kind === "text" && text.length > (told[number] ?? 0));
  return parts[part] && { part, text: parts[part].text.slice(told[part]) };
}
