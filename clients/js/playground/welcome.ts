/** The empty chat: what there is to see here, prompts to begin with, and what each demo model shows. */

import { linkTo } from "./address.js";
import { button, make } from "./dom.js";

const PROMPTS = [
  "Why does an answer survive a reload here?",
  "Tell me something about copper wire and patience",
  "Naïve café 日本語 🧵 – do you count bytes or characters?",
];

const DEMOS: Readonly<Record<string, string>> = {
  demo: "streams an invented answer",
  "demo/slow": "the same at reading speed: time to pull the plug",
  "demo/long": "ten thousand deltas as fast as they come",
  "demo/reasoning": "thinks first, folded away",
  "demo/tool": "calls a tool and waits for you",
  "demo/error-before": "fails before the first byte: watch the retries",
  "demo/error-after": "breaks off midway and keeps what came",
  "demo/stall": "never says a word: press Stop",
};

export type WelcomeEvents = {
  readonly onPrompt: (text: string) => void;
  readonly onModel: (name: string) => void;
};

export class Welcome {
  readonly element: HTMLElement;
  readonly #tab = make("a", { target: "_blank", rel: "noopener" }, "Open a second tab");
  readonly #models = make("ul", { class: "demos" });
  readonly #modelsSection: HTMLElement;
  readonly #events: WelcomeEvents;

  constructor(events: WelcomeEvents) {
    this.#events = events;
    const things = make(
      "ol",
      { class: "things" },
      thing("Reload this page", "in the middle of an answer. It goes on where it was, word for word."),
      thing("Pull the plug", "up there. The connection is cut at once; watch it heal and prove that nothing is missing."),
      make("li", {}, make("strong", {}, this.#tab), make("span", {}, "of this chat. Both show the same answer live, and either can stop it.")),
    );
    const prompts = make(
      "ul",
      { class: "prompts" },
      ...PROMPTS.map((text) => make("li", {}, button({}, () => events.onPrompt(text), text))),
    );
    this.#modelsSection = make(
      "section",
      { hidden: true, "aria-labelledby": "demos-title" },
      make("h3", { id: "demos-title" }, "Demo models, one for each thing that can happen"),
      this.#models,
    );
    this.element = make(
      "section",
      { class: "welcome", "aria-labelledby": "welcome-title" },
      make("h2", { id: "welcome-title" }, "An answer that nothing can break."),
      make("p", { class: "lead" }, "Send something. Then, while it streams, try one of these:"),
      things,
      make("h3", {}, "Begin with"),
      prompts,
      this.#modelsSection,
    );
  }

  update(session: string, models: readonly string[]): void {
    this.#tab.href = linkTo(session);
    const demos = models.filter((name) => name in DEMOS && name !== "demo");
    this.#modelsSection.hidden = demos.length === 0;
    if (this.#models.childElementCount === demos.length) return;
    this.#models.replaceChildren(
      ...demos.map((name) =>
        make("li", {}, button({ class: "quiet" }, () => this.#events.onModel(name), name), make("span", {}, DEMOS[name] ?? "")),
      ),
    );
  }
}

function thing(title: string, text: string): HTMLElement {
  return make("li", {}, make("strong", {}, title), make("span", {}, text));
}
