/**
 * Making elements, and nothing else. Attributes are set one by one and text stays text: no markup is parsed here, and
 * no style or handler attribute can be set (the page's Content-Security-Policy would refuse both).
 */

type Attributes = Readonly<Record<string, string | boolean | undefined>>;

/** An element. `true` sets an attribute without a value; `false` and undefined leave it out. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) put(element, name, value);
  element.append(...children);
  return element;
}

/** Set an attribute if it is not so already; false and undefined take it away. */
export function put(element: Element, name: string, value: string | boolean | undefined): void {
  if (value === undefined || value === false) element.removeAttribute(name);
  else {
    const wanted = value === true ? "" : value;
    if (element.getAttribute(name) !== wanted) element.setAttribute(name, wanted);
  }
}

/** Set the text if it is not so already, so that what is unchanged is neither laid out nor read aloud again. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A button of type "button". Its children are what it shows; where that is an icon, `aria-label` names it. */
export function button(attributes: Attributes, onClick: () => void, ...children: (Node | string)[]): HTMLButtonElement {
  const element = make("button", { type: "button", ...attributes }, ...children);
  element.addEventListener("click", onClick);
  return element;
}

/** The element of index.html with this id. Throws if page and script do not fit. */
export function find<T extends Element>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`index.html has no ${kind.name} #${id}`);
  return element;
}
