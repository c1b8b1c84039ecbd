/**
 * The client: it owns what the pure parts leave out, that is socket, timer, clock and chance, and carries out what they
 * decide. One of it serves any number of sessions over one connection, which is made when the first is needed.
 */

import { Connection, type Effect, NOT_TURNWIRE } from "./connection.js";
import { because } from "./errors.js";
import { newId } from "./names.js";
import { Outbox } from "./outbox.js";
import type { AtRest } from "./rest.js";
import { ChatSession, listen } from "./session.js";
import type { ConnectionStatus, Options, Session, Sessions, Snapshot } from "./types.js";
import { VERSION } from "./version.js";
import type { Ack, Command, ErrorBody, ServerFrame, TurnCancel, TurnRespond, Error as WireError } from "./wire.js";

const SUBPROTOCOL = "turnwire.v1.json";
/** Sessions that nobody looks at are kept for the next look, up to this many. */
const IDLE_SESSIONS_MAX = 20;
/** How long listeners of a page that draws no frames wait, and those of one that should have drawn one. */
const UNSEEN_MS = 16;
const UNDRAWN_MS = 320;
const OPEN_AGAIN_MS = 1_000;
const NO_TOKEN = because("There is no token.");
const CLOSED = because("This page closed the connection.", "internal", "reconnect");

export class Turnwire {
  /** The list of sessions, over HTTP. */
  readonly sessions: Sessions = {
    list: async (page) => (await this.rest()).list(page),
    rename: async (id, title) => (await this.rest()).rename(id, title),
    delete: async (id) => (await this.rest()).delete(id),
  };
  /** What turns can be sent to; the first is the server's default. Empty before the first welcome. */
  models: readonly string[] = [];
  /** Who the server says is there; undefined before the first welcome. */
  user: string | undefined;
  readonly #outbox: Outbox;
  readonly #url: string;
  readonly #options: Options;
  readonly #connection = new Connection();
  readonly #known = new Map<string, ChatSession>();
  readonly #listeners = new Set<() => void>();
  /** Whose listeners are to be told with the next frame. */
  readonly #changed = new Set<ChatSession>();
  /** Faults that were reported: each is told once. */
  readonly #told = new Set<string>();
  #socket: WebSocket | undefined;
  /** Of the newest dial: what an older one brings is too late. */
  #dials = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Whose messages may be sent. */
  #claimant: string | undefined;
  /** What the listeners know of the connection. */
  #said = "";
  readonly #leaving = new AbortController();

