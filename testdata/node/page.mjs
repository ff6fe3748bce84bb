// Uses the page as a person would, in a real browser, for the Go tests:
//
//   node page.mjs URL CHROMIUM SCREENSHOTS MODEL MODEL
//
// It ends with 0 and prints what it did, or says what was not as it should be.
import assert from "node:assert/strict";
import { audit, connected, fits, launch, run, visitor } from "./browser.mjs";

const [url, executablePath, screenshots, ...models] = process.argv.slice(2);
const browser = await launch(executablePath);
const words = Array.from({ length: 40 }, (_, i) => `word${i}`).join(" ");
const long = Array.from({ length: 240 }, (_, i) => `word${i}`).join(" ");
const markdown = `## Two gates, one river

Both let the *same* water through, see [the notes](https://example.com/a_(b)), but not [this](javascript:alert(1)).

1. the **upper** gate opens first
   - then \`lower\`
2. the lower gate follows

- [x] measured
- [ ] drained

| gate | state | level | measured | by whom | remarks |
|---|:-:|--:|---|---|---|
| upper | open | 4.20 m | 06:00 | Ada Lovelace | behind the bridge |
| lower | closed | 1.35 m | 06:05 | Charles Babbage | uninterruptedly |

\`\`\`go
for drop := range gate {
	fmt.Print(drop) // every drop is counted, none is lost, and this line is long
}
\`\`\`

<img src=x onerror="document.title='pwned'"> <b>no markup</b> ![far](https://example.com/i.png)`;
const thinks = { delay_ms: 25, reasoning: "The question is about gates. I should look at the gauge first, and then say what it shows, in the order in which the water arrives at each.", tool_call: { name: "read_gauge", arguments: { gate: "upper", since: ["06:00", "12:00"] } } };

// on gives what a test does with a page.
function on(page) {
  const column = (model) => page.locator(`.column[data-model="${model}"]`);
  const text = (model) => column(model).locator(".text").innerText();
  return {
    column, text,
    arrives: (model, pattern) => page.waitForFunction(([m, p]) => new RegExp(p).test(document.querySelector(`.column[data-model="${m}"] .text`)?.innerText ?? ""), [model, pattern]),
    is: (model, state) => page.locator(`.column[data-model="${model}"][data-state="${state}"]`).waitFor({ state: "attached" }),
    facts: (model) => column(model).locator(".facts").innerText(),
    shot: (name) => page.screenshot({ path: `${screenshots}/page-${name}.png` }),
    async choose(...wanted) {
      await page.locator("#models").click();
      for (const m of wanted) await page.locator(`#models-list input[value="${m}"]`).check();
      for (const m of models) if (!wanted.includes(m)) await page.locator(`#models-list input[value="${m}"]`).uncheck();
      await page.locator("#models").click();
    },
    async ask(query, options) {
      await page.locator("#query").fill(query);
      if (!(await page.locator("#params").isVisible())) await page.locator("#params-toggle").click();
      await page.locator("#params").fill(options ? JSON.stringify({ options }) : "");
      await page.locator("#ask").click();
    },
  };
}

async function oneModel(model) {
  const { page, context, complaints } = await visitor(browser, url);
  const p = on(page);
  await page.goto(url);
  await connected(page);
  await p.choose(model);
  await p.ask(words, { delay_ms: 25 });
  await p.arrives(model, "word3\\b");
  assert.ok(!(await p.text(model)).includes("word39"), "the answer came in one piece");
  await p.is(model, "complete");
  assert.equal((await p.text(model)).trim(), words);
  const facts = await p.facts(model);
  for (const want of ["40 out", "verified", "stop"]) assert.ok(facts.includes(want), `the facts lack ${want}: ${facts}`);
  assert.match(await p.column(model).locator(".track").getAttribute("aria-label"), /queued .*first chunk .*streaming/);
  await page.waitForFunction(() => /complete, 40 tokens/.test(document.querySelector("#announcer").textContent));

  await p.ask("on and on and on", { delay_ms: 25, tokens: 100000 });
  await p.arrives(model, "on and on");
  await page.locator("#cancel").click();
  await p.is(model, "cancelled");
  assert.match(await p.column(model).locator(".failure").innerText(), /Cancelled/);

  // A failure that no other attempt would mend ends the job; asking again is another
  // job in its place.
  await p.ask("a b c d e f", { delay_ms: 10, error: { kind: "invalid", after: 3, message: "as asked", fault: "caller" } });
  await p.is(model, "failed");
  assert.match(await p.column(model).locator(".failure").innerText(), /not the whole answer/);
  await p.column(model).getByRole("button", { name: "Ask again" }).click();
  await page.waitForFunction((m) => document.querySelector(`.column[data-model="${m}"]`).id.endsWith("-2"), model);
  await p.is(model, "failed");
  assert.equal(await page.locator("#jobs li").count(), 3);
  assert.deepEqual(complaints, []);
  await context.close();
  console.log(`${model}: asked, streamed, complete, cancelled, failed, asked again`);
}

