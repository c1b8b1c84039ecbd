/**
 * Plays the server's side of a recorded session (protocol/sessions; the format is told in tests/conformance/recorded.py)
 * to the pure core. A recording says only what matters of each frame, so a model of the log makes it whole; what comes
 * out is checked against the recording before the client sees it. It sends nothing anywhere.
 */

import { readFileSync } from "node:fs";

import { ABNORMAL, Connection } from "../../src/connection.js";
import { Transcript } from "../../src/transcript.js";
import type { ErrorBody, ServerFrame, SessionOpen, SessionOpened, TurnCreate, TurnSnapshot } from "../../src/wire.js";
import { errorBody, opened, SESSION, welcome } from "./frames.js";
import { type Entry, SessionLog } from "./server_model.js";

type Fields = Record<string, unknown>;
type Line = {
  from?: "client" | "server";
  on?: string;
  fault?: "cut" | "connect" | "kill_node";
  frame?: Fields & { type: string };
  frames?: (Fields & { type: string })[];
  answer?: Fields;
  delta?: Fields;
  raw?: string;
  closed?: number;
  http?: unknown;
};
export type Recorded = { name: string; ids: string[]; lines: Line[] };

const SAID = ["The sky is ", "blue – größer 🙂 ", "than that."];
/** What numbered frames have that no recording says. */
const DEFAULTS: Record<string, Fields> = {
  "turn.accepted": { input: [{ type: "text", text: "?" }], parent: null, model: "demo", author: "u_1", state: "running" },
  "turn.started": { step: 1, attempt: 1, model: "demo" },
  "turn.retrying": { attempt: 2, delay_ms: 10, code: "upstream_unavailable" },
  "turn.asked": { detail: {} },
  "turn.responded": { by: "u_1" },
  "turn.cancelling": { by: "u_1" },
};

export function readRecorded(path: URL): Recorded {
  const [header, ...lines] = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as unknown);
  return { ...(header as Omit<Recorded, "lines">), lines: lines as Line[] };
}

/** One device: its connection, what it reads, and what of the log it was sent. */
class Device {
  readonly connection = new Connection();
  transcript = new Transcript(SESSION);
  sent = 0;
  /** Our opens, and the turns of creates, by the ids of the recording's. */
  readonly opens = new Map<unknown, SessionOpen>();
  readonly creates = new Map<unknown, string>();
  /** Frames of a snapshot that the recording has not come to. */
  held: ServerFrame[] = [];
}

export class Player {
  readonly log = new SessionLog(Infinity);
  readonly transcripts: Transcript[] = [];
  readonly reopens: SessionOpen[] = [];
  readonly faults: string[] = [];
  /** By the names that the recording gives their connections. */
  readonly devices = new Map<string, Device>();
  readonly #bound: Map<string, unknown>;
  #now = 0;

  constructor({ ids }: Recorded) {
    this.#bound = new Map(ids.map((name) => [name, name === "s" ? SESSION : `${name}_1`]));
  }

  play({ lines }: Recorded): void {
    for (const [number, line] of lines.entries()) {
      try {
        this.#play(line);
      } catch (error) {
        throw new Error(`line ${number + 2}: ${JSON.stringify(line)}`, { cause: error });
      }
    }
    for (const device of this.devices.values()) this.#give(device, ...device.held.splice(0));
    for (const device of this.devices.values()) this.#heal(device);
  }

