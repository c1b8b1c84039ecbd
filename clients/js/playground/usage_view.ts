/** The line under a finished answer: what it took, and that it is proved. */

import type { Turn } from "@turnwire/client";
import { make } from "./dom.js";
import { cost, times, tokens } from "./wording.js";

const PROOF =
  "The length and the CRC-32 checksum of each part are those that the server wrote down: " +
  "no text is missing, doubled or out of order.";

export function usageView(turn: Turn): HTMLElement {
  const facts = [
    turn.model ?? "",
    turn.usage && turn.parts.length > 0 ? tokens(turn.usage) : "",
    turn.cost ? cost(turn.cost) : "",
    turn.parts.length > 0 ? times(turn) : "",
  ].filter((fact) => fact !== "");
  const footer = make("footer", { class: "usage" }, ...facts.map((fact) => make("span", {}, fact)));
  if (turn.proved && turn.parts.length > 0) footer.append(make("span", { class: "proved", title: PROOF }, "✓ proved"));
  return footer;
}
