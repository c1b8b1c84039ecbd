/**
 * Markdown that comes in pieces, cut anywhere, and what of it will not change any more. Pure: text in, pieces out.
 *
 * A piece is settled when nothing that may follow can change it: a paragraph at the blank line after it, a list's item
 * when the next one's first line is whole, a table's row and a line of code at their newlines. What is settled is
 * handed out once and forgotten; only the tail is read again when more comes. So the work for each delta depends on the
 * size of one block, never on that of the answer. When all has come it is read once as a whole: where that says something
 * else (links that were defined late, and corners of Markdown in which a later line does change an earlier one) the whole
 * counts, see `stale`.
 */

import { blocksHtml, codeOf, inlineHtml, itemHtml, lex, rowHtml, tableHtml } from "./markdown.js";
import type { Links, Token, Tokens } from "./markdown.js";

/** What several pieces stand in together. `at` is where it begins, which tells it from others of its kind. */
export type Group =
  | { readonly kind: "list"; readonly at: number; readonly ordered: boolean; readonly start: number }
  | { readonly kind: "table"; readonly at: number; readonly head: string }
  | { readonly kind: "code"; readonly at: number; readonly language: string }
  | { readonly kind: "paragraph"; readonly at: number };

/** `content` is HTML that has not been sanitised, but in a group of code it is text. */
export type Piece = { readonly group: Group | null; readonly content: string };

/** What became settled, and what follows it for now. */
export type Step = { readonly settled: readonly Piece[]; readonly tail: readonly Piece[] };

/** The group that the rest goes on with; `before` is what it takes to read the rest as a part of it. */
type Open = { readonly group: Group; readonly before: string; readonly fence?: RegExp };

