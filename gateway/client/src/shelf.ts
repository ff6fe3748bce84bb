import type { Answer } from "./answer.js";
import type { Data } from "./events.js";
import type { AnswerStorage } from "./storage.js";

const writeEvery = 250; // ms, while an answer grows
const maxLength = 256_000; // characters of one answer; a longer one is had again from the gateway

interface Entry {
  answer: Answer;
  request: () => Data | undefined;
  user: string;
  created: number;
  dirty: boolean;
}

/**
 * Keeps unfinished answers in a storage: soon after each change, and at once when the page goes. What is kept may be
 * behind, never inconsistent: the gateway gives again what came after.
 * @internal
 */
export class Shelf {
  readonly #storage: AnswerStorage | null;
  readonly #entries = new Map<string, Entry>();
  readonly #leave = () => this.#write();
  #user = "";
  #timer: ReturnType<typeof setTimeout> | undefined;
  #keeping = false; // answers that end now are kept all the same

  constructor(storage: AnswerStorage | null) {
    this.#storage = storage;
    if (storage && typeof document !== "undefined") {
      addEventListener("pagehide", this.#leave);
      document.addEventListener("visibilitychange", this.#leave);
    }
  }

  load() {
    return this.#try((s) => s.load()) ?? [];
  }

  add(answer: Answer, request: () => Data | undefined, from?: { user: string; created: number }): void {
    const entry: Entry = { answer, request, user: from?.user ?? this.#user, created: from?.created ?? Date.now(), dirty: from === undefined };
    this.#entries.set(answer.jobId, entry);
    if (entry.dirty) this.#write();
  }

  changed(answer: Answer): void {
    const entry = this.#entries.get(answer.jobId);
    if (!entry || !this.#storage) return;
    entry.dirty = true;
    this.#timer ??= setTimeout(this.#leave, writeEvery);
    (this.#timer as { unref?: () => void }).unref?.();
  }

  remove(answer: Answer): void {
    if (this.#entries.delete(answer.jobId) && !this.#keeping) this.#try((s) => s.remove(answer.jobId));
  }

  /** Says who we are. Returns the jobs that somebody else has asked, and forgets them. */
  signedIn(user: string): string[] {
    this.#user = user;
    const foreign: string[] = [];
    for (const [jobId, entry] of this.#entries) {
      if (entry.user === "") {
        entry.user = user;
        entry.dirty = true;
      } else if (entry.user !== user) foreign.push(jobId);
    }
    this.#write();
    return foreign;
  }

  /** Until forget is called, answers that end stay in the storage, as they are now. */
  keep(): void {
    this.#write();
    this.#keeping = true;
  }

  forget(): void {
    this.#keeping = false;
  }

  close(): void {
    this.keep();
    if (this.#storage && typeof document !== "undefined") {
      removeEventListener("pagehide", this.#leave);
      document.removeEventListener("visibilitychange", this.#leave);
    }
  }

  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const entry of this.#entries.values()) {
      if (!entry.dirty || entry.answer.over) continue;
      entry.dirty = false;
      const { user, created } = entry;
      const request = entry.request();
      const rest = request ? { user, created, request } : { user, created };
      const state = { ...entry.answer.saved(), ...rest };
      const empty = { ...state, seq: 0, text: "", deltas: [] };
      if (entry.answer.length > maxLength || !this.#try((s) => (s.save(state), true))) this.#try((s) => s.save(empty));
    }
  }

  #try<T>(use: (storage: AnswerStorage) => T): T | undefined {
    try {
      return this.#storage ? use(this.#storage) : undefined;
    } catch {
      return undefined; // full or forbidden: only a reload notices
    }
  }
}
