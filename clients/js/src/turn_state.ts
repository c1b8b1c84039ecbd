/** One turn as frames build it up, and as people see it (types.ts). Pure, like the transcript that owns it. */

import { crc32 } from "./crc32.js";
import { camel } from "./names.js";
import type { InputPart, Part, Status, Turn } from "./types.js";
import type {
  Ask,
  ErrorBody,
  SessionDeleted,
  SessionUpdated,
  TurnAccepted,
  TurnAsked,
  TurnCancelling,
  TurnCreate,
  TurnDelta,
  TurnDone,
  TurnResponded,
  TurnRetrying,
  TurnSnapshot,
  TurnStarted,
  TurnError as TurnErrorFrame,
  Part as WirePart,
} from "./wire.js";

export type OfTurn =
  | TurnAccepted
  | TurnStarted
  | TurnRetrying
  | TurnDelta
  | TurnAsked
  | TurnResponded
  | TurnCancelling
  | TurnDone
  | TurnErrorFrame;
export type Numbered = OfTurn | SessionUpdated | SessionDeleted;

type Kind = TurnDelta["kind"];
export type PartState = {
  kind: Kind;
  text: string;
  call: string | undefined;
  name: string | undefined;
  last: boolean;
  view?: Part | undefined;
};

export type TurnState = {
  id: string;
  parent: string | null;
  again?: string | undefined;
  model?: string | undefined;
  input: readonly InputPart[];
  at: number;
  /** Where it stands while it has neither a terminal nor an error. */
  phase: Extract<Status, "sending" | "queued" | "running" | "parked" | "stopping">;
  parts: PartState[];
  asks: Ask[];
  retrying?: Turn["retrying"] | undefined;
  terminal?: TurnDone | TurnErrorFrame | undefined;
  /** It ended without a terminal: refused, lost with the store or deleted with its session. */
  error?: ErrorBody | undefined;
  /** The server has shown it; before, it is a message of this client that may have arrived. */
  told: boolean;
  /** Its command names no parent, so it follows whatever is the newest turn when the server takes it. */
  floating: boolean;
  /** Changes when its text is not what it was, with something added. */
  epoch: number;
  view?: Turn | undefined;
};

export function isOver(turn: TurnState): boolean {
  return !!(turn.terminal ?? turn.error);
}

// --- from frames --------------------------------------------------------------------------------------------------

export function turnOfCommand(command: TurnCreate, at: number, earlier: TurnState | undefined): TurnState {
  const { parent, input } = earlier ?? command;
  const floating = command.parent === undefined && !command.again;
  return { ...made(command, at, "sending"), parent: parent ?? null, floating, input: input ?? [] };
}

/** Throws TypeError when the frame makes no sense, as do all functions here that take one. */
export function turnOf(frame: TurnAccepted | TurnSnapshot): TurnState {
  const { state } = frame;
  const turn = made(frame, frame.at, state === "queued" || state === "parked" ? state : "running");
  turn.told = true;
  fill(turn, frame);
  return turn;
}

/** Turns of a snapshot's frames, the pieces of long ones joined, each ended one proved. */
export function turnsOf(frames: readonly TurnSnapshot[]): TurnState[] {
  const turns: TurnState[] = [];
  for (const frame of frames) {
    const last = turns.at(-1);
    if (!frame.continued) turns.push(turnOf(frame));
    else if (last?.id === frame.turn) fill(last, frame);
    else throw new TypeError("continued");
  }
  if (new Set(turns.map(({ id }) => id)).size < turns.length) throw new TypeError("turn");
  for (const turn of turns) if (turn.terminal) prove(turn, turn.terminal);
  return turns;
}

function fill(turn: TurnState, { input, ...frame }: TurnAccepted | TurnSnapshot): void {
  turn.input = [...turn.input, ...input];
  if (frame.type !== "turn.snapshot") return;
  for (const part of frame.parts) takeText(turn, part);
  turn.asks = [...frame.pending];
  turn.terminal = frame.terminal;
}

type Apply = { [Frame in Exclude<OfTurn, TurnAccepted> as Frame["type"]]: (turn: TurnState, frame: Frame) => void };

/** What each numbered frame does to its turn, which it has made sure has not ended. */
export const APPLY: Apply = {
  "turn.delta": takeText,
  "turn.started"(turn, { model }) {
    if (turn.phase !== "stopping") turn.phase = "running";
    turn.retrying = undefined;
    turn.model = model;
  },
  "turn.retrying"(turn, { attempt, delay_ms, code }) {
    turn.retrying = camel({ attempt, delay_ms, code });
  },
  "turn.asked"(turn, { request, kind, detail }) {
    turn.phase = "parked";
    turn.asks = [...turn.asks, { request, kind, detail }];
  },
  "turn.responded"(turn, frame) {
    turn.asks = turn.asks.filter(({ request }) => request !== frame.request);
  },
  "turn.cancelling"(turn) {
    turn.phase = "stopping";
  },
  "turn.done": end,
  "turn.error": end,
};

