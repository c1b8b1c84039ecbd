/** Where messages are written, and sent, queued or put in place of the answer that runs; Stop; the choice of a model. */

import type { SendOptions } from "@turnwire/client";
import { button, find, make, put } from "./dom.js";
import { wantsSend } from "./keys.js";

export type ComposerEvents = {
  readonly onSend: (text: string, options: SendOptions) => void;
  readonly onStop: () => void;
};

export class Composer {
  readonly #box = find("message", HTMLTextAreaElement);
  readonly #models = find("model", HTMLSelectElement);
  readonly #send = make("button", { type: "submit", class: "primary" }, "Send");
  readonly #queue: HTMLButtonElement;
  readonly #interrupt: HTMLButtonElement;
  readonly #stop: HTMLButtonElement;
  readonly #events: ComposerEvents;
  #busy = false;
  #closed = false;

  constructor(form: HTMLFormElement, events: ComposerEvents) {
    this.#events = events;
    this.#stop = button({ class: "stop" }, () => events.onStop(), "Stop");
    const interruptTitle = "Stop the answer that runs and send this";
    this.#interrupt = button({ title: interruptTitle }, () => this.#submit("interrupt"), "Interrupt");
    const queueTitle = "Send this when the answer that runs has ended";
    this.#queue = button({ class: "primary", title: queueTitle }, () => this.#submit("queue"), "Queue");
    find("composer-buttons", HTMLElement).append(this.#stop, this.#interrupt, this.#queue, this.#send);
    this.#box.addEventListener("input", () => this.#show());
    this.#box.addEventListener("keydown", (event) => {
      if (!wantsSend(event)) return;
      event.preventDefault();
      this.#submit(this.#busy ? "queue" : undefined);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(undefined);
    });
    this.#show();
  }

  /** The chosen model; undefined before the server has named any. */
  get model(): string | undefined {
    return this.#models.value || undefined;
  }

  set model(name: string) {
    this.#models.value = name;
  }

  /** `closed`: nothing can be sent here any more. */
  update(busy: boolean, closed: boolean): void {
    if (busy === this.#busy && closed === this.#closed) return;
    this.#busy = busy;
    this.#closed = closed;
    this.#show();
  }

  setModels(models: readonly string[]): void {
    const shown = [...this.#models.options].map(({ value }) => value);
    if (shown.length === models.length && shown.every((name, index) => name === models[index])) return;
    const chosen = this.#models.value;
    this.#models.replaceChildren(...models.map((name) => make("option", { value: name }, name)));
    if (models.includes(chosen)) this.#models.value = chosen;
    put(this.#models, "disabled", models.length === 0);
  }

  focus(): void {
    this.#box.focus();
  }

  #submit(onBusy: SendOptions["onBusy"]): void {
    const text = this.#box.value;
    if (!text.trim() || this.#closed) return;
    this.#box.value = "";
    this.#show();
    this.#events.onSend(text, onBusy === undefined ? {} : { onBusy });
    this.#box.focus();
  }

  #show(): void {
    const empty = !this.#box.value.trim();
    put(this.#box, "disabled", this.#closed);
    put(this.#send, "hidden", this.#busy);
    put(this.#send, "disabled", empty || this.#closed);
    put(this.#stop, "hidden", !this.#busy);
    put(this.#queue, "hidden", !this.#busy || empty);
    put(this.#interrupt, "hidden", !this.#busy || empty);
  }
}
