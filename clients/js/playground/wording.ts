/** What the page says in words and figures about a turn. Pure. */

import type { Cost, FinishReason, Part, Status, Turn, TurnError, Usage } from "@turnwire/client";

const number = new Intl.NumberFormat("en");

/** 840 ms, 2.3 s, 1 min 05 s */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const s = ms / 1_000;
  if (s < 59.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}

/** 312 B, 4.1 kB */
export function size(bytes: number): string {
  return bytes < 1_000 ? `${bytes} B` : `${(bytes / 1_000).toFixed(1)} kB`;
}

export function tokens(usage: Usage): string {
  const cached = usage.cachedInputTokens ? ` (${number.format(usage.cachedInputTokens)} cached)` : "";
  const reasoning = usage.reasoningTokens ? ` (${number.format(usage.reasoningTokens)} reasoning)` : "";
  const counts = `${number.format(usage.inputTokens)} tokens in${cached}, ${number.format(usage.outputTokens)} out${reasoning}`;
  return `${counts}${usage.estimated ? ", estimated" : ""}`;
}

/** The provider's own figure, not rounded: it is a decimal string because a float cannot hold it. */
export function cost({ amount, currency }: Cost): string {
  return currency === "USD" ? `$${amount}` : `${amount} ${currency}`;
}

/** When the first token came and when the last one; empty when neither is known. */
export function times({ firstTokenMs, durationMs }: Pick<Turn, "firstTokenMs" | "durationMs">): string {
  const first = firstTokenMs === undefined ? [] : [`first token ${duration(firstTokenMs)}`];
  const all = durationMs === undefined ? [] : [`${duration(durationMs)} in all`];
  return [...first, ...all].join(", ");
}

const ENDINGS: Record<FinishReason, string> = {
  stop: "",
  length: "The answer was cut off at the length limit.",
  cancelled: "Stopped. What was answered until then stays.",
  content_filter: "The provider's filter ended this answer.",
  tool_calls: "The model asked for a tool and nobody was there to run it.",
  budget: "The answer was ended because its budget was used up.",
};

/** Why it ended as it did, if that needs saying. */
export function ending({ status, finishReason, parts }: Pick<Turn, "status" | "finishReason" | "parts">): string {
  if (status === "cancelled" && parts.length === 0) return "Stopped before the first word.";
  if (finishReason) return ENDINGS[finishReason] ?? "";
  return status === "cancelled" ? ENDINGS.cancelled : "";
}

const HINTS: Record<TurnError["retry"], string> = {
  none: "Sending it again as it is will not help.",
  same_frame: "It can be sent again as it is.",
  new_turn: "“Regenerate” asks again.",
  reconnect: "It can be sent once the connection is back.",
};

/** What to do about an error. */
export function hint({ error, unsent }: Pick<Turn, "error" | "unsent">): string {
  if (!error) return "";
  const wait = error.retryAfterMs ? ` Best in ${duration(error.retryAfterMs)} or later.` : "";
  if (unsent && error.retry !== "none") return `It was not sent.${wait}`;
  return (HINTS[error.retry] ?? "") + wait;
}

/** What a turn that has not ended is waiting for; empty while its text comes. */
export function waiting(turn: Pick<Turn, "status" | "retrying" | "asks"> & { parts: readonly Part[] }): string {
  if (turn.retrying) {
    const { attempt, delayMs, code } = turn.retrying;
    return `The provider failed (${code}). Attempt ${attempt} in ${duration(delayMs)} …`;
  }
  const words: Partial<Record<Status, string>> = {
    sending: "Waiting to be sent …",
    queued: "Queued: it starts when the answer before it has ended.",
    stopping: "Stopping …",
    parked: turn.asks.length > 0 ? "" : "Going on …",
    running: turn.parts.length > 0 ? "" : "Waiting for the first token …",
  };
  return words[turn.status] ?? "";
}

const ANNOUNCED_CHARS = 500;

/** A finished answer as it is read aloud: the beginning of its text without mark-up. */
export function spoken(text: string): string {
  const plain = text
    .slice(0, 4 * ANNOUNCED_CHARS)
    .replace(/^ {0,3}(?:```|~~~).*$/gm, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/^[ \t]*(?:#{1,6}|>|[-*+])[ \t]+/gm, "")
    .replace(/[*_`~|]+/g, "")
    .replace(/\s+/g, " ")
    .trim();
  return plain.length > ANNOUNCED_CHARS ? `${plain.slice(0, ANNOUNCED_CHARS)} … and more` : plain;
}
