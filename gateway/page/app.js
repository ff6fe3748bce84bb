// The page: what is seen, and the socket behind it.

import { clearStage, showJob } from "./answer.js";
import { Job, Shelf, eventNames, newID } from "./job.js";

const $ = (id) => document.getElementById(id);
const shelf = new Shelf();
let user = ""; // who the gateway says we are
let selected = null; // the job on the stage, null for a new question
let defaultModel = "";

// ---- the socket ----

const socket = io({
  path: document.querySelector('meta[name="sluice-socket-path"]').content,
  transports: ["websocket", "polling"],
  tryAllTransports: true,
  autoConnect: false,
  auth: (give) => {
    const token = sessionStorage.getItem("sluice.token");
    give(token ? { token } : {});
  },
});

socket.on("connected", (hello) => {
  user = hello.userId;
  defaultModel = hello.defaultModel ?? "";
  setModels(hello.models ?? []);
  $("who").textContent = user === "anonymous" ? "" : "Signed in as " + user;
  link("on", "connected");
  problem("");
  for (const job of shelf.of(user)) if (!job.done) job.state === "sending" ? start(job) : resume(job);
  if (selected && !shelf.of(user).includes(selected)) select(null);
  showList();
  show();
});

socket.on("job:started:v1", (d) => {
  let job = shelf.jobs.get(d.jobId);
  if (!job) {
    job = new Job({ id: d.jobId, user, query: d.query, model: d.model, state: "queued" });
    shelf.add(job);
  } else if (job.state === "sending") {
    job.state = "queued";
  }
  changed(job);
});

for (const name of eventNames) {
  socket.on(name, (d) => {
    const job = shelf.jobs.get(d?.jobId);
    if (!job) return;
    job.checked = () => changed(job);
    if (job.apply(name, d) === "gap") resume(job);
    else changed(job);
  });
}

socket.on("error", (e) => {
  const job = shelf.jobs.get(e?.jobId);
  if (job && !job.done) fail(job, e);
  else if (e?.code === "unavailable" || e?.code === "too_slow") link("off", "reconnecting"); // it hangs up next
  else if (e?.message) problem(e.message);
});

socket.on("disconnect", (reason) => {
  if (reason === "io server disconnect") signIn("The session has ended. Connect again with a new token.");
  else link("off", "reconnecting");
  show();
});

socket.on("connect_error", (e) => {
  if (/Authentication/.test(e.message)) {
    sessionStorage.removeItem("sluice.token");
    signIn(e.message);
    return;
  }
  link("off", "reconnecting");
  // A refusal of the gateway isn't tried again by the client itself.
  if (!socket.active) setTimeout(() => socket.connect(), 2000);
});

function link(state, text) {
  $("link").dataset.state = state;
  $("link-text").textContent = text;
  $("ask").disabled = state !== "on";
}

// ask sends an event and gives the ack, or null when there was none in time.
function ask(event, payload, then) {
  socket.timeout(10000).emit(event, payload, (err, ack) => then(err ? null : ack));
}

function start(job) {
  const payload = { query: job.query, jobId: job.id };
  if (job.model) payload.model = job.model;
  if (job.params) payload.params = job.params;
  ask("search:start:v1", payload, (ack) => {
    if (job.done || job.state !== "sending") return;
    if (ack?.ok) {
      job.state = "queued";
      changed(job);
    } else if (ack && ack.error.code !== "unavailable") {
      fail(job, ack.error);
    } else if (socket.connected) {
      // Nothing was said, or the store is away: the id makes it safe to ask again.
      job.note = ack?.error.message ?? "";
      changed(job);
      setTimeout(() => job.state === "sending" && socket.connected && start(job), 1500);
    }
  });
}

function resume(job) {
  if (job.resuming) return;
  job.resuming = true;
  ask("job:resume:v1", { jobId: job.id, lastSeq: job.seq }, (ack) => {
    job.resuming = false;
    if (job.done) return;
    if (ack?.ok) {
      if (ack.seq < job.seq) {
        // The store has lost what we have seen: begin anew with what it has.
        job.clear();
        resume(job);
      } else if (ack.state === "queued" || ack.state === "running") {
        job.state = ack.state;
      }
      changed(job);
    } else if (ack && ack.error.code !== "unavailable") {
      fail(job, ack.error);
    } else if (socket.connected) {
      setTimeout(() => !job.done && socket.connected && resume(job), 1500);
    }
  });
}

