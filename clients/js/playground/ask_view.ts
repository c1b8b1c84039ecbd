/** What a parked turn asks: an approval with two buttons, a tool's result with a box for JSON. */

import { TurnwireError, type Ask } from "@turnwire/client";
import { button, make, put, say } from "./dom.js";
import { pretty } from "./part_view.js";

type Respond = (ask: Ask, value: unknown) => Promise<void>;

/** `respond` sends the answer; the view goes away when the turn no longer asks. */
export function askView(ask: Ask, respond: Respond): HTMLElement {
  const problem = make("p", { class: "problem", role: "alert" });
  const answer = async (value: unknown): Promise<void> => {
    for (const control of element.querySelectorAll("button")) control.disabled = true;
    say(problem, "");
    try {
      await respond(ask, value);
    } catch (error) {
      for (const control of element.querySelectorAll("button")) control.disabled = false;
      say(problem, error instanceof TurnwireError ? error.message : "The answer could not be sent. Try again.");
    }
  };
  const { detail } = ask;
  const name = typeof detail["name"] === "string" ? detail["name"] : "";
  const element = make("section", { class: "ask", "data-request": ask.request, "aria-label": "The answer waits for you" });
  if (ask.kind === "approval") element.append(...approval(name, detail, answer));
  else element.append(...toolResult(name, detail, answer, problem));
  element.append(problem);
  return element;
}

function approval(name: string, detail: Ask["detail"], answer: (value: unknown) => Promise<void>): HTMLElement[] {
  return [
    make("p", {}, name ? `May “${name}” go ahead?` : "May this go ahead?"),
    asked(detail),
    make(
      "div",
      { class: "buttons" },
      button({ class: "primary" }, () => void answer({ approved: true }), "Approve"),
      button({}, () => void answer({ approved: false }), "Deny"),
    ),
  ];
}

function toolResult(
  name: string,
  detail: Ask["detail"],
  answer: (value: unknown) => Promise<void>,
  problem: HTMLElement,
): HTMLElement[] {
  const box = make("textarea", { rows: "2", "aria-label": "Result (JSON)", spellcheck: "false" });
  box.value = name === "get_time" ? JSON.stringify(new Date().toISOString()) : "";
  const send = (): void => {
    const { ok, value } = parsed(box.value);
    put(box, "aria-invalid", ok ? undefined : "true");
    if (ok) void answer(value);
    else say(problem, "This is not JSON. A text needs quotation marks, such as \"12:30\"; an object looks like {\"ok\": true}.");
  };
  return [
    make("p", {}, `The model called ${name || "a tool"} and waits for its result.`),
    asked(detail["arguments"] ?? detail),
    make("div", { class: "buttons" }, box, button({ class: "primary" }, send, "Answer")),
  ];
}

function asked(detail: unknown): HTMLElement {
  const { ok, value } = typeof detail === "string" ? parsed(detail) : { ok: true, value: detail };
  return make("pre", { tabindex: "0", role: "group", "aria-label": "What is asked" }, ok ? pretty(value) : String(detail));
}

function parsed(text: string): { ok: boolean; value: unknown } {
  try {
    return { ok: true, value: JSON.parse(text) as unknown };
  } catch {
    return { ok: false, value: undefined };
  }
}
