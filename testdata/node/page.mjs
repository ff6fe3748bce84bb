// Uses the page as a person would, in a real browser, for the Go tests:
//
//   node page.mjs URL CHROMIUM SCREENSHOTS MODEL...
//
// It ends with 0 and prints what it did, or says what was not as it should be.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, executablePath, screenshots, ...models] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
const context = await browser.newContext({ viewport: { width: 1100, height: 780 } });
context.setDefaultTimeout(60_000);
const page = await context.newPage();
const complaints = [], foreign = [];
page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") complaints.push(m.text()); });
page.on("pageerror", (e) => complaints.push(String(e)));
page.on("request", (r) => { if (!/^(data|blob):/.test(r.url()) && new URL(r.url()).host !== new URL(url).host) foreign.push(r.url()); });

const answer = () => page.locator("#answer").innerText();
const connected = () => page.locator('#link[data-state="on"]').waitFor();
const text = (pattern) => page.waitForFunction((p) => new RegExp(p).test(document.querySelector("#answer").innerText), pattern);
const done = () => page.locator("#actions").waitFor({ state: "visible" });

async function ask(query, model, params) {
  await page.locator("#new").click();
  await page.locator("#query").fill(query);
  await page.locator("#model").selectOption(model);
  if (!(await page.locator("#params").isVisible())) await page.locator("#params-toggle").click();
  await page.locator("#params").fill(params ? JSON.stringify(params) : "");
  await page.locator("#ask").click();
}

try {
  await page.goto(url);
  await connected();
  for (const model of models) {
    // Ask, and watch it stream: part of the answer is there before the whole.
    const words = Array.from({ length: 40 }, (_, i) => `word${i}`).join(" ");
    await ask(words, model, { delay_ms: 25 });
    await text("word3\\b");
    assert.ok(!(await answer()).includes("word39"), "the answer came in one piece");
    await page.screenshot({ path: `${screenshots}/page-${model}-streaming.png` });
    await done();
    assert.equal((await answer()).trim(), words);
    const facts = await page.locator("#facts").innerText();
    for (const want of [model, "40 out", "matches the text", "stop"]) assert.ok(facts.includes(want), `the facts lack ${want}: ${facts}`);
    await page.screenshot({ path: `${screenshots}/page-${model}-complete.png` });
    console.log(`${model}: asked, streamed, complete`);

    // Reload in the middle: the answer goes on, and nothing is lost or doubled.
    await ask(words, model, { delay_ms: 50 });
    await text("word5\\b");
    await page.reload();
    await connected();
    if (await page.locator("#job").isHidden()) await page.locator("#jobs li").first().locator("button, a").first().click();
    await text("word10\\b");
    assert.ok(!(await answer()).includes("word39"), "the reload came too late to show anything");
    await done();
    assert.equal((await answer()).trim(), words);
    assert.ok((await page.locator("#facts").innerText()).includes("matches the text"));
    console.log(`${model}: reloaded in the middle, complete`);

    // Cancel.
    await ask("on and on and on", model, { delay_ms: 25, tokens: 100000 });
    await text("on and on");
    await page.locator("#cancel").click();
    await page.locator("#failure").waitFor({ state: "visible" });
    assert.match(await page.locator("#failure").innerText(), /Cancelled/);
    await page.screenshot({ path: `${screenshots}/page-${model}-cancelled.png` });
    console.log(`${model}: cancelled`);
  }
  assert.deepEqual(complaints, [], "the browser complains");
  assert.deepEqual(foreign, [], "the page asks other servers");
} catch (error) {
  await page.screenshot({ path: `${screenshots}/page-failed.png` }).catch(() => {});
  console.error(complaints.join("\n"));
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
