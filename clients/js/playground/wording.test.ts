/** The page's words and figures. */

import { describe, expect, test } from "vitest";
import { cost, duration, ending, hint, size, spoken, times, tokens, waiting } from "./wording.js";

describe("figures", () => {
  test("durations are told in the unit that fits them", () => {
    expect([0, 999.4, 1_000, 2_345, 59_940, 59_960, 65_000, 3_600_000].map(duration)).toEqual([
      ...["0 ms", "999 ms", "1.0 s", "2.3 s", "59.9 s", "1 min 00 s", "1 min 05 s", "60 min 00 s"],
    ]);
  });

  test("sizes are told in bytes and kilobytes", () => {
    expect([999, 1_000, 4_120].map(size)).toEqual(["999 B", "1.0 kB", "4.1 kB"]);
  });

  test("usage names what was cached, what was reasoning, and that it is estimated", () => {
    expect(tokens({ inputTokens: 12, outputTokens: 3_450, estimated: false })).toBe("12 tokens in, 3,450 out");
    const all = { inputTokens: 12, cachedInputTokens: 8, outputTokens: 34, reasoningTokens: 20, estimated: true };
    expect(tokens(all)).toBe("12 tokens in (8 cached), 34 out (20 reasoning), estimated");
  });

  test("a cost keeps every digit that the server told", () => {
    expect(cost({ amount: "0.00001230", currency: "USD" })).toBe("$0.00001230");
    expect(cost({ amount: "1.5", currency: "EUR" })).toBe("1.5 EUR");
  });

  test("times leave out what is not known", () => {
    expect(times({ firstTokenMs: 25, durationMs: 2_000 })).toBe("first token 25 ms, 2.0 s in all");
    expect(times({ durationMs: 40 })).toBe("40 ms in all");
    expect(times({})).toBe("");
  });
});

describe("sentences", () => {
  const text = { kind: "text", text: "so far", complete: true } as const;

  test("an answer that ended by itself needs no word, and all others say why", () => {
    expect(ending({ status: "done", finishReason: "stop", parts: [text] })).toBe("");
    expect(ending({ status: "done", finishReason: "length", parts: [text] })).toContain("length limit");
    expect(ending({ status: "cancelled", finishReason: "cancelled", parts: [text] })).toContain("stays");
    expect(ending({ status: "cancelled", parts: [] })).toBe("Stopped before the first word.");
  });

  test("an error says what helps, and when", () => {
    const error = { code: "busy", message: "One at a time.", retry: "same_frame", retryAfterMs: 2_000 } as const;
    expect(hint({ error })).toBe("It can be sent again as it is. Best in 2.0 s or later.");
    expect(hint({ error, unsent: true })).toBe("It was not sent. Best in 2.0 s or later.");
    expect(hint({ error: { ...error, retry: "none" }, unsent: true })).toContain("will not help");
    expect(hint({})).toBe("");
  });

  test("a turn that waits says what for, and one whose text comes says nothing", () => {
    expect(waiting({ status: "queued", asks: [], parts: [] })).toContain("Queued");
    expect(waiting({ status: "running", asks: [], parts: [] })).toContain("first token");
    expect(waiting({ status: "running", asks: [], parts: [text] })).toBe("");
    const retrying = { attempt: 2, delayMs: 300, code: "upstream_unavailable" };
    expect(waiting({ status: "running", asks: [], parts: [], retrying })).toContain("Attempt 2 in 300 ms");
  });

  test("what is read aloud is bounded and has no mark-up", () => {
    expect(spoken("## Why\n\n- **one** and `two`\n\n```js\nlet a;\n```\nsee [this](https://e.org)")).toBe(
      "Why one and two let a; see this",
    );
    expect(spoken("word ".repeat(1_000)).length).toBeLessThan(520);
  });
});
