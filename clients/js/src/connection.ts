/**
 * One client's connection, without socket, timer, clock or chance: what happens goes in with the time, what is to be
 * done comes out as effects. It decides when to dial, greet, ask a silent server for a sign of life, leave and come back
 * (docs/protocol.md, sections 1, 9 and 10); what frames say of a session is the transcript's to know.
 *
 *     idle ──▶ connecting ──▶ live
 *                  ▲ │         │
 *                  │ ▼         ▼
 *                offline ◀─ any loss      refused: a close code said not to come back
 */

import { because } from "./errors.js";
import type { ConnectionStatus } from "./types.js";
import type { Command, ErrorBody, ServerFrame, Welcome } from "./wire.js";

const BACKOFF_BASE_MS = 250;
const BACKOFF_MAX_MS = 10_000;
/** From the dial to the welcome. */
const GREETING_MS = 10_000;
const PONG_MS = 3_000;
/** A connection that held this long counts as good: the next loss begins with short waits again. */
const STABLE_MS = 5_000;
/** What browsers say of a connection that ended without a close frame. */
export const ABNORMAL = 1006;
const TRANSPORT_TOO_LARGE = 1009;
const TRY_AGAIN_LATER = 1013;
const NO_ANSWER = because("No Turnwire server answers at this address.");
export const NOT_TURNWIRE = because("The server at this address does not speak Turnwire.");

/**
 * `dial` fetch a token, open a socket · `drop` close the socket, nothing that it says counts any more · `greeted` the
 * hello went out, say what has to be said (again) · `refresh` send a fresh token · `lost` what was sent may not have
 * arrived · a command: send it.
 */
export type Effect = "dial" | "drop" | "greeted" | "refresh" | "lost" | Command;

export class Connection {
  status: ConnectionStatus = "idle";
  /** The hello went out: commands may be sent. */
  greeted = false;
  welcome: Welcome | undefined;
  /** Why it is offline or refused. */
  problem: ErrorBody | undefined;
  /** When `tick` is to be called, in ms of the time that goes in; Infinity: not by itself. */
  due = Infinity;

  #tries = 0;
  /** Since when the connection is live, and when it was last heard. */
  #liveAt = 0;
  #heardAt = 0;
  #useful = false;
  #pinged = false;
  #leaveAt = Infinity;
  #lastError: ErrorBody | undefined;

  /** Somebody needs the server. `again`: also one that refused this client. */
  want(now: number, again = false): Effect[] {
    return this.status === "idle" || (again && this.status === "refused") ? this.#dial(now) : [];
  }

  /** The socket is open. */
  opened(version: string, token: string | undefined): Effect[] {
    this.greeted = true;
    return [{ type: "hello", client: { name: "turnwire-js", version }, ...(token !== undefined && { token }) }, "greeted"];
  }

  received(frame: ServerFrame, now: number, chance: number): Effect[] {
    this.#heardAt = now;
    this.#pinged = false;
    switch (frame.type) {
      case "welcome":
        this.welcome = frame;
        this.problem = undefined;
        this.status = "live";
        this.#liveAt = now;
        this.due = Math.min(now + frame.ping_ms, this.#leaveAt);
        break;
      case "goaway": {
        const { reconnect_min_ms: least, reconnect_max_ms: most } = frame;
        this.#leaveAt = now + least + chance * (most - least);
        this.due = Math.min(this.due, this.#leaveAt);
        break;
      }
      case "error":
        if (frame.reply_to === undefined) this.#lastError = frame.error;
        break;
      case "auth.expiring":
        return ["refresh"];
      case "session.opened":
        this.#useful = true;
    }
    return [];
  }

  /** The socket closed, or never opened. `chance` lies in [0, 1). */
  lost(code: number, now: number, chance: number): Effect[] {
    // A cut says nothing of a server; one that hears the hello and closes in order is another kind.
    const foreign = this.greeted && !this.welcome && code !== ABNORMAL;
    const said = this.#lastError ?? (foreign ? NOT_TURNWIRE : undefined);
    if ((code >= 4000 && code < 4500) || code === TRANSPORT_TOO_LARGE) {
      this.problem = this.#lastError ?? because(`The server refused this client (close code ${code}).`);
      this.#rest();
      this.status = "refused";
      return ["lost"];
    }
    const stable = this.status === "live" && now - this.#liveAt >= STABLE_MS;
    // A cable that was pulled says nothing against the server; one that closes in order may well be at its limit.
    if (stable || (this.#useful && code === ABNORMAL)) this.#tries = 0;
    const ceiling_ms = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** this.#tries++);
    // Whoever was told to go is expected back at a time of its own.
    const back = this.#leaveAt < Infinity ? this.#leaveAt : now + chance * ceiling_ms;
    this.problem = said ?? (this.welcome ? undefined : NO_ANSWER);
    this.#rest();
    this.status = "offline";
    this.due = Math.max(back, now + (said?.retry_after_ms ?? 0));
    return ["lost"];
  }

  /** Give this connection up and come back on another: because of its silence, or of an error that asks for it. */
  leave(now: number, chance: number, error?: ErrorBody): Effect[] {
    this.#lastError = error;
    return ["drop", ...this.lost(error ? TRY_AGAIN_LATER : ABNORMAL, now, chance)];
  }

  /** `due` has come. */
  tick(now: number, chance: number): Effect[] {
    if (now < this.due) return [];
    if (this.status === "offline") return this.#dial(now);
    if (now >= this.#leaveAt) return ["drop", "lost", ...this.#dial(now)];
    if (this.status !== "live" || this.#pinged) {
      return this.leave(now, chance, this.greeted && !this.welcome ? NOT_TURNWIRE : undefined);
    }
    const askAt = this.#heardAt + (this.welcome as Welcome).ping_ms;
    if (now >= askAt) return this.#ping(now);
    this.due = Math.min(askAt, this.#leaveAt);
    return [];
  }

  /** The device woke up or found a network: what was alive may be dead, what waits need not. */
  wake(now: number): Effect[] {
    if (this.status === "offline") return this.#dial(now);
    return this.status === "live" && !this.#pinged ? this.#ping(now) : [];
  }

  /** Nobody needs the server any more. */
  close(): Effect[] {
    this.#rest();
    this.status = "idle";
    return ["drop", "lost"];
  }

  #dial(now: number): Effect[] {
    this.#rest();
    this.status = "connecting";
    this.due = now + GREETING_MS;
    return ["dial"];
  }

  #ping(now: number): Effect[] {
    this.#pinged = true;
    this.due = Math.min(now + PONG_MS, this.#leaveAt);
    return [{ type: "ping" }];
  }

  /** Forget what belonged to one socket. */
  #rest(): void {
    this.due = Infinity;
    this.greeted = false;
    this.#useful = false;
    this.#pinged = false;
    this.#leaveAt = Infinity;
    this.#lastError = undefined;
  }
}
