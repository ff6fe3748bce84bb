// Brings the page into every state, in a real browser, for the Go tests:
//
//   node states.mjs URL CHROMIUM SCREENSHOTS HAND
//
// HAND is the address of a host that does as it is told.
import assert from "node:assert/strict";
import { audit, connected, fits, launch, run, visitor } from "./browser.mjs";

const [url, executablePath, screenshots, address] = process.argv.slice(2);
const browser = await launch(executablePath);

async function hand(step, what = {}) {
  const answer = await fetch(`${address}/${step}`, { method: "POST", body: JSON.stringify(what) });
  assert.ok(answer.ok, await answer.text());
}

const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC";

await run(browser, screenshots, "states", async () => {
  const { page, context, complaints } = await visitor(browser, url, { viewport: { width: 390, height: 844 }, hasTouch: true });
  const check = async (what) => {
    await page.screenshot({ path: `${screenshots}/states-${what}.png` });
    await fits(page, what);
    await audit(page, what);
  };
  const ask = async (query) => {
    await page.locator("#query").fill(query);
    await page.locator("#ask").click();
    await page.waitForFunction((q) => document.querySelector("#asked-query").textContent === q && document.querySelector(".column"), query);
    await page.locator('.column:not([data-state="sending"])').first().waitFor({ state: "attached" }); // the gateway has it
    return (await page.locator(".column").first().getAttribute("id")).replace(/^c-/, "").replace(/-(\d+)$/, ".$1"); // the job's id
  };
  const column = page.locator(".column");
  const status = (pattern) => page.waitForFunction((p) => new RegExp(p).test(document.querySelector(".column .status")?.innerText ?? ""), pattern);
  const text = (want) => page.waitForFunction((w) => document.querySelector(".column .text")?.innerText.trim() === w, want);
  const is = (state) => page.locator(`.column[data-state="${state}"]`).waitFor({ state: "attached" });

  // Nobody serves anything yet; then somebody does, and the page hears of it.
  await page.goto(url);
  await connected(page);
  await page.locator("#hostless").waitFor();
  await check("hostless");
  const first = await ask("first in the queue");
  await status("^Next in the queue; no host is running yet");
  const second = await ask("second in the queue");
  await status("^1 job is ahead; no host is running yet");
  assert.match(await page.locator("#jobs .m").first().textContent(), /no\. 2 in the queue/);
  await check("queued");
  await hand("models", { models: ["alpha", "beta"] });
  await page.locator("#hostless").waitFor({ state: "hidden" });
  await page.locator("#models").click();
  await page.locator('#models-list input[value="beta"]').waitFor();
  await hand("models", { models: ["alpha", "gamma"] });
  await page.locator('#models-list input[value="gamma"]').waitFor();
  assert.equal(await page.locator('#models-list input[value="beta"]').count(), 0);
  await page.locator("#models").click();
  await hand("begin", { job: first, attempt: 1 });
  await hand("complete", { job: first });

  // An attempt breaks off, another is waited for, and it begins again.
  await hand("begin", { job: second, attempt: 1 });
  await status("Waiting for the first words");
  await hand("delta", { job: second, kind: "reasoning", body: { text: "thought in vain" } });
  await hand("text", { job: second, text: "said in vain" });
  await text("said in vain");
  await hand("progress", { job: second, status: "retrying", message: "the provider is not available; trying again in 8s" });
  await hand("release", { job: second });
  await status("^The provider is not available; trying again in 8s");
  await is("waiting");
  await check("waiting");
  await hand("begin", { job: second, attempt: 2, reset: true });
  await page.waitForFunction(() => document.querySelector(".column .text").textContent === "");
  assert.equal(await column.locator(".reasoning").isVisible(), false);
  await hand("text", { job: second, text: "The gauge says **4.20 m**." });
  await text("The gauge says 4.20 m.");
  assert.match(await column.locator(".note:not(.cut)").innerText(), /^Attempt 2: the one before broke off, and this one began again/);
  await check("reset");

  // What comes beside the text.
  await hand("delta", { job: second, kind: "citation", body: { url: "https://example.com/gauge", title: "The gauge", text: "level 4.20 m", start: 0, end: 5 } });
  await hand("delta", { job: second, kind: "citation", body: { url: "javascript:alert(1)", title: "Not a link", start: 0, end: 5 } });
  await hand("delta", { job: second, kind: "image", body: { mediaType: "image/png", data: pixel } });
  await hand("delta", { job: second, kind: "image", body: { mediaType: "image/svg+xml", data: "PHN2Zy8+" } });
  await hand("delta", { job: second, kind: "image", body: { url: "https://example.com/picture.png" } });
  await hand("delta", { job: second, kind: "refusal", body: { text: "No more than that." } });
  await hand("delta", { job: second, kind: "news", body: { of: "tomorrow" } });
  await hand("complete", { job: second });
  await is("complete");
  const sources = column.locator(".sources li");
  assert.deepEqual(await sources.allInnerTexts(), ["The gauge example.com\nlevel 4.20 m", "Not a link"]);
  assert.deepEqual(await column.locator(".sources a").evaluateAll((all) => all.map((a) => a.href)), ["https://example.com/gauge"]);
  const images = column.locator(".image");
  assert.equal(await images.locator("img").evaluate((i) => i.complete && i.naturalWidth), 1);
  assert.deepEqual((await images.allInnerTexts()).slice(1), ["An image that can't be shown here", "Image at example.com"]);
  assert.match(await column.locator(".refusal").innerText(), /No more than that/);
  assert.match(await column.locator(".extras .call").last().innerText(), /Data of the provider \(1\)/);
  const facts = await column.locator(".facts").innerText();
  for (const want of ["4.32 s", "3 in, 12 out, 2 cached", "verified"]) assert.ok(facts.replace(/\n/g, " ").includes(want), facts);
  assert.match(await column.locator(".track").getAttribute("aria-label"), /queued 1\.20 s, first chunk 400 ms, streaming 2\.70 s/);
  await check("beside-the-text");

  // Names that are long, more of them than the button has room for, and an answer in
  // two directions of writing.
  const long = "alpha-of-a-family-whose-names-tell-all-that-is-in-them-2026-preview";
  const choose = async (...wanted) => {
    await page.locator("#models").click();
    for (const on of [true, false]) for (const m of ["alpha", "gamma", long]) if (wanted.includes(m) === on) await page.locator(`#models-list input[value="${m}"]`).setChecked(on);
  };
  await hand("models", { models: ["alpha", "gamma", long] });
  await page.locator(`#models-list input[value="${long}"]`).waitFor({ state: "attached" });
  await choose("alpha", "gamma", long);
  assert.equal(await page.locator("#models").getAttribute("aria-label"), `3 models: alpha, gamma, ${long}`);
  for (const [width, height] of [[390, 844], [320, 480], [844, 390]]) {
    await page.setViewportSize({ width, height });
    await check("models-with-long-names-" + width);
  }
  await page.setViewportSize({ width: 390, height: 844 });
  await page.locator("#models").click();
  await choose(long);
  await page.locator("#models").click();
  const both = await ask("שאלה");
  await hand("begin", { job: both, attempt: 1 });
  await hand("text", { job: both, text: "שלום **עולם**\n\n- אחת\n- שתים\n\nand `on`" });
  await page.locator("#cancel").waitFor();
  await page.setViewportSize({ width: 844, height: 390 });
  await check("cancel-beside-ask");
  await page.setViewportSize({ width: 390, height: 844 });
  await hand("complete", { job: both });
  await is("complete");
  const reads = (e) => getComputedStyle(e).direction;
  assert.deepEqual(await column.locator(".text > *").evaluateAll((all) => all.map((e) => getComputedStyle(e).direction)), ["rtl", "rtl", "ltr"]);
  assert.equal(await page.locator("#asked-query").evaluate(reads), "rtl");
  await check("two-directions");
  await choose("alpha");
  await page.locator("#models").click();

  // The connection is cut, the answer goes on without us, and so do we then.
  const third = await ask("cut off");
  await hand("begin", { job: third, attempt: 1 });
  await hand("text", { job: third, text: "before " });
  await text("before");
  assert.deepEqual(complaints, []);
  await hand("cut");
  await status("no connection now.*goes on when it is back");
  assert.equal(await page.locator("#link").innerText(), "reconnecting");
  assert.ok(await page.locator("#ask").isDisabled());
  await check("reconnecting");
  await page.locator("#side-open").click();
  await page.locator("#new").click();
  await page.waitForFunction(() => /There is no connection now/.test(document.querySelector("#lost").innerText));
  assert.ok(await page.locator("#examples button").first().isDisabled());
  await page.locator("#side").waitFor({ state: "hidden" });
  await check("reconnecting-new");
  await page.locator("#side-open").click();
  await page.locator("#jobs .open").first().click();
  await hand("text", { job: third, text: "during ", times: 100 });
  await hand("mend");
  await connected(page);
  await text("before " + "during ".repeat(100).trim());
  assert.equal(await page.locator("#lost").innerText(), "");
  complaints.length = 0; // the browser's own, of the cut

  // It takes less than is sent until the gateway cuts it off, says why, and lets it
  // come back.
  await hand("clog");
  await hand("publish", { channel: "model:chunk", times: 400, body: { jobId: "other", userId: "anonymous", chunk: "x".repeat(50_000) } });
  await hand("flow");
  await status("too slow for what it had to carry");
  await check("too-slow");
  await hand("text", { job: third, text: "after" });
  await connected(page);
  await hand("complete", { job: third });
  await is("complete");
  await text("before " + "during ".repeat(100) + "after");
  assert.match(await column.locator(".facts").innerText(), /verified/);
  assert.deepEqual(complaints, []);

  // Whoever wants the plain Socket.IO client has it where Node's server has it.
  await page.addScriptTag({ url: new URL("/socket.io/socket.io.js", url).href });
  assert.equal(await page.evaluate(() => new Promise((resolve) => {
    const socket = window.io();
    socket.on("connected", (d) => { socket.close(); resolve(d.userId); });
  })), "anonymous");
  const esm = await page.evaluate(() => import("/socket.io/socket.io.esm.min.js").then((m) => typeof m.io));
  assert.equal(esm, "function");
  assert.deepEqual(complaints, []);
  await context.close();
  console.log("queued, waiting, begun again, sources, images, cut, clogged, models that come and go");
});
