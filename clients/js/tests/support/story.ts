/**
 * The log of one session as an honest server would keep it: each method adds one numbered frame and returns it, for the
 * test to send or to hold back. Opens are answered from it, by replay or by snapshot. It sends nothing by itself but in
 * `answerOpen` and `take`.
 */

import { crc32 } from "node:zlib";
import type {
  Ack,
  Part,
  PartSummary,
  SessionOpen,
  SessionOpened,
  TurnAccepted,
  TurnCreate,
  TurnDelta,
  TurnDone,
  TurnError,
  TurnSnapshot,
} from "../../src/wire.js";
import type { Peer } from "./scripted_server.js";

type Kept = Omit<TurnSnapshot, "type" | "session">;
type Entry = { seq: number; turn: string | null };
type Numbered = Extract<Parameters<Peer["say"]>[0], { seq: number; at?: number }> & { session: string };

const AT = 1_750_000_000_000;

export class Story {
  readonly session: string;
  gen: string;
  seq: number;
  readonly turns = new Map<string, Kept>();
  readonly #log: { entry: Entry; frame: Numbered }[] = [];
  #begun: boolean;

  /** A session without turns; with `seq` given, one that has a history, of which the log keeps nothing. */
  constructor(session: string, gen = "g_1", seq = 0) {
    this.session = session;
    this.gen = gen;
    this.seq = seq;
    this.#begun = seq > 0;
  }

  // --- frames of a turn -----------------------------------------------------------------------------------------------

  accepted({ turn, input = [], parent, again }: TurnCreate, state: "running" | "queued" = "running"): TurnAccepted {
    const answered = again ? this.#turn(again) : undefined;
    const about = {
      // Absent means the newest turn, null a new root.
      parent: answered ? answered.parent : parent === undefined ? ([...this.turns.keys()].at(-1) ?? null) : parent,
      ...(again && { again }),
      model: "demo",
      author: "anonymous",
      input: answered?.input ?? input,
    };
    this.turns.set(turn, { ...about, turn, at: AT, state, parts: [], pending: [] });
    return this.#add({ type: "turn.accepted", ...about, ...this.#place(turn), state });
  }

  started(turn: string): Numbered {
    this.#turn(turn).state = "running";
    return this.#add({ type: "turn.started", ...this.#place(turn), step: 1, attempt: 1, model: "demo" });
  }

  retrying(turn: string): Numbered {
    return this.#add({ type: "turn.retrying", ...this.#place(turn), attempt: 2, delay_ms: 500, code: "upstream_timeout" });
  }

  /** A piece of a part; the first one of a new part has the next number. */
  delta(turn: string, text: string, part = 0, kind: Part["kind"] = "text"): TurnDelta {
    const { parts } = this.#turn(turn);
    const known = parts[part];
    if (known) known.text += text;
    else parts.push({ part, kind, text });
    const { at: _, ...place } = this.#place(turn);
    return this.#add({ type: "turn.delta", ...place, part, kind, text });
  }

  asked(turn: string, request: string): Numbered {
    const ask = { request, kind: "approval" as const, detail: { what: "delete it" } };
    const kept = this.#turn(turn);
    kept.state = "parked";
    kept.pending.push(ask);
    return this.#add({ type: "turn.asked", ...this.#place(turn), ...ask });
  }

  responded(turn: string, request: string): Numbered {
    const kept = this.#turn(turn);
    kept.pending = kept.pending.filter((ask) => ask.request !== request);
    return this.#add({ type: "turn.responded", ...this.#place(turn), request, by: "anonymous" });
  }

  cancelling(turn: string): Numbered {
    return this.#add({ type: "turn.cancelling", ...this.#place(turn), by: "anonymous" });
  }

  done(turn: string, finish_reason: TurnDone["finish_reason"] = "stop"): TurnDone {
    const kept = this.#turn(turn);
    kept.state = "done";
    const terminal: TurnDone = {
      type: "turn.done",
      ...this.#place(turn),
      finish_reason,
      usage: { input_tokens: 3, output_tokens: 5, estimated: false },
      model: "demo",
      attempts: 1,
      first_token_ms: 12,
      duration_ms: 340,
      parts: summaries(kept.parts),
    };
    kept.terminal = terminal;
    return this.#add(terminal);
  }

  error(turn: string, code: TurnError["error"]["code"] = "upstream_timeout"): TurnError {
    const kept = this.#turn(turn);
    kept.state = "error";
    const terminal: TurnError = {
      type: "turn.error",
      ...this.#place(turn),
      error: { code, message: "The model did not answer in time.", retry: "new_turn" },
      partial: kept.parts.length > 0,
      parts: summaries(kept.parts),
    };
    kept.terminal = terminal;
    return this.#add(terminal);
  }

