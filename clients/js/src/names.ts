/** Names: new ones for sessions, turns and commands, and those between the wire's snake_case and people's camelCase. */

/** An id that nobody has drawn before. */
export function newId(prefix: string): string {
  return prefix + crypto.getRandomValues(new Uint32Array(4)).join("");
}

type Camel<Name extends string> = Name extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : Name;
export type CamelCased<Fields> = { [Name in keyof Fields as Camel<Name & string>]: Fields[Name] };

/** For people, to whom what is undefined is not there at all. */
export function camel<Fields extends object>(fields: Fields): CamelCased<Fields> {
  return renamed(fields, /_(.)/g, (_, letter) => letter.toUpperCase()) as CamelCased<Fields>;
}

export function snake(fields: object): Record<string, unknown> {
  return renamed(fields, /[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function renamed(fields: object, what: RegExp, by: (found: string, group: string) => string): Record<string, unknown> {
  const told = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(told.map(([name, value]) => [name.replace(what, by), value as unknown]));
}
