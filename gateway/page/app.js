// The page: what a person does, the client that talks to the gateway over its
// socket, and what is seen of both.

import { copied, h, setText } from "./dom.js";
import { ListView } from "./list.js";
import { Picker } from "./picker.js";
import { Column, History, Question, detached, jobID, newQuestionID, placeOf } from "./questions.js";
import { SignIn } from "./signin.js";
import { connect } from "./sluice.js";
import { Stage } from "./stage.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const past = new History(storage());
const signIn = new SignIn();
const stage = new Stage({ cancel, resume, again }, lost);
const list = new ListView($("jobs"), {
  open: (q) => select(q),
  cancel: (q) => cancel(...q.columns),
  resume: (q) => resume(...q.columns.filter((c) => c.resumable)),
  forget: (id) => forget(past.questions.get(id)),
});
const picker = new Picker({ button: $("models"), panel: $("models-panel"), list: $("models-list"), other: $("models-other"), name: $("model-name"), add: $("model-add"), note: $("models-note") });
let selected = null; // the question on the stage, null for a new one

function storage() {
  try {
    return localStorage;
  } catch {
    return { length: 0, key: () => null, getItem: () => null, setItem() {}, removeItem() {} }; // forbidden
  }
}

// ---- the gateway ----

const sluice = connect(undefined, {
  path: document.querySelector('meta[name="sluice-socket-path"]').content,
  storage: past.answers,
  auth: (refused) => signIn.credentials(refused, sluice.connection === "online"),
});

sluice.on("connection", (now) => {
  const said = { online: ["on", "connected"], offline: ["off", "reconnecting"], refused: ["bad", "not signed in"], closed: ["bad", "closed"] }[now] ?? ["off", "connecting"];
  $("link").dataset.state = said[0];
  setText($("link-text"), said[1]);
  if (now === "refused") signIn.ask("The gateway has refused every token. Sign in with another.");
  $("link").title = lost();
  if (now === "online") welcome();
  enable();
  stage.draw();
});

sluice.on("models", (models) => {
  picker.offer(models, sluice.defaultModel);
  $("hostless").hidden = models.length > 0;
  examples();
});

sluice.on("problem", (e) => problem(e.message + (e.retryAfterMs ? ` Try again in ${Math.ceil(e.retryAfterMs / 1000)} s.` : "")));

// What was asked in another tab appears here, too.
sluice.on("answer", (answer) => {
  const { question } = placeOf(answer.jobId);
  const q = past.questions.get(question) ?? new Question({ id: question, user: sluice.user, query: answer.query });
  const column = past.find(answer.jobId) ?? new Column({ jobId: answer.jobId, model: answer.model });
  if (!q.columns.includes(column)) q.put(column);
  past.add(q);
  follow(q, column, answer);
  showList();
  if (q === selected) stage.show(q);
});

// lost says why there is no connection, "" when there is one.
function lost() {
  return sluice.connection === "online" || sluice.connection === "connecting" ? "" : words.lost(sluice.trouble);
}

function welcome() {
  signIn.settled();
  for (const q of past.questions.values()) {
    if (q.user) continue;
    q.user = sluice.user; // asked before it was known who we are
    past.add(q);
  }
  const known = sluice.user !== "" && sluice.user !== "anonymous";
  $("who").hidden = !known;
  setText($("who"), known ? "Signed in as " + sluice.user : "");
  $("sign-out").hidden = !signIn.signedIn;
  problem("");
  if (selected && !past.of(sluice.user).includes(selected)) select(null);
  showList();
  fetchRest();
}

// follow shows in a column what an answer of the client says.
function follow(q, column, answer) {
  column.cancelling = false;
  column.follow(answer, () => changed(q, column));
  if (column.over) changed(q, column); // it was refused at once
}

function ask(q, column) {
  const how = { jobId: column.jobId };
  if (column.model) how.model = column.model;
  if (q.params) how.params = q.params;
  follow(q, column, sluice.ask(q.query, how));
}

function cancel(...columns) {
  for (const c of columns) {
    if (!c.live || c.cancelling) continue;
    c.cancelling = true;
    void c.answer.cancel();
    changed(questionOf(c), c);
  }
}

// resume asks the gateway for what it has of an answer.
function resume(...columns) {
  for (const c of columns) {
    const q = questionOf(c);
    const fresh = new Column({ jobId: c.jobId, model: c.model, state: "queued" });
    q.put(fresh);
    past.drop(c.jobId);
    follow(q, fresh, sluice.resume(c.jobId));
    replaced(q, fresh);
  }
}

