/**
 * One client, one server and the network between them, in a time of their own. The client is the pure core, driven as
 * turnwire.ts drives it; the server is the model of server_model.ts; the network cuts, delays, doubles, drops and swaps
 * as it is told. What no client could tell from the truth it never does: it neither doubles nor moves a
 * `turn.snapshot` or `session.opened`, for these have no numbers.
 */

import fc from "fast-check";

import { Connection, type Effect } from "../../src/connection.js";
import { Transcript } from "../../src/transcript.js";
import type { Command, ServerFrame, SessionOpen } from "../../src/wire.js";
import { append, type Line } from "./conversation.js";
import { SESSION, welcome } from "./frames.js";
import { SessionLog } from "./server_model.js";

export const WINDOW_MS = 10_000;
const PING_MS = 60_000;

/** What happens next; counts and places are taken as far as they go. */
export type Event =
  | { do: "append"; count: number; merged: boolean }
  | { do: "serve"; count: number; merged: boolean }
  | { do: "deliver"; count: number }
  | { do: "flow" }
  | { do: "cut"; code: number; chance: number; back: boolean }
  | { do: "pass"; ms: number }
  | { do: "unasked" }
  | { do: "trim" }
  | Fault;
type Fault = { do: "drop" | "double" | "swap"; at: number; by: number };

