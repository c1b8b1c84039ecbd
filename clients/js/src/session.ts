/** One session as people use it: what is typed goes to the outbox, what the log tells is in the snapshot. */

import { because, TurnwireError } from "./errors.js";
import { Handle } from "./handle.js";
import { camel, newId, snake } from "./names.js";
import type { Outbox } from "./outbox.js";
import { type Outcome, Transcript } from "./transcript.js";
import { errorOf, isOver, type TurnState } from "./turn_state.js";
import type { TurnTree } from "./turn_tree.js";
import type { Turnwire } from "./turnwire.js";
import type { Ask, InputPart, SendOptions, Session, Snapshot, TurnHandle } from "./types.js";
import type { ErrorBody, ServerFrame, TurnCreate } from "./wire.js";

const EARLIER_TURNS = 20;
const NOT_SENT = because("Stopped before it was sent.", "internal", "same_frame");
const ELSEWHERE = because("This was answered earlier in the chat.", "not_found");

export class ChatSession implements Session {
  readonly id: string;
  readonly transcript: Transcript;
  /** The client sends its frames here. */
  followed = false;
  readonly #client: Turnwire;
  readonly #outbox: Outbox;
  readonly #tree: TurnTree;
  readonly #listeners = new Set<() => void>();
  readonly #handles = new Map<string, Handle>();
  readonly #initial: Snapshot | undefined;
  /** The newest, and that of which the listeners know. */
  #snapshot: Snapshot | undefined;
  #told: Snapshot | undefined;
  /** What the newest snapshot was made of. */
  #stamp = "";

  constructor(id: string, client: Turnwire, outbox: Outbox, initial?: Snapshot) {
    this.id = id;
    this.#client = client;
    this.#outbox = outbox;
    this.#initial = initial;
    this.transcript = new Transcript(id);
    this.#tree = this.transcript.tree;
    for (const { frame, held } of outbox.creates(id)) {
      this.#add(frame);
      if (held) this.#end(this.#tree.fail(this.#turn(frame.turn), held), held);
    }
  }

  // --- reading --------------------------------------------------------------------------------------------------------

