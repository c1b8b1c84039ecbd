/**
 * Work that is done a little each animation frame. Whoever paints gets a deadline and says whether more is left, so that
 * a long history appears piece by piece and never holds up a frame. In a hidden tab nothing is painted at all.
 */

const BUDGET_MS = 4;

export interface Painter {
  /** Work until `deadline` (of performance.now) or until all is shown. Whether more is left. */
  paint(deadline: number): boolean;
}

const waiting = new Set<Painter>();
let requested = false;
let together = false;

/** Have this one paint in the next frame. */
export function paintSoon(painter: Painter): void {
  waiting.add(painter);
  if (!together) request();
}

/** Make a change that was told in a frame, and paint what it asks for in the same one: to ask for another costs too. */
export function paintTogether(change: () => void): void {
  together = true;
  try {
    change();
  } finally {
    together = false;
  }
  if (!requested) paintAll();
}

export function paintNever(painter: Painter): void {
  waiting.delete(painter);
}

function paintAll(): void {
  const deadline = performance.now() + BUDGET_MS;
  for (const painter of waiting) if (!painter.paint(deadline)) waiting.delete(painter);
  requested = false;
  if (waiting.size > 0) request();
}

function request(): void {
  if (requested) return;
  requested = true;
  requestAnimationFrame(paintAll);
}
