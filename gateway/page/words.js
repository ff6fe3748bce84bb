// What the page says about an answer, in words and figures.

import { detached } from "./questions.js";

export const ms = (n) => (n < 1000 ? `${Math.round(n)} ms` : n < 60_000 ? `${(n / 1000).toFixed(n < 10_000 ? 2 : 1)} s` : `${Math.floor(n / 60_000)} min ${Math.round((n % 60_000) / 1000)} s`);

const seconds = (n) => (n < 1000 ? "under 1 s" : n < 60_000 ? `${Math.round(n / 1000)} s` : `${Math.floor(n / 60_000)} min ${Math.round((n % 60_000) / 1000)} s`);

const sentence = (s) => s.charAt(0).toUpperCase() + s.slice(1);

const count = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;

export const wordsIn = (text) => text.trim().split(/\s+/).filter(Boolean).length;

const partings = {
  too_slow: "The connection was too slow for what it had to carry.",
  too_many_connections: "You have too many connections open: close another tab.",
  unavailable: "The gateway can't be used now.",
  unauthorized: "The gateway doesn't let us in.",
};

// lost says why there is no connection, by what the client knows of it.
export const lost = (trouble) => (partings[trouble?.code] ?? "There is no connection now.") + (trouble?.code === "unauthorized" ? "" : " It is tried again.");

// status says what is waited for, "" when there is nothing to say. lost is why
// there is no connection, "" if there is one.
export function status(c, lost) {
  if (c.over || c.elsewhere) return "";
  if (lost) return lost + " The answer goes on when it is back.";
  if (c.cancelling) return "Cancelling";
  switch (c.state) {
    case "sending": return "Sending the question";
    case "queued": return sentence(c.note || "waiting for a host");
    case "waiting": return sentence(c.note || "waiting for another attempt");
  }
  if (c.note) return sentence(c.note);
  if (c.text) return "";
  return c.parts.empty ? "Waiting for the first words" : "";
}

// attempts says what became of earlier attempts.
export function attempts(c) {
  switch (c.dropped) {
    case "attempt": return `Attempt ${c.attempt}: the one before broke off, and this one began again.`;
    case "lost": return "The gateway had lost the beginning: this is what it has now.";
    case "digest": return "What had arrived was damaged: it was fetched again.";
  }
  return c.attempt > 1 ? `Attempt ${c.attempt}: it goes on where the one before broke off.` : "";
}

// reasoning sums up how long and how much it thought.
export function reasoning(c, now) {
  const thinking = !c.over && !c.text && (!c.thought || !c.thought.ms);
  const size = count(wordsIn(c.parts.reasoning), "word");
  if (thinking) return ["Thinking", c.thought && seconds(now - c.thought.from), size].filter(Boolean).join(" · ");
  const time = c.thought?.ms >= 100 ? seconds(c.thought.ms) : "";
  return [time ? "Thought for " + time : "Reasoning", size].join(" · ");
}

const titles = {
  rate_limited: "Too many questions", too_many_jobs: "Too many answers under way", too_many_connections: "Too many connections",
  limit_reached: "Too much at once", unknown_model: "No host serves this model", not_found: "This answer can't be had any more",
  unauthorized: "The gateway doesn't let us in", offline: "The connection stayed away", query_too_long: "The question is too long",
  request_too_large: "The question is too large", digest_mismatch: "What arrived is damaged", protocol: "A part is missing",
  unavailable: "Not available now", limited: "The provider is receiving too many requests", truncated: "The answer broke off", too_long: "The answer is too long for this page",
};
const faults = { upstream: "The provider's service failed", plugin: "The provider's plugin failed", host: "Sluice failed", caller: "The request was not accepted" };

