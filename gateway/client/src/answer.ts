import { digest } from "./digest.js";
import { SluiceError, errorFrom } from "./errors.js";
import { deltaFrom, isObject, number, progressFrom, resultFrom, text, type Data, type Delta, type JobEvent, type Progress, type Reset, type Result, type Start, type State } from "./events.js";
import { Listeners } from "./listeners.js";
import type { Saved } from "./storage.js";

/** What an answer tells its listeners, by name. */
export interface AnswerEvents {
  /** The next text of the answer. */
  text: string;
  /** The next of what is not text. */
  delta: Delta;
  /** An attempt begins. */
  start: Start;
  /** News of a job that waits or runs. */
  progress: Progress;
  /** What was given out so far is void. */
  reset: Reset;
  /** The answer is whole. */
  complete: Result;
  /** There is no answer, or no whole one. */
  error: SluiceError;
  /** Anything at all has changed: `snapshot()` gives something new. */
  change: undefined;
}

/** An answer at one moment. It never changes: a new moment is a new object. */
export interface Snapshot {
  readonly jobId: string;
  readonly query: string;
  readonly state: State;
  readonly text: string;
  readonly deltas: readonly Delta[];
  readonly attempt: number;
  readonly provider: string;
  readonly model: string;
  readonly progress: Progress | null;
  readonly result: Result | null;
  readonly error: SluiceError | null;
}

/** What an answer needs of the client it belongs to.
 * @internal */
export interface Owner {
  changed(answer: Answer): void;
  cancel(answer: Answer): void;
  /** Ask for the job's frames after `answer.seq` again. */
  again(answer: Answer): void;
}

/** @internal */
export interface Beginning {
  jobId: string;
  query?: string;
  key?: string | undefined;
  maxLength: number;
  state?: State;
  seq?: number;
  attempt?: number;
  text?: string;
  deltas?: Delta[];
  provider?: string;
  model?: string;
}

interface Settle {
  resolve(result: Result): void;
  reject(error: SluiceError): void;
}

/**
 * One answer as it grows. Iterating gives its text; everything else is a member or comes by `on`.
 *
 * Iterating holds nothing back and nothing up: an iteration is a place in the text (or the list of deltas) that the
 * answer holds anyway, so that a slow reader gets larger pieces, and the memory taken is that of one answer, at most
 * `maxLength` characters. Any number of iterations may run, and each begins at the beginning. Leaving one does not
 * cancel the job: `cancel()` does.
 *
 * An iteration that has given out text which a new attempt makes void throws a `SluiceError` with code `reset`,
 * unless somebody listens to `reset`: then it goes on with the text of the new attempt.
 */
export class Answer implements AsyncIterable<string> {
  /** The job's id: with it the answer can be had again, here or elsewhere, for as long as the gateway keeps it. */
  readonly jobId: string;
  /** The name given to the answer when it was asked for, to find it after a reload. */
  readonly key: string | undefined;
  /** The answer when it is whole. Rejects with a `SluiceError` when there will be none; never left open by a lost connection. */
  readonly done: Promise<Result>;

  readonly #owner: Owner;
  readonly #maxLength: number;
  readonly #listeners = new Listeners<AnswerEvents>();
  readonly #settle: Settle;
  #query: string;
  #state: State;
  #seq: number;
  #attempt: number;
  #text: string;
  #deltas: Delta[];
  #length: number; // characters of text and deltas
  #provider: string;
  #model: string;
  #progress: Progress | null = null;
  #result: Result | null = null;
  #error: SluiceError | null = null;
  #settling = false; // the complete frame is being verified
  #replayed = false; // asked for everything a second time, because the digest didn't fit
  #epoch = 0; // counts resets
  #told = true; // somebody heard of the last reset
  #waiters: (() => void)[] = [];
  #snapshot: Snapshot | null = null;
  #frozen: readonly Delta[] | null = null; // the deltas of the last snapshot, while they are the same

  /** @internal */
  constructor(owner: Owner, b: Beginning) {
    this.#owner = owner;
    this.jobId = b.jobId;
    this.key = b.key;
    this.#maxLength = b.maxLength;
    this.#query = b.query ?? "";
    this.#state = b.state ?? "sending";
    this.#seq = b.seq ?? 0;
    this.#attempt = b.attempt ?? 0;
    this.#text = b.text ?? "";
    this.#deltas = [...(b.deltas ?? [])];
    this.#length = this.#text.length + this.#deltas.reduce((n, d) => n + sizeOf(d), 0);
    this.#provider = b.provider ?? "";
    this.#model = b.model ?? "";
    let settle!: Settle;
    this.done = new Promise((resolve, reject) => (settle = { resolve, reject }));
    this.done.catch(() => {}); // who only iterates hears of the error there
    this.#settle = settle;
  }