async function sideBySide() {
  const { page, context, complaints } = await visitor(browser, url);
  const [a, b] = models, p = on(page);
  await page.goto(url);
  await connected(page);
  await p.choose(a, b);
  await p.ask(long, { delay_ms: 50 });
  for (const m of models) await p.arrives(m, "word5\\b");
  const boxes = await Promise.all(models.map((m) => p.column(m).boundingBox()));
  assert.ok(boxes[0].x + boxes[0].width <= boxes[1].x && boxes[0].y === boxes[1].y, "not side by side");

  // A second tab shows the same, and so does this one after a reload.
  const second = await context.newPage();
  await second.goto(page.url());
  await connected(second);
  await page.reload();
  await connected(page);
  for (const m of models) await p.arrives(m, "word10\\b");
  assert.ok(!(await p.text(a)).includes("word239"), "the reload came too late to show anything");
  for (const [tab, name] of [[page, "this"], [second, "second"]]) {
    for (const m of models) {
      await on(tab).is(m, "complete");
      assert.equal((await on(tab).text(m)).trim(), long, `${m} in ${name} tab`);
      assert.ok((await on(tab).facts(m)).includes("verified"));
    }
  }
  console.log("side by side: reloaded in the middle, shown in two tabs, complete");

  // One is cancelled, in the other tab; the other goes on. A question of one tab
  // appears in the other's list.
  await p.ask(long + " again", { delay_ms: 40 });
  for (const m of models) await p.arrives(m, "word3\\b");
  await second.locator("#jobs li").nth(1).waitFor();
  await second.locator("#jobs .open").first().click();
  await on(second).arrives(b, "word3\\b");
  await on(second).column(b).getByRole("button", { name: "Cancel" }).click();
  for (const tab of [page, second]) await on(tab).is(b, "cancelled");
  assert.ok((await p.text(b)).startsWith("word0") && !(await p.text(b)).includes("again"));
  await p.is(a, "complete");
  assert.equal((await p.text(a)).trim(), long + " again");
  await page.locator("#forget").click();
  await second.locator("#welcome").waitFor();
  assert.equal(await page.locator("#jobs li").count(), 1);
  assert.deepEqual(complaints, []);
  await context.close();
  console.log("side by side: one cancelled from another tab, the other complete, forgotten in both");
}

async function keyboardOnly() {
  const { page, context, complaints } = await visitor(browser, url);
  const [a, b] = models, p = on(page), key = (...keys) => keys.reduce((done, k) => done.then(() => page.keyboard.press(k)), Promise.resolve());
  const focus = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
  await page.goto(url);
  await connected(page);
  await key("Tab");
  assert.equal(await focus(), "skip");
  await page.locator("#models-list input").first().waitFor({ state: "attached" });
  await key("m");
  for (const m of models) { // walk to each and choose it
    for (let i = 0; i < 9; i++) await key("ArrowUp");
    for (let i = 0; i < 9 && (await page.evaluate(() => document.activeElement.value)) !== m; i++) await key("ArrowDown");
    assert.equal(await page.evaluate(() => document.activeElement.value), m);
    if (!(await page.evaluate(() => document.activeElement.checked))) await key("Space");
  }
  await key("Escape");
  assert.equal(await focus(), "models");
  assert.ok(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none"), "the focus is not seen");
  await key("/");
  assert.equal(await focus(), "query");
  await page.keyboard.type(Array.from({ length: 400 }, (_, i) => "w" + i).join(" "));
  await key("Control+Enter");
  for (const m of models) await p.arrives(m, "w3\\b");
  await key("Shift+Tab"); // out of the question, for the letters
  await key("]", "]");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.model), b);
  await key("Escape");
  await p.is(b, "cancelled");
  assert.equal(await p.column(a).getAttribute("data-state"), "running");
  await key("[");
  await key("Escape");
  await p.is(a, "cancelled");
  await key("n");
  await page.keyboard.type("second");
  await key("Control+Enter");
  for (const m of models) await p.is(m, "complete");
  await key("Shift+Tab", "l");
  await key("ArrowDown", "Enter");
  await p.is(a, "cancelled");
  await key("Delete");
  await page.locator("#welcome").waitFor();
  assert.equal(await page.locator("#jobs li").count(), 1);
  await key("?");
  await page.locator("#keys").waitFor();
  await audit(page, "keyboard help");
  await key("Escape");
  assert.deepEqual(complaints, []);
  await context.close();
  console.log("by keyboard alone: chosen, asked, one cancelled, listed, forgotten");
}

