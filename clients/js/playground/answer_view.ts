/**
 * A text that streams in, shown as Markdown. What is settled stays as it is; only the tail is made anew, once a frame at
 * most. Settled blocks are grouped in chunks that the browser need not lay out while they are out of sight
 * (content-visibility in playground.css), so a frame costs what its tail costs, however long the answer has become.
 */

import { CodeBlock, dressCode } from "./code_block.js";
import { make } from "./dom.js";
import { paintNever, paintSoon, type Painter } from "./frames.js";
import { toFragment } from "./markdown.js";
import { MarkdownStream, type Group, type Piece, type Step } from "./markdown_stream.js";

const SLICE_CHARS = 4_000;
const CHUNK_BLOCKS = 24;
/** After a frame in which reading took t, none for this many t: a tail that is large is read less often. */
const REST_FACTOR = 3;

/** Adding to what has so much in it makes the browser lay all of it out again: it is done less often. */
const ROWS_MANY = 150;
const REST_MANY_MS = 350;
/** A paragraph longer than this goes on in a new line, for the same reason. */
const RUN_CHARS = 2_000;

/** An open group on the page: `add` puts a piece in and returns how to take it out again. */
type Container = { readonly group: Group; readonly parent: Element; readonly add: (content: string) => () => void };
type TailEntry = { readonly piece: Piece; readonly takeOut: () => void };

export class AnswerView implements Painter {
  readonly element: HTMLElement;
  #text = "";
  #complete = false;
  /** How much of the text the stream has been given. */
  #given = 0;
  #stream = new MarkdownStream();
  #ended = false;
  #tail: TailEntry[] = [];
  #container: Container | null = null;
  #chunk: HTMLElement | null = null;
  #restUntil = 0;

  constructor(className: string) {
    this.element = make("div", { class: `${className} markdown` });
  }

