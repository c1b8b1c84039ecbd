/**
 * Conversations as fast-check draws them: what a server appends to a session's log, entry by entry, all of it legal by
 * docs/protocol.md, section 6. Every turn ends, and each has an id that says which it is.
 */

import fc from "fast-check";

import { SESSION } from "./frames.js";
import type { Entry, SessionLog } from "./server_model.js";

/** An entry, or the end of a turn, whose proof is only known when it is appended. */
export type Line = Entry | { seal: string; how: "stop" | "cancelled" | "error" };

type PartDrawn = { kind: "text" | "reasoning" | "tool_call" | "data"; pieces: string[] };
export type TurnDrawn = {
  parent: number;
  parts: PartDrawn[];
  /** Where each next delta comes from, as long as several parts have more. */
  order: number[];
  retried: boolean;
  asks: boolean;
  stopped: boolean;
  /** The next turn is accepted, to wait its turn, before this one ends. */
  queueBehind: boolean;
  how: "stop" | "error";
  retitled: boolean;
};

/** Letters of one to four bytes, and characters of several code points. */
const piece = fc.string({
  unit: fc.oneof(
    fc.constantFrom("a", "é", "語", "🙂", "👩‍👩‍👧", '"', "\\", "\n"),
    fc.string({ unit: "grapheme", minLength: 1, maxLength: 1 }),
  ),
  maxLength: 6,
});

const partDrawn = fc.record<PartDrawn>({
  kind: fc.constantFrom("text", "text", "text", "reasoning", "tool_call", "data"),
  pieces: fc.array(piece, { minLength: 1, maxLength: 5 }),
});

const turnDrawn = fc.record<TurnDrawn>({
  parent: fc.nat(3),
  parts: fc.array(partDrawn, { maxLength: 3 }),
  order: fc.array(fc.nat(2), { maxLength: 8 }),
  retried: fc.boolean(),
  asks: fc.boolean(),
  stopped: fc.boolean(),
  queueBehind: fc.boolean(),
  how: fc.constantFrom("stop", "error"),
  retitled: fc.boolean(),
});

export const conversation = fc.array(turnDrawn, { minLength: 1, maxLength: 4 });
export const longConversation = fc.array(turnDrawn, { minLength: 4, maxLength: 8, size: "max" });

export function turnId(number: number): string {
  return `t${number}`;
}

/** The parent of turn `number`: an earlier turn, or null for a new root. */
export function parentOf(drawn: readonly TurnDrawn[], number: number): string | null {
  const parent = drawn[number]?.parent as number;
  return parent < number ? turnId(parent) : null;
}

/** The log of a conversation, from turn `first` on. */
export function linesOf(drawn: readonly TurnDrawn[], first = 0): Line[] {
  const lines: Line[] = [];
  const accepted = new Set<number>();
  const accept = (number: number, state: "running" | "queued"): void => {
    if (accepted.has(number) || number >= drawn.length) return;
    accepted.add(number);
    const turn = turnId(number);
    const input = [{ type: "text", text: `question of ${turn}` }];
    lines.push({ type: "turn.accepted", turn, input, parent: parentOf(drawn, number), model: "demo", author: "u_1", state });
  };
  for (const [number, turn] of drawn.entries()) {
    if (number < first) continue;
    accept(number, "running");
    const body = bodyOf(turnId(number), turn);
    lines.push(...body.slice(0, 2));
    if (turn.queueBehind) accept(number + 1, "queued");
    lines.push(...body.slice(2), { seal: turnId(number), how: turn.stopped ? "cancelled" : turn.how });
    if (turn.retitled) lines.push({ type: "session.updated", title: `after ${turnId(number)}`, metadata: {} });
  }
  return lines;
}

export function append(log: SessionLog, line: Line): void {
  if ("seal" in line) log.seal(line.seal as string, line.how as "stop");
  else log.append(line);
}

function bodyOf(turn: string, { parts, order, retried, asks, stopped }: TurnDrawn): Line[] {
  const started = (step: number, attempt: number): Line => ({ type: "turn.started", turn, step, attempt, model: "demo" });
  const lines: Line[] = [started(1, 1)];
  if (retried) lines.push({ type: "turn.retrying", turn, attempt: 2, delay_ms: 100, code: "upstream_timeout" });
  // Some turns are stopped while they wait for their second attempt.
  if (retried && !(stopped && parts.length === 0)) lines.push(started(1, 2));
  lines.push(...deltasOf(turn, parts, order));
  if (asks) {
    const request = `r_${turn}`;
    lines.push({ type: "turn.asked", turn, request, kind: "approval", detail: { of: SESSION } });
    if (!stopped) lines.push({ type: "turn.responded", turn, request, by: "u_1" }, started(2, 1));
  }
  if (stopped) lines.push({ type: "turn.cancelling", turn, by: "u_1" });
  return lines;
}

/** The parts' pieces, mixed as `order` says, but so that parts begin in the order of their numbers. */
function deltasOf(turn: string, parts: readonly PartDrawn[], order: readonly number[]): Line[] {
  const lines: Line[] = [];
  const said = parts.map(() => 0);
  const wanted = [...order];
  for (;;) {
    const begun = said.filter((count) => count > 0).length;
    const open = parts.flatMap(({ pieces }, number) =>
      (said[number] as number) < pieces.length && number <= begun ? [number] : [],
    );
    const number = open[(wanted.shift() ?? 0) % Math.max(1, open.length)];
    if (number === undefined) return lines;
    const { kind, pieces } = parts[number] as PartDrawn;
    const at = said[number] as number;
    said[number] = at + 1;
    const names = kind === "tool_call" ? { call: `c${number}`, name: "look" } : kind === "data" ? { name: "chart" } : {};
    lines.push({
      type: "turn.delta",
      turn,
      part: number,
      kind,
      text: pieces[at] as string,
      ...(at === 0 && names),
      ...(at === pieces.length - 1 && { last: true }),
    });
  }
}