  /** `url` is the server's `/v1/ws`, absolute or relative to the page, with ws: or http:. Throws TypeError otherwise. */
  constructor(url: string, options: Options = {}) {
    const { href } = new URL(url, globalThis.location?.href);
    this.#url = href.replace(/^http/, "ws").replace(/#.*/, "");
    if (!/^wss?:/.test(this.#url)) throw new TypeError(`${url} is no address of a Turnwire server.`);
    this.#options = options;
    this.#outbox = new Outbox(storeOf(options), `turnwire:outbox:${this.#url}`, this.#fault);
    for (const { frame } of this.#outbox.creates()) this.session(frame.session);
    // A controller has what these options need of one: its signal.
    for (const event of ["visibilitychange", "online"]) globalThis.window?.addEventListener(event, this.#wake, this.#leaving);
  }

  get connection(): ConnectionStatus {
    return this.#connection.status;
  }

  /** Why the connection is offline or refused: a sentence for users. */
  get problem(): string | undefined {
    return this.#connection.problem?.message;
  }

  /** A session of this id, or a new one. The same object for the same id. */
  session(id: string = newId("s_"), initial?: Snapshot): Session {
    const session = this.#known.get(id) ?? new ChatSession(id, this, this.#outbox, initial);
    this.#known.set(id, session);
    return session;
  }

  /** Told of changes of `connection`, `problem`, `models` and `user`. */
  subscribe(listener: () => void): () => void {
    return listen(this.#listeners, listener);
  }

  /** End in order. What was not sent stays in the outbox's Storage. */
  close(): void {
    this.#leaving.abort();
    this.#run(this.#connection.close());
    for (const session of this.#known.values()) session.close(CLOSED);
  }

  // --- what sessions ask for ------------------------------------------------------------------------------------------

  /**
   * The session is needed, or not any more.
   * @internal
   */
  follow(session: ChatSession, again: boolean): void {
    const { id, transcript } = session;
    if (session.needed) {
      session.followed = true;
      this.#known.delete(id);
      this.#known.set(id, session);
      if (this.#connection.greeted) this.#post(transcript.resume());
      this.flush(again);
      return;
    }
    // Whoever leaves may be back at once, as when a view is drawn anew.
    setTimeout(() => {
      if (session.needed || !session.followed) return;
      session.followed = false;
      transcript.lost();
      this.#post({ type: "session.close", session: id });
      const idle = [...this.#known.values()].filter(({ followed }) => !followed);
      for (const { id } of idle.slice(0, -IDLE_SESSIONS_MAX)) this.#known.delete(id);
    });
  }

  /**
   * What speaks HTTP; a page that never asks for what is at rest never loads it.
   * @internal
   */
  async rest(): Promise<AtRest> {
    const { atRest } = await import("./rest.js");
    return atRest(this.#url, this.#options.token);
  }

  /**
   * Send what waits, dialing if need be. `again`: also to a server that refused this client.
   * @internal
   */
  flush(again = false): void {
    const closed = this.#leaving.signal.aborted;
    const effects = closed ? [] : this.#connection.want(Date.now(), again);
    if (effects.length) this.#run(effects);
    else if (closed) this.#giveUp(CLOSED);
    else if (this.connection === "refused") this.#giveUp(this.#connection.problem as ErrorBody);
    else if (this.#connection.greeted) for (const frame of this.#outbox.take(this.#claimant)) this.#post(frame);
  }

  /**
   * A command that its answer settles.
   * @internal
   */
  ask(command: TurnCancel | TurnRespond): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#outbox.add({ ...command, id: newId("c_") }, this.user, (error) => (error ? reject(error) : resolve()));
      this.flush();
    });
  }

  /**
   * Tell the session's listeners, at most once an animation frame. A hidden page has none, and is told by the clock.
   * @internal
   */
  changed(session: ChatSession): void {
    const waiting = this.#changed.size;
    this.#changed.add(session);
    if (waiting) return;
    const seen = globalThis.document?.visibilityState === "visible";
    const tell = (): void => {
      clearTimeout(late);
      const changed = [...this.#changed];
      this.#changed.clear();
      for (const one of changed) one.tell();
    };
    // A page may be hidden before the frame comes, which then does not come at all.
    const late = setTimeout(tell, seen ? UNDRAWN_MS : UNSEEN_MS);
    if (seen) requestAnimationFrame(tell);
  }

  // --- carrying out ---------------------------------------------------------------------------------------------------

  #run(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (typeof effect === "object") this.#post(effect);
      else if (effect === "dial") void this.#dial();
      else if (effect === "drop") {
        this.#dials++;
        this.#socket?.close();
      }
      else if (effect === "refresh") void this.#refresh();
      else if (effect === "greeted") {
        for (const { followed, transcript } of this.#known.values()) if (followed) this.#post(transcript.resume());
      } else {
        this.#outbox.unsend();
        // The next connection may be another user's.
        this.#claimant = undefined;
        for (const { transcript } of this.#known.values()) transcript.lost();
      }
    }
    this.#setTimer();
    if (effects.length) this.flush();
    this.#tell();
  }

  async #dial(): Promise<void> {
    const dial = ++this.#dials;
    const isCurrent = (): boolean => dial === this.#dials;
    const { token, webSocket = WebSocket } = this.#options;
    let problem: ErrorBody | undefined = NO_TOKEN;
    try {
      const fresh = await token?.();
      if (!isCurrent()) return;
      problem = undefined;
      const socket = new webSocket(this.#url, [SUBPROTOCOL]);
      this.#socket = socket;
      socket.onopen = () => isCurrent() && this.#run(this.#connection.opened(VERSION, fresh));
      socket.onmessage = ({ data }) => isCurrent() && this.#receive(data);
      socket.onclose = ({ code }) => isCurrent() && this.#run(this.#connection.lost(code, Date.now(), Math.random()));
    } catch {
      // A page's policy may forbid the address: then the constructor throws.
      if (isCurrent()) this.#run(this.#connection.leave(Date.now(), Math.random(), problem));
    }
  }

  async #refresh(): Promise<void> {
    const dial = this.#dials;
    try {
      const token = await this.#options.token?.();
      if (token !== undefined && dial === this.#dials) this.#post({ type: "auth.refresh", token });
    } catch {
      // The server closes when the old token ends; then a new one is asked for anyway.
    }
  }

  #post(frame: Command): void {
    if (this.#socket?.readyState !== 1) return;
    this.#options.onFrame?.("out", frame);
    this.#socket.send(JSON.stringify(frame));
  }

  #receive(data: unknown): void {
    let frame: ServerFrame;
    try {
      frame = JSON.parse(data as string) as ServerFrame;
      if (typeof frame.type !== "string") throw new TypeError();
    } catch {
      this.#fault("The server sent what is no frame.");
      this.#run(this.#connection.leave(Date.now(), Math.random(), NOT_TURNWIRE));
      return;
    }
    this.#options.onFrame?.("in", frame);
    const effects = this.#connection.received(frame, Date.now(), Math.random());
    this.#deliver(frame);
    this.#run(effects);
  }

  #deliver(frame: ServerFrame): void {
    const session = "session" in frame ? this.#known.get(frame.session as string) : undefined;
    if (frame.type === "welcome") {
      this.user = this.#claimant = frame.user;
      this.models = frame.models;
      for (const { session, turn } of this.#outbox.claim(frame.user)) this.#known.get(session)?.forget(turn);
      this.flush();
    } else if (frame.type === "ack" || frame.type === "error") this.#answer(frame, session);
    else if (session?.followed) {
      const { fault, open, resend } = session.receive(frame, Date.now());
      if (fault) this.#fault(fault);
      if (open) this.#post(open);
      if (resend) this.flush();
    }
  }

  #answer(frame: Ack | WireError, session: ChatSession | undefined): void {
    const id = frame.reply_to;
    if (id === undefined) return;
    if (frame.type === "error" && frame.error.retry === "reconnect") {
      this.#run(this.#connection.leave(Date.now(), Math.random(), frame.error));
      return;
    }
    const verdict = this.#outbox.answer(id, frame);
    if (verdict === true) session?.settle();
    else if (typeof verdict === "number") {
      setTimeout(() => {
        this.#outbox.unsend(id);
        this.flush();
      }, verdict);
    } else if (session && frame.type === "error") {
      if (verdict === "refused") session.refused(frame.turn as string, frame.error);
      else if (session.transcript.refused(id, frame.error)) this.#openLater(session, frame.error);
    }
  }

  #openLater(session: ChatSession, { retry, retry_after_ms = OPEN_AGAIN_MS }: ErrorBody): void {
    this.changed(session);
    if (retry === "same_frame") {
      setTimeout(() => {
        if (session.needed && session.transcript.problem) this.#post(session.transcript.resume());
      }, retry_after_ms);
    }
  }

  /** Nothing will come: who waits for it need not wait any longer. */
  #giveUp(error: ErrorBody): void {
    this.#outbox.fail(error);
    for (const { id, frame, held } of this.#outbox.creates()) {
      if (held) continue;
      // What was typed before the page closed this client is sent by the next page.
      if (error !== CLOSED) this.#outbox.hold(id, error);
      this.#known.get(frame.session)?.refused(id, error);
    }
  }

  // --- time -----------------------------------------------------------------------------------------------------------

  #setTimer(): void {
    clearTimeout(this.#timer);
    const { due } = this.#connection;
    const tick = (): void => this.#run(this.#connection.tick(Date.now(), Math.random()));
    // A server that leaves its numbers out makes it NaN.
    if (due < Infinity) this.#timer = setTimeout(tick, Math.max(0, due - Date.now()));
  }

  readonly #wake = (): void => {
    if (document.visibilityState === "visible") this.#run(this.#connection.wake(Date.now()));
  };

  #tell(): void {
    const said = this.connection + this.problem;
    if (said === this.#said) return;
    this.#said = said;
    for (const listener of this.#listeners) listener();
    for (const session of this.#known.values()) this.changed(session);
  }

  readonly #fault = (message: string): void => {
    if (this.#told.has(message)) return;
    this.#told.add(message);
    (this.#options.onFault ?? console.error)(message);
  };
}

function storeOf({ outbox }: Options): Options["outbox"] {
  try {
    return outbox ?? globalThis.sessionStorage;
  } catch {
    // A page may be forbidden to use its storage, and then the look alone throws.
    return undefined;
  }
}