// failure tells why there is no whole answer: {title, lines, code, action, wait}.
// action is what may help: "resume", "again" or "". wait is in ms.
export function failure(c, now) {
  if (c.state === "cancelled") return { calm: true, title: "Cancelled", lines: [c.text ? "This is what had arrived by then." : "Nothing had arrived by then."], code: "", action: "again", wait: 0 };
  if (c.state !== "failed") return null;
  const e = c.error ?? { code: "internal", message: "" };
  const lines = [sentence(e.message || "")];
  if (detached.has(e.code)) lines.push("The answer itself may go on: resume it to see.");
  else if (c.text) lines.push("What is shown above is not the whole answer.");
  const wait = Math.max(0, (e.until || 0) - now);
  const action = detached.has(e.code) ? "resume" : "again";
  return { calm: false, title: titles[e.code] ?? faults[e.fault] ?? "There is no answer", lines: lines.filter(Boolean), code: e.code, retryable: e.retryable, action, wait };
}

// oversized says that a question was not sent, by the client's error.
export const oversized = (e) => `${titles.request_too_large}: ${e.message}.`;

// callState says of a call that isn't whole what it waits for. Where the answer is
// whole, so are its calls, also those that end without a word.
export function callState(call, c) {
  if (call.end || c.result && !cut(c)) return "";
  return c.over ? "cut off" : "arriving";
}

// cut says that a model was stopped before it had said all: the answer is whole as
// it was given, and yet not the whole.
export function cut(c) {
  if (c.state !== "complete") return "";
  switch (c.result?.finishReason) {
    case "length": return "The model came to the end of its tokens: this may not be all it had to say.";
    case "content_filter": return "The provider's filter stopped the answer here.";
  }
  return "";
}

// again labels the button that asks again.
export const again = (wait) => (wait > 0 ? `Try again in ${Math.ceil(wait / 1000)} s` : "Ask again");

// spans are the parts of an answer's time: {kind, name, ms}.
export function spans(c) {
  const t = c.result?.timings;
  if (!t) return [];
  const first = Math.min(t.firstChunk || t.total, t.total);
  return [{ kind: "queued", name: "queued", ms: t.queued }, { kind: "first", name: "first chunk", ms: first }, { kind: "stream", name: "streaming", ms: t.total - first }];
}

// facts tell how an answer was made: {name, value, tone, note}.
export function facts(c) {
  const r = c.result;
  const all = [];
  const add = (name, value, tone, note) => value && all.push({ name, value: String(value), tone, note });
  if (!r) return all;
  add("time", ms(r.duration));
  const u = r.usage;
  if (u) add("tokens", `${u.input} in, ${u.output} out` + (u.reasoning ? `, ${u.reasoning} reasoning` : "") + (u.cacheRead ? `, ${u.cacheRead} cached` : "") + (u.doubtful ? ", doubtful" : ""), ...(u.doubtful ? ["doubtful", "The provider told counts that can't be: these are the most that can."] : []));
  else if (r.tokens) add("tokens", r.tokens);
  const streaming = r.timings ? r.timings.total - r.timings.firstChunk : 0;
  if (r.tokens && streaming > 50) {
    const speed = (r.tokens / streaming) * 1000;
    add("speed", `${speed.toFixed(speed < 100 ? 1 : 0)} tokens/s`);
  }
  add("finish", r.finishReason);
  add("digest", r.verified ? "verified" : "none sent", r.verified ? "good" : "");
  return all;
}

export const states = { sending: "sending", queued: "waiting", waiting: "waiting", running: "answering", complete: "complete", failed: "failed", cancelled: "cancelled" };

// queue says where a question stands that waits: its best place, if it is known.
export function queue(columns) {
  const places = columns.filter((c) => c.state === "queued" && c.position > 0).map((c) => c.position);
  return places.length ? `no. ${Math.min(...places).toLocaleString("en")} in the queue` : "";
}

// titleOf is a question in one line.
export const titleOf = (query) => query.trim().split("\n")[0].replace(/^#+\s+/, "") || "…";

// named lists models for a label.
export function named(models) {
  if (models.length <= 2) return models.map((m) => m || "default").join(" + ");
  return count(models.length, "model");
}

// when gives the time of today, else the day.
export function when(time, now) {
  const t = new Date(time);
  return t.toDateString() === new Date(now).toDateString() ? t.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : t.toLocaleDateString([], { day: "numeric", month: "short" });
}
