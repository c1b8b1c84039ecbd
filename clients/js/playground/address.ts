/** The address names the session in its fragment, so that a reload, a second tab and "back" find it again. */

const ID = /^[A-Za-z0-9_-]{1,64}$/;

/** The session of the address, or undefined where it names none. */
export function sessionOfAddress(): string | undefined {
  const fragment = location.hash.slice(1);
  return ID.test(fragment) ? fragment : undefined;
}

/** Not the fragment alone: that would be taken for a link that skips to a place on this page. */
export const linkTo = (session: string): string => `./#${session}`;
