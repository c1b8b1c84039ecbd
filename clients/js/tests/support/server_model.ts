/**
 * A model of what a server may send of one session: its log, in one or several generations, and the answers to
 * `session.open` as docs/protocol.md, sections 4 and 9, has them. Pure: no clock, no chance, no sockets. It follows the
 * protocol to the letter; what a network does to its frames is world.ts's.
 */

import type {
  Cursor,
  ServerFrame,
  SessionOpen,
  SessionOpened,
  TurnAccepted,
  TurnDelta,
  TurnSnapshot,
  Part as WirePart,
} from "../../src/wire.js";
import { AT, done, failed, opened, SESSION, snapshot, summaries } from "./frames.js";

export type Numbered = Exclude<Extract<ServerFrame, { seq: number; session: string }>, SessionOpened>;
/** A numbered frame before it has a place in a log. */
export type Entry = Record<string, unknown> & { type: string; turn?: string };

type TurnModel = {
  accepted: TurnAccepted;
  state: TurnSnapshot["state"];
  parts: WirePart[];
  pending: TurnSnapshot["pending"];
  terminal?: TurnSnapshot["terminal"];
};

export class SessionLog {
  gen: string | null = null;
  readonly #pieceChars: number;
  #gens = 0;
  /** The entry with seq n stands at n - 1. */
  #frames: Numbered[] = [];
  /** Entries up to this seq are there no more: a cursor before it cannot be replayed. */
  #floor = 0;

  /** `pieceChars`: how many characters of a turn's parts one piece of its snapshot holds; few, so that pieces are common. */
  constructor(pieceChars = 12) {
    this.#pieceChars = pieceChars;
  }

  get head(): number {
    return this.#frames.length;
  }

  /** Another history that keeps the first `kept` entries of this one. */
  lose(kept: number): void {
    this.#frames.length = Math.min(kept, this.#frames.length);
    this.#floor = Math.min(this.#floor, this.#frames.length);
    this.gen = this.#frames.length ? this.#newGen() : null;
  }

  /** The first turn of an empty session draws a gen. Whether it did. */
  begin(): boolean {
    if (this.gen !== null) return false;
    this.gen = this.#newGen();
    return true;
  }

  trim(): void {
    this.#floor = this.#frames.length;
  }

  append(entry: Entry): void {
    const seq = this.#frames.length + 1;
    const frame = { ...entry, session: SESSION, seq, ...(entry.type !== "turn.delta" && { at: AT + seq }) };
    this.#frames.push(frame as unknown as Numbered);
  }

  /** The terminal of a turn, proving whatever was said; `fields` are its other ones. */
  seal(turn: string, how: "stop" | "cancelled" | "error", fields: object = {}): void {
    const parts = this.#turn(turn, this.head)?.parts ?? [];
    const proofs = parts.map(({ part, kind, text }) => ({ ...summaries([text], kind)[0], part }));
    const terminal =
      how === "error"
        ? failed(
            turn,
            0,
            parts.map(({ text }) => text),
          )
        : done(turn, 0, [], { finish_reason: how });
    this.append({ ...terminal, ...fields, parts: proofs });
  }

  /** The entries behind `after`, up to `upTo`, adjacent deltas of one part as one where `merged`. */
  from(after: number, merged: boolean, upTo = this.head): Numbered[] {
    const frames: Numbered[] = [];
    for (const frame of this.#frames.slice(after, upTo)) {
      const last = frames.at(-1);
      if (merged && last && continuesDelta(last, frame)) frames.splice(-1, 1, joined(last as TurnDelta, frame as TurnDelta));
      else frames.push(frame);
    }
    return frames;
  }

  /** The answer to an open, and where the cursor stands then. */
  answer(open: SessionOpen, merged: boolean): { frames: ServerFrame[]; seq: number } {
    const reply_to = open.id as string;
    const { after } = open;
    if (after && this.#holds(after)) {
      const { seq, turn = null } = after;
      return {
        frames: [opened({ gen: this.gen, seq, turn, mode: "replay", reply_to }), ...this.from(seq, merged)],
        seq: this.head,
      };
    }
    return { frames: this.snapshot(reply_to, open.history ?? 20), seq: this.head };
  }

