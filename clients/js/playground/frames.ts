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

/** Have this one paint in the next frame. */
export function paintSoon(painter: Painter): void {
  waiting.add(painter);
  if (requested) return;
  requested = true;
  requestAnimationFrame(paintAll);
}

export function paintNever(painter: Painter): void {
  waiting.delete(painter);
}

function paintAll(): void {
  const deadline = performance.now() + BUDGET_MS;
  for (const painter of waiting) if (!painter.paint(deadline)) waiting.delete(painter);
  requested = waiting.size > 0;
  if (requested) requestAnimationFrame(paintAll);
}
