// A job as the page knows it, and the shelf that keeps jobs over a reload.

export const eventNames = [
  "model:start:v1", "model:chunk:v1", "model:delta:v1", "model:complete:v1",
  "model:error:v1", "task:progress:v1", "task:cancelled",
];

const over = new Set(["complete", "failed", "cancelled"]);

// Fields that are kept. All of them are plain data.
const kept = [
  "id", "user", "query", "model", "params", "created", "state", "seq", "attempt", "text", "reasoning", "extras",
  "provider", "served", "note", "error", "tokens", "usage", "duration", "finishReason", "timings", "verified",
];

export class Job {
  constructor(fields) {
    this.created = Date.now();
    this.state = "sending"; // then queued, running, complete, failed or cancelled
    this.clear();
    for (const k of kept) if (fields[k] !== undefined) this[k] = fields[k];
  }

  clear() {
    this.seq = 0; // of the last frame seen: where to go on after a cut
    this.attempt = 0;
    this.text = "";
    this.reasoning = "";
    this.extras = []; // tool calls, citations, images, refusals
    this.note = "";
    this.error = null;
    this.verified = null;
  }

  get done() { return over.has(this.state); }

  toJSON() { return Object.fromEntries(kept.map((k) => [k, this[k]])); }

  // apply takes one frame. It returns "gap" when frames before it are missing,
  // "old" when it was seen already, else "new".
  apply(event, d) {
    if (typeof d.seq === "number") {
      if (d.seq <= this.seq) return "old";
      if ((d.fromSeq ?? d.seq) > this.seq + 1) return "gap";
      this.seq = d.seq;
    }
    switch (event) {
      case "model:start:v1":
        if (d.reset) {
          this.text = "";
          this.reasoning = "";
          this.extras = [];
        }
        this.state = "running";
        this.attempt = d.attempt;
        this.provider = d.provider;
        this.served = d.model;
        this.note = "";
        break;
      case "model:chunk:v1":
        this.state = "running";
        this.text += d.chunk;
        break;
      case "model:delta:v1":
        this.state = "running";
        this.delta(d);
        break;
      case "task:progress:v1":
        if (!this.done) this.progress(d);
        break;
      case "model:complete:v1":
        this.state = "complete";
        this.streamed = this.text;
        Object.assign(this, {
          text: d.text ?? this.text, tokens: d.tokens, usage: d.usage, duration: d.duration, finishReason: d.finishReason,
          provider: d.provider ?? this.provider, served: d.model ?? this.served, timings: d.timings, note: "",
          attempt: d.attempt ?? this.attempt,
        });
        this.check(d.digest);
        break;
      case "model:error:v1":
        this.state = "failed";
        this.error = { code: d.code, message: d.message, retryable: d.retryable, fault: d.fault };
        break;
      case "task:cancelled":
        this.state = "cancelled";
        this.text = d.text ?? this.text;
        this.tokens = d.tokens;
        this.usage = d.usage;
        break;
    }
    return "new";
  }

  progress(d) {
    if (d.status === "queued" && this.state === "sending") this.state = "queued";
    this.note = this.text && d.status !== "waiting" ? "" : d.message || "";
  }

  delta(d) {
    if (d.kind === "reasoning") {
      this.reasoning += d.text ?? "";
      return;
    }
    if (d.kind === "refusal") {
      const last = this.extras.at(-1);
      if (last?.kind === "refusal") last.text += d.text ?? "";
      else this.extras.push({ kind: "refusal", text: d.text ?? "" });
      return;
    }
    if (d.kind === "tool_call") {
      let call = this.extras.findLast((e) => e.kind === "tool_call" && e.index === d.index && !e.end);
      if (!call) this.extras.push((call = { kind: "tool_call", index: d.index, name: "", arguments: "" }));
      call.name += d.name ?? "";
      call.arguments += d.arguments ?? "";
      call.end = d.end || undefined;
      return;
    }
    const { jobId, userId, attempt, seq, ...rest } = d;
    this.extras.push(rest);
  }

  // check compares the text with the host's digest, and what was streamed with
  // the text. Browsers offer SHA-256 to pages from https and localhost only.
  async check(digest) {
    if (this.streamed !== this.text) {
      this.verified = "repaired";
      return;
    }
    if (!digest || !globalThis.crypto?.subtle) return;
    const text = this.text;
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
    const hex = Array.from(sum, (b) => b.toString(16).padStart(2, "0")).join("");
    this.verified = hex === digest.toLowerCase().replace(/^sha-?256[:=]/, "") ? "equal" : "different";
    this.checked?.();
  }
}

// Bounds of what is kept in the browser.
const maxJobs = 50;
const maxBytes = 2_000_000;
const key = "sluice.jobs.v1";

// Shelf holds the jobs of this browser, newest first. Tabs share the storage;
// each writes what it knows and leaves the rest as it is.
export class Shelf {
  constructor() {
    this.jobs = new Map();
    this.timer = 0;
    for (const fields of read()) this.jobs.set(fields.id, new Job(fields));
    addEventListener("pagehide", () => this.write());
    document.addEventListener("visibilitychange", () => document.hidden && this.write());
  }

  // of lists the jobs of a user, newest first.
  of(user) {
    return [...this.jobs.values()].filter((j) => !j.user || j.user === user).sort((a, b) => b.created - a.created);
  }

  add(job) {
    this.jobs.set(job.id, job);
    this.write();
  }

  remove(job) {
    this.jobs.delete(job.id);
    this.write(job.id);
  }

  // save writes soon; a stream of chunks is written once a second.
  save() {
    if (!this.timer) this.timer = setTimeout(() => this.write(), 1000);
  }

  write(...removed) {
    clearTimeout(this.timer);
    this.timer = 0;
    const all = new Map(read().filter((f) => f && !removed.includes(f.id)).map((f) => [f.id, f]));
    for (const [id, job] of this.jobs) {
      const other = all.get(id);
      if (!other || (job.seq ?? 0) >= (other.seq ?? 0)) all.set(id, job.toJSON());
    }
    const newest = [...all.values()].sort((a, b) => b.created - a.created).slice(0, maxJobs);
    let size = 0;
    const fitting = newest.filter((f) => (size += JSON.stringify(f).length) < maxBytes);
    try {
      localStorage.setItem(key, JSON.stringify(fitting));
    } catch {
      // Full or forbidden: the page works without, only a reload forgets.
    }
  }
}

function read() {
  try {
    const list = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(list) ? list.filter((f) => f && typeof f.id === "string") : [];
  } catch {
    return [];
  }
}

// newID makes a job id. The client names its jobs, so that a start can be
// repeated without asking twice.
export function newID() {
  return "web-" + Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}
