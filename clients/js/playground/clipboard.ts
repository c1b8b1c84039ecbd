/** Copying, and telling that it was done where the person looks: on the button that they pressed. */

import { button, put } from "./dom.js";
import { icon } from "./icons.js";

const TOLD_MS = 1_600;

/** A button that copies what `text` gives. `label` is its name; `caption` is what it shows, if not an icon alone. */
export function copyButton(label: string, text: () => string, caption?: string): HTMLButtonElement {
  let timer = 0;
  const element = button({ class: caption ? "quiet" : "quiet icon-button", "aria-label": label, title: label }, () => {
    void copy(text()).then((copied) => {
      put(element, "data-copied", copied ? "yes" : "no");
      clearTimeout(timer);
      timer = setTimeout(() => put(element, "data-copied", undefined), TOLD_MS);
    });
  });
  element.append(icon("copy"), icon("check"), ...(caption ? [caption] : []));
  return element;
}

/** Whether it worked: without a secure context, or without the permission, it does not. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
