import type { Delta, State } from "./events.js";

/** An unfinished answer as it is kept over a page reload. Plain data. */
export interface Saved {
  jobId: string;
  /** Who asked, as the gateway calls them; empty while that isn't known. */
  user: string;
  /** When it was asked, in ms since 1970. */
  created: number;
  query: string;
  key?: string;
  state: State;
  /** The last frame that was seen. `text` and `deltas` are what came up to it. */
  seq: number;
  attempt: number;
  text: string;
  deltas: Delta[];
  provider: string;
  model: string;
  /** What to send again, as long as the gateway hasn't accepted it. */
  request?: Record<string, unknown>;
}

/**
 * Where unfinished answers are kept. The methods may throw (a full or forbidden storage): then a reload forgets,
 * and everything else works.
 */
export interface AnswerStorage {
  /** Everything that is kept. */
  load(): Saved[];
  /** Keeps an answer, in place of an earlier state of it. */
  save(saved: Saved): void;
  /** Forgets an answer: it has ended. */
  remove(jobId: string): void;
}

/** The part of the Web Storage API that is needed. */
export interface WebStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/**
 * Keeps answers in `sessionStorage`, where a reload of the tab finds them, or in `localStorage`, where all tabs do
 * and they outlive the browser.
 *
 * @param prefix of the keys; two clients with different gateways on one page need different ones.
 */
export function webStorage(storage: WebStorage, prefix = "sluice.answer."): AnswerStorage {
  return {
    load() {
      const found: Saved[] = [];
      for (let i = 0; i < storage.length; i++) {
        const key = storage.key(i);
        if (!key?.startsWith(prefix)) continue;
        const saved = read(storage.getItem(key));
        if (saved && prefix + saved.jobId === key) found.push(saved);
      }
      return found.sort((a, b) => a.created - b.created);
    },
    save(saved) {
      storage.setItem(prefix + saved.jobId, JSON.stringify(saved));
    },
    remove(jobId) {
      storage.removeItem(prefix + jobId);
    },
  };
}

/** Keeps answers as long as the process lives. Two clients may share one, to hand over. */
export function memoryStorage(): AnswerStorage {
  const kept = new Map<string, string>(); // as text, so that nothing kept changes behind our back
  return {
    load: () => [...kept.values()].flatMap((json) => read(json) ?? []),
    save: (saved) => void kept.set(saved.jobId, JSON.stringify(saved)),
    remove: (jobId) => void kept.delete(jobId),
  };
}

/** `sessionStorage` if there is one that may be used, memory elsewhere.
 * @internal */
export function defaultStorage(): AnswerStorage {
  try {
    const storage = (globalThis as { sessionStorage?: WebStorage }).sessionStorage;
    if (storage && typeof document !== "undefined") return webStorage(storage);
  } catch {
    // Browsers may forbid it by an error.
  }
  return memoryStorage();
}

/** Reads what was kept, perhaps by another version or another program: what doesn't fit is left alone. */
function read(json: string | null): Saved | undefined {
  let v: unknown;
  try {
    v = JSON.parse(json ?? "");
  } catch {
    return undefined;
  }
  const s = v as Partial<Record<keyof Saved, unknown>> | null;
  const fits = typeof s === "object" && s !== null &&
    [s.jobId, s.user, s.query, s.state, s.text, s.provider, s.model].every((f) => typeof f === "string") &&
    [s.created, s.seq, s.attempt].every((f) => typeof f === "number" && f >= 0) &&
    Array.isArray(s.deltas) && (s.key === undefined || typeof s.key === "string") &&
    (s.request === undefined || (typeof s.request === "object" && s.request !== null));
  return fits && s.jobId !== "" ? (s as Saved) : undefined;
}
