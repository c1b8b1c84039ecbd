/**
 * The wire inspector: each frame as it passes. While it is closed nothing is rendered; while it is open, rows are added
 * once an animation frame, and only the newest stay on the page until older ones are asked for. A frame's JSON is
 * written out when somebody opens it.
 */

import type { OnFrame } from "@turnwire/client";
import { copyButton } from "./clipboard.js";
import { button, make, put, say } from "./dom.js";
import { Follow } from "./follow.js";
import { asLines, bytesOf, FrameLog, FRAMES_MAX, matches, seqOf, type Entry } from "./frame_log.js";
import { paintSoon, type Painter } from "./frames.js";
import { pretty } from "./part_view.js";
import { size } from "./wording.js";

const ROWS_AT_ONCE = 40;
/** How many rows stay on the page, and how many more each wish for older ones brings. */
const ROWS = 200;
/** Rows come in batches, and the oldest go in batches, because all that stand below a row that goes move. */
const REST_MS = 120;

export class Inspector implements Painter {
  readonly #log = new FrameLog();
  readonly #element: HTMLElement;
  readonly #toggle: HTMLButtonElement;
  readonly #list = make("ol", { "aria-label": "Frames" });
  readonly #scroller = make("div", { class: "frames", tabindex: "0", role: "group", "aria-label": "Frames that passed" });
  readonly #filter = make("input", { type: "text", "aria-label": "Filter frames", placeholder: "Filter frames", spellcheck: "false" });
  readonly #count = make("span", { class: "count" });
  readonly #pause: HTMLButtonElement;
  readonly #older: HTMLButtonElement;
  readonly #follow: Follow;
  #paused = false;
  /** The numbers of the first frame that is shown, and of the last one that was shown or passed over. */
  #first = 0;
  #shown = 0;
  #rowsMax = ROWS;
  #restUntil = 0;

  constructor(element: HTMLElement, toggle: HTMLButtonElement) {
    this.#element = element;
    this.#toggle = toggle;
    this.#pause = button({}, () => this.#setPaused(!this.#paused), "Pause");
    const copy = copyButton("Copy frames", () => asLines(this.#wanted()), "Copy");
    this.#older = button({ class: "quiet older", hidden: true }, () => this.#showOlder(), "Show older frames");
    this.#scroller.append(this.#older, this.#list);
    const close = button({ class: "quiet" }, () => this.toggle(), "Close");
    const head = make("div", { class: "frames-head" }, make("h2", {}, "Wire inspector"), this.#count, close);
    const tools = make("div", { class: "buttons" }, this.#pause, copy, button({ class: "quiet" }, () => this.#clear(), "Clear"));
    element.append(make("div", { class: "frames-bar" }, head, this.#filter, tools), this.#scroller);
    this.#follow = new Follow(this.#scroller, this.#list);
    this.#filter.addEventListener("input", () => this.#again());
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toggle();
    });
    toggle.addEventListener("click", () => this.toggle());
  }

  toggle(): void {
    const open = this.#element.hidden;
    this.#element.hidden = !open;
    put(this.#toggle, "aria-expanded", String(open));
    if (open) this.#again();
    else {
      this.#list.replaceChildren();
      this.#toggle.focus();
    }
  }

  frame(direction: Parameters<OnFrame>[0], frame: Parameters<OnFrame>[1]): void {
    this.#log.add(direction, frame, Date.now());
    if (!this.#element.hidden && !this.#paused) paintSoon(this);
  }

  paint(deadline: number): boolean {
    if (this.#element.hidden || this.#paused) return false;
    if (performance.now() < this.#restUntil) return true;
    this.#restUntil = performance.now() + REST_MS;
    const filter = this.#text;
    do {
      const entries = this.#log.after(this.#shown, ROWS_AT_ONCE);
      this.#shown = entries.at(-1)?.number ?? this.#log.passed;
      this.#list.append(...entries.filter((entry) => matches(entry, filter)).map(row));
    } while (this.#shown < this.#log.passed && performance.now() < deadline);
    if (this.#list.childElementCount > this.#rowsMax + ROWS)
      for (let rows = this.#list.childElementCount; rows > this.#rowsMax; rows -= 1) this.#list.firstElementChild?.remove();
    this.#showCounts();
    return this.#shown < this.#log.passed;
  }

  get #text(): string {
    return this.#filter.value.trim();
  }

  /** Every kept frame that the filter lets through. */
  #wanted(): Entry[] {
    const filter = this.#text;
    return this.#log.after(0, FRAMES_MAX).filter((entry) => matches(entry, filter));
  }

  /** Show the newest frames afresh. */
  #again(): void {
    this.#list.replaceChildren();
    this.#rowsMax = ROWS;
    this.#restUntil = 0;
    this.#shown = (this.#wanted().at(-ROWS)?.number ?? 1) - 1;
    this.#setPaused(false);
    this.paint(Infinity);
    this.#follow.toEnd();
  }

  #showOlder(): void {
    const older = this.#wanted().filter(({ number }) => number < this.#first).slice(-ROWS);
    this.#rowsMax = Math.min(FRAMES_MAX - ROWS, this.#list.childElementCount + older.length);
    this.#follow.holding(() => this.#list.prepend(...older.map(row)));
    this.#showCounts();
  }

  #showCounts(): void {
    const { passed } = this.#log;
    const oldest = Math.max(1, passed - FRAMES_MAX + 1);
    this.#first = Number(this.#list.firstElementChild?.getAttribute("data-number") ?? oldest);
    say(this.#count, passed > FRAMES_MAX ? `newest ${FRAMES_MAX} of ${passed}` : `${passed} frames`);
    put(this.#older, "hidden", this.#first <= oldest || this.#list.childElementCount >= FRAMES_MAX);
  }

  #clear(): void {
    this.#log.clear();
    this.#again();
  }

  #setPaused(paused: boolean): void {
    this.#paused = paused;
    say(this.#pause, paused ? "Go on" : "Pause");
    if (!paused) paintSoon(this);
  }
}

function row({ number, direction, frame, at }: Entry): HTMLLIElement {
  const item = make("li", { "data-type": frame.type, "data-direction": direction, "data-number": String(number) });
  const arrow = make("span", { class: "arrow", "aria-hidden": "true" }, direction === "in" ? "↓" : "↑");
  const head = button(
    { class: "frame", "aria-expanded": "false" },
    () => toggleJson(item, head, frame),
    arrow,
    make("span", { class: "type" }, make("span", { class: "unseen" }, direction === "in" ? "in: " : "out: "), frame.type),
    make("span", { class: "seq" }, seqOf(frame)),
    make("span", { class: "size" }, size(bytesOf(frame))),
    make("span", { class: "time" }, new Date(at).toISOString().slice(14, 23)),
  );
  item.append(head);
  return item;
}

function toggleJson(item: HTMLElement, head: HTMLElement, frame: Entry["frame"]): void {
  const opened = item.querySelector(".opened");
  put(head, "aria-expanded", String(!opened));
  if (opened) return opened.remove();
  const json = pretty(frame);
  const text = make("pre", { tabindex: "0", role: "group", "aria-label": "Frame as JSON" }, json);
  item.append(make("div", { class: "opened" }, text, copyButton("Copy frame", () => json)));
}