const LONG_PARAGRAPH_CHARS = 2_000;
/** Stands for the text before the rest of a long paragraph, so that its first word is not taken for a list's bullet. */
const WORD_BEFORE = "a ";
/** Text that is in Markdown what it is: no mark-up, no address, no double space, no line that could be another block. */
const PLAIN = /^(?:(?!www\.)[\p{L}\p{N}\p{M},;?!'"()%.–—…-]| (?! |\n)|\n(?=[\p{L}\p{N}]+ ))*/iu;
const BLANK_LINE = /\n[ \t]*\n/;

export class MarkdownStream {
  /** What was shown is not what the whole text says: show what a stream that is `whole` gives. Known at the end. */
  stale = false;
  readonly #whole: boolean;
  /** All that was written, and the pieces that were settled. */
  #source = "";
  #settled: Piece[] = [];
  /** The definitions of links so far. */
  #links: Links = {};
  #rest = "";
  /** Where `#rest` begins in the whole, and where the source begins that is being read. */
  #at = 0;
  #origin = 0;
  #open: Open | null = null;
  /** A carriage return that came last: a newline if it stays alone, nothing if one follows. */
  #return = false;

  /** `whole`: settle nothing before all has come. */
  constructor({ whole = false } = {}) {
    this.#whole = whole;
  }

  write(text: string): Step {
    let added = (this.#return ? "\r" : "") + text;
    this.#return = added.endsWith("\r");
    if (this.#return) added = added.slice(0, -1);
    return this.#add(added.replace(/\r\n?/g, "\n"), false);
  }

  /** All has come. */
  end(): Step {
    const step = this.#add(this.#return ? "\n" : "", true);
    this.#return = false;
    const whole = this.#readWhole();
    if (this.#whole) return { settled: whole, tail: [] };
    this.stale = canonical(this.#settled) !== canonical(whole);
    this.#source = "";
    this.#settled = [];
    return step;
  }

  #add(text: string, last: boolean): Step {
    this.#source += text;
    this.#rest += text;
    if (this.#whole) return { settled: [], tail: [] };
    const step = this.#read(last);
    this.#settled.push(...step.settled);
    return step;
  }

  #readWhole(): Piece[] {
    this.#open = null;
    this.#origin = 0;
    const { tokens } = lex(this.#source, lex(this.#source, {}).links);
    let at = 0;
    return tokens.flatMap((token) => {
      const pieces = this.#pieces(token, at, 0);
      at += token.raw.length;
      return pieces;
    });
  }

  #read(last: boolean): Step {
    const settled: Piece[] = [];
    for (;;) {
      if (this.#open?.fence) {
        const tail = this.#code(this.#open.group, this.#open.fence, settled, last);
        if (tail) return { settled, tail };
      }
      const tail = this.#blocks(settled, last);
      if (tail) return { settled, tail };
    }
  }

  #advance(chars: number): void {
    this.#rest = this.#rest.slice(chars);
    this.#at += chars;
  }

  /** Lines of an open block of code. Null if it was closed and the rest is to be read as blocks. */
  #code(group: Group, closing: RegExp, settled: Piece[], last: boolean): Piece[] | null {
    let lines = "";
    let from = 0;
    for (;;) {
      const newline = this.#rest.indexOf("\n", from);
      const line = this.#rest.slice(from, newline < 0 ? undefined : newline);
      const closed = (newline >= 0 || last) && closing.test(line);
      if (newline >= 0 && !closed) {
        lines += `${line}\n`;
        from = newline + 1;
        continue;
      }
      if (last && !closed && line) lines += `${line}\n`;
      if (lines) settled.push({ group, content: lines });
      this.#advance(closed || last ? Math.min(from + line.length + 1, this.#rest.length) : from);
      if (closed || last) {
        this.#open = null;
        return null;
      }
      // What may become the closing fence is not shown as code.
      return line && !/^ {0,3}[`~]*$/.test(line) ? [{ group, content: line }] : [];
    }
  }

  /** Null if a block of code was opened whose lines are to be read as such. */
  #blocks(settled: Piece[], last: boolean): Piece[] | null {
    const before = this.#open?.before ?? "";
    const source = before + this.#rest;
    this.#origin = this.#at - before.length;
    const { tokens } = lex(source, this.#links);
    const whole = tokens.reduce((length, { raw }) => length + raw.length, 0) === source.length;
    let at = 0;
    let index = 0;
    for (let token = tokens[0]; token; token = tokens[++index]) {
      if (token.type !== "space") {
        if (!last && !(whole && isFinal(tokens, index, at, source))) break;
        settled.push(...this.#pieces(token, at, 0));
        this.#define(token.raw);
        this.#open = null;
      }
      at += token.raw.length;
    }
    const token = tokens[index];
    if (!token) {
      // Blanks at the end may be the next block's indentation.
      this.#advance(last ? this.#rest.length : Math.max(0, source.lastIndexOf("\n") + 1 - before.length));
      return [];
    }
    const { end, count } = whole ? this.#settleWithin(token, at, source, settled) : { end: at, count: 0 };
    const tail = this.#open?.fence ? null : this.#tail(tokens.slice(index), at, count);
    this.#advance(Math.max(0, end - before.length));
    return tail;
  }

  /** Keep the definitions of links in what has been settled. */
  #define(source: string): void {
    if (source.includes("]:")) this.#links = lex(source, this.#links).links;
  }

  #tail(tokens: readonly Token[], at: number, count: number): Piece[] {
    const open = this.#open;
    const tail = tokens.flatMap((token, index) => {
      const pieces = this.#pieces(token, at, index === 0 ? count : 0);
      at += token.raw.length;
      this.#open = null;
      return pieces;
    });
    this.#open = open;
    return tail;
  }

  /** Settle the first elements of a token that is not final itself: how many, and where the next one begins. */
  #settleWithin(token: Token, at: number, source: string, settled: Piece[]): { end: number; count: number } {
    if (this.#open?.group.kind === "paragraph") return this.#settleText(at, source, settled);
    if (isList(token)) return this.#settleItems(token, at, source, settled);
    if (isTable(token)) return this.#settleRows(token, at, source, settled);
    if (isCode(token)) return this.#openCode(token, at, source, settled);
    if (token.type === "paragraph" && token.raw.length > LONG_PARAGRAPH_CHARS) return this.#settleText(at, source, settled);
    return { end: at, count: 0 };
  }

  #settleItems(list: Tokens.List, at: number, source: string, settled: Piece[]): { end: number; count: number } {
    const group = this.#groupOf(list, at);
    let count = 0;
    let end = at;
    for (const item of list.items.slice(0, -1)) {
      if (source.indexOf("\n", end + item.raw.length) < 0) break;
      settled.push({ group, content: itemHtml(item) });
      this.#define(item.raw);
      end += item.raw.length;
      count += 1;
    }
    if (count > 0) this.#open = { group, before: "" };
    return { end, count };
  }

  #settleRows(table: Tokens.Table, at: number, source: string, settled: Piece[]): { end: number; count: number } {
    const rows = lineEnd(source, lineEnd(source, at));
    if (rows < 0) return { end: at, count: 0 };
    const group = this.#groupOf(table, at);
    let count = 0;
    let end = rows;
    for (const row of table.rows) {
      const next = lineEnd(source, end);
      if (next < 0 || !source.slice(end, next).trim()) break;
      settled.push({ group, content: rowHtml(row) });
      end = next;
      count += 1;
    }
    if (count > 0) this.#open = { group, before: this.#open?.before || source.slice(at, rows) };
    return count > 0 ? { end, count } : { end: at, count };
  }

  /** A fence that is indented is read again as a whole: its lines lose as much of their own indentation. */
  #openCode(token: Tokens.Code, at: number, source: string, settled: Piece[]): { end: number; count: number } {
    const fence = /^(?:`{3,}|~{3,})/.exec(token.raw)?.[0];
    const end = lineEnd(source, at);
    if (fence === undefined || end < 0) return { end: at, count: 0 };
    const group = this.#groupOf(token, at);
    settled.push({ group, content: "" });
    this.#open = { group, before: "", fence: new RegExp(`^ {0,3}${fence}${fence[0]}* *$`) };
    return { end, count: 0 };
  }

  #settleText(at: number, source: string, settled: Piece[]): { end: number; count: number } {
    const from = this.#open ? this.#open.before.length : at;
    const plain = PLAIN.exec(source.slice(from))?.[0] ?? "";
    const end = from + plain.lastIndexOf(" ") + 1;
    if (end > from) {
      const group: Group = this.#open?.group ?? { kind: "paragraph", at: this.#origin + at };
      settled.push({ group, content: source.slice(from, end) });
      this.#open = { group, before: WORD_BEFORE };
    }
    return { end, count: end - at };
  }

  /** The pieces of a token, without its first `skip` elements. */
  #pieces(token: Token, at: number, skip: number): Piece[] {
    if (this.#open?.group.kind === "paragraph") return this.#restOfText(this.#open.group, token, skip);
    if (isList(token)) {
      const group = this.#groupOf(token, at);
      return token.items.slice(skip).map((item) => ({ group, content: itemHtml(item) }));
    }
    if (isTable(token)) {
      const group = this.#groupOf(token, at);
      const rows = token.rows.slice(skip).map((row) => ({ group, content: rowHtml(row) }));
      return rows.length > 0 || skip > 0 || this.#open ? rows : [{ group, content: "" }];
    }
    if (isCode(token)) return [{ group: this.#groupOf(token, at), content: codeOf(token).text }];
    const content = blocksHtml([token]);
    return content ? [{ group: null, content }] : [];
  }

  #restOfText(group: Group, token: Token, skip: number): Piece[] {
    const source = WORD_BEFORE + token.raw.slice(skip || WORD_BEFORE.length);
    const [paragraph] = lex(source, this.#links).tokens;
    const content = inlineHtml(paragraph && "tokens" in paragraph && paragraph.tokens ? paragraph.tokens : []);
    return [{ group, content: content.slice(WORD_BEFORE.length) }];
  }

  #groupOf(token: Tokens.List | Tokens.Table | Tokens.Code, at: number): Group {
    const open = this.#open?.group;
    if (open?.kind === token.type) return open;
    const start = this.#origin + at;
    if (token.type === "list")
      return { kind: "list", at: start, ordered: token.ordered, start: token.start === "" ? 1 : token.start };
    if (token.type === "table") return { kind: "table", at: start, head: tableHtml(token) };
    return { kind: "code", at: start, language: codeOf(token).language };
  }
}

/** The same text for pieces that look the same on the page, however they were cut. */
function canonical(pieces: readonly Piece[]): string {
  const texts: string[] = [];
  for (let index = 0; index < pieces.length; ) {
    const { group } = pieces[index] as Piece;
    let content = "";
    do content += (pieces[index++] as Piece).content;
    while (group && pieces[index]?.group?.kind === group.kind && pieces[index]?.group?.at === group.at);
    if (!group) texts.push(content);
    else if (group.kind === "paragraph") texts.push(`<p>${content.trimEnd()}</p>\n`);
    else if (group.kind === "code") texts.push(JSON.stringify([group.language, content.replace(/\n$/, "")]));
    else texts.push(JSON.stringify({ ...group, at: 0, content }));
  }
  return texts.join("");
}

// `Token` has a member whose type is any string, so that comparing `type` alone narrows nothing.
const isList = (token: Token): token is Tokens.List => token.type === "list";
const isTable = (token: Token): token is Tokens.Table => token.type === "table";
const isCode = (token: Token): token is Tokens.Code => token.type === "code";

/** Where the line ends that `from` lies in, its newline included; -1 if it is not whole, or if `from` is -1. */
function lineEnd(source: string, from: number): number {
  return from < 0 ? -1 : source.indexOf("\n", from) + 1 || -1;
}

/** Whether nothing that may follow changes this token. `at` is where it begins. */
function isFinal(tokens: readonly Token[], index: number, at: number, source: string): boolean {
  const token = tokens[index];
  if (!token) return false;
  const contentEnd = at + token.raw.trimEnd().length;
  const closed = isCode(token) && isClosed(token);
  if (closed || ["heading", "hr", "def"].includes(token.type)) return source.indexOf("\n", contentEnd) >= 0;
  let start = at + token.raw.length;
  let following = index + 1;
  for (let space = tokens[following]; space?.type === "space"; space = tokens[++following]) start += space.raw.length;
  const next = tokens[following];
  // A list and a block of code go on after blank lines.
  if (!isList(token) && !isCode(token) && BLANK_LINE.test(source.slice(contentEnd, start))) return true;
  if (!next) return false;
  // A heading is one when its underline is whole, a table when its second line is; all else is decided by its first.
  if (next.type === "heading") return source.indexOf("\n", start + next.raw.trimEnd().length) >= 0;
  const firstLine = lineEnd(source, start);
  return (isTable(next) ? lineEnd(source, firstLine) : firstLine) >= 0;
}

/** Whether a block of code has its closing fence. */
function isClosed({ raw }: Tokens.Code): boolean {
  const fence = /^ {0,3}(`{3,}|~{3,})/.exec(raw)?.[1];
  const lines = raw.replace(/\n$/, "").split("\n");
  return fence !== undefined && lines.length > 1 && new RegExp(`^ {0,3}${fence}${fence[0]}* *$`).test(lines.at(-1) ?? "");
}
