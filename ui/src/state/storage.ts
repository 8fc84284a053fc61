// What a browser keeps between visits; one without storage forgets, and nothing else depends on it.
const PREFIX = "unweave.";

export function stored<T>(key: string, missing: T): T {
  try {
    return (JSON.parse(localStorage.getItem(PREFIX + key) ?? "null") as T) ?? missing;
  } catch {
    return missing;
  }
}

/** Whether it could be kept. */
export function keep(key: string, value: unknown): boolean {
  try {
    if (value === undefined) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Names of what is kept that begin so. */
export function keptNames(start: string): string[] {
  try {
    return Object.keys(localStorage)
      .filter((name) => name.startsWith(PREFIX + start))
      .map((name) => name.slice(PREFIX.length));
  } catch {
    return [];
  }
}