function end(turn: TurnState, terminal: TurnDone | TurnErrorFrame): void {
  prove(turn, terminal);
  turn.terminal = terminal;
  turn.asks = [];
}

/** The terminal must name exactly the parts that are here, each by its length and checksum in UTF-8. */
function prove({ parts }: TurnState, terminal: TurnDone | TurnErrorFrame): void {
  const proved = parts.every(({ text }, number) => {
    const bytes = new TextEncoder().encode(text);
    const sum = crc32(bytes);
    return terminal.parts.some((one) => one.part === number && one.bytes === bytes.length && one.crc32 === sum);
  });
  if (!proved || terminal.parts.length !== parts.length) throw new TypeError("parts");
  if (terminal.type === "turn.error" && !terminal.error) throw new TypeError("error");
}

/** Whether `later` shows all the text of `earlier`, and perhaps more. */
export function continues(earlier: TurnState, later: TurnState): boolean {
  return earlier.parts.every(({ text }, number) => later.parts[number]?.text.startsWith(text));
}

/** Put the text where it belongs: at the end of a part, or as a new one behind all others. */
function takeText({ parts }: TurnState, { part: number, kind, text, call, name, last }: WirePart | TurnDelta): void {
  if (typeof text !== "string" || (number !== parts.length && !parts[number])) throw new TypeError("part");
  const part = (parts[number] ??= { kind, text: "", call, name, last: false });
  part.text += text;
  part.last ||= !!last;
  part.view = undefined;
}

/** Without its input. */
function made(frame: TurnCreate | TurnAccepted | TurnSnapshot, at: number, phase: TurnState["phase"]): TurnState {
  const { turn: id, parent, again, model } = frame;
  const about = { id, at, phase, parent: parent ?? null, again: again ?? undefined, model: model ?? undefined };
  return { ...about, input: [], parts: [], asks: [], told: false, floating: false, epoch: 0 };
}

// --- to people ----------------------------------------------------------------------------------------------------

/** The turn as people see it; the same object until it or its siblings changed. */
export function viewOf(turn: TurnState, siblings: readonly string[]): Turn {
  if (turn.view?.siblings.join() !== siblings.join()) turn.view = viewed(turn, siblings);
  return turn.view as Turn;
}

function viewed(turn: TurnState, siblings: readonly string[]): Turn {
  const { id, parent, again, model, input, retrying, terminal, told } = turn;
  const error = errorOf(turn);
  return camel({
    id,
    parent,
    siblings,
    again,
    input,
    model,
    parts: turn.parts.map((part) => (part.view ??= partView(part))),
    asks: turn.asks.map((ask) => ({ turn: id, ...ask })),
    text: turn.parts.reduce((text, part) => (part.kind === "text" ? text + part.text : text), ""),
    status: statusOf(turn),
    createdAt: new Date(turn.at),
    retrying: isOver(turn) ? undefined : retrying,
    ...(terminal?.type === "turn.done" && endOf(terminal)),
    usage: terminal?.usage && camel(terminal.usage),
    cost: terminal?.cost,
    error: error && camel(error),
    unsent: error && !told ? true : undefined,
    proved: terminal && true,
  }) as Turn;
}

function endOf({ finish_reason, first_token_ms, duration_ms, model }: TurnDone): object {
  return camel({ finish_reason, first_token_ms: first_token_ms ?? undefined, duration_ms, model });
}

/** Why it failed, if it did. */
export function errorOf({ error, terminal }: TurnState): ErrorBody | undefined {
  return error ?? (terminal?.type === "turn.error" ? terminal.error : undefined);
}

function statusOf(turn: TurnState): Status {
  if (errorOf(turn)) return "error";
  if (!turn.terminal) return turn.phase;
  return (turn.terminal as TurnDone).finish_reason === "cancelled" ? "cancelled" : "done";
}

function partView({ kind, text, call, name, last: complete }: PartState): Part {
  const value = complete && (kind === "tool_call" || kind === "data") ? parsed(text) : undefined;
  if (kind === "tool_call") return camel({ kind, call, name, argsText: text, args: value, complete }) as Part;
  if (kind === "data") return camel({ kind, name, value, complete }) as Part;
  return { kind, text, complete };
}

/** Undefined when the text is no JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
