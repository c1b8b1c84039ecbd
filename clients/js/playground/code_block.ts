/** A block of code: its language, a button that copies it, and lines that are appended as text, never read again. */

import { copyButton } from "./clipboard.js";
import { make } from "./dom.js";

/** Lines stand together in runs of about this size: when one is appended to, the browser lays out only the last run. */
const RUN_CHARS = 4_000;

export class CodeBlock {
  readonly element: HTMLElement;
  readonly #code = make("code");
  #last = new Text();

  constructor(language: string, text = "") {
    this.#begin();
    this.append(text);
    const attributes = { tabindex: "0", role: "group", "aria-label": language ? `Code, ${language}` : "Code" };
    const caption = make("figcaption", {}, make("span", { class: "language" }, language || "text"));
    caption.append(copyButton("Copy code", () => this.#code.textContent ?? "", "Copy"));
    this.element = make("figure", { class: "code" }, caption, make("pre", attributes, this.#code));
  }

  append(text: string): void {
    if (this.#last.length > RUN_CHARS && this.#last.data.endsWith("\n")) this.#begin();
    this.#last.appendData(text);
  }

  /** Take the end of what was appended last away again. */
  drop(chars: number): void {
    this.#last.deleteData(this.#last.length - chars, chars);
  }

  #begin(): void {
    this.#last = new Text();
    this.#code.append(make("span", { class: "run" }, this.#last));
  }
}

/** Put blocks of code in place of the <pre> elements in here. */
export function dressCode(fragment: DocumentFragment): void {
  for (const pre of fragment.querySelectorAll("pre"))
    pre.replaceWith(new CodeBlock(pre.getAttribute("data-language") ?? "", pre.textContent ?? "").element);
}