  /** What was asked, as far as it is known. */
  get query(): string { return this.#query; }
  /** Where the job is. */
  get state(): State { return this.#state; }
  /** The text so far. */
  get text(): string { return this.#text; }
  /** The last frame that was seen: what `resume` takes as `lastSeq`. */
  get seq(): number { return this.#seq; }
  /** Which execution this is, from 1; 0 before the first. */
  get attempt(): number { return this.#attempt; }
  /** Who answers, once that is known. */
  get provider(): string { return this.#provider; }
  /** The model that answers, once that is known. */
  get model(): string { return this.#model; }
  /** Why there is no answer, or null. */
  get error(): SluiceError | null { return this.#error; }
  /** Whether nothing more comes. */
  get over(): boolean { return this.#state === "complete" || this.#state === "failed" || this.#state === "cancelled"; }

  /** Calls the listener at each event of the name, until the function that it returns is called. */
  on<E extends keyof AnswerEvents>(event: E, listener: (value: AnswerEvents[E]) => void): () => void {
    return this.#listeners.on(event, listener);
  }

  /** The text, from its beginning, as it arrives. Throws at the end if the answer is not whole. */
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    return this.#follow((at) => {
      const piece = this.#text.slice(at);
      return piece === "" ? [] : [piece, this.#text.length];
    });
  }

  /** Everything that is not text, from the beginning, as it arrives: reasoning, calls of tools, citations, images. */
  get deltas(): AsyncIterable<Delta> {
    return {
      [Symbol.asyncIterator]: () => this.#follow((at) => {
        const delta = this.#deltas[at];
        return delta === undefined ? [] : [delta, at + 1];
      }),
    };
  }

  /** The answer at this moment. The same object as long as nothing has changed. */
  snapshot(): Snapshot {
    return (this.#snapshot ??= Object.freeze({
      jobId: this.jobId,
      query: this.#query,
      state: this.#state,
      text: this.#text,
      deltas: (this.#frozen ??= Object.freeze([...this.#deltas])),
      attempt: this.#attempt,
      provider: this.#provider,
      model: this.#model,
      progress: this.#progress,
      result: this.#result,
      error: this.#error,
    }));
  }

  /**
   * Ends the job, wherever it is. Returns how it has ended: `cancelled`, unless its end came first. What had arrived
   * by then stays in `text`. Without a connection the job is cancelled when there is one again.
   */
  async cancel(): Promise<State> {
    if (!this.over) this.#owner.cancel(this);
    await this.done.catch(() => {});
    return this.#state;
  }

  async *#follow<T>(next: (at: number) => [] | [T, number]): AsyncGenerator<T, void, undefined> {
    for (let at = 0, epoch = this.#epoch; ; ) {
      if (epoch !== this.#epoch) {
        if (at > 0 && !this.#told) {
          throw new SluiceError("reset", "another attempt has begun, and what was given out so far is void: listen to \"reset\" to go on with it");
        }
        [at, epoch] = [0, this.#epoch];
      }
      const [value, after] = next(at);
      if (after !== undefined) {
        at = after;
        yield value as T;
      } else if (this.over) {
        if (this.#error) throw this.#error;
        return;
      } else {
        await new Promise<void>((wake) => this.#waiters.push(wake));
      }
    }
  }

  /**
   * Takes an event of the job. Returns false if frames before it are missing.
   * @internal
   */
  receive(event: JobEvent, d: Data): boolean {
    if (this.over || this.#settling) return true;
    const seq = number(d.seq);
    if (seq > 0) {
      if (seq <= this.#seq) return true; // seen
      // A merged frame stands for all from fromSeq on. One of which we have seen a part can't be cut: it is asked
      // for again, like one that comes too early.
      if ((number(d.fromSeq) || seq) !== this.#seq + 1) return false;
      this.#seq = seq;
    } else if (this.#seq > 0 && event !== "task:progress:v1") {
      return true; // a doubled publication without a number, beside the numbered ones
    }
    switch (event) {
      case "model:start:v1":
        if (d.reset === true) this.#reset("attempt");
        this.#state = "running";
        this.#attempt = number(d.attempt);
        this.#provider = text(d.provider);
        this.#model = text(d.model);
        this.#progress = null;
        this.#listeners.emit("start", { attempt: this.#attempt, provider: this.#provider, model: this.#model });
        break;
      case "model:chunk:v1":
        this.#state = "running";
        this.#append(text(d.chunk));
        break;
      case "model:delta:v1":
        this.#state = "running";
        this.#add(deltaFrom(d));
        break;
      case "task:progress:v1":
        this.#progress = progressFrom(d);
        if (d.status === "queued" && this.#state === "sending") this.#state = "queued";
        if (d.status === "limited" || d.status === "retrying") this.#state = "waiting"; // until the next attempt starts
        this.#listeners.emit("progress", this.#progress);
        break;
      case "model:complete:v1":
        this.#settling = true;
        void this.#verify(d);
        break;
      case "model:error:v1":
        this.fail(errorFrom(d));
        return true;
      case "task:cancelled":
        if (typeof d.text === "string") this.#adopt(d.text);
        this.fail(new SluiceError("cancelled", "the job was cancelled"), "cancelled");
        return true;
    }
    if (this.#length > this.#maxLength) {
      this.fail(new SluiceError("too_long", `the answer is longer than ${this.#maxLength} characters (maxLength)`));
      return true;
    }
    this.#changed();
    return true;
  }

  /** What the gateway says of the job beside its frames.
   * @internal */
  learn(news: { query?: string; state?: string }): void {
    if (news.query && !this.#query) this.#query = news.query;
    if (this.#state === "sending" || (news.state === "waiting" && !this.over)) {
      this.#state = news.state === "running" || news.state === "waiting" ? news.state : "queued";
    }
    this.#changed();
  }

  /** Begins again from the first frame.
   * @internal */
  rewind(reason: Reset["reason"]): void {
    this.#seq = 0;
    this.#reset(reason);
    this.#changed();
  }

  /** Ends the answer without a result.
   * @internal */
  fail(error: SluiceError, state: "failed" | "cancelled" = "failed"): void {
    if (this.over) return;
    this.#state = state;
    this.#error = error;
    this.#progress = null;
    this.#settle.reject(error);
    this.#listeners.emit("error", error);
    this.#changed();
  }

  /** @internal */
  saved(): Omit<Saved, "user" | "created" | "request"> {
    return {
      jobId: this.jobId, query: this.#query, ...(this.key === undefined ? {} : { key: this.key }), state: this.#state,
      seq: this.#seq, attempt: this.#attempt, text: this.#text, deltas: this.#deltas, provider: this.#provider, model: this.#model,
    };
  }

  /** Characters of text and deltas.
   * @internal */
  get length(): number { return this.#length; }

  /** Compares what has arrived with what the host has sent. The whole text is in the last frame: it repairs what differs, if it fits the digest itself. */
  async #verify(d: Data): Promise<void> {
    const want = text(d.digest).toLowerCase();
    let whole = this.#text, fits = true;
    if (want === "") {
      if (typeof d.text === "string") whole = d.text;
    } else {
      fits = (await digest(whole)) === want;
      if (!fits && typeof d.text === "string") {
        whole = d.text;
        fits = (await digest(whole)) === want;
      }
    }
    this.#settling = false;
    if (this.over) return; // closed meanwhile
    if (fits) {
      this.#adopt(whole);
      this.#complete(d, want !== "");
    } else if (!this.#replayed) {
      this.#replayed = true;
      this.rewind("digest");
      this.#owner.again(this);
    } else {
      this.fail(new SluiceError("digest_mismatch", "what arrived is not what the host has sent, and asking again did not help"));
    }
  }

  #complete(d: Data, verified: boolean): void {
    this.#result = resultFrom(d, this.#text, verified, { provider: this.#provider, model: this.#model, attempt: this.#attempt });
    this.#provider = this.#result.provider;
    this.#model = this.#result.model;
    this.#attempt = this.#result.attempt;
    this.#state = "complete";
    this.#progress = null;
    this.#settle.resolve(this.#result);
    this.#listeners.emit("complete", this.#result);
    this.#changed();
  }

  /** Takes a text for the whole one. */
  #adopt(whole: string): void {
    if (!whole.startsWith(this.#text)) this.#reset("digest", this.#deltas);
    this.#append(whole.slice(this.#text.length));
  }

  #append(piece: string): void {
    if (piece === "") return;
    this.#text += piece;
    this.#length += piece.length;
    this.#listeners.emit("text", piece);
  }

  #add(delta: Delta): void {
    this.#deltas.push(delta);
    this.#frozen = null;
    this.#length += sizeOf(delta);
    this.#listeners.emit("delta", delta);
  }

  #reset(reason: Reset["reason"], keep: Delta[] = []): void {
    const dropped = this.#text;
    const before = this.#deltas;
    this.#text = "";
    this.#deltas = [...keep];
    this.#frozen = null;
    this.#length = keep.reduce((n, d) => n + sizeOf(d), 0);
    if (dropped === "" && before.length === keep.length) return;
    this.#epoch++;
    this.#told = this.#listeners.heard("reset");
    this.#listeners.emit("reset", { reason, dropped });
  }

  #changed(): void {
    this.#snapshot = null;
    this.#owner.changed(this);
    this.#listeners.emit("change", undefined);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}

function sizeOf(delta: Delta): number {
  let size = 16;
  for (const v of Object.values(delta)) size += typeof v === "string" ? v.length : isObject(v) || Array.isArray(v) ? JSON.stringify(v).length : 0;
  return size;
}
