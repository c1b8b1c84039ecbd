/** Markdown in pieces: any text, cut anywhere, ends in the HTML of the whole. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { blocksHtml, lex } from "./markdown.js";
import { MarkdownStream, type Group, type Piece } from "./markdown_stream.js";

/** The HTML that the view's elements amount to. */
function htmlOf(pieces: readonly Piece[]): string {
  let html = "";
  for (let index = 0; index < pieces.length; ) {
    const group = pieces[index]!.group;
    let content = "";
    do content += pieces[index++]!.content;
    while (group && pieces[index]?.group && sameGroup(pieces[index]!.group!, group));
    html += group ? within(group, content) : content;
  }
  return html;
}

function sameGroup(one: Group, other: Group): boolean {
  return one.kind === other.kind && one.at === other.at;
}

function within(group: Group, content: string): string {
  switch (group.kind) {
    case "list": {
      const tag = group.ordered ? "ol" : "ul";
      return `<${tag}${group.ordered && group.start !== 1 ? ` start="${group.start}"` : ""}>\n${content}</${tag}>\n`;
    }
    case "table":
      return group.head.replace("</thead>\n", `</thead>\n${content && `<tbody>${content}</tbody>`}`);
    case "code":
      return blocksHtml([{ type: "code", raw: "", lang: group.language, text: content }]);
    case "paragraph":
      return `<p>${content.trimEnd()}</p>\n`;
  }
}

function wholeHtml(source: string): string {
  const text = source.replace(/\r\n?/g, "\n");
  return blocksHtml(lex(text, lex(text, {}).links).tokens);
}

const read = { all: 0, stale: 0 };

function streamedHtml(cuts: readonly string[]): string {
  const stream = new MarkdownStream();
  const pieces = pass(stream, cuts);
  read.all += 1;
  if (!stream.stale) return htmlOf(pieces);
  read.stale += 1;
  return htmlOf(pass(new MarkdownStream({ whole: true }), cuts));
}

function pass(stream: MarkdownStream, cuts: readonly string[]): Piece[] {
  const pieces: Piece[] = [];
  for (const cut of cuts) pieces.push(...stream.write(cut).settled);
  pieces.push(...stream.end().settled);
  return pieces;
}

function cutAt(source: string, places: readonly number[]): string[] {
  const sorted = [...new Set(places.map((place) => place % (source.length + 1)))].sort((a, b) => a - b);
  return [0, ...sorted].map((place, index) => source.slice(place, sorted[index]));
}

const word = fc.constantFrom("word", "two words", "**bold**", "*em", "`code`", "[a]", "[x](http://y)", "1.", "-", "2", "<b>", "a | b", "~~x~~", "#", "http://e.org/x", "\\*", "é 🧵", "![i](u)", "<br>", ":", "&amp;", "[a]: /u");
const inline = fc.array(word, { minLength: 1, maxLength: 4 }).map((words) => words.join(" "));
const indent = fc.constantFrom("", "", "", " ", "  ", "   ", "    ", "\t");
const line = fc.oneof(
  { weight: 4, arbitrary: inline },
  { weight: 3, arbitrary: inline.map((text) => `- ${text}`) },
  { weight: 2, arbitrary: inline.map((text) => `1. ${text}`) },
  { weight: 1, arbitrary: inline.map((text) => `* ${text}`) },
  { weight: 1, arbitrary: inline.map((text) => `- [x] ${text}`) },
  { weight: 1, arbitrary: inline.map((text) => `> ${text}`) },
  { weight: 1, arbitrary: inline.map((text) => `## ${text}`) },
  { weight: 2, arbitrary: fc.constantFrom("```", "```js", "~~~", "````", "---", "===", "--", "-", "- - -", "***") },
  { weight: 2, arbitrary: fc.constantFrom("| a | b |", "|--|--|", "| c", "x | y", "-|-", ":--|") },
  { weight: 1, arbitrary: fc.constantFrom("[a]: /url", "[a]: /url 'title", "title'", "<div>", "</div>", "<!-- c", "-->") },
  { weight: 4, arbitrary: fc.constantFrom("", "", " ", "") },
);
const markdown = fc
  .array(fc.tuple(indent, line, fc.constantFrom("\n", "\n", "\n", "\n\n", "\r\n", "\n\n\n", "  \n")), { maxLength: 14 })
  .map((lines) => lines.map((parts) => parts.join("")).join(""));
const places = fc.array(fc.nat(400), { maxLength: 40 });

describe("Markdown in pieces", () => {
  test("any Markdown, cut anywhere, ends in the HTML of the whole", () => {
    fc.assert(
      fc.property(markdown, places, (source, cuts) => {
        expect(streamedHtml(cutAt(source, cuts))).toBe(wholeHtml(source));
      }),
      { numRuns: 3_000 },
    );
  });

  test("any Markdown, a character at a time, ends in the HTML of the whole", () => {
    fc.assert(
      fc.property(markdown, (source) => {
        expect(streamedHtml([...source])).toBe(wholeHtml(source));
      }),
      { numRuns: 1_000 },
    );
  });

  test("hardly any has to be shown anew at its end", () => {
    // Links that are defined late, above all; these texts are as crooked as can be.
    expect(read.stale / read.all).toBeLessThan(0.1);
    const stream = new MarkdownStream();
    pass(stream, ["# A\n\n- b\n- **c**\n\n| d |\n|---|\n| e |\n\n```\nf\n```\n\n> g\n\nh\n"]);
    expect(stream.stale).toBe(false);
  });

  test("what the library cannot read is shown as it was written", () => {
    const source = "- word\n   > -\n| a | b |\n";
    expect(streamedHtml([...source])).toBe(wholeHtml(source));
    expect(wholeHtml(source)).toContain("| a | b |");
  });

  test("a long plain paragraph is settled as it comes, and ends in the HTML of the whole", () => {
    const source = `${"word and more, ".repeat(400)}with **bold** - and a dash\n\nNext\n`;
    const cuts = source.match(/[^]{1,7}/g) ?? [];
    expect(streamedHtml(cuts)).toBe(wholeHtml(source));
    const stream = new MarkdownStream();
    const tails = cuts.slice(0, 700).map((cut) => stream.write(cut).tail.reduce((sum, { content }) => sum + content.length, 0));
    expect(Math.max(...tails.slice(-200))).toBeLessThan(100);
  });

  test("the tail of a long list, table or block of code is one element, however long it becomes", () => {
    for (const line of ["- an item\n", "| a | b |\n", "code();\n"]) {
      const stream = new MarkdownStream();
      stream.write({ "|": "| x | y |\n|---|---|\n", c: "```js\n" }[line.charAt(0)] ?? "");
      const tails = Array.from({ length: 500 }, () => stream.write(line).tail.length);
      expect(Math.max(...tails.slice(2))).toBeLessThanOrEqual(1);
    }
  });
});
