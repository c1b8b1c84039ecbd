/** Which keys send a message. */

/** Enter sends and Shift+Enter is a new line; while an input method composes a word, Enter belongs to it. */
export function wantsSend(event: KeyboardEvent): boolean {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== COMPOSING;
}

/** Safari ends a composition before its Enter comes; only this code tells. */
const COMPOSING = 229;
