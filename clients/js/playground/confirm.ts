/** Asking before something is done that cannot be undone. */

import { button, make } from "./dom.js";

/** Whether the button `action` was pressed. Escape and "Cancel" mean no. */
export function confirmed(question: string, consequence: string, action: string): Promise<boolean> {
  return new Promise((resolve) => {
    const title = make("h2", { id: "confirm-title" }, question);
    const text = make("p", { id: "confirm-text" }, consequence);
    const cancel = button({ autofocus: true }, () => dialog.close(), "Cancel");
    const proceed = button({ class: "danger" }, () => dialog.close("yes"), action);
    const attributes = { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" };
    const dialog = make("dialog", attributes, title, text, make("div", { class: "buttons" }, cancel, proceed));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