// again asks the same model the same question, in the same place.
function again(c) {
  const q = questionOf(c);
  const { question, place, tried } = placeOf(c.jobId);
  if (question === c.jobId || tried > 900) { // not asked by this page
    edit(q);
    return;
  }
  const fresh = new Column({ jobId: jobID(q.id, place, tried + 1), model: c.model });
  q.put(fresh);
  past.drop(c.jobId);
  past.add(q);
  ask(q, fresh);
  replaced(q, fresh);
}

function replaced(q, column) {
  if (q !== selected) return;
  stage.show(q);
  stage.focus(column);
  enable();
}

// fetchRest gets what is shown but not kept here.
function fetchRest() {
  if (selected && sluice.connection === "online") resume(...selected.columns.filter((c) => c.elsewhere && !c.answer));
}

const questionOf = (column) => past.questions.get(placeOf(column.jobId).question);

// ---- asking ----

function submit() {
  const query = $("query").value.trim();
  if (!query) {
    $("query").focus();
    return;
  }
  let params;
  try {
    params = readParams();
  } catch (e) {
    problem("The parameters can't be read: " + e.message);
    showParams(true);
    $("params").focus();
    return;
  }
  const large = sluice.tooLarge(query, params ? { params } : {});
  if (large) {
    problem(words.oversized(large));
    $("query").focus();
    return;
  }
  send(query, params);
  $("query").value = "";
  grow();
  showParams(false);
}

function readParams() {
  const written = $("params").value.trim();
  if (!written) return undefined;
  const params = JSON.parse(written);
  if (params === null || typeof params !== "object" || Array.isArray(params)) throw new Error("they are not an object");
  return params;
}

function send(query, params, models = picker.chosen) {
  const q = new Question({ id: newQuestionID(), user: sluice.user, query, params });
  const names = models.length ? models : [""];
  names.forEach((model, i) => q.put(new Column({ jobId: jobID(q.id, i + 1), model })));
  past.add(q);
  for (const column of q.columns) ask(q, column);
  select(q);
}

function edit(q) {
  $("query").value = q.query;
  $("params").value = q.params ? JSON.stringify(q.params) : "";
  showParams(q.params !== null);
  picker.set(q.columns.map((c) => c.model).filter(Boolean));
  grow();
  $("query").focus();
}

function forget(q) {
  if (!q?.over) return;
  past.remove(q);
  if (q === selected) select(null);
  showList();
  if (!document.activeElement || document.activeElement === document.body) $("new").focus();
}

function problem(text) {
  setText($("problem"), text);
}

// ---- what is seen ----

let painting = 0;
const dirty = new Map(); // questions with something new, and whether it has ended

function changed(q, column) {
  if (column.over) {
    column.cancelling = false;
    // What the client keeps for a later sign-in or reload is left to it.
    if (!(column.state === "failed" && detached.has(column.error?.code))) past.keep(column);
  }
  stage.tell(column);
  dirty.set(q, true);
  if (!painting) painting = requestAnimationFrame(paint);
}

function paint() {
  painting = 0;
  for (const q of dirty.keys()) list.update(q, q === selected);
  if (dirty.has(selected)) {
    stage.draw();
    enable();
  }
  dirty.clear();
  $("clear").hidden = !past.of(sluice.user).some((q) => q.over);
}

function select(q) {
  selected = q;
  problem("");
  window.history.replaceState(null, "", q ? "#" + q.id : location.pathname + location.search);
  side(false);
  stage.show(q);
  showList();
  enable();
  fetchRest();
}

function showList() {
  const all = past.of(sluice.user);
  list.show(all, selected);
  $("jobs-none").hidden = all.length > 0;
  $("clear").hidden = !all.some((q) => q.over);
}

// enable offers what can be done now.
function enable() {
  const online = sluice.connection === "online";
  for (const b of [$("ask"), ...$("examples").querySelectorAll("button")]) b.disabled = !online;
  // An answer under way says it itself, and at the start the dot says enough.
  setText($("lost"), sluice.connection === "offline" && sluice.user && !selected?.columns.some((c) => c.live) ? lost() : "");
  $("cancel").hidden = !selected?.columns.some((c) => c.live && !c.cancelling);
  setText($("cancel"), selected?.columns.filter((c) => c.live).length > 1 ? "Cancel all" : "Cancel");
  $("forget").hidden = !selected?.over;
}

