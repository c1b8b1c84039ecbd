/** A button that opens a menu, as the ARIA pattern for menu buttons has it. It lies in the top layer, so nothing clips it. */

import { button, make, put } from "./dom.js";
import { icon } from "./icons.js";

type Item = { readonly label: string; readonly run: () => void; readonly dangerous?: boolean };

/** `label` names the button. */
export function menuButton(label: string, items: readonly Item[]): HTMLButtonElement {
  const attributes = { class: "quiet icon-button", "aria-label": label, "aria-haspopup": "menu", "aria-expanded": "false" };
  const opener = make("button", { type: "button", ...attributes });
  opener.addEventListener("click", (event) => {
    // While its menu is open the browser takes the press itself, and closes it.
    if (opener.popoverTargetElement) return;
    event.preventDefault();
    openMenu(opener, label, items);
  });
  opener.append(icon("more"));
  opener.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    openMenu(opener, label, items);
  });
  return opener;
}

function openMenu(opener: HTMLButtonElement, label: string, items: readonly Item[]): void {
  const menu = make("div", { class: "menu", role: "menu", "aria-label": label, popover: "auto" });
  const entries = items.map(({ label: text, run, dangerous }) =>
    button({ role: "menuitem", tabindex: "-1", class: dangerous ? "dangerous" : undefined }, () => {
      menu.hidePopover();
      run();
    }, text),
  );
  menu.append(...entries);
  menu.addEventListener("keydown", (event) => onKey(event, menu, entries));
  // At once: what is pressed next must find the button as it looks.
  menu.addEventListener("beforetoggle", ({ newState }) => {
    put(opener, "aria-expanded", String(newState === "open"));
    if (newState === "open") return;
    if (menu.contains(document.activeElement)) opener.focus();
    // Not now: the press that closes it may be on the button, and is not over.
    setTimeout(() => menu.remove());
    opener.popoverTargetElement = null;
  });
  opener.after(menu);
  menu.showPopover();
  opener.popoverTargetElement = menu;
  place(menu, opener.getBoundingClientRect());
  entries[0]?.focus();
}

function onKey(event: KeyboardEvent, menu: HTMLElement, entries: readonly HTMLElement[]): void {
  const at = entries.indexOf(document.activeElement as HTMLElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) {
    if (event.key === "Tab") menu.hidePopover();
    if (event.key === "Escape") event.stopPropagation(); // It closes this menu and nothing around it.
    return;
  }
  event.preventDefault();
  entries.at(to % entries.length)?.focus();
}

/** Below the button, or above it where there is no room. */
function place(menu: HTMLElement, at: DOMRect): void {
  const { height, width } = menu.getBoundingClientRect();
  const below = at.bottom + height + 8 < innerHeight;
  menu.style.insetBlockStart = `${below ? at.bottom + 4 : at.top - height - 4}px`;
  menu.style.insetInlineStart = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
}
