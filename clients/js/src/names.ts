/** Names: new ones for sessions, turns and commands, and those between the wire's snake_case and people's camelCase. */

/** An id that nobody has drawn before. */
export function newId(prefix: string): string {
  const random = crypto.getRandomValues(new Uint32Array(5));
  return prefix + Array.from(random, (number) => number.toString(36)).join("");
}

type Camel<Name extends string> = Name extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : Name;
export type CamelCased<Fields> = { [Name in keyof Fields as Camel<Name & string>]: Fields[Name] };

export function camel<Fields extends object>(fields: Fields): CamelCased<Fields> {
  return renamed(fields, (name) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())) as CamelCased<Fields>;
}

export function snake(fields: object): Record<string, unknown> {
  return renamed(fields, (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
}

function renamed(fields: object, rename: (name: string) => string): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [rename(name), value as unknown]));
}
