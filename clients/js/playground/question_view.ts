/** What the person said: its text and images, and the box in which it is edited. */

import type { InputPart } from "@turnwire/client";
import { button, make, put } from "./dom.js";
import { icon } from "./icons.js";
import { wantsSend } from "./keys.js";

export class QuestionView {
  readonly element: HTMLElement;
  readonly #shown = make("div", { class: "said" });
  readonly #editButton: HTMLButtonElement;
  readonly #send: (input: InputPart[]) => void;
  #editor: HTMLElement | null = null;
  #input: readonly InputPart[] = [];

  constructor(send: (input: InputPart[]) => void) {
    this.#send = send;
    this.#editButton = button({ class: "quiet icon-button edit", "aria-label": "Edit", title: "Edit" }, () => this.#edit());
    this.#editButton.append(icon("edit"));
    this.element = make("div", { class: "question" }, make("h2", { class: "unseen" }, "You"), this.#shown, this.#editButton);
  }

  update(input: readonly InputPart[], editable: boolean): void {
    this.#editButton.hidden = !editable || this.#editor !== null;
    if (input === this.#input) return;
    this.#input = input;
    this.#shown.replaceChildren(
      ...input.map((part) =>
        part.type === "text"
          ? make("p", {}, part.text)
          : make("img", { src: `data:${part.media_type};base64,${part.data}`, alt: "Image that was sent" }),
      ),
    );
  }

  #edit(): void {
    const images = this.#input.filter((part) => part.type === "image");
    const box = make("textarea", { "aria-label": "Edit message", rows: "2" });
    box.value = textOf(this.#input);
    const sendButton = button({ class: "primary" }, () => submit(), "Send edit");
    const submit = (): void => {
      if (!box.value.trim()) return;
      this.#leave();
      this.#send([...images, { type: "text", text: box.value }]);
    };
    box.addEventListener("input", () => put(sendButton, "disabled", !box.value.trim()));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#leave();
      else if (wantsSend(event)) submit();
      else return;
      event.preventDefault();
    });
    const buttons = make("div", { class: "buttons" }, button({}, () => this.#leave(), "Cancel"), sendButton);
    this.#editor = make("div", { class: "editor" }, box, buttons);
    this.#shown.hidden = true;
    this.#editButton.hidden = true;
    this.element.append(this.#editor);
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }

  #leave(): void {
    this.#editor?.remove();
    this.#editor = null;
    this.#shown.hidden = false;
    this.#editButton.hidden = false;
    this.#editButton.focus();
  }
}

export function textOf(input: readonly InputPart[]): string {
  return input.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n");
}
