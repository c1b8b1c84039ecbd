/**
 * Markdown to DOM: the only file that turns text into HTML. marked reads it, DOMPurify lets through what stands on the
 * list below, and what comes out is a fragment, never a string that someone might put into the page.
 *
 * A model's HTML is text here: no tag of it is recognised, but for <br>, which is the only way to break a line in a
 * table. Images are links, because the page loads nothing from other hosts.
 *
 * Each item of a list is rendered as if the list were loose. Markdown makes a list loose by one blank line anywhere in
 * it, also in its last item; then an item that has been shown could change long after.
 */

import DOMPurify, { type Config } from "dompurify";
import { Lexer, Parser, Renderer, Tokenizer, type Links, type Token, type Tokens } from "marked";

export type { Links, Token, Tokens } from "marked";

const CONFIG: Config & { RETURN_DOM_FRAGMENT: true } = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    ...["p", "br", "hr", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "pre", "code", "a"],
    ...["strong", "em", "del", "table", "thead", "tbody", "tr", "th", "td", "#text"],
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "data-language"],
  ADD_URI_SAFE_ATTR: ["title", "start", "align", "data-language"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

const HEADINGS_BELOW = 2;

class PlainTokenizer extends Tokenizer {
  override html(): undefined {
    return undefined;
  }

  override tag(source: string): Tokens.Tag | undefined {
    const found = /^<br[ \t]*\/?>/i.exec(source);
    if (!found) return undefined;
    return { type: "html", raw: found[0], text: "<br>", block: false, inLink: false, inRawBlock: false };
  }

  /** On one line: whether a title follows on the next ones would be known too late. */
  override def(source: string): Tokens.Def | undefined {
    return super.def(source.slice(0, source.indexOf("\n") + 1 || undefined));
  }
}

class PlainRenderer extends Renderer {
  override html({ text }: Tokens.HTML | Tokens.Tag): string {
    return text === "<br>" ? "<br>" : escaped(text);
  }

  /** The page has its own first two levels of headings. */
  override heading({ tokens, depth }: Tokens.Heading): string {
    const level = Math.min(6, depth + HEADINGS_BELOW);
    return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
  }

  override code(token: Tokens.Code): string {
    const { language, text } = codeOf(token);
    return `<pre data-language="${escaped(language)}"><code>${escaped(text)}</code></pre>\n`;
  }

  override image({ href, title, text }: Tokens.Image): string {
    const name = escaped(text || "Image");
    return `<a href="${escaped(href)}"${title ? ` title="${escaped(title)}"` : ""}>${name}</a>`;
  }

  override listitem(item: Tokens.ListItem): string {
    const tokens = item.tokens
      .filter(({ type }) => type !== "checkbox")
      .map((token) => (token.type === "text" ? { ...token, type: "paragraph", tokens: token.tokens ?? [token] } : token));
    if (!item.task) return `<li>${this.parser.parse(tokens)}</li>\n`;
    const mark = item.checked ? "☑ " : "☐ ";
    const [first, ...others] = tokens;
    const text = first?.type === "paragraph" ? this.parser.parseInline(first.tokens ?? []) : "";
    return `<li><p>${mark}${text}</p>\n${this.parser.parse(first?.type === "paragraph" ? others : tokens)}</li>\n`;
  }

  override checkbox(): string {
    return "";
  }
}

const parser = new Parser({ gfm: true, renderer: new PlainRenderer() });

/**
 * Block tokens with what is in them, and `links` with the definitions that were found. References mean what `links` says:
 * definitions that are found here may not be whole yet.
 */
export function lex(source: string, links: Links): { tokens: Token[]; links: Links } {
  const lexer = new Lexer({ gfm: true, tokenizer: new PlainTokenizer() });
  lexer.tokens.links = Object.assign(Object.create(null) as Links, links);
  try {
    lexer.blockTokens(source, lexer.tokens);
    const found = lexer.tokens.links;
    lexer.tokens.links = links;
    for (const { src, tokens } of lexer.inlineQueue) lexer.inlineTokens(src, tokens);
    return { tokens: lexer.tokens, links: found };
  } catch {
    // marked 18 stumbles over a quote that ends in an empty list item. What it cannot read is shown as it was written.
    const text: Token = { type: "text", raw: source, text: source, escaped: false };
    return { tokens: [{ type: "paragraph", raw: source, text: source, tokens: [text] }], links };
  }
}

/** The HTML of these blocks. It has not been sanitised: only `toFragment` may have it. */
export const blocksHtml = (tokens: Token[]): string => parser.parse(tokens);

export const inlineHtml = (tokens: Token[]): string => parser.parseInline(tokens);

export const itemHtml = (item: Tokens.ListItem): string => parser.renderer.listitem(item);

/** A table without rows. */
export const tableHtml = (table: Tokens.Table): string => parser.renderer.table({ ...table, rows: [] });

export const rowHtml = (cells: Tokens.TableCell[]): string =>
  parser.renderer.tablerow({ text: cells.map((cell) => parser.renderer.tablecell(cell)).join("") });

/** A block of code: its lines, each with its newline, and the first word after the fence. */
export function codeOf({ text, lang }: Tokens.Code): { language: string; text: string } {
  const language = /^\S*/.exec(lang ?? "")?.[0] ?? "";
  return { language, text: text && `${text.replace(/\n$/, "")}\n` };
}

let guarded = false;

/** What may be shown of this HTML. */
export function toFragment(html: string): DocumentFragment {
  if (!guarded) {
    DOMPurify.setConfig(CONFIG);
    DOMPurify.addHook("afterSanitizeAttributes", (element) => {
      if (!element.hasAttribute("href")) return;
      element.setAttribute("target", "_blank");
      element.setAttribute("rel", "noopener noreferrer nofollow");
    });
    guarded = true;
  }
  return DOMPurify.sanitize(html, CONFIG);
}

function escaped(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}
