/** One part of an answer: text and refusals as Markdown, reasoning folded away, tool calls and data as folded JSON. */

import type { Part } from "@turnwire/client";
import { AnswerView } from "./answer_view.js";
import { make, put, say } from "./dom.js";

export interface PartView {
  readonly kind: Part["kind"];
  readonly element: HTMLElement;
  /** `alone`: no other part has come after it. */
  update(part: Part, alone: boolean): void;
  /** Take what is rendered off the page; `update` brings it back. */
  clear(): void;
}

export function partView(part: Part): PartView {
  switch (part.kind) {
    case "text":
    case "refusal":
      return new TextPartView(part.kind);
    case "reasoning":
      return new ReasoningView();
    case "tool_call":
    case "data":
      return new JsonPartView(part.kind);
  }
}

class TextPartView implements PartView {
  readonly kind;
  readonly element: HTMLElement;
  readonly #view: AnswerView;

  constructor(kind: "text" | "refusal") {
    this.kind = kind;
    this.#view = new AnswerView(kind);
    this.element = this.#view.element;
  }

  update(part: Part): void {
    if (part.kind === this.kind) this.#view.show(part.text, part.complete);
  }

  clear(): void {
    this.#view.clear();
  }
}

/** Open while nothing else has come, then folded, unless somebody has opened or closed it. Rendered only when open. */
class ReasoningView implements PartView {
  readonly kind = "reasoning";
  readonly element: HTMLDetailsElement;
  readonly #view = new AnswerView("reasoning");
  #touched = false;
  #part: (Part & { kind: "text" | "reasoning" | "refusal" }) | null = null;

  constructor() {
    const summary = make("summary", {}, "Reasoning");
    this.element = make("details", { class: "folded" }, summary, this.#view.element);
    summary.addEventListener("click", () => (this.#touched = true));
    this.element.addEventListener("toggle", () => this.#render());
  }

  update(part: Part, alone: boolean): void {
    if (part.kind !== "reasoning") return;
    this.#part = part;
    if (!this.#touched) this.element.open = alone && !part.complete;
    this.#render();
  }

  clear(): void {
    this.#part = null;
    this.#view.clear();
  }

  #render(): void {
    if (this.element.open && this.#part) this.#view.show(this.#part.text, this.#part.complete);
  }
}

class JsonPartView implements PartView {
  readonly kind;
  readonly element: HTMLElement;
  readonly #title = make("summary");
  readonly #json = make("code");

  constructor(kind: "tool_call" | "data") {
    this.kind = kind;
    const pre = make("pre", { tabindex: "0", role: "group", "aria-label": "JSON" }, this.#json);
    this.element = make("details", { class: `folded ${kind}` }, this.#title, pre);
  }

  update(part: Part): void {
    if (part.kind !== "tool_call" && part.kind !== "data") return;
    put(this.element, "data-complete", part.complete);
    say(this.#title, `${part.kind === "tool_call" ? "Tool call" : "Data"}: ${part.name}`);
    say(this.#json, part.kind === "tool_call" ? argumentsOf(part) : pretty(part.value));
  }

  clear(): void {
    this.#json.textContent = "";
  }
}

function argumentsOf(part: Part & { kind: "tool_call" }): string {
  return part.args === undefined ? part.argsText : pretty(part.args);
}

export function pretty(value: unknown): string {
  return JSON.stringify(value, null, 2) ?? "";
}
