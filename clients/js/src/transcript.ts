/**
 * One session as a client knows it, without socket, timer or clock: frames go in, and what is to be done comes out; the
 * turns that they tell of stand in `tree`. It holds the client rule of docs/protocol.md, section 9:
 *
 * - a frame at or before the cursor is dropped, one that continues it is applied, any other means that something is
 *   missing, and the session is opened again from the cursor;
 * - while an open is unanswered everything of the session is dropped: it may belong to the old cursor;
 * - the gen is taken from `session.opened` alone, and a snapshot takes the place of all that was known, but only once it
 *   is whole: until then the old cursor stays valid;
 * - a terminal is believed when it proves every part by length and checksum.
 *
 * So text is never doubled, skipped or spliced, whatever is cut, resent or reordered. What does not add up is asked for
 * again, without a cursor the second time, and is shown as a problem the third time, so that no loop goes on for ever.
 */

import { because } from "./errors.js";
import { APPLY, isOver, type Numbered, type TurnState, turnsOf } from "./turn_state.js";
import { TurnTree } from "./turn_tree.js";
import type { ErrorBody, ServerFrame, SessionOpen, SessionOpened, TurnSnapshot } from "./wire.js";

const REOPEN_WINDOW_MS = 10_000;
const REOPENS_MAX = 2;
const HISTORY = 20;
const HISTORY_MAX = 200;
const DELETED = because("The chat was deleted.", "not_found");
const BROKEN = "This chat does not add up; reload the page.";

/**
 * What is to be done after a frame: send `open` · send again what the log has not told, for its history is another
 * (`resend`) · report a `fault`.
 */
export type Outcome = { open?: SessionOpen; resend?: true; fault?: string };

const NOTHING: Outcome = {};
const NOWHERE: Place = { gen: null, seq: 0, turn: null };

type Place = { gen: string | null; seq: number; turn: string | null };
type Staged = { place: Place; count: number; frames: TurnSnapshot[] };

export class Transcript {
  readonly tree = new TurnTree();
  /** What is wrong with the session: a sentence for users. */
  problem: string | undefined;
  title: string | null | undefined;
  deleted = false;
  /** A snapshot was taken: what stands here is what the session held at `#place`. */
  loaded = false;

  readonly #session: string;
  #place = NOWHERE;
  /** Of the unanswered open. */
  #opening: string | null = null;
  #opens = 0;
  /** How many ended turns the newest open asked for. */
  #asked = HISTORY;
  #staged: Staged | null = null;
  #reopenedAt: number[] = [];

  constructor(session: string) {
    this.#session = session;
  }

  /** A connection is there: take up where the last one ended. */
  resume(): SessionOpen {
    if (this.problem !== undefined) this.#place = NOWHERE;
    this.problem = undefined;
    return this.#open(this.#place);
  }

  /** The connection is gone, and with it whatever was under way. */
  lost(): void {
    this.#opening = null;
    this.#staged = null;
  }

