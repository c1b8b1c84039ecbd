/**
 * Server frames with every field that they must have, for tests that say only what matters to them. It makes legal
 * frames; whoever wants a malformed one says so with `malformed`. It knows nothing of the client.
 */

import { crc32 } from "node:zlib";

import type {
  Cursor,
  ErrorBody,
  Goaway,
  PartSummary,
  ServerFrame,
  SessionOpened,
  TurnAccepted,
  TurnCreate,
  TurnDelta,
  TurnDone,
  TurnSnapshot,
  TurnStarted,
  Welcome,
  Part as WirePart,
  TurnError,
} from "../../src/wire.js";

export const SESSION = "s_1";
export const GEN = "g_1";
export const AT = 1_700_000_000_000;
const USAGE = { input_tokens: 3, output_tokens: 5, estimated: false };

/** A frame that no schema allows, for a function that takes whatever comes. */
export function malformed(frame: object): ServerFrame {
  return frame as ServerFrame;
}

export function welcome(fields: Partial<Welcome> = {}): Welcome {
  const limits = {
    frame_bytes_max: 1_048_576,
    input_bytes_max: 65_536,
    frames_per_s: 100,
    bytes_per_s: 1_000_000,
    sessions_open_max: 20,
    turns_running_max: 4,
    history_turns_max: 200,
  };
  return {
    type: "welcome",
    connection: "k_1",
    user: "u_1",
    features: [],
    models: ["demo"],
    limits,
    ping_ms: 20_000,
    terminal_within_ms: 15_000,
    ...fields,
  };
}

export function goaway(reconnect_min_ms: number, reconnect_max_ms: number): Goaway {
  return { type: "goaway", reason: "deploy", reconnect_min_ms, reconnect_max_ms };
}

export function errorBody(fields: Partial<ErrorBody> = {}): ErrorBody {
  return { code: "internal", message: "Something went wrong.", retry: "new_turn", ...fields };
}

export function opened(fields: Partial<SessionOpened> = {}): SessionOpened {
  return { type: "session.opened", session: SESSION, gen: GEN, seq: 0, turn: null, mode: "snapshot", turns: 0, ...fields };
}

export function snapshot(turn: string, fields: Partial<TurnSnapshot> = {}): TurnSnapshot {
  return {
    type: "turn.snapshot",
    session: SESSION,
    turn,
    state: "running",
    parent: null,
    model: "demo",
    author: "u_1",
    at: AT,
    input: [{ type: "text", text: `question of ${turn}` }],
    parts: [],
    pending: [],
    ...fields,
  };
}

/** A turn that has ended, with one text part that its terminal proves. */
export function ended(turn: string, text: string, fields: Partial<TurnSnapshot> = {}): TurnSnapshot {
  const parts: WirePart[] = [{ part: 0, kind: "text", text, last: true }];
  return snapshot(turn, { state: "done", parts, terminal: done(turn, 9, [text]), ...fields });
}

export function accepted(turn: string, seq: number, fields: Partial<TurnAccepted> = {}): TurnAccepted {
  const input = [{ type: "text" as const, text: `question of ${turn}` }];
  const rest = { parent: null, model: "demo", author: "u_1", state: "running" as const };
  return { type: "turn.accepted", session: SESSION, turn, seq, at: AT + seq, input, ...rest, ...fields };
}

export function started(turn: string, seq: number, fields: Partial<TurnStarted> = {}): TurnStarted {
  return { type: "turn.started", session: SESSION, turn, seq, at: AT + seq, step: 1, attempt: 1, model: "demo", ...fields };
}

export function delta(turn: string, seq: number, text: string, fields: Partial<TurnDelta> = {}): TurnDelta {
  return { type: "turn.delta", session: SESSION, turn, seq, part: 0, kind: "text", text, ...fields };
}

/** A frame of a turn that needs no more than the fields given. */
export function ofTurn<Type extends ServerFrame["type"]>(
  type: Type,
  turn: string,
  seq: number,
  fields: Omit<Extract<ServerFrame, { type: Type }>, "type" | "session" | "turn" | "seq" | "at">,
): ServerFrame {
  return { type, session: SESSION, turn, seq, at: AT + seq, ...fields } as unknown as ServerFrame;
}

/** What a terminal says of text parts. */
export function summaries(texts: readonly string[], kind: PartSummary["kind"] = "text"): PartSummary[] {
  return texts.map((text, part) => {
    const bytes = Buffer.from(text, "utf8");
    return { part, kind, bytes: bytes.length, crc32: crc32(bytes) };
  });
}

export function done(turn: string, seq: number, texts: readonly string[], fields: Partial<TurnDone> = {}): TurnDone {
  return {
    type: "turn.done",
    session: SESSION,
    turn,
    seq,
    at: AT + seq,
    finish_reason: "stop",
    usage: USAGE,
    model: "demo",
    attempts: 1,
    first_token_ms: 12,
    duration_ms: 34,
    parts: summaries(texts),
    ...fields,
  };
}

export function failed(turn: string, seq: number, texts: readonly string[], fields: Partial<TurnError> = {}): TurnError {
  return {
    type: "turn.error",
    session: SESSION,
    turn,
    seq,
    at: AT + seq,
    error: errorBody({ code: "upstream_truncated", message: "The model stopped in mid-answer." }),
    partial: texts.length > 0,
    parts: summaries(texts),
    ...fields,
  };
}

export function create(turn: string, fields: Partial<TurnCreate> = {}): TurnCreate {
  const input = [{ type: "text" as const, text: `question of ${turn}` }];
  return { type: "turn.create", id: turn, session: SESSION, turn, input, ...fields };
}

export function cursor(seq: number, turn: string | null, gen = GEN): Cursor {
  return { gen, seq, turn };
}
