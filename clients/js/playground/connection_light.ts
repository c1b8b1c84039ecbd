/** The light that says in words whether the page is connected. */

import type { ConnectionStatus } from "@turnwire/client";
import { make, put, say } from "./dom.js";

export class ConnectionLight {
  readonly #element: HTMLElement;
  readonly #words = make("span", { class: "words" });
  /** What a narrow page leaves out. */
  readonly #more = make("span", { class: "more" });

  constructor(element: HTMLElement) {
    this.#element = element;
    element.append(make("span", { class: "light", "aria-hidden": "true" }), this.#words, this.#more);
  }

  update(status: ConnectionStatus, problem: string | undefined): void {
    put(this.#element, "data-status", status);
    put(this.#element, "title", problem);
    say(this.#words, words(status, problem));
    say(this.#more, status === "offline" ? " trying again" : "");
  }
}

function words(status: ConnectionStatus, problem: string | undefined): string {
  switch (status) {
    case "live":
      return "Live";
    case "offline":
      return "Offline …";
    case "refused":
      return `Refused: ${problem ?? "the server does not want this client."}`;
    case "idle":
    case "connecting":
      return "Connecting …";
  }
}
