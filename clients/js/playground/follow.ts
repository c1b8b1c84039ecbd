/**
 * Keeps the end of a growing scroller in view, until the person scrolls away from it. Nothing is measured while text
 * comes: a ResizeObserver tells that the content grew when the browser has laid it out anyway.
 */

const NEAR_PX = 24;
/** Text that comes faster than anyone reads is followed in steps: each moves, and draws anew, all that is in view. */
const STEP_MS = 100;

export class Follow {
  readonly #scroller: HTMLElement;
  readonly #content: HTMLElement;
  readonly #onChange: (following: boolean) => void;
  #following = true;
  #top = 0;
  #steppedAt = 0;
  /** A step is due. */
  #stepping = false;

  /** `content` is what grows in the scroller; `onChange` is told when following begins or ends. */
  constructor(scroller: HTMLElement, content: HTMLElement, onChange: (following: boolean) => void = () => undefined) {
    this.#scroller = scroller;
    this.#content = content;
    this.#onChange = onChange;
    const observer = new ResizeObserver(() => this.#grown());
    observer.observe(content);
    observer.observe(scroller);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** While there is no content, what stands in its place is shown from its beginning. */
  toEnd(): void {
    this.#set(true);
    this.#scroller.scrollTop = this.#content.childElementCount > 0 ? this.#scroller.scrollHeight : 0;
    this.#top = this.#scroller.scrollTop;
  }

  /** Run something that puts content in above, and keep what is in view where it is. */
  holding(change: () => void): void {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    change();
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
    this.#top = this.#scroller.scrollTop;
  }

  #grown(): void {
    if (!this.#following || this.#stepping) return;
    const wait = this.#steppedAt + STEP_MS - performance.now();
    if (wait <= 0) return this.#step();
    this.#stepping = true;
    setTimeout(() => {
      this.#stepping = false;
      if (this.#following) this.#step();
    }, wait);
  }

  #step(): void {
    this.#steppedAt = performance.now();
    this.toEnd();
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (near) this.#set(true);
    else if (scrollTop < this.#top - 1) this.#set(false);
    this.#top = scrollTop;
  }

  #set(following: boolean): void {
    if (following === this.#following) return;
    this.#following = following;
    this.#onChange(following);
  }
}