  /** Whether it was the newest open that was refused. */
  refused(id: string, error: ErrorBody): boolean {
    if (id !== this.#opening) return false;
    this.#opening = null;
    this.problem = error.message;
    return true;
  }

  receive(frame: ServerFrame, now: number): Outcome {
    if (this.problem !== undefined || (this.deleted && frame.type !== "session.opened")) return NOTHING;
    try {
      if (frame.type === "session.opened") return this.#opened(frame);
      if (this.#opening !== null) return NOTHING;
      if (frame.type === "turn.snapshot") return this.#snapshot(frame);
      return "seq" in frame ? this.#numbered(frame as Numbered, now) : NOTHING;
    } catch (error) {
      // The message names the field that does not fit, unless it was the engine that stumbled.
      const fault = `A ${frame.type} frame makes no sense (${(error as Error).message}).`;
      return { fault, ...this.#reopen(now, NOWHERE) };
    }
  }

  /** The server answered `turn.create` with a seq that this reader has passed: an old turn, which is shown no more. */
  passed(seq: number): boolean {
    return this.#opening === null && !this.#staged && this.#place.seq >= seq;
  }

  // --- the client rule ----------------------------------------------------------------------------------------------

  #opened({ reply_to, gen, seq, turn, mode, turns: count }: SessionOpened): Outcome {
    // Unasked, it has no reply_to either.
    if (reply_to !== (this.#opening ?? undefined)) return NOTHING;
    if (!areCounts(seq, count)) throw new TypeError("turns");
    this.#opening = this.#staged = null;
    // A name that was deleted may be taken anew, after a day.
    this.deleted &&= gen === null;
    if (this.deleted) return NOTHING;
    if (mode === "replay") {
      if (gen !== this.#place.gen || seq !== this.#place.seq) throw new TypeError("mode");
      return NOTHING;
    }
    this.#staged = { place: { gen, seq, turn }, count, frames: [] };
    return count ? NOTHING : this.#adopt(this.#staged);
  }

  #snapshot(frame: TurnSnapshot): Outcome {
    const staged = this.#staged;
    if (!staged) throw new TypeError("session");
    return staged.frames.push(frame) === staged.count ? this.#adopt(staged) : NOTHING;
  }

  #numbered(frame: Numbered, now: number): Outcome {
    const { gen, seq: last } = this.#place;
    const { seq } = frame;
    const first = (frame as { first_seq?: number }).first_seq ?? seq;
    if (!areCounts(seq, first)) throw new TypeError("seq");
    if (gen !== null && seq <= last && !this.#staged) return NOTHING;
    if (this.#staged || gen === null || first !== last + 1) return this.#reopen(now, this.#place);
    this.#take(frame);
    this.#place = { gen, seq, turn: "turn" in frame ? frame.turn : null };
    return NOTHING;
  }

  /** A client skips types that it does not know, but counts their seq. */
  #take(frame: Numbered): void {
    const { type } = frame;
    if (type === "session.updated") {
      this.title = frame.title;
      this.tree.touch();
    } else if (type === "session.deleted") {
      this.deleted = true;
      this.tree.endAll(DELETED);
    } else if (type === "turn.accepted") this.tree.accept(frame);
    else if (Object.hasOwn(APPLY, type)) {
      const turn = this.tree.get(frame.turn);
      if (!turn?.told || isOver(turn)) throw new TypeError("turn");
      (APPLY[type] as (turn: TurnState, told: Numbered) => void)(turn, frame);
      this.tree.touch(turn);
    }
  }

  /** The snapshot is whole: it takes the place of all that was known. */
  #adopt({ place, frames }: Staged): Outcome {
    this.#staged = null;
    const told = turnsOf(frames);
    const { gen } = this.#place;
    this.#place = place;
    this.loaded = true;
    this.tree.adopt(told, told.filter(isOver).length >= this.#asked);
    return gen !== null && gen !== place.gen ? { resend: true } : NOTHING;
  }

  /** Once from where this reader stands, once from nowhere, and no third time within the window. */
  #reopen(now: number, from: Place): Outcome {
    this.#reopenedAt = this.#reopenedAt.filter((at) => at > now - REOPEN_WINDOW_MS);
    const count = this.#reopenedAt.push(now);
    if (count <= REOPENS_MAX) return { open: this.#open(count > 1 ? NOWHERE : from) };
    this.problem = BROKEN;
    this.tree.touch();
    return NOTHING;
  }

  #open(from: Place): SessionOpen {
    const id = (this.#opening = `o${++this.#opens}`);
    this.#staged = null;
    const history = (this.#asked = Math.min(HISTORY_MAX, Math.max(HISTORY, this.tree.all().length)));
    const { gen, seq, turn } = from;
    return { type: "session.open", id, session: this.#session, history, ...(gen !== null && { after: { gen, seq, turn } }) };
  }
}

function areCounts(...numbers: number[]): boolean {
  return numbers.every((number) => Number.isInteger(number) && number >= 0);
}
