// One job on the stage: its text as it grows, what came beside it, how it ended
// and how it was made.

import { Growing } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const answer = new Growing($("answer"));

$("reasoning").querySelector("summary").addEventListener("click", () => ($("reasoning").dataset.touched = "yes"));

// clearStage makes room for another job.
export function clearStage() {
  answer.clear();
  $("reasoning-text").textContent = "";
  $("reasoning").open = false;
  $("reasoning").dataset.touched = "";
  $("tools").replaceChildren();
}

// showJob draws what has changed since the last call. online says whether the
// gateway is connected.
export function showJob(job, online) {
  $("job-query").textContent = job.query;
  $("status").textContent = statusLine(job, online);
  answer.set(job.text);
  $("answer").classList.toggle("live", !job.done && job.text !== "");
  showReasoning(job);
  showExtras(job);
  showFailure(job);
  showTimings(job);
  showFacts(job);
  $("actions").hidden = !job.done;
  $("copy").hidden = !job.text;
}

function statusLine(job, online) {
  if (job.done) return "";
  if (!online) return "The connection is away. The answer goes on when it is back.";
  switch (job.state) {
    case "sending": return job.note || "Sending the question";
    case "queued": return sentence(job.note || "waiting for a host");
  }
  if (job.note) return sentence(job.note);
  if (job.text) return "";
  return job.reasoning ? "Thinking" : "Waiting for the first words of " + (job.served || job.model || "the model");
}

const sentence = (s) => s.charAt(0).toUpperCase() + s.slice(1);

function showReasoning(job) {
  $("reasoning").hidden = !job.reasoning;
  if (!job.reasoning) return;
  const box = $("reasoning-text");
  if (box.textContent !== job.reasoning) box.textContent = job.reasoning;
  $("reasoning-size").textContent = job.text || job.done ? `· ${job.reasoning.trim().split(/\s+/).length} words` : "· thinking";
  // Open while there is nothing else to read, folded when the answer begins.
  if (!$("reasoning").dataset.touched) $("reasoning").open = !job.text && !job.done;
}

function showExtras(job) {
  const key = JSON.stringify(job.extras);
  if ($("tools").dataset.key === key && $("tools").childElementCount === job.extras.length) return;
  $("tools").dataset.key = key;
  $("tools").replaceChildren(...job.extras.map(extra));
}

function extra(e) {
  const d = Object.assign(document.createElement("details"), { className: "tool" });
  const s = document.createElement("summary");
  const pre = document.createElement("pre");
  d.append(s, pre);
  switch (e.kind) {
    case "tool_call":
      s.textContent = "Tool call: " + (e.name || "…");
      pre.textContent = pretty(e.arguments);
      d.open = true;
      break;
    case "refusal":
      s.textContent = "The model declined";
      pre.textContent = e.text;
      d.open = true;
      break;
    case "citation":
      s.textContent = "Source: " + (e.title || e.url || e.source || "");
      pre.textContent = [e.url, e.text].filter(Boolean).join("\n");
      break;
    case "image":
      s.textContent = "Image";
      if (e.data && /^image\/(png|jpeg|gif|webp)$/.test(e.mediaType)) {
        const img = new Image();
        img.src = `data:${e.mediaType};base64,${e.data}`;
        img.alt = "Image from the model";
        pre.replaceWith(img);
      } else {
        pre.textContent = e.url ?? "";
      }
      d.open = true;
      break;
    default:
      s.textContent = sentence(String(e.kind ?? "data").replaceAll("_", " "));
      pre.textContent = JSON.stringify(e, null, 2);
  }
  return d;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

const faults = { caller: "The request was not acceptable", upstream: "The provider's service failed", plugin: "The provider's plugin failed", host: "The host failed" };

function showFailure(job) {
  const box = $("failure");
  box.hidden = job.state !== "failed" && job.state !== "cancelled";
  box.classList.toggle("calm", job.state === "cancelled");
  if (box.hidden) return;
  const parts = [];
  const line = (tag, text) => text && parts.push(Object.assign(document.createElement(tag), { textContent: text }));
  if (job.state === "cancelled") {
    line("b", "Cancelled");
    line("span", job.text ? "This is what had arrived by then." : "Nothing had arrived by then.");
  } else {
    line("b", faults[job.error?.fault] ?? "There is no answer");
    line("span", job.error?.message);
    line("span", job.text ? "What is shown above is not the whole answer." : "");
    const small = Object.assign(document.createElement("span"), { className: "faint", textContent: [job.error?.code, job.error?.retryable ? "asking again may help" : ""].filter(Boolean).join(" · ") });
    parts.push(small);
  }
  const key = parts.map((p) => p.textContent).join("\n");
  if (box.dataset.key === key) return; // not announced twice
  box.dataset.key = key;
  box.replaceChildren(...parts);
}

const ms = (n) => (n < 1000 ? `${Math.round(n)} ms` : `${(n / 1000).toFixed(n < 10000 ? 2 : 1)} s`);

function showTimings(job) {
  const t = job.timings;
  $("timing").hidden = !(job.done && t);
  if ($("timing").hidden) return;
  const spans = [["queued", "queued", t.queued], ["first", "first chunk", t.firstChunk], ["stream", "streaming", Math.max(0, t.total - t.firstChunk)]];
  const text = spans.map(([, name, n]) => `${name} ${ms(n)}`);
  $("timing-track").setAttribute("aria-label", "Timings: " + text.join(", "));
  $("timing-legend").replaceChildren(...spans.map(([kind], i) => {
    const seg = $("timing-track").querySelector("." + kind);
    seg.style.flexGrow = String(Math.max(spans[i][2], 0.001));
    const li = document.createElement("li");
    const dot = Object.assign(document.createElement("i"), { className: "seg " + kind });
    dot.setAttribute("aria-hidden", "true");
    li.append(dot, text[i]);
    return li;
  }));
}

const checks = {
  equal: ["good", "matches the text"],
  different: ["bad", "does not match the text"],
  repaired: ["bad", "the stream differed; the whole text is shown"],
};

function showFacts(job) {
  const facts = [];
  const add = (name, value, kind) => value !== undefined && value !== null && value !== "" && facts.push([name, String(value), kind]);
  add("provider", job.provider);
  add("model", job.served ?? (job.done ? undefined : job.model));
  add("attempt", job.attempt || undefined);
  if (job.done) {
    add("time", job.duration !== undefined ? ms(job.duration) : undefined);
    if (job.usage) {
      const u = job.usage;
      add("tokens", `${u.input} in, ${u.output} out` + (u.reasoning ? `, ${u.reasoning} reasoning` : "") + (u.cacheRead ? `, ${u.cacheRead} cached` : ""));
    } else if (job.tokens) {
      add("tokens", job.tokens);
    }
    const streaming = job.timings ? job.timings.total - job.timings.firstChunk : 0;
    if (job.tokens && streaming > 50) add("speed", `${((job.tokens / streaming) * 1000).toFixed(job.tokens / streaming < 0.1 ? 1 : 0)} tokens/s`);
    add("finish", job.finishReason);
    if (job.state === "complete") add("digest", checks[job.verified]?.[1] ?? "not checked", checks[job.verified]?.[0]);
  }
  const key = JSON.stringify(facts);
  if ($("facts").dataset.key === key) return;
  $("facts").dataset.key = key;
  $("facts").replaceChildren(...facts.map(([name, value, kind]) => {
    const div = document.createElement("div");
    if (kind) div.className = kind;
    div.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value, title: value }));
    return div;
  }));
}