const merged = fc.boolean();
const upTo = (max: number) => fc.integer({ min: 1, max });
const quiet: fc.WeightedArbitrary<Event>[] = [
  { weight: 10, arbitrary: fc.record({ do: fc.constant("append" as const), count: upTo(3), merged }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant("serve" as const), count: upTo(4), merged }) },
  { weight: 12, arbitrary: fc.record({ do: fc.constant("deliver" as const), count: upTo(12) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("flow" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("cut" as const),
      code: fc.constantFrom(1006, 1006, 1012, 4500, 4513),
      chance: fc.constantFrom(0, 0.3, 0.9),
      back: fc.constantFrom(true, true, true, false),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant("pass" as const), ms: fc.constantFrom(1, 100, 1_000, 1_000, 61_000) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("unasked" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("trim" as const) }) },
];
const fault = (...kinds: Fault["do"][]): fc.WeightedArbitrary<Event> => ({
  weight: 12,
  arbitrary: fc.record({ do: fc.constantFrom(...kinds), at: fc.nat(8), by: upTo(4) }),
});
const eventsOf = (...some: fc.WeightedArbitrary<Event>[]) =>
  fc.array(fc.oneof(...quiet, ...some), { minLength: 20, maxLength: 100, size: "max" });

/** Cuts and delays, as TCP has them. */
export const honestEvents = eventsOf();
/** And frames that come twice. */
export const doublingEvents = eventsOf(fault("double"));
/** And whatever else a broken proxy may do to frames within one connection. */
export const brokenEvents = eventsOf(fault("drop", "double", "swap"));
/** So much of it that no reader can keep up. */
export const stormyEvents = eventsOf(
  fault("drop"),
  fault("swap"),
  { weight: 30, arbitrary: fc.record({ do: fc.constant("append" as const), count: upTo(3), merged: fc.constant(false) }) },
  { weight: 20, arbitrary: fc.record({ do: fc.constant("flow" as const) }) },
);

export class World {
  readonly log = new SessionLog();
  readonly connection = new Connection();
  readonly transcript = new Transcript(SESSION);
  now = 0;
  /** The times at which the client opened the session again by itself. */
  readonly reopens: number[] = [];
  readonly faults: string[] = [];
  resends = 0;
  /** Called after each frame that the client was given. */
  observe: () => void = () => {};

  #lines: Line[];
  readonly #spaced: boolean;
  /** On their way on the present connection; null while there is none. */
  #wire: { up: Command[]; down: ServerFrame[] } | null = null;
  /** Up to where the server has sent the log on this connection; null while the session is not open there. */
  #sent: number | null = null;

  /** `spaced`: before each fault passes the time in which reopens are counted, so that the client's limits are kept. */
  constructor(lines: readonly Line[], spaced: boolean) {
    this.#lines = [...lines];
    this.#spaced = spaced;
    this.#run(this.connection.want(this.now));
  }

  happen(event: Event): void {
    switch (event.do) {
      case "append":
        return this.append(event.count, event.merged);
      case "serve":
        return this.#serve(event.count, event.merged);
      case "deliver":
        return this.#deliver(event.count);
      case "flow":
        this.#serve(Infinity, false);
        return this.#deliver(Infinity);
      case "cut":
        this.cut(event.code, event.chance);
        return this.#pass(event.back ? Math.max(0, this.connection.due - this.now) : 0);
      case "pass":
        return this.#pass(event.ms);
      case "unasked":
        if (this.#sent !== null && this.log.gen !== null) this.#sendSnapshot();
        return;
      case "trim":
        return this.log.trim();
      default:
        return this.#harm(event);
    }
  }

  /** The server goes on with the conversation. */
  append(count: number, merged: boolean): void {
    for (const line of this.#lines.splice(0, count)) {
      if (this.log.begin() && this.#sent !== null) this.#sendSnapshot();
      append(this.log, line);
    }
    if (this.#sent === null) return;
    this.#wire?.down.push(...this.log.from(this.#sent, merged));
    this.#sent = this.log.head;
  }

  /** The store loses what came after `kept` entries, and the conversation goes on with these lines. */
  lose(kept: number, lines: readonly Line[]): void {
    this.log.lose(kept);
    this.#lines = [...lines];
    if (this.#sent !== null) this.#sendSnapshot();
  }

  cut(code: number, chance = 0): void {
    if (!this.#wire) return;
    this.#hangUp();
    this.#run(this.connection.lost(code, this.now, chance));
  }

  /** The rest of the conversation, and a new connection on which nothing goes wrong. */
  settle(): void {
    this.append(Infinity, false);
    this.cut(1006);
    this.now = Math.max(this.now + WINDOW_MS, this.connection.due);
    this.#run(this.connection.tick(this.now, 0));
    if (!this.#wire) throw new Error(`it does not come back: ${this.connection.status}`);
    for (let round = 0; this.#wire.up.length + this.#wire.down.length > 0; round++) {
      if (round > 50) throw new Error("it never comes to rest");
      this.happen({ do: "flow" });
    }
  }

  #serve(count: number, merged: boolean): void {
    const wire = this.#wire;
    for (const command of wire?.up.splice(0, count) ?? []) {
      if (command.type === "hello") wire?.down.push(welcome({ ping_ms: PING_MS }));
      if (command.type === "ping") wire?.down.push({ type: "pong" });
      if (command.type === "session.open") wire?.down.push(...this.#answer(command, merged));
    }
  }

  #answer(open: SessionOpen, merged: boolean): ServerFrame[] {
    const { frames, seq } = this.log.answer(open, merged);
    this.#sent = seq;
    return frames;
  }

  #deliver(count: number): void {
    const wire = this.#wire;
    for (let given = 0; given < count && wire === this.#wire && wire; given++) {
      const frame = wire.down.shift();
      if (!frame) return;
      this.#run(this.connection.received(frame, this.now, 0));
      if ("session" in frame) this.#receive(frame);
      this.observe();
    }
  }

  #receive(frame: ServerFrame): void {
    const { open, fault, resend } = this.transcript.receive(frame, this.now);
    if (fault !== undefined) this.faults.push(fault);
    if (resend) this.resends++;
    if (!open) return;
    this.reopens.push(this.now);
    this.#wire?.up.push(open);
  }

  #pass(ms: number): void {
    const until = this.now + ms;
    while (this.connection.due <= until) {
      this.now = Math.max(this.now, this.connection.due);
      this.#run(this.connection.tick(this.now, 0.5));
    }
    this.now = until;
  }

  #harm({ do: how, at, by }: Fault): void {
    const down = this.#wire?.down;
    const frame = down?.[at % Math.max(1, down.length)];
    if (!down || !frame) return;
    const place = down.indexOf(frame);
    const other = Math.min(down.length - 1, place + by);
    if (this.connection.status !== "live") return;
    if (how !== "drop" && !down.slice(place, other + 1).every(isNumbered)) return;
    if (this.#spaced) this.#pass(WINDOW_MS);
    if (down !== this.#wire?.down) return;
    if (how === "drop") down.splice(place, 1);
    else if (how === "double") down.splice(other + 1, 0, frame);
    else down.splice(other, 1, ...down.splice(place, 1, down[other] as ServerFrame));
  }

  #sendSnapshot(): void {
    this.#wire?.down.push(...this.log.snapshot());
    this.#sent = this.log.head;
  }

  #hangUp(): void {
    this.#wire = null;
    this.#sent = null;
  }

  #run(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect === "dial") {
        this.#wire = { up: [], down: [] };
        this.#run(this.connection.opened("1.2.3", undefined));
      } else if (effect === "drop") this.#hangUp();
      else if (effect === "lost") this.transcript.lost();
      else if (effect === "greeted") this.#wire?.up.push(this.transcript.resume());
      else if (typeof effect === "object") this.#wire?.up.push(effect);
    }
  }
}

function isNumbered(frame: ServerFrame): boolean {
  return "seq" in frame && frame.type !== "session.opened" && frame.type !== "ack";
}
