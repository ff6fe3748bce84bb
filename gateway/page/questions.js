// Questions as the page knows them, each with a column for every model that was
// asked, and the history that keeps them over a reload.

import { Parts } from "./parts.js";

const over = new Set(["complete", "failed", "cancelled"]);

// Failures of the way to the gateway: the job itself may go on, and does so
// here after a resume.
export const detached = new Set(["offline", "closed", "unauthorized", "protocol", "digest_mismatch"]);

// Statuses of a progress that say why nothing comes; others count what has come.
const told = new Set(["queued", "waiting", "limited", "retrying"]);

// Column is one job: what one model says to the question.
export class Column {
  constructor(kept) {
    this.jobId = kept.jobId;
    this.model = kept.model ?? ""; // that was asked for
    this.state = kept.state ?? "sending"; // then queued, running, waiting, complete, failed, cancelled
    this.text = kept.text ?? "";
    this.parts = Array.isArray(kept.deltas) ? Parts.of(kept.deltas) : Parts.from(kept.parts);
    this.attempt = kept.attempt ?? 0;
    this.provider = kept.provider ?? "";
    this.served = kept.served ?? "";
    this.dropped = kept.dropped ?? ""; // why earlier text was dropped: attempt, lost, digest
    this.thought = kept.thought ?? null; // {from, ms}: how long it reasoned, as seen here
    this.error = kept.error ?? null; // {code, message, fault, retryable, until}
    this.result = kept.result ?? null;
    this.elsewhere = kept.elsewhere === true; // the text was too long to be kept here
    this.note = "";
    this.position = 0; // in the queue, from 1; 0 is unknown
    this.answer = null; // of the client, while it is followed
  }

  get over() { return over.has(this.state); }

  // resumable: the gateway may have more of it than is shown.
  get resumable() { return this.over && !this.live && (this.elsewhere || (this.state === "failed" && detached.has(this.error?.code))); }

  get live() { return this.answer !== null && !this.over; }

  // follow takes over what an answer of the client says. changed is called after
  // each change.
  follow(answer, changed) {
    this.stop?.();
    this.answer = answer;
    this.error = null;
    this.elsewhere = false;
    const ends = [
      answer.on("delta", (d) => {
        this.note = "";
        this.parts.add(d);
        if (d.kind === "reasoning") this.thought ??= { from: Date.now(), ms: 0 };
        else this.#thoughtEnds();
      }),
      answer.on("text", () => {
        this.note = "";
        this.#thoughtEnds();
      }),
      answer.on("reset", (r) => {
        this.dropped = r.reason;
        this.parts = Parts.of(answer.snapshot().deltas);
        this.thought = null;
      }),
      answer.on("progress", (p) => {
        this.note = told.has(p.status) ? p.message : "";
        this.position = p.position ?? 0;
      }),
      answer.on("start", () => (this.note = "")),
      answer.on("complete", (r) => {
        const { tokens, usage, duration, finishReason, timings, verified } = r;
        this.result = { tokens, usage, duration, finishReason, timings, verified };
      }),
      answer.on("change", () => {
        this.#look();
        changed(this);
      }),
    ];
    this.stop = () => ends.forEach((end) => end());
    this.#look();
  }

  #look() {
    const a = this.answer;
    this.state = a.state;
    this.text = a.text;
    this.attempt = a.attempt;
    this.provider = a.provider || this.provider;
    this.served = a.model && a.attempt ? a.model : this.served;
    if (a.state === "sending") this.note = "";
    if (!a.over) return;
    this.#thoughtEnds();
    this.note = "";
    if (a.state === "failed" && !this.error) {
      const { code, message, fault, retryable, retryAfterMs } = a.error;
      this.error = { code, message, fault, retryable, until: retryAfterMs ? Date.now() + retryAfterMs : 0 };
    }
  }

  #thoughtEnds() {
    if (this.thought && !this.thought.ms) this.thought.ms = Math.max(1, Date.now() - this.thought.from);
  }

  // kept is what the history keeps of a column: for one that has ended all of it,
  // else what the client doesn't keep itself.
  kept() {
    const { jobId, model, attempt, provider, served, dropped, thought } = this;
    if (!this.over) return { dropped, thought, asked: model };
    const { state, text, parts, error, result } = this;
    return { jobId, model, attempt, provider, served, dropped, thought, state, text, parts, error, result };
  }
}

// Question is what was asked, of one or more models.
export class Question {
  constructor({ id, user, created, query, params }) {
    this.id = id;
    this.user = user ?? "";
    this.created = created ?? Date.now();
    this.query = query ?? "";
    this.params = params ?? null;
    this.columns = [];
  }

  get over() { return this.columns.every((c) => c.over); }

  // state sums up the columns.
  get state() {
    const states = this.columns.map((c) => c.state);
    for (const s of ["running", "waiting", "queued", "sending", "failed", "complete"]) if (states.includes(s)) return s;
    return "cancelled";
  }

  // put adds a column, or takes it in place of an earlier try of the same model.
  put(column) {
    const place = placeOf(column.jobId).place;
    const at = this.columns.findIndex((c) => placeOf(c.jobId).place >= place);
    if (at < 0) this.columns.push(column);
    else this.columns.splice(at, placeOf(this.columns[at].jobId).place === place ? 1 : 0, column);
  }

  meta() {
    const { id, user, created, query, params } = this;
    return { id, user, created, query, params, columns: this.columns.map(({ jobId, model }) => ({ jobId, model })) };
  }
}