  getSnapshot(): Snapshot {
    const { connection } = this.#client;
    const { tree, title, deleted, loaded, problem = this.#client.problem } = this.transcript;
    if (this.#initial && !loaded && !tree.all().length && !problem) return this.#initial;
    const stamp = [tree.version, title, deleted, loaded, connection, problem].join();
    if (!this.#snapshot || stamp !== this.#stamp) {
      this.#stamp = stamp;
      const { hasEarlier, busy } = tree;
      const turns = tree.views();
      this.#snapshot = camel({ turns, hasEarlier, busy, loaded, connection, problem, title, deleted }) as Snapshot;
    }
    return this.#snapshot as Snapshot;
  }

  subscribe(listener: () => void): () => void {
    const leave = listen(this.#listeners, listener);
    this.#follow();
    return () => {
      leave();
      this.#follow();
    };
  }

  async loadEarlier(): Promise<void> {
    const rest = await this.#client.rest();
    const { turns, next } = await rest.turns(this.id, { limit: EARLIER_TURNS, before: this.#tree.oldest });
    this.#tree.prepend(turns, next !== null);
    this.#changed();
  }

  showBranch(turn: string): void {
    this.#tree.show(turn);
    this.#changed();
  }

  // --- writing --------------------------------------------------------------------------------------------------------

  send(input: string | InputPart[], options: SendOptions = {}): TurnHandle {
    const { tree, loaded } = this.transcript;
    // What the reader sees is what is followed, whatever other devices have sent since. Before that is known, in a session
    // without turns and behind a turn that may yet be refused, the server knows better.
    const last = loaded && tree.visible().filter((turn) => turn.told || !turn.error).at(-1);
    return this.#create({ input: partsOf(input) }, { ...(last && last.told && { parent: last.id }), ...options });
  }

  edit(turn: string, input: string | InputPart[], options: SendOptions = {}): TurnHandle {
    return this.#create({ input: partsOf(input) }, { ...options, parent: this.#turn(turn).parent });
  }

  regenerate(turn: string, { parent: _, ...options }: SendOptions = {}): TurnHandle {
    return this.#create({ again: this.#turn(turn).id }, options);
  }

  retrySend(turn: string): void {
    const state = this.#turn(turn);
    if (state.told) return;
    state.error = undefined;
    this.#tree.touch(state);
    this.#outbox.release(turn);
    this.#send();
  }

  discard(turn: string): void {
    if (!this.#turn(turn).told) this.forget(turn);
  }

  respond({ turn, request }: Ask, value: unknown): Promise<void> {
    return this.#client.ask({ type: "turn.respond", session: this.id, turn, request, value });
  }

  async stop(): Promise<void> {
    const open = this.#tree.all().filter((turn) => !isOver(turn));
    await Promise.all(open.reverse().map(({ id }) => this.#cancel(id)));
  }

  // --- what the client tells ------------------------------------------------------------------------------------------

  receive(frame: ServerFrame, now: number): Outcome {
    const outcome = this.transcript.receive(frame, now);
    if (outcome.resend) this.#outbox.unsend(this.id);
    this.settle();
    return outcome;
  }

  /** Take out of the outbox what the log has told, and tell whoever holds a turn. */
  settle(): void {
    for (const { id, seq } of this.#outbox.creates(this.id)) {
      if (this.#tree.get(id)?.told) this.#outbox.remove(id);
      else if (seq !== undefined && this.transcript.passed(seq)) this.forget(id, ELSEWHERE);
    }
    for (const [id, handle] of this.#handles) {
      const turn = this.#tree.get(id);
      if (turn && isOver(turn)) this.#end(turn, errorOf(turn));
      else handle.wake();
    }
    this.#follow();
    this.#changed();
  }

  /** The server would not have this turn; its sender decides. */
  refused(turn: string, error: ErrorBody): void {
    const state = this.#tree.get(turn);
    if (!state || state.told || state.error) return;
    this.#tree.fail(state, error);
    this.settle();
  }

  /** A turn that the server has not told of is not to be sent, or not to be shown here. */
  forget(turn: string, why = NOT_SENT): void {
    this.#outbox.remove(turn);
    const state = this.#tree.get(turn);
    if (state) this.#end(state, why);
    this.#tree.forget(turn);
    this.settle();
  }

  /** Nothing will come any more: whoever waits is told. */
  close(why: ErrorBody): void {
    for (const id of this.#handles.keys()) this.#end(this.#turn(id), why);
  }

  /** Called by the client, at most once a frame. */
  tell(): void {
    if (this.#told === this.getSnapshot()) return;
    this.#told = this.#snapshot;
    for (const listener of this.#listeners) listener();
  }

  /** Somebody looks at the session, or something is under way. */
  get needed(): boolean {
    const waits = this.#outbox.creates(this.id).some(({ held }) => !held);
    return waits || this.#listeners.size + this.#handles.size > 0;
  }

  // --- within ---------------------------------------------------------------------------------------------------------

  #create(what: Pick<TurnCreate, "input" | "again">, options: SendOptions): TurnHandle {
    const turn = newId("t_");
    const session = this.id;
    const frame = { ...snake(options), ...what, type: "turn.create" as const, id: turn, session, turn };
    this.#outbox.add(frame, this.#client.user);
    const handle = this.#add(frame);
    this.#send();
    return handle;
  }

  /** A person wishes it: also to a server that refused this client. */
  #send(): void {
    this.#follow(true);
    this.#changed();
  }

  #add(frame: TurnCreate): Handle {
    const { turn } = frame;
    this.#tree.add(frame, Date.now());
    const handle = new Handle(
      turn,
      () => this.#tree.get(turn),
      () => this.#cancel(turn),
    );
    this.#handles.set(turn, handle);
    return handle;
  }

  async #cancel(turn: string): Promise<void> {
    const waiting = this.#outbox.get(turn);
    if (waiting?.held) return;
    if (!waiting || waiting.everSent) return this.#client.ask({ type: "turn.cancel", session: this.id, turn });
    this.#outbox.hold(turn, NOT_SENT);
    this.refused(turn, NOT_SENT);
  }

  #end(turn: TurnState, error: ErrorBody | undefined): void {
    this.#handles.get(turn.id)?.end(this.#tree.viewOf(turn), error);
    this.#handles.delete(turn.id);
  }

  /** Follow the session as long as it is needed. */
  #follow(again = false): void {
    if (this.needed !== this.followed) this.#client.follow(this, again);
    else if (again) this.#client.flush(again);
  }

  #changed(): void {
    this.#client.changed(this);
  }

  #turn(id: string): TurnState {
    const turn = this.#tree.get(id);
    if (!turn) throw new TurnwireError(because("There is no such turn in this chat.", "not_found"));
    return turn;
  }
}

function partsOf(input: string | InputPart[]): InputPart[] {
  return typeof input === "string" ? [{ type: "text", text: input }] : input;
}

/** A listener that is given twice is two subscriptions. Returned is what ends this one. */
export function listen(listeners: Set<() => void>, listener: () => void): () => void {
  const told = (): void => listener();
  listeners.add(told);
  return () => {
    listeners.delete(told);
  };
}