  /** `session.opened` and its `turn.snapshot`s, as of the head of the log; unasked without `reply_to`. */
  snapshot(reply_to?: string, history = 20): ServerFrame[] {
    const turns = this.turns();
    const kept = turns.filter(({ terminal }, number) => !terminal || number >= turns.length - history);
    const pieces = kept.flatMap((turn) => pieced(turn, this.#pieceChars));
    const last = this.#frames.at(-1);
    const turn = last && "turn" in last ? last.turn : null;
    const head = opened({ gen: this.gen, seq: this.head, turn, turns: pieces.length });
    return [reply_to === undefined ? head : { ...head, reply_to }, ...pieces];
  }

  /** All turns as of `upTo`, in the order in which they were accepted. */
  turns(upTo = this.head): TurnModel[] {
    const ids = this.#frames.slice(0, upTo).flatMap((frame) => (frame.type === "turn.accepted" ? [frame.turn] : []));
    return ids.map((id) => this.#turn(id, upTo) as TurnModel);
  }

  #holds({ gen, seq, turn = null }: Cursor): boolean {
    const entry = this.#frames[seq - 1];
    if (gen !== this.gen || !entry || seq < this.#floor) return false;
    return ("turn" in entry ? entry.turn : null) === turn;
  }

  #turn(id: string, upTo: number): TurnModel | undefined {
    let turn: TurnModel | undefined;
    for (const frame of this.#frames.slice(0, upTo)) {
      if (!("turn" in frame) || frame.turn !== id) continue;
      if (frame.type === "turn.accepted") turn = { accepted: frame, state: frame.state, parts: [], pending: [] };
      else if (turn) tell(turn, frame);
    }
    return turn;
  }

  #newGen(): string {
    return `g_${++this.#gens}`;
  }
}

function tell(turn: TurnModel, frame: Numbered): void {
  switch (frame.type) {
    case "turn.started":
      turn.state = "running";
      break;
    case "turn.asked":
      turn.state = "parked";
      turn.pending.push({ request: frame.request, kind: frame.kind, detail: frame.detail });
      break;
    case "turn.responded":
      turn.pending = turn.pending.filter(({ request }) => request !== frame.request);
      break;
    case "turn.done":
    case "turn.error":
      turn.state = frame.type === "turn.done" ? "done" : "error";
      turn.pending = [];
      turn.terminal = frame;
      break;
    case "turn.delta": {
      const { part: number, kind, text, call, name, last } = frame;
      const part = (turn.parts[number] ??= { part: number, kind, text: "", ...(call && { call }), ...(name && { name }) });
      part.text += text;
      if (last) part.last = true;
    }
  }
}

function continuesDelta(last: Numbered, next: Numbered): boolean {
  return last.type === "turn.delta" && next.type === "turn.delta" && last.turn === next.turn && last.part === next.part;
}

function joined(first: TurnDelta, second: TurnDelta): Numbered {
  const { text, seq, last } = second;
  const first_seq = first.first_seq ?? first.seq;
  return { ...first, first_seq, seq, text: first.text + text, ...(last && { last }) };
}

/** A turn as `turn.snapshot`s: text cut anywhere but within a character, what only the last piece has in the last. */
function pieced({ accepted, state, parts, pending, terminal }: TurnModel, pieceChars: number): TurnSnapshot[] {
  const { turn, parent, model, author, at, input, again } = accepted;
  const same = { state, parent, model, author, at, ...(again !== undefined && { again }) };
  const pieces: WirePart[][] = [[]];
  let room = pieceChars;
  for (const { text, last, ...part } of parts) {
    let rest = Array.from(text);
    do {
      const cut = rest.slice(0, room);
      rest = rest.slice(room);
      pieces.at(-1)?.push({ ...part, text: cut.join(""), ...(last && !rest.length && { last }) });
      room -= cut.length;
      if (rest.length || room === 0) {
        pieces.push([]);
        room = pieceChars;
      }
    } while (rest.length);
  }
  return pieces.map((some, number) => ({
    ...snapshot(turn, { ...same, input: number === 0 ? input : [], parts: some }),
    ...(number > 0 && { continued: true as const }),
    ...(number === pieces.length - 1 && { pending, ...(terminal && { terminal }) }),
  }));
}