  /** All of the text so far. `complete`: no more will come. */
  show(text: string, complete: boolean): void {
    if (text === this.#text && complete === this.#complete) return;
    const continues = !this.#ended && text.startsWith(this.#text);
    this.#text = text;
    this.#complete = complete;
    if (!continues) this.#restart(new MarkdownStream());
    paintSoon(this);
  }

  /** Forget what is on the page; `show` begins anew. */
  clear(): void {
    paintNever(this);
    this.#text = "";
    this.#complete = false;
    this.#restart(new MarkdownStream());
  }

  paint(deadline: number): boolean {
    const began = performance.now();
    if (began < this.#restUntil && !this.#complete) return true;
    while (this.#given < this.#text.length) {
      const slice = this.#text.slice(this.#given, this.#given + SLICE_CHARS);
      this.#given += slice.length;
      this.#apply(this.#stream.write(slice));
      if (performance.now() > deadline) break;
    }
    const now = performance.now();
    this.#restUntil = now + Math.max(REST_FACTOR * (now - began), this.#isInLargeTable() ? REST_MANY_MS : 0);
    if (this.#given < this.#text.length) return true;
    if (this.#complete && !this.#ended) return this.#end();
    return false;
  }

  #end(): boolean {
    this.#apply(this.#stream.end());
    this.#ended = true;
    if (!this.#stream.stale) return false;
    this.#restart(new MarkdownStream({ whole: true }));
    return true;
  }

  #isInLargeTable(): boolean {
    return this.#container?.group.kind === "table" && this.#container.parent.childElementCount > ROWS_MANY;
  }

  #restart(stream: MarkdownStream): void {
    this.#stream = stream;
    this.#given = 0;
    this.#ended = false;
    this.#tail = [];
    this.#container = null;
    this.#chunk = null;
    this.element.replaceChildren();
  }

  /** Keep the part of the old tail that is as it was, take the rest out, put in what is new. */
  #apply({ settled, tail }: Step): void {
    const pieces = [...settled, ...tail];
    let same = 0;
    while (same < this.#tail.length && isSame(this.#tail[same]?.piece, pieces[same])) same += 1;
    for (const { takeOut } of this.#tail.splice(same).reverse()) takeOut();
    const entries = this.#tail;
    for (const piece of pieces.slice(same)) entries.push({ piece, takeOut: this.#putIn(piece) });
    this.#tail = entries.slice(settled.length);
  }

  /** Put a piece at the end, and return how to take it out while it is the last one. */
  #putIn({ group, content }: Piece): () => void {
    const before = this.#container;
    if (!group) {
      this.#container = null;
      const nodes = [...fragmentOf(content).childNodes];
      const takeOut = this.#append(...nodes);
      return () => {
        takeOut();
        this.#container = before;
      };
    }
    if (before && isSameGroup(before.group, group)) return content ? before.add(content) : () => undefined;
    const { element, container } = open(group);
    const takeOut = this.#append(element);
    this.#container = container;
    if (content) container.add(content);
    return () => {
      takeOut();
      this.#container = before;
    };
  }

  #append(...nodes: Node[]): () => void {
    if (!this.#chunk || this.#chunk.childElementCount >= CHUNK_BLOCKS)
      this.element.append((this.#chunk = make("div", { class: "chunk" })));
    this.#chunk.append(...nodes);
    return () => {
      for (const node of nodes) node.parentNode?.removeChild(node);
    };
  }
}

function isSame(one: Piece | undefined, other: Piece | undefined): boolean {
  if (!one || !other || one.content !== other.content) return false;
  return one.group && other.group ? isSameGroup(one.group, other.group) : one.group === other.group;
}

function isSameGroup(one: Group, other: Group): boolean {
  if (one.kind !== other.kind || one.at !== other.at) return false;
  if (one.kind === "table") return one.head === (other as typeof one).head;
  if (one.kind === "code") return one.language === (other as typeof one).language;
  if (one.kind === "list") return one.ordered === (other as typeof one).ordered && one.start === (other as typeof one).start;
  return true;
}

function fragmentOf(html: string): DocumentFragment {
  const fragment = toFragment(html);
  dressCode(fragment);
  for (const table of fragment.querySelectorAll("table")) table.replaceWith(scrolling(table.cloneNode(true)));
  return fragment;
}

/** Wide tables scroll by themselves, also by keyboard. */
function scrolling(table: Node): HTMLElement {
  return make("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
}

function open(group: Group): { element: HTMLElement; container: Container } {
  switch (group.kind) {
    case "list":
      return openList(group);
    case "table":
      return openTable(group);
    case "code": {
      const code = new CodeBlock(group.language);
      const add = (text: string): (() => void) => {
        code.append(text);
        return () => code.drop(text.length);
      };
      return { element: code.element, container: { group, parent: code.element, add } };
    }
    case "paragraph":
      return openParagraph(group);
  }
}

function openList(group: Group & { kind: "list" }): { element: HTMLElement; container: Container } {
  const start = group.ordered && group.start !== 1 ? String(group.start) : undefined;
  const element = make(group.ordered ? "ol" : "ul", { start });
  return { element, container: { group, parent: element, add: (html) => addNodes(element, [...fragmentOf(html).children]) } };
}

function openParagraph(group: Group): { element: HTMLElement; container: Container } {
  const element = make("p");
  let run = make("span", { class: "run" });
  element.append(run);
  const add = (html: string): (() => void) => {
    if ((run.textContent?.length ?? 0) > RUN_CHARS) element.append((run = make("span", { class: "run" })));
    return addNodes(run, [...toFragment(html).childNodes]);
  };
  return { element, container: { group, parent: element, add } };
}

function openTable(group: Group & { kind: "table" }): { element: HTMLElement; container: Container } {
  const table = toFragment(group.head).querySelector("table") ?? make("table");
  const body = make("tbody");
  table.append(body);
  const add = (html: string): (() => void) =>
    addNodes(body, [...toFragment(`<table><tbody>${html}</tbody></table>`).querySelectorAll("tr")]);
  return { element: scrolling(table), container: { group, parent: body, add } };
}

function addNodes(parent: Element, nodes: Node[]): () => void {
  parent.append(...nodes);
  return () => {
    for (const node of nodes) parent.removeChild(node);
  };
}