  #play({ from, on = "a", fault, frame, frames, answer, delta, raw, closed, http }: Line): void {
    const device = this.devices.get(on) ?? this.#newDevice(on);
    // A call over HTTP is the server's own affair: the frames tell what came of it.
    if (http !== undefined) return;
    if (from === "client" && device.connection.status === "offline") this.#connect(device);
    if (fault === "connect") this.#connect(device);
    else if (fault === "cut") this.#close(device, ABNORMAL);
    else if (fault === "kill_node") for (const one of this.devices.values()) this.#close(one, ABNORMAL);
    else if (from === "client" && raw === undefined) this.#say(device, this.#filled(frame) as Fields);
    else if (closed !== undefined) this.#close(device, closed);
    else if (answer) this.#answer(device, this.#filled(answer) as Fields);
    else if (delta) this.#tell(device, { type: "turn.delta", ...delta });
    else for (const told of frames ?? (frame ? [frame] : [])) this.#tell(device, told);
  }

  // --- the client's side ------------------------------------------------------------------------------------------

  #newDevice(name: string): Device {
    const device = new Device();
    this.devices.set(name, device);
    this.transcripts.push(device.transcript);
    this.#connect(device);
    return device;
  }

  #connect({ connection }: Device): void {
    if (connection.due < Infinity) this.#now = connection.due;
    const effects = connection.status === "idle" ? connection.want(this.#now) : connection.tick(this.#now, 0.5);
    if (effects.join() !== "dial") throw new Error(`it does not dial: ${connection.status}`);
    connection.opened("1.2.3", undefined);
  }

  #close(device: Device, code: number): void {
    device.connection.lost(code, this.#now, 0.5);
    device.transcript.lost();
  }

  /** What the recording's client says, this one says in its own way, where it says anything. */
  #say(device: Device, frame: Fields): void {
    if (frame["type"] === "session.open" && frame["session"] === SESSION) {
      // Whoever names no cursor is a reader that has none.
      if (!frame["after"] && device.transcript.loaded) this.transcripts.push((device.transcript = new Transcript(SESSION)));
      device.opens.set(frame["id"], device.transcript.resume());
    } else if (frame["type"] === "turn.create") {
      device.transcript.tree.add(frame as unknown as TurnCreate, 0);
      device.creates.set(frame["id"], frame["turn"] as string);
    } else if (frame["type"] === "session.close") device.transcript.lost();
  }

  #give(device: Device, ...frames: ServerFrame[]): void {
    for (const frame of frames) {
      device.connection.received(frame, this.#now, 0.5);
      if (!("session" in frame) || frame.type === "ack" || frame.type === "error") continue;
      const { open, fault } = device.transcript.receive(frame, this.#now);
      if (fault !== undefined) this.faults.push(fault);
      if (open) this.reopens.push(open);
    }
  }

  /** Answer what the client asked for by itself, which the recording's client did not. */
  #heal(device: Device): void {
    for (const open of this.reopens.splice(0)) {
      this.#give(device, ...this.log.answer(open, true).frames);
      this.reopens.push(open);
    }
  }

  // --- the server's side ------------------------------------------------------------------------------------------

  #tell(device: Device, wanted: Fields & { type: string }): void {
    const { type } = wanted;
    if (type === "welcome") this.#give(device, welcome());
    else if (type === "session.opened") this.#open(device, wanted);
    else if (type === "turn.snapshot") this.#give(device, this.#checked(wanted, device.held.shift()));
    else if (type === "error") this.#refuse(device, this.#filled(wanted) as Fields);
    else if (type === "ack" || type === "pong") this.#give(device, this.#filled(wanted) as ServerFrame);
    else this.#number(device, wanted);
  }

  #open(device: Device, wanted: Fields): void {
    const open = device.opens.get(wanted["reply_to"]);
    if (wanted["gen"] === null) this.log.lose(0);
    else if (wanted["gen"] !== undefined) this.log.begin();
    const [head, ...rest] = this.#opening(open, this.#filled(wanted) as Fields);
    device.sent = head.seq;
    device.held = rest;
    const { mode: _, ...fields } = wanted;
    this.#give(device, this.#checked({ ...fields, ...(open && { reply_to: open.id }) }, head));
  }

  /** `session.opened`, and the `turn.snapshot`s that belong to it. */
  #opening(open: SessionOpen | undefined, { mode, turns, seq }: Fields): [SessionOpened, ...TurnSnapshot[]] {
    const reply = open && { reply_to: open.id as string };
    // A recorded cursor at the very beginning is one that this client does not have, nor is there anything before it.
    const replayed = mode === "replay" && (!open || open.after);
    if (open && (mode === undefined || (replayed && seq !== 0))) {
      const [head, ...rest] = this.log.answer(open, false).frames as [SessionOpened, ...ServerFrame[]];
      return [head, ...(head.mode === "snapshot" ? (rest as TurnSnapshot[]) : [])];
    }
    if (turns !== 0) return this.log.snapshot(open?.id as string | undefined) as [SessionOpened, ...TurnSnapshot[]];
    const at = typeof seq === "number" ? seq : this.log.head;
    const [entry] = at ? this.log.from(at - 1, false, at) : [];
    const turn = entry && "turn" in entry ? entry.turn : null;
    return [opened({ gen: this.log.gen, seq: at, turn, mode: replayed ? "replay" : "snapshot", ...reply })];
  }

  #refuse(device: Device, { type, reply_to, error }: Fields): void {
    const body: ErrorBody = errorBody(error as object);
    const open = device.opens.get(reply_to);
    const known = device.transcript.tree.get(device.creates.get(reply_to));
    if (open) device.transcript.refused(open.id as string, body);
    if (known && !known.told) device.transcript.tree.fail(known, body);
    this.#give(device, { type, reply_to, error: body } as ServerFrame);
  }

  /** A numbered frame: the next that the log has, past deltas that nobody waits for, or a new one. */
  #number(device: Device, wanted: Fields & { type: string }): void {
    if (wanted.type !== "turn.delta") this.#tellDeltas(device);
    if (device.sent === this.log.head) this.#append(this.#filled(wanted) as Entry);
    const [frame] = this.log.from(device.sent, false);
    device.sent++;
    this.#give(device, this.#checked(wanted, frame));
  }

  #append({ seq: _, parts: __, error, ...fields }: Entry): void {
    const { type, turn = "" } = fields;
    if (type === "turn.error") this.log.seal(turn, "error", { ...fields, error: errorBody(error as object) });
    else if (type === "turn.done") this.log.seal(turn, "stop", fields);
    else if (type === "turn.delta") this.log.append({ ...this.#placed(fields), text: `${SAID[0]}…` });
    else this.log.append({ ...DEFAULTS[type], ...fields });
  }

  /** All deltas up to the next other frame: those that the log has, as few as may be, else new ones. */
  #answer(device: Device, wanted: Fields & { turn?: string }): void {
    if (device.sent === this.log.head) {
      const { text } = wanted;
      const pieces = typeof text === "string" && !text.startsWith("$") ? [text] : SAID;
      for (const [number, piece] of pieces.entries()) {
        const last = number === pieces.length - 1 && { last: true };
        this.log.append({ ...this.#placed({ ...wanted, type: "turn.delta" }), text: piece, ...last });
      }
    }
    const text = this.#tellDeltas(device);
    this.#checked({ text: wanted["text"] ?? "$any" }, { text });
  }

  /** Give what deltas come next in the log; their text. */
  #tellDeltas(device: Device): string {
    let said = "";
    for (const frame of this.log.from(device.sent, true)) {
      if (frame.type !== "turn.delta") break;
      said += frame.text;
      device.sent = frame.seq;
      this.#give(device, frame);
    }
    return said;
  }

  /** A delta of the last part, if that is of its kind and goes on, or of a new one. */
  #placed(fields: Entry): Entry {
    const { turn, kind = "text" } = fields;
    const { parts } = this.log.turns().find(({ accepted }) => accepted.turn === turn) ?? { parts: [] };
    const last = parts.at(-1);
    const goesOn = last && !last.last && (last.kind === kind || fields["part"] === last.part);
    const part = goesOn ? last.part : parts.length;
    const names = kind === "tool_call" && !goesOn ? { call: "c_1", name: "get_time" } : {};
    return { ...fields, kind: goesOn ? last.kind : kind, part, ...names };
  }

  // --- placeholders -----------------------------------------------------------------------------------------------

  #filled(value: unknown): unknown {
    if (Array.isArray(value)) return value.map((item) => this.#filled(item));
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, this.#filled(item)]));
    }
    return typeof value === "string" && value.startsWith("$") ? (this.#bound.get(value.slice(1)) ?? value) : value;
  }

  /** The frame, if it is what the recording wants. Names that are new are bound to what it has. */
  #checked<Made>(wanted: unknown, made: Made | undefined): Made {
    if (made === undefined) throw new Error("there is no such frame");
    this.#compare(wanted, made);
    return made;
  }

  #compare(wanted: unknown, got: unknown): void {
    if (typeof wanted === "string" && wanted.startsWith("$")) {
      const name = wanted.slice(1);
      if (name === "any") return;
      if (!this.#bound.has(name)) this.#bound.set(name, got);
      wanted = this.#bound.get(name);
    }
    if (typeof wanted === "object" && wanted !== null && typeof got === "object" && got !== null) {
      for (const [name, value] of Object.entries(wanted)) this.#compare(value, (got as Fields)[name]);
    } else if (wanted !== got) throw new Error(`wanted ${JSON.stringify(wanted)}, made ${JSON.stringify(got)}`);
  }
}
