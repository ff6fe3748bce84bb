import { io, type Socket } from "socket.io-client";
import { Answer, type Owner } from "./answer.js";
import { SluiceError, errorFrom } from "./errors.js";
import { isObject, jobEvents, number, text, type Data, type Delta } from "./events.js";
import { forItsSize, onLimit, sizeOf, tooLarge } from "./limit.js";
import { Listeners } from "./listeners.js";
import type { ConnectOptions, Connection, Model, SluiceEvents } from "./options.js";
import { newJobId, payloadOf, type AskOptions, type Question } from "./questions.js";
import { Shelf } from "./shelf.js";
import { defaultStorage, type Saved } from "./storage.js";
import { cutFor, newTask, starts, type Task } from "./task.js";

// Bounds of what is held and tried.
const keptFinished = 100; // finished answers that `answers` still lists
const maxGaps = 6; // times that frames are asked for again without getting one
const maxRefusals = 5; // tokens in a row that the gateway doesn't accept

// Codes with which a gateway ends a connection that may be made again.
const partings = new Set<string>(["unavailable", "too_slow", "too_many_connections"]);

/**
 * A connection to a gateway, and the answers that come over it. Made by `connect`. A lost connection is made again
 * by itself, and every unfinished answer goes on where it was.
 */
export class Sluice {
  readonly #socket: Socket;
  readonly #options: ConnectOptions;
  readonly #listeners = new Listeners<SluiceEvents>();
  readonly #tasks = new Map<string, Task>(); // unfinished
  readonly #answers = new Map<string, Answer>();
  readonly #shelf: Shelf;
  readonly #owner: Owner;
  readonly #maxLength: number;
  #connection: Connection = "connecting";
  #turn = 0; // counts connections
  #limit = Infinity; // bytes of a message, says the gateway
  #user = "";
  #models: readonly Model[] = [];
  #defaultModel = "";
  #refusal: SluiceError | undefined; // why the last token was not accepted
  #refusals = 0;
  #trouble: SluiceError | undefined; // the last reason of a failed connection
  #away: ReturnType<typeof setInterval> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(url: string | undefined, options: ConnectOptions) {
    this.#options = options;
    this.#maxLength = options.maxLength ?? 16_000_000;
    this.#owner = {
      changed: (answer) => this.#changed(answer),
      cancel: (answer) => this.#cancel(answer),
      again: (answer) => this.#again(answer),
    };
    this.#shelf = new Shelf(options.storage === undefined ? defaultStorage() : options.storage);
    const socket = {
      path: options.path ?? "/socket.io/",
      transports: options.transports ?? ["websocket", "polling"],
      tryAllTransports: true,
      forceNew: true,
      autoConnect: false,
      reconnectionDelay: options.reconnect?.min ?? 500,
      reconnectionDelayMax: options.reconnect?.max ?? 10_000,
      auth: (give: (auth: object) => void) => void this.#authenticate(give),
    };
    this.#socket = url === undefined ? io(socket) : io(url, socket);
    onLimit(this.#socket.io, (limit) => (this.#limit = limit));
    this.#socket.on("disconnect", (reason, details) => this.#disconnected(reason, details));
    this.#socket.on("connect_error", (error) => this.#notConnected(error));
    this.#socket.on("connected", (hello) => this.#greeted(hello));
    this.#socket.on("models:v1", (news) => this.#listed(news));
    this.#socket.on("auth:expiring:v1", () => void this.#renew());
    this.#socket.on("error", (said) => this.#complained(said));
    this.#socket.on("job:started:v1", (d) => this.#started(d));
    for (const event of jobEvents) this.#socket.on(event, (d) => this.#frame(event, d));

    for (const saved of this.#shelf.load()) this.#restore(saved);
    this.#awayFor(options.giveUpAfter ?? 300_000);
    this.#socket.connect();
  }

  /** Whether there is a connection. */
  get connection(): Connection { return this.#connection; }
  /** Why there is no connection, as far as that is known: `unavailable` from a gateway that stops, `too_slow`, `too_many_connections`, `unauthorized`, else `offline`. Null while there is one, and before the first has failed. */
  get trouble(): SluiceError | null { return (this.#connection === "online" ? undefined : this.#refusal ?? this.#trouble) ?? null; }
  /** Who the gateway says we are; empty before the first connection. */
  get user(): string { return this.#user; }
  /** The models that are served; empty before the first connection. */
  get models(): readonly Model[] { return this.#models; }
  /** The model that answers if none is asked for. */
  get defaultModel(): string { return this.#defaultModel; }
  /** The answers of this client, oldest first: the unfinished, also those from before a page reload, and the last hundred that have ended. */
  get answers(): readonly Answer[] { return [...this.#answers.values()]; }

  /** Calls the listener at each event of the name, until the function that it returns is called. */
  on<E extends keyof SluiceEvents>(event: E, listener: (value: SluiceEvents[E]) => void): () => void {
    return this.#listeners.on(event, listener);
  }

  /** The newest answer that was asked for under the key, also before a page reload. */
  find(key: string): Answer | undefined {
    return [...this.#answers.values()].reverse().find((a) => a.key === key);
  }

  /** Asks. The answer begins at once, with the state `sending`; without a connection it is asked when there is one. A jobId that this client knows gives the answer that it has. */
  ask(question: string | Question, more: AskOptions = {}): Answer {
    const { payload, query, options } = payloadOf(question, more);
    const jobId = options.jobId ?? newJobId();
    const known = this.#answers.get(jobId);
    if (known) return known;
    const answer = new Answer(this.#owner, { jobId, query, key: options.key, maxLength: this.#maxLength, model: options.model ?? "" });
    const { signal } = options;
    if (signal?.aborted) {
      answer.fail(new SluiceError("cancelled", "cancelled before it was asked"), "cancelled");
      return answer;
    }
    this.#begin(answer, { ...payload, jobId });
    if (signal) {
      const abort = () => void answer.cancel();
      signal.addEventListener("abort", abort, { once: true });
      void answer.done.catch(() => {}).then(() => signal.removeEventListener("abort", abort));
    }
    return answer;
  }

  /** Why `ask` would fail at once: the question is too large for the gateway. Null if it isn't, or if its limit is not known before the first connection. */
  tooLarge(question: string | Question, more: AskOptions = {}): SluiceError | null {
    const { payload, options } = payloadOf(question, more);
    return this.#tooLarge([starts, { ...payload, jobId: options.jobId ?? newJobId() }]) ?? null;
  }

  /** Follows a job that exists: all of it, or what comes after `lastSeq`, where `text` (and `deltas`) is what came before. A job that this client knows gives the answer that it has. */
  resume(jobId: string, from: { lastSeq?: number; text?: string; deltas?: Delta[]; key?: string } = {}): Answer {
    const known = this.#answers.get(jobId);
    if (known && !(known.over && known.state !== "complete")) return known;
    const answer = new Answer(this.#owner, {
      jobId, key: from.key, maxLength: this.#maxLength, state: "queued", seq: from.lastSeq ?? 0, text: from.text ?? "", deltas: from.deltas ?? [],
    });
    this.#begin(answer, undefined);
    return answer;
  }

  /** Stops following everything, keeps what is unfinished for a later client, and hangs up. The jobs go on. */
  close(): void {
    if (this.#connection === "closed") return;
    this.#shelf.close();
    this.#failAll(new SluiceError("closed", "the client was closed before the answer was whole"));
    clearInterval(this.#away);
    clearTimeout(this.#retry);
    this.#socket.close();
    this.#is("closed");
  }

  // ---- answers ----

  #begin(answer: Answer, request: Data | undefined): void {
    this.#answers.delete(answer.jobId);
    this.#answers.set(answer.jobId, answer);
    if (this.#connection === "closed") {
      answer.fail(new SluiceError("closed", "the client is closed"));
      return;
    }
    const task = this.#task(answer, request, false);
    this.#shelf.add(answer, () => task.request);
    if (this.#connection === "refused") this.#failAll(this.#refusal ?? new SluiceError("unauthorized", "the gateway doesn't let us in"));
    else this.#drive(task);
  }

  #task(answer: Answer, request: Data | undefined, sent: boolean): Task {
    const task = newTask(answer, request, sent);
    this.#tasks.set(answer.jobId, task);
    return task;
  }

  #restore(saved: Saved): void {
    const { request, user, created, ...state } = saved;
    const answer = new Answer(this.#owner, { ...state, maxLength: this.#maxLength });
    this.#answers.set(answer.jobId, answer);
    const task = this.#task(answer, request, true);
    this.#shelf.add(answer, () => task.request, { user, created });
  }

  #changed(answer: Answer): void {
    const task = this.#tasks.get(answer.jobId);
    if (!task || task.answer !== answer) return;
    if (!answer.over) {
      this.#shelf.changed(answer);
      return;
    }
    clearTimeout(task.timer);
    this.#tasks.delete(answer.jobId);
    this.#shelf.remove(answer);
    const finished = [...this.#answers.values()].filter((a) => a.over);
    for (const a of finished.slice(0, Math.max(0, finished.length - keptFinished))) this.#answers.delete(a.jobId);
  }

  #failAll(error: SluiceError): void {
    for (const { answer } of [...this.#tasks.values()]) answer.fail(error);
  }

  /** Does what is next for an answer: ask, follow or cancel. One event at a time; the ack or its absence leads on. */
  #drive(task: Task): void {
    const { answer } = task;
    if (this.#connection !== "online" || answer.over || task.busy === this.#turn) return;
    if (task.cancel && task.request && !task.sent) {
      answer.fail(new SluiceError("cancelled", "cancelled before it was asked"), "cancelled");
      return;
    }
    clearTimeout(task.timer);
    const turn = (task.busy = this.#turn);
    task.missed = false;
    const { jobId, seq } = answer;
    const then = (handle: (ack: Data) => void) => (ack: Data | null) => {
      if (ack) task.way = 0;
      if (answer.over || this.#turn !== turn) return; // another connection has taken over
      task.busy = 0;
      if (ack?.ok === true) {
        task.tries = 0;
        handle(ack);
        if (task.cancel) this.#sendCancel(task);
      } else this.#denied(task, ack);
    };
    if (!task.request) {
      this.#emit("job:resume:v1", { jobId, lastSeq: seq }, then((ack) => this.#followed(task, seq, ack)));
    } else if (task.cancel) {
      this.#emit("task:cancel:v1", { jobId }, then((ack) => this.#accepted(task, ack)));
    } else {
      task.sent = true;
      task.way = turn;
      this.#emit(starts, task.request, then((ack) => this.#accepted(task, ack)));
    }
  }

  /** The job exists. */
  #accepted(task: Task, ack: Data): void {
    task.request = undefined;
    this.#shelf.changed(task.answer);
    task.answer.learn({ state: text(ack.status) || text(ack.state) });
    if (task.missed || task.cancel) this.#drive(task);
  }

  /** The job is followed from the frame after seq on. */
  #followed(task: Task, seq: number, ack: Data): void {
    if (number(ack.seq) < seq) task.answer.rewind("lost"); // by the store: take what it has
    else task.answer.learn({ state: text(ack.state) });
    if (task.answer.seq < seq) this.#drive(task); // or by us, meanwhile
  }

  #denied(task: Task, ack: Data | null): void {
    const error = ack ? errorFrom(ack.error) : new SluiceError("unavailable", "the gateway said nothing in time");
    if (error.code === "not_found" && task.cancel && task.request) {
      task.answer.fail(new SluiceError("cancelled", "cancelled before it was accepted"), "cancelled");
    } else if (error.code === "unavailable") this.#later(task, error);
    else task.answer.fail(error);
  }

  #later(task: Task, error?: SluiceError): void {
    clearTimeout(task.timer);
    const pause = Math.min(250 * 2 ** task.tries++, 10_000) * (0.75 + Math.random() / 2);
    task.timer = setTimeout(() => this.#drive(task), Math.max(pause, error?.retryAfterMs ?? 0));
  }

  #cancel(answer: Answer): void {
    const task = this.#tasks.get(answer.jobId);
    if (!task || task.cancel) return;
    task.cancel = true;
    if (task.request) this.#drive(task); // or after the ack that it waits for
    else this.#sendCancel(task);
  }

  /** Cancels a job that exists. The receipt comes as a frame. */
  #sendCancel(task: Task): void {
    if (this.#connection !== "online") return; // done when the job is followed again
    const turn = this.#turn;
    this.#emit("task:cancel:v1", { jobId: task.answer.jobId }, (ack) => {
      if (task.answer.over || turn !== this.#turn || ack?.ok === true) return;
      const error = ack ? errorFrom(ack.error) : new SluiceError("unavailable", "");
      if (error.code !== "unavailable") task.answer.fail(error);
      else task.timer = setTimeout(() => this.#sendCancel(task), 1000);
    });
  }

  #again(answer: Answer): void {
    const task = this.#tasks.get(answer.jobId);
    if (!task) return;
    task.missed = true;
    this.#drive(task);
  }

  // ---- what comes ----

  #frame(event: (typeof jobEvents)[number], d: unknown): void {
    const task = isObject(d) ? this.#tasks.get(text(d.jobId)) : undefined;
    if (!task) return;
    const before = task.answer.seq;
    if (task.answer.receive(event, d as Data)) {
      if (task.answer.seq > before) task.gaps = 0;
      return;
    }
    task.missed = true;
    if (task.busy === this.#turn) return; // what is missing has been asked for
    if (++task.gaps > maxGaps) task.answer.fail(new SluiceError("protocol", `frames after ${before} are missing, and asking again did not help`));
    else if (task.gaps === 1) this.#drive(task);
    else this.#later(task);
  }

  #started(d: unknown): void {
    if (!isObject(d) || typeof d.jobId !== "string") return;
    const known = this.#answers.get(d.jobId);
    if (known) {
      if (!known.over) known.learn({ query: text(d.query) });
      return;
    }
    if (!this.#listeners.heard("answer")) return;
    const answer = new Answer(this.#owner, { jobId: d.jobId, query: text(d.query), state: "queued", maxLength: this.#maxLength, model: text(d.model) });
    this.#answers.set(answer.jobId, answer);
    this.#task(answer, undefined, true); // its frames come to us as to every tab of its owner
    this.#listeners.emit("answer", answer);
  }

  #complained(said: unknown): void {
    const error = errorFrom(said);
    const task = isObject(said) ? this.#tasks.get(text(said.jobId)) : undefined;
    if (task) task.answer.fail(error);
    else if (error.code === "unauthorized") this.#refusal = error; // it hangs up next
    else if (partings.has(error.code)) this.#trouble = error; // so it does
    else this.#listeners.emit("problem", error);
  }

  #listed(news: unknown): void {
    if (!isObject(news)) return;
    if (typeof news.defaultModel === "string") this.#defaultModel = news.defaultModel;
    if (!Array.isArray(news.models)) return;
    this.#models = news.models as Model[];
    this.#listeners.emit("models", this.#models);
  }

  // ---- the connection ----

  /** Sends an event. then gets the ack at once, before any event that comes after it, or null: there was none in time. What is too large is refused here, as the gateway would if it could read it. */
  #emit(event: string, payload: Data, then: (ack: Data | null) => void): void {
    const error = this.#tooLarge([event, payload]);
    if (error) return then({ ok: false, error });
    this.#socket.timeout(this.#options.ackTimeout ?? 10_000).emit(event, payload, (late: Error | null, ack: unknown) => {
      then(!late && isObject(ack) ? ack : null);
    });
  }

  #tooLarge(data: unknown): SluiceError | undefined {
    if (this.#limit === Infinity) return undefined;
    const size = sizeOf(data);
    return size > this.#limit ? tooLarge(size, this.#limit) : undefined;
  }

  #is(connection: Connection): void {
    if (this.#connection === connection || this.#connection === "closed") return;
    this.#connection = connection;
    this.#listeners.emit("connection", connection);
  }

  /** The gateway has let us in and says who we are. Nothing is asked before: what another person has asked in this
   * browser is neither ours to show nor to ask in our name. */
  #greeted(hello: unknown): void {
    this.#turn++;
    this.#refusal = this.#trouble = undefined;
    this.#refusals = 0;
    this.#user = isObject(hello) ? text(hello.userId) : "";
    for (const jobId of this.#shelf.signedIn(this.#user)) {
      const answer = this.#tasks.get(jobId)?.answer;
      answer?.rewind("lost");
      answer?.fail(new SluiceError("not_found", "somebody else has asked this"));
    }
    this.#listed(hello);
    this.#is("online");
    for (const task of [...this.#tasks.values()]) {
      task.tries = task.gaps = 0;
      this.#drive(task);
    }
  }

  #disconnected(reason: string, details: unknown): void {
    if (reason === "io client disconnect") return this.#is("offline"); // it was closed by us
    if (this.#connection !== "online" && forItsSize(details)) return this.#unfit("the connection was cut for its size"); // nothing else was sent
    const pause = this.#trouble?.retryAfterMs;
    const cut = this.#connection === "online" && !this.#trouble && reason.startsWith("transport");
    this.#trouble ??= new SluiceError("offline", `the connection was lost: ${reason}`);
    this.#is("offline");
    if (reason === "io server disconnect" && this.#refusal) this.#refused();
    else if (pause !== undefined) {
      this.#socket.disconnect(); // it would come back by itself, and not when the gateway says
      this.#connectAfter(pause);
    } else if (reason === "io server disconnect") this.#connectAfter(1000);
    if (cut) cutFor([...this.#tasks.values()], this.#turn, details);
  }

  #notConnected(error: Error & { data?: unknown }): void {
    const said = isObject(error.data) ? error.data : undefined;
    if (this.#socket.active) {
      this.#trouble = new SluiceError("offline", `no connection: ${error.message}`);
      this.#is("offline");
    } else if (said?.code === "unauthorized" || said?.code === "request_too_large" || /authentication/i.test(error.message)) {
      this.#refusal = errorFrom({ ...said, code: "unauthorized", message: error.message });
      this.#refused();
    } else {
      this.#trouble = errorFrom({ message: error.message, code: "unavailable", ...said });
      this.#is("offline");
      this.#connectAfter(this.#trouble.retryAfterMs ?? 2000);
    }
  }

  #connectAfter(pause: number): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#socket.connect(), pause);
  }

  /** The gateway doesn't accept our token: try another if there may be one. */
  #refused(): void {
    if (typeof this.#options.auth !== "function" || ++this.#refusals > maxRefusals) {
      this.#shelf.keep(); // who signs in again and reloads goes on
      this.#is("refused");
      this.#failAll(this.#refusal!);
      this.#shelf.forget();
      return;
    }
    this.#is("offline");
    this.#connectAfter(this.#refusals === 1 ? 0 : 1000 * this.#refusals);
  }

  async #credentials(refused?: SluiceError): Promise<object> {
    const { auth } = this.#options;
    const c = typeof auth === "function" ? await auth(refused) : auth;
    return typeof c === "string" ? { token: c } : (c ?? {});
  }

  async #authenticate(give: (auth: object) => void): Promise<void> {
    let credentials: object;
    try {
      credentials = await this.#credentials(this.#refusal);
    } catch (error) {
      this.#refusal = new SluiceError("unauthorized", `there is no token: ${error instanceof Error ? error.message : String(error)}`);
      this.#refusals = maxRefusals;
      this.#socket.disconnect();
      this.#refused();
      return;
    }
    if (this.#connection === "closed") return;
    const error = this.#tooLarge(credentials);
    if (!error) return give(credentials);
    this.#unfit(error.message);
  }

  #unfit(why: string): void {
    this.#refusal = new SluiceError("unauthorized", `the token is too large: ${why}`);
    this.#socket.disconnect(); // it would come back by itself
    this.#refused();
  }

  /** The session ends soon: give it a new token if there is one. Without, it is refused in its time. */
  async #renew(): Promise<void> {
    if (typeof this.#options.auth !== "function") return;
    try {
      const credentials = await this.#credentials(new SluiceError("unauthorized", "the token expires soon"));
      if (this.#connection !== "online") return; // the next handshake asks for credentials of its own
      this.#emit("auth:renew:v1", credentials as Data, (ack) => {
        if (ack && ack.ok !== true) this.#listeners.emit("problem", errorFrom(ack.error));
      });
    } catch (error) {
      this.#listeners.emit("problem", new SluiceError("unauthorized", `there is no new token: ${error instanceof Error ? error.message : String(error)}`));
    }
  }

  /** Counts the time without a connection in ticks, so that a computer's sleep doesn't count. */
  #awayFor(limit: number): void {
    if (!Number.isFinite(limit)) return;
    let ticks = 0;
    this.#away = setInterval(() => {
      ticks = this.#connection === "online" ? 0 : ticks + 1;
      if (ticks < 10) return;
      ticks = 0;
      this.#shelf.keep();
      this.#failAll(new SluiceError("offline", this.#trouble?.message ?? "there is no connection to the gateway"));
      this.#shelf.forget();
    }, limit / 10);
    (this.#away as { unref?: () => void }).unref?.(); // the socket keeps a process alive, not this
  }
}

/**
 * Connects to a gateway: the one at `url`, by default the page's own. Returns at once; the connection is made, and
 * made again, by itself. Unfinished answers from before a page reload are in `answers` already.
 */
export function connect(url?: string, options: ConnectOptions = {}): Sluice {
  return new Sluice(url, options);
}