async function looks(name, viewport, colorScheme) {
  const phone = viewport.width < 600;
  const { page, context, complaints } = await visitor(browser, url, { viewport, colorScheme, hasTouch: phone, reducedMotion: phone ? "reduce" : "no-preference" });
  const [a, b] = models, p = on(page);
  await page.goto(url);
  await connected(page);
  const check = async (what) => {
    await p.shot(`${name}-${what}`);
    await fits(page, `${name} ${what}`);
    await audit(page, `${name} ${what}`);
  };
  await check("welcome");
  await page.locator("#models").click();
  for (const m of models) await page.locator(`#models-list input[value="${m}"]`).check();
  await check("models");
  await page.locator("#models").click();
  await p.ask(markdown, thinks);
  await page.waitForFunction((m) => (document.querySelector(`.column[data-model="${m}"] .reasoning div`)?.innerText ?? "").length > 40, a);
  await check("thinking");
  await p.arrives(a, "drained");
  await check("streaming");
  const stage = page.locator("#stage");
  assert.equal(await page.locator("#follow").isVisible(), false, "it follows by itself");
  await stage.evaluate((e) => (e.scrollTop = 0));
  await page.locator("#follow").click();
  await page.locator("#follow").waitFor({ state: "hidden" });
  assert.ok(await stage.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight < 60), "the newest text is not seen");
  if (phone) {
    assert.equal(await page.evaluate(() => document.getAnimations().filter((x) => x.playState === "running").length), 0, "moves although that is not wanted");
    assert.equal(await p.column(b).isVisible(), false);
    await page.getByRole("tab", { name: b }).click();
    await p.column(b).waitFor();
    await page.keyboard.press("ArrowLeft");
    await p.column(a).waitFor();
  }
  for (const m of models) await p.is(m, "complete");
  await page.locator("#stage").evaluate((e) => (e.scrollTop = 0));
  await check("finished");
  const question = page.locator("#asked-query"), height = () => question.evaluate((e) => e.clientHeight);
  const folded = await height();
  await page.getByRole("button", { name: "Show all of it" }).click();
  assert.ok(await height() > 2 * folded, "the question is not shown as a whole");
  await page.getByRole("button", { name: "Show less of it" }).click();
  assert.equal(await height(), folded);
  // Words of a table are whole, and what doesn't fit scrolls in its place.
  const torn = await page.locator(`.column[data-model="${a}"] :is(td, th)`).evaluateAll((all) => all.filter((cell) => {
    const range = document.createRange();
    return [...cell.textContent.matchAll(/\S+/g)].some((word) => {
      range.setStart(cell.firstChild, word.index);
      range.setEnd(cell.firstChild, word.index + word[0].length);
      return new Set([...range.getClientRects()].map((r) => r.top)).size > 1;
    });
  }).map((cell) => cell.textContent));
  assert.deepEqual(torn, [], "words that are torn");
  if (phone) { // and where it is narrower still: https://www.w3.org/TR/WCAG22/#reflow
    await page.setViewportSize({ width: 320, height: 640 });
    await check("finished-320");
    await page.setViewportSize(viewport);
  }
  await page.locator("#stage").evaluate((e) => (e.scrollTop = e.scrollHeight));
  await check("finished-end");

  const text = p.column(a).locator(".text");
  assert.deepEqual(await text.locator("a").evaluateAll((all) => all.map((l) => [l.getAttribute("href"), l.target, l.rel])), [["https://example.com/a_(b)", "_blank", "noopener noreferrer nofollow"], ["https://example.com/i.png", "_blank", "noopener noreferrer nofollow"]]);
  assert.equal(await text.locator("img, script, b").count(), 0);
  assert.notEqual(await page.title(), "pwned");
  assert.deepEqual(await text.locator("td").allInnerTexts(), ["upper", "open", "4.20 m", "06:00", "Ada Lovelace", "behind the bridge", "lower", "closed", "1.35 m", "06:05", "Charles Babbage", "uninterruptedly"]);
  assert.match(await text.locator("pre").innerText(), /^for drop := range gate \{\n\tfmt/);
  assert.equal(await text.locator(".tick[data-done=true]").count(), 1);
  const reasoning = p.column(a).locator(".reasoning");
  assert.equal(await reasoning.evaluate((e) => e.open), false, "the reasoning is not folded");
  assert.match(await reasoning.locator("summary").innerText(), /Thought for .* · 28 words/);
  assert.equal(await p.column(a).locator(".call pre").innerText(), JSON.stringify({ gate: "upper", since: ["06:00", "12:00"] }, null, 2));
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await text.getByRole("button", { name: "Copy this code" }).click();
  await page.waitForFunction(async () => (await navigator.clipboard.readText()).startsWith("for drop"));

  await p.ask("on and on", { delay_ms: 25, tokens: 100000 });
  await p.arrives(a, "on and on");
  await page.locator("#cancel").click();
  for (const m of models) await p.is(m, "cancelled");
  await check("cancelled");
  if (phone) {
    await page.locator("#side-open").click();
    await page.locator("#side.open").waitFor();
    await check("list");
    await page.keyboard.press("Escape");
    await page.locator("#side-open:focus").waitFor();
  }
  assert.deepEqual(complaints, []);
  await context.close();
  console.log(`${name}: looked at, fits, names and contrast are right`);
}

await run(browser, screenshots, "page", async () => {
  for (const model of models) await oneModel(model);
  await sideBySide();
  await keyboardOnly();
  await looks("desktop-light", { width: 1280, height: 800 }, "light");
  await looks("desktop-dark", { width: 1280, height: 800 }, "dark");
  await looks("phone-light", { width: 390, height: 844 }, "light");
  await looks("phone-dark", { width: 390, height: 844 }, "dark");
});