function examples() {
  const names = [...new Set(sluice.models.map((m) => m.name))].filter((n) => !n.includes("*"));
  const own = names.includes("echo") ? ["echo"] : undefined;
  const all = [
    ["See it stream", own ? "The echo model says it back, word by word" : "Word by word, as it is made", own, "A sluice lets water through, one measured gate at a time: what comes in at the top arrives at the bottom, in order, and nothing is lost on the way."],
    names.length > 1 && ["Compare two models", "One question, two answers side by side", names.slice(0, 2), "## Two gates, one river\n\nBoth let the *same* water through:\n\n1. the **upper** gate opens first\n2. the **lower** gate follows\n\n| gate | state | level |\n|---|:-:|--:|\n| upper | open | 4.20 m |\n| lower | closed | 1.35 m |\n\n```go\nfor drop := range gate {\n\tfmt.Print(drop)\n}\n```\n"],
    own && ["Watch it think", "Reasoning first, then a tool call", own, "What is the level of the water behind the gate?", { options: { reasoning: "The question is about a level. I should look at the gauge first, and then say what it shows.", tool_call: { name: "read_gauge", arguments: { gate: "upper", unit: "m", since: ["06:00", "12:00"] } } } }],
  ];
  $("examples").replaceChildren(...all.filter(Boolean).map(([title, note, models, query, params]) =>
    h("li", {}, h("button", { type: "button", disabled: sluice.connection !== "online", click: () => send(query, params, models) }, h("b", {}, title), h("span", {}, note)))));
}

// ---- the page's own controls ----

function grow() {
  const q = $("query");
  q.style.height = "auto";
  q.style.height = q.scrollHeight + "px";
}

function side(open) {
  const inside = $("side").contains(document.activeElement) && getComputedStyle($("side")).position === "fixed";
  $("side").classList.toggle("open", open);
  $("shade").hidden = !open;
  $("side-open").setAttribute("aria-expanded", String(open));
  if (open) ($("jobs").children.length ? list.focus() : $("new").focus());
  else if (inside) $("stage").focus({ preventScroll: true });
}

function showParams(open) {
  $("params-box").hidden = !open;
  $("params-toggle").setAttribute("aria-expanded", String(open));
  $("params-toggle").classList.toggle("set", !open && $("params").value.trim() !== "");
  $("params-toggle").title = $("params").value.trim() ? "Parameters are set" : "";
}

function startNew() {
  select(null);
  $("query").focus();
}

$("ask").addEventListener("click", submit);
$("cancel").addEventListener("click", () => {
  cancel(...selected.columns);
  $("query").focus(); // the button goes
});
$("new").addEventListener("click", startNew);
$("query").addEventListener("input", grow);
$("params-toggle").addEventListener("click", () => {
  showParams($("params-box").hidden);
  if (!$("params-box").hidden) $("params").focus();
});
$("side-open").addEventListener("click", () => side(true));
$("side-close").addEventListener("click", () => {
  side(false);
  $("side-open").focus();
});
$("shade").addEventListener("click", () => side(false));
$("edit").addEventListener("click", () => edit(selected));
$("forget").addEventListener("click", () => forget(selected));
$("clear").addEventListener("click", () => {
  for (const q of past.of(sluice.user)) if (q.over) past.remove(q);
  if (selected && !past.questions.has(selected.id)) select(null);
  showList();
  $("new").focus();
});
$("sign-out").addEventListener("click", () => signIn.signOut());
$("keys-open").addEventListener("click", () => $("keys").showModal());
$("keys-close").addEventListener("click", () => $("keys").close());
document.addEventListener("click", (e) => {
  const button = e.target.closest?.("[data-copy]");
  if (button) void copied(button, button.closest("figure").querySelector("pre").textContent);
});
addEventListener("storage", (e) => {
  const q = past.forgotten(e.key, e.newValue);
  if (!q) return;
  if (q === selected) select(null);
  showList();
});

const letters = {
  "/": () => $("query").focus(),
  "?": () => $("keys").showModal(),
  m: () => picker.toggle(true),
  n: startNew,
  l: () => (getComputedStyle($("side")).position === "fixed" ? side(true) : list.focus()),
  "[": () => stage.step(-1),
  "]": () => stage.step(1),
};

addEventListener("keydown", (e) => {
  if (signIn.open || $("keys").open || e.isComposing) return;
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
    e.preventDefault();
    if (!$("ask").disabled) submit();
  } else if (e.key === "Escape") {
    if ($("side").classList.contains("open")) {
      side(false);
      $("side-open").focus();
    } else if (picker.open) picker.toggle(false);
    else if (selected) {
      const one = selected.columns.find((c) => c.live && stage.holds(c, document.activeElement));
      cancel(...(one ? [one] : selected.columns));
    }
  } else if (!e.ctrlKey && !e.metaKey && !e.altKey && !e.target.closest?.("textarea, input:not([type=checkbox]), select, [contenteditable]")) {
    const act = letters[e.key.toLowerCase()];
    if (!act) return;
    e.preventDefault();
    act();
  }
});

// Unfinished answers from before a reload go on.
for (const answer of sluice.answers) {
  const column = past.find(answer.jobId);
  if (column) follow(questionOf(column), column, answer);
}
enable();
picker.offer([], "");
examples();
select(past.questions.get(decodeURIComponent(location.hash.slice(1))) ?? null);
