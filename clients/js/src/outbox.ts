/**
 * Commands that the server has not settled: what was lost with a connection is said again on the next one, under the same
 * id, so that the server takes it once. A `turn.create` waits until the turn was seen in the session's log, and is kept
 * in a Storage, so that it survives a reload; other commands wait for their answer, in memory.
 */

import { TurnwireError } from "./errors.js";
import type { Ack, ErrorBody, TurnCancel, TurnCreate, TurnRespond, Error as WireError } from "./wire.js";

const TRIES_MAX = 5;

export type Store = Pick<Storage, "getItem" | "setItem" | "removeItem">;
type Commands = TurnCreate | TurnCancel | TurnRespond;

export type Waiting = {
  readonly id: string;
  readonly frame: Commands;
  /** Who typed it; another user of this browser must not send it. Undefined until a server has said who is there. */
  user: string | undefined;
  /** On this connection, and on any, perhaps of the page before the reload. */
  sent: boolean;
  everSent: boolean;
  tries: number;
  /** Of the ack of a turn.create. */
  seq?: number | undefined;
  /** A turn.create that was refused waits for a person to decide. */
  held?: ErrorBody | undefined;
  settle?: (error?: TurnwireError) => void;
};

type Kept = { frame: TurnCreate; user?: string | undefined; held?: ErrorBody | undefined };

export class Outbox {
  readonly #waiting = new Map<string, Waiting>();
  readonly #store: Store | undefined;
  readonly #name: string;
  readonly #onFault: (message: string) => void;

  constructor(store: Store | false | undefined, name: string, onFault: (message: string) => void) {
    this.#store = store || undefined;
    this.#name = name;
    this.#onFault = onFault;
    for (const { frame, user, held } of this.#kept()) this.#put(frame, user, true).held = held;
  }

  /** Turns that wait, of one session or of all, in the order in which they were typed. */
  creates(session?: string): (Waiting & { frame: TurnCreate })[] {
    return [...this.#waiting.values()].filter(
      (waiting): waiting is Waiting & { frame: TurnCreate } =>
        waiting.frame.type === "turn.create" && (session === undefined || waiting.frame.session === session),
    );
  }

  get(id: string): Waiting | undefined {
    return this.#waiting.get(id);
  }

  add(frame: Commands & { id: string }, user: string | undefined, settle?: Waiting["settle"]): void {
    const waiting = this.#put(frame, user, false);
    if (settle) waiting.settle = settle;
    this.#keep();
  }

  remove(id: string): void {
    if (this.#waiting.delete(id)) this.#keep(id);
  }

  /** Keep a turn.create back until it is released. */
  hold(id: string, error: ErrorBody): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    waiting.held = error;
    this.#keep();
  }

  /** Let it go out again. */
  release(id: string): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    Object.assign(waiting, { held: undefined, sent: false, tries: 0 });
    this.#keep();
  }

  /** A server said who is there. What others typed is forgotten; returned are their turns. */
  claim(user: string): TurnCreate[] {
    const foreign = this.creates().filter((waiting) => (waiting.user ??= user) !== user);
    for (const { id } of foreign) this.#waiting.delete(id);
    this.#keep(...foreign.map(({ id }) => id));
    return foreign.map(({ frame }) => frame);
  }

  /** What is to be sent now, which counts as sent from then on. */
  take(user: string | undefined): Commands[] {
    const ready = [...this.#waiting.values()].filter(
      (waiting) => !waiting.sent && !waiting.held && (waiting.user ?? user) === user,
    );
    for (const waiting of ready) waiting.sent = waiting.everSent = true;
    return ready.map(({ frame }) => frame);
  }

  /**
   * To be sent again: all of a connection that is gone, of a session whose log is another, or of an id. Where the log had
   * it may be another's place by then.
   */
  unsend(of?: string): void {
    for (const waiting of this.#waiting.values()) {
      if (!of || of === waiting.id || of === waiting.frame.session) Object.assign(waiting, { sent: false, seq: undefined });
    }
  }

  /**
   * An answer came: true if that is all, undefined if it is none of these commands'; `refused` a turn was; a number is in
   * how many ms the command is to be unsent.
   */
  answer(id: string, frame: Ack | WireError): true | "refused" | number | undefined {
    const waiting = this.#waiting.get(id);
    if (!waiting) return undefined;
    const isTurn = waiting.frame.type === "turn.create";
    if (frame.type === "ack") {
      if (isTurn) waiting.seq = frame.seq as number;
      else this.#settle(waiting);
      return true;
    }
    const { error } = frame;
    const { code, retry, retry_after_ms } = error;
    if (retry === "same_frame" && code !== "busy" && retry_after_ms && ++waiting.tries < TRIES_MAX) return retry_after_ms;
    if (!isTurn) {
      this.#settle(waiting, new TurnwireError(error));
      return true;
    }
    this.hold(waiting.id, error);
    return "refused";
  }

  /** Nothing will be answered any more. Turns wait for another connection, or another page. */
  fail(error: ErrorBody): void {
    for (const waiting of this.#waiting.values()) {
      if (waiting.frame.type !== "turn.create") this.#settle(waiting, new TurnwireError(error));
    }
  }

  #settle(waiting: Waiting, error?: TurnwireError): void {
    this.remove(waiting.id);
    waiting.settle?.(error);
  }

  #put(frame: Commands, user: string | undefined, everSent: boolean): Waiting {
    const id = frame.id as string;
    const waiting: Waiting = { id, frame, user, sent: false, everSent, tries: 0 };
    this.#waiting.set(id, waiting);
    return waiting;
  }

  // --- what survives a reload -----------------------------------------------------------------------------------------

  #kept(): Kept[] {
    try {
      const kept = JSON.parse(this.#store?.getItem(this.#name) ?? "[]") as Kept[];
      return kept.filter(({ frame }) => frame.type === "turn.create" && typeof frame.id === "string");
    } catch {
      return [];
    }
  }

  /** Write what waits. Other tabs may share the Storage, so what they keep there stays; `gone` is what is settled. */
  #keep(...gone: string[]): void {
    if (!this.#store) return;
    const mine = this.creates().map(({ frame, user, held }): Kept => ({ frame, user, held }));
    const others = this.#kept().filter(({ frame: { turn } }) => !this.#waiting.has(turn) && !gone.includes(turn));
    try {
      if (mine.length + others.length) this.#store.setItem(this.#name, JSON.stringify([...others, ...mine]));
      else this.#store.removeItem(this.#name);
    } catch {
      this.#onFault("Storage is full: a reload would lose what was not sent.");
    }
  }
}