// The jobs of one question have ids that tell so, to other tabs, too:
// web-QUESTION.COLUMN, and .TRY after the first.
export function newQuestionID() {
  return "web-" + Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export const jobID = (question, place, tried = 1) => `${question}.${place}` + (tried > 1 ? "." + tried : "");

export function placeOf(jobId) {
  const m = /^(web-[0-9a-f]{24})\.(\d{1,2})(?:\.(\d{1,3}))?$/.exec(jobId);
  return m ? { question: m[1], place: Number(m[2]), tried: Number(m[3] ?? 1) } : { question: jobId, place: 1, tried: 1 };
}

// Bounds of what is kept in the browser.
const maxQuestions = 60;
const maxLength = 2_000_000; // characters
const maxQuery = 1_000_000; // a longer one is in this tab only
const maxAnswer = 250_000;
const questionKey = "sluice.question.";
const jobKey = "sluice.job.";

// History keeps the questions of this browser in its local storage, which its
// tabs share: a small entry for each question, one for each job. Jobs that have
// not ended are kept by the client through `answers`.
export class History {
  constructor(storage) {
    this.storage = storage;
    this.questions = new Map();
    this.unfinished = []; // as the client has kept them
    this.answers = {
      load: () => this.unfinished,
      save: (saved) => this.#save(saved),
      remove: () => {}, // whoever ends is kept with its answer, see keep
    };
    this.#load();
  }

  #load() {
    const jobs = new Map();
    for (const [key, value] of this.#entries()) {
      if (key.startsWith(questionKey) && typeof value.id === "string" && typeof value.query === "string" && Array.isArray(value.columns)) {
        this.questions.set(value.id, Object.assign(new Question(value), { listed: value.columns }));
      } else if (key.startsWith(jobKey) && jobKey + value.jobId === key) jobs.set(value.jobId, value);
    }
    for (const q of this.questions.values()) {
      for (const { jobId, model } of q.listed) {
        const kept = jobs.get(jobId);
        if (typeof jobId === "string") q.put(this.#column(jobId, String(model ?? ""), kept));
        jobs.delete(jobId);
      }
      delete q.listed;
      if (q.columns.length === 0) this.questions.delete(q.id);
    }
    for (const jobId of jobs.keys()) this.#try((s) => s.removeItem(jobKey + jobId)); // of questions that are forgotten
  }

  #column(jobId, model, kept) {
    if (kept && fitsClient(kept) && !over.has(kept.state)) {
      this.unfinished.push(kept);
      return new Column({ ...kept, ...kept.page, model, served: kept.attempt ? kept.model : "" });
    }
    if (kept && over.has(kept.state) && typeof kept.text === "string") return new Column({ ...kept, jobId, model });
    return new Column({ jobId, model, state: "complete", elsewhere: true });
  }

  // of lists the questions of a user, newest first.
  of(user) {
    return [...this.questions.values()].filter((q) => !q.user || !user || q.user === user).sort((a, b) => b.created - a.created);
  }

  find(jobId) {
    const q = this.questions.get(placeOf(jobId).question);
    return q?.columns.find((c) => c.jobId === jobId);
  }

  // add keeps a question, also one that has changed.
  add(q) {
    this.questions.set(q.id, q);
    if (q.query.length <= maxQuery) this.#set(questionKey + q.id, q.meta());
    this.#trim();
  }

  // keep keeps a column that has ended.
  keep(column) {
    const kept = column.kept();
    if (kept.text.length > maxAnswer || !this.#set(jobKey + column.jobId, kept)) this.#try((s) => s.removeItem(jobKey + column.jobId));
    this.#trim();
  }

  remove(q) {
    this.questions.delete(q.id);
    this.#try((s) => s.removeItem(questionKey + q.id));
    for (const c of q.columns) this.#try((s) => s.removeItem(jobKey + c.jobId));
  }

  drop(jobId) {
    this.#try((s) => s.removeItem(jobKey + jobId));
  }

  // forgotten takes note of what another tab has removed, by its storage event.
  forgotten(key, value) {
    if (value !== null || !key?.startsWith(questionKey)) return null;
    const q = this.questions.get(key.slice(questionKey.length));
    if (!q || !q.over) return null;
    this.questions.delete(q.id);
    return q;
  }

  #save(saved) {
    const column = this.find(saved.jobId);
    if (!column || column.over) return;
    if (!this.#set(jobKey + saved.jobId, { ...saved, page: column.kept() })) throw new Error("the storage is full");
  }

  // trim forgets the oldest questions that have ended when there is too much.
  #trim() {
    let length = 0, count = 0;
    for (const q of this.of("")) {
      if (q.query.length <= maxQuery) length += q.columns.reduce((n, c) => n + c.text.length + c.parts.reasoning.length + 500, q.query.length);
      count++;
      if ((count > maxQuestions || length > maxLength) && count > 1 && q.over) this.remove(q);
    }
  }

  #set(key, value) {
    return this.#try((s) => (s.setItem(key, JSON.stringify(value)), true)) === true;
  }

  *#entries() {
    const keys = this.#try((s) => Array.from({ length: s.length }, (_, i) => s.key(i))) ?? [];
    for (const key of keys) {
      if (!key?.startsWith("sluice.")) continue;
      try {
        const value = JSON.parse(this.storage.getItem(key));
        if (value !== null && typeof value === "object") yield [key, value];
      } catch {
        // Not ours, or broken: left alone.
      }
    }
  }

  #try(use) {
    try {
      return use(this.storage);
    } catch {
      return undefined; // full or forbidden: the page works without, only a reload forgets
    }
  }
}

// fitsClient checks what the client takes back.
function fitsClient(k) {
  return ["user", "query", "state", "text", "provider", "model"].every((f) => typeof k[f] === "string") &&
    ["created", "seq", "attempt"].every((f) => typeof k[f] === "number" && k[f] >= 0) && Array.isArray(k.deltas) &&
    k.deltas.every((d) => d !== null && typeof d === "object");
}