function cancel(job) {
  job.note = "Cancelling";
  changed(job);
  ask("task:cancel:v1", { jobId: job.id }, (ack) => {
    if (job.done || ack?.ok) return;
    if (ack?.error.code === "not_found") fail(job, ack.error);
    else problem(ack?.error.message ?? "The cancel was not confirmed. Try again.");
  });
}

function fail(job, error) {
  job.state = "failed";
  job.error = { code: error.code, message: error.message };
  changed(job);
}

// ---- asking ----

function submit() {
  const query = $("query").value.trim();
  if (!query || $("ask").disabled) return;
  try {
    send(query, readParams());
  } catch (e) {
    problem("The parameters can't be read: " + e.message);
    return;
  }
  $("query").value = "";
  grow();
}

function readParams() {
  const written = $("params").value.trim();
  if (!written || $("params-box").hidden) return undefined;
  const params = JSON.parse(written);
  if (params === null || typeof params !== "object" || Array.isArray(params)) throw new Error("they are not an object");
  return params;
}

function send(query, params) {
  const model = $("model-name").hidden ? $("model").value : $("model-name").value.trim();
  const job = new Job({ id: newID(), user, query, model, params });
  shelf.add(job);
  start(job);
  select(job);
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function setModels(list) {
  const before = $("model").value;
  const names = [...new Set(list.filter((m) => !m.name.includes("*")).map((m) => m.name))];
  if (!names.includes(defaultModel) && defaultModel) names.unshift(defaultModel);
  const options = names.map((n) => {
    const served = list.find((m) => m.name === n);
    const detail = served ? [served.provider !== n && served.provider, served.runtime].filter(Boolean).join(", ") : "not served now";
    return new Option(detail ? `${n} (${detail})` : n, n);
  });
  if (list.some((m) => m.name.includes("*"))) options.push(new Option("another…", ""));
  $("model").replaceChildren(...options);
  const wish = [before, localStorage.getItem("sluice.model"), defaultModel].find((n) => n && names.includes(n));
  if (wish) $("model").value = wish;
  modelChosen();
}

function modelChosen() {
  $("model-name").hidden = $("model").value !== "" || $("model").options.length === 0;
  if ($("model").value) localStorage.setItem("sluice.model", $("model").value);
}

const examples = [
  ["See it stream", "The echo model says it back, word by word", { query: "A sluice lets water through, one measured gate at a time: what comes in at the top arrives at the bottom, in order, and nothing is lost on the way." }],
  ["Look at some Markdown", "Headings, lists, code and a table", { query: "## Gates\n\nA **gate** is *open* or closed:\n\n- water in `upper` waits\n- water in `lower` leaves\n\n```go\nfor chunk := range gate {\n\tfmt.Print(chunk)\n}\n```\n\n| gate | state |\n|---|---|\n| upper | open |\n| lower | closed |\n" }],
  ["Watch it think", "Reasoning first, then a tool call", { query: "What is the level of the water behind the gate?", params: { options: { reasoning: "The question is about a level. I should look at the gauge first, and then say what it shows.", tool_call: { name: "read_gauge", arguments: { gate: "upper" } } } } }],
];

// ---- what is seen ----

let painting = 0;
const dirty = new Set();

// changed keeps a job and shows it with the next frame of the screen.
function changed(job) {
  job.done ? shelf.write() : shelf.save();
  dirty.add(job);
  if (!painting) painting = requestAnimationFrame(paint);
}

function paint() {
  painting = 0;
  for (const job of dirty) {
    const entry = document.getElementById("entry-" + job.id);
    if (entry) fillEntry(entry, job);
    else showList();
  }
  $("clear").hidden = !shelf.of(user).some((j) => j.done);
  if (dirty.has(selected)) show();
  dirty.clear();
}

function select(job) {
  selected = job;
  clearStage();
  problem("");
  if (job) history.replaceState(null, "", "#" + job.id);
  else history.replaceState(null, "", location.pathname);
  side(false);
  showList();
  show();
  $("stage").scrollTop = job && !job.done ? $("stage").scrollHeight : 0;
}

function showList() {
  const entries = shelf.of(user).map((job) => {
    const li = document.createElement("li");
    const b = document.createElement("button");
    b.type = "button";
    b.id = "entry-" + job.id;
    const mark = Object.assign(document.createElement("span"), { className: "mark" });
    mark.setAttribute("aria-hidden", "true");
    b.append(mark, Object.assign(document.createElement("span"), { className: "q" }), Object.assign(document.createElement("span"), { className: "m" }));
    b.addEventListener("click", () => select(job));
    fillEntry(b, job);
    li.append(b);
    return li;
  });
  const focused = document.activeElement?.id;
  $("jobs").replaceChildren(...entries);
  if (focused?.startsWith("entry-")) document.getElementById(focused)?.focus();
  $("clear").hidden = !shelf.of(user).some((j) => j.done);
}

const words = { sending: "sending", queued: "waiting", running: "answering", complete: "complete", failed: "failed", cancelled: "cancelled" };

function fillEntry(b, job) {
  const [mark, q, m] = b.children;
  mark.dataset.state = job.state;
  mark.dataset.live = String(!job.done);
  q.textContent = job.query.trim().split("\n")[0] || "…";
  const when = new Date(job.created);
  const today = when.toDateString() === new Date().toDateString();
  m.textContent = [words[job.state], job.served || job.model, today ? when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : when.toLocaleDateString()].filter(Boolean).join(" · ");
  b.setAttribute("aria-current", String(job === selected));
}

function show() {
  const job = selected;
  const stage = $("stage");
  const follow = stage.scrollHeight - stage.scrollTop - stage.clientHeight < 60;
  $("welcome").hidden = job !== null;
  $("job").hidden = job === null;
  $("cancel").hidden = !job || job.done || job.state === "sending";
  $("title").textContent = job ? job.query.trim().split("\n")[0] : "New question";
  document.title = job ? (job.done ? "" : "… ") + $("title").textContent.slice(0, 60) + " – Sluice" : "Sluice";
  if (!job) return;
  showJob(job, socket.connected);
  if (follow) stage.scrollTop = stage.scrollHeight;
}

// ---- the page's own controls ----

function side(open) {
  $("side").classList.toggle("open", open);
  $("shade").hidden = !open;
  $("side-open").setAttribute("aria-expanded", String(open));
  if (open) $("side-close").focus();
}

function signIn(why) {
  link("bad", "signed out");
  $("signin-why").textContent = why;
  if (!$("signin").open) $("signin").showModal();
}

function grow() {
  const q = $("query");
  q.style.height = "auto";
  q.style.height = q.scrollHeight + "px";
}

function params(open) {
  $("params-box").hidden = !open;
  $("params-toggle").setAttribute("aria-expanded", String(open));
}

$("ask").addEventListener("click", submit);
$("cancel").addEventListener("click", () => selected && cancel(selected));
$("new").addEventListener("click", () => {
  select(null);
  $("query").focus();
});
$("query").addEventListener("input", grow);
$("model").addEventListener("change", modelChosen);
$("params-toggle").addEventListener("click", () => params($("params-box").hidden));
$("side-open").addEventListener("click", () => side(true));
$("side-close").addEventListener("click", () => {
  side(false);
  $("side-open").focus();
});
$("shade").addEventListener("click", () => side(false));
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(selected.text);
    $("copy").textContent = "Copied";
  } catch {
    $("copy").textContent = "The browser doesn't allow it";
  }
  setTimeout(() => ($("copy").textContent = "Copy answer"), 1500);
});
$("again").addEventListener("click", () => {
  $("query").value = selected.query;
  if (selected.params) {
    $("params").value = JSON.stringify(selected.params);
    params(true);
  }
  if ([...$("model").options].some((o) => o.value === selected.model)) $("model").value = selected.model;
  modelChosen();
  grow();
  $("query").focus();
});
$("forget").addEventListener("click", () => {
  shelf.remove(selected);
  select(null);
});
$("clear").addEventListener("click", () => {
  for (const job of shelf.of(user)) if (job.done) shelf.remove(job);
  select(null);
});
$("signin-go").addEventListener("click", () => {
  const token = $("token").value.trim();
  if (!token) return;
  sessionStorage.setItem("sluice.token", token);
  $("token").value = "";
  $("signin").close();
  link("off", "connecting");
  socket.connect();
});

addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && !$("signin").open) {
    e.preventDefault();
    submit();
  } else if (e.key === "Escape" && !$("signin").open) {
    if ($("side").classList.contains("open")) side(false);
    else if (!$("cancel").hidden) cancel(selected);
  }
});

$("examples").append(...examples.map(([title, note, question]) => {
  const li = document.createElement("li");
  const b = document.createElement("button");
  b.type = "button";
  b.append(Object.assign(document.createElement("b"), { textContent: title }), Object.assign(document.createElement("span"), { textContent: note }));
  b.addEventListener("click", () => $("ask").disabled || send(question.query, question.params));
  li.append(b);
  return li;
}));

const wanted = decodeURIComponent(location.hash.slice(1));
link("off", "connecting");
if (shelf.jobs.has(wanted)) select(shelf.jobs.get(wanted));
else showList();
show();
socket.connect();