  /** A whole turn that somebody else had: asked and answered. */
  exchange(turn: string, question: string, answer: string, parent: string | null = null): Numbered[] {
    this.#begun = true;
    const create: TurnCreate = {
      type: "turn.create",
      session: this.session,
      turn,
      input: [{ type: "text", text: question }],
      parent,
    };
    return [this.accepted(create), this.started(turn), this.delta(turn, answer), this.done(turn)];
  }

  // --- frames of the session ------------------------------------------------------------------------------------------

  updated(title: string | null): Numbered {
    return this.#add({ type: "session.updated", ...this.#place(null), title, metadata: {} });
  }

  deleted(): Numbered {
    return this.#add({ type: "session.deleted", ...this.#place(null) });
  }

  // --- answers --------------------------------------------------------------------------------------------------------

  /** The ack of a turn that was accepted here. */
  ack(create: TurnCreate, duplicate = false): Ack {
    const accepted = this.#log.find(({ frame }) => frame.type === "turn.accepted" && frame.turn === create.turn);
    return { ...settled(create), seq: (accepted as { entry: Entry }).entry.seq, duplicate };
  }

  /** What has to be said when the first turn gave the log its gen. */
  begin(): SessionOpened[] {
    if (this.#begun) return [];
    this.#begun = true;
    return [
      { type: "session.opened", session: this.session, gen: this.gen, seq: 0, turn: null, mode: "snapshot", turns: 0 },
    ];
  }

  /** The state as of now, in place of all that the reader has. */
  snapshot(open?: SessionOpen): (SessionOpened | TurnSnapshot)[] {
    const turns = [...this.turns.values()];
    const { session, seq } = this;
    const turn = this.#log.at(-1)?.entry.turn ?? null;
    const gen = this.#begun ? this.gen : null;
    const opened: SessionOpened = { type: "session.opened", session, gen, seq, turn, mode: "snapshot", turns: turns.length };
    if (open?.id) opened.reply_to = open.id;
    return [opened, ...turns.map((kept): TurnSnapshot => structuredClone({ type: "turn.snapshot", session, ...kept }))];
  }

  /** As docs/protocol.md, section 9: a replay from exactly the reader's place, else a snapshot. */
  opened(open: SessionOpen): Parameters<Peer["say"]> {
    const { after } = open;
    const at = this.#log.findIndex(({ entry }) => entry.seq === after?.seq && entry.turn === after.turn);
    if (!after || after.gen !== this.gen || at < 0) return this.snapshot(open);
    const { session, gen } = this;
    const { seq, turn = null } = after;
    const opened: SessionOpened = {
      type: "session.opened",
      session,
      gen,
      seq,
      turn,
      mode: "replay",
      turns: 0,
      reply_to: open.id as string,
    };
    return [opened, ...this.#log.slice(at + 1).map(({ frame }) => frame)];
  }

  /** Take the next frame of the peer, which must open this session, and answer it. */
  async answerOpen(peer: Peer): Promise<SessionOpen> {
    const open = await peer.expect("session.open");
    if (open.session !== this.session) throw new Error(`expected an open of ${this.session}, came ${open.session}`);
    peer.say(...this.opened(open));
    return open;
  }

  /** Take the next frame of the peer, which must be a turn.create, and accept it. */
  async take(peer: Peer, state: "running" | "queued" = "running"): Promise<TurnCreate> {
    const create = await peer.expect("turn.create");
    const accepted = this.accepted(create, state);
    peer.say(...this.begin(), this.ack(create), accepted);
    return create;
  }

  // --- within ---------------------------------------------------------------------------------------------------------

  #turn(turn: string): Kept {
    const kept = this.turns.get(turn);
    if (!kept) throw new Error(`no turn ${turn} in this story`);
    return kept;
  }

  #place(turn: null): { session: string; seq: number; at: number };
  #place(turn: string): { session: string; turn: string; seq: number; at: number };
  #place(turn: string | null): object {
    return { session: this.session, ...(turn !== null && { turn }), seq: ++this.seq, at: AT };
  }

  #add<Frame extends Numbered>(frame: Frame): Frame {
    this.#log.push({ entry: { seq: frame.seq, turn: "turn" in frame ? frame.turn : null }, frame });
    return frame;
  }
}

/** The ack of a command that names a turn. */
export function settled(command: { id?: string | null; session: string; turn: string }, fields: Partial<Ack> = {}): Ack {
  const { id, session, turn } = command;
  return { type: "ack", reply_to: id as string, session, turn, ...fields };
}

function summaries(parts: Part[]): PartSummary[] {
  return parts.map(({ part, kind, text }) => {
    const bytes = new TextEncoder().encode(text);
    return { part, kind, bytes: bytes.length, crc32: crc32(bytes) };
  });
}
