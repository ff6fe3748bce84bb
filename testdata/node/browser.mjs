// What the tests of the page share: a browser that complains aloud, and checks of
// what any page must have.
import assert from "node:assert/strict";
import axe from "axe-core";
import { chromium } from "playwright-core";

export function launch(executablePath) {
  return chromium.launch({
    executablePath,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
}

// visitor opens a browser profile of its own. What the browser complains about,
// and what it asks of other servers, is in complaints.
export async function visitor(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  context.setDefaultTimeout(60_000);
  const complaints = [];
  context.on("page", (page) => {
    page.on("console", (m) => (m.type() === "error" || m.type() === "warning") && complaints.push(m.text()));
    page.on("pageerror", (e) => complaints.push(String(e)));
    page.on("request", (r) => !/^(data|blob):/.test(r.url()) && new URL(r.url()).host !== new URL(url).host && complaints.push("foreign request: " + r.url()));
  });
  return { context, complaints, page: await context.newPage() };
}

export const connected = (page) => page.locator('#link[data-state="on"]').waitFor();

// fits checks that nothing makes the page scroll sideways.
export async function fits(page, where) {
  const [scroll, client] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(scroll <= client, `${where}: the page is ${scroll} px wide in ${client}`);
  const out = await page.evaluate(() => [...document.querySelectorAll("body *")].filter((e) => {
    if (e.closest(".hidden, .skip, #side:not(.open), pre, .scroll, .tabs") || !e.checkVisibility()) return false;
    const r = e.getBoundingClientRect();
    return r.width > 0 && (r.right > innerWidth + 1 || r.left < -1);
  }).map((e) => e.outerHTML.slice(0, 120)));
  assert.deepEqual(out, [], `${where}: outside the window`);
  // What scrolls down doesn't scroll sideways, and the buttons are in sight and in one row.
  const odd = await page.evaluate(() => {
    const found = [...document.querySelectorAll("#stage, #jobs, .panel")].filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map((e) => "sideways: #" + e.id);
    const row = [...document.querySelectorAll(".row > button, .row > .choice")].filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect());
    if (row.some((r) => r.bottom > innerHeight + 1 || r.top > row[0].bottom)) found.push("buttons: " + row.map((r) => [r.top, r.bottom].map(Math.round)).join(" "));
    return found;
  });
  assert.deepEqual(odd, [], where);
}

// audit checks names, references, sizes and contrast of what is seen now.
export async function audit(page, where) {
  const found = await page.evaluate(() => {
    const problems = [];
    const seen = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    const say = (what, e) => problems.push(`${what}: ${e.outerHTML.slice(0, 140)}`);
    const texts = (ids) => ids.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const nameOf = (e) => e.getAttribute("aria-label") || (e.hasAttribute("aria-labelledby") && texts(e.getAttribute("aria-labelledby"))) ||
      [...(e.labels ?? [])].map((l) => l.textContent).join(" ") || (/^(BUTTON|A|SUMMARY)$/.test(e.tagName) || e.matches("[role=tab]") ? e.textContent : "") || e.getAttribute("alt");
    for (const e of document.querySelectorAll("button, a[href], input, select, textarea, summary, dialog, aside, nav, section, article, [role=tab], [role=tablist], [role=tabpanel], [role=region], [role=group], [role=form], [role=img], img:not([alt=''])")) {
      if (seen(e) && !(nameOf(e) || "").trim()) say("no name", e);
    }
    const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
    for (const id of ids.filter((id, i) => ids.indexOf(id) !== i)) problems.push("twice: #" + id);
    for (const e of document.querySelectorAll("[aria-controls], [aria-labelledby], [aria-describedby], label[for]")) {
      for (const a of ["aria-controls", "aria-labelledby", "aria-describedby", "for"]) {
        for (const id of (e.getAttribute(a) ?? "").split(/\s+/).filter(Boolean)) if (!document.getElementById(id)) say(`${a} leads nowhere`, e);
      }
    }
    if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
    if (!document.documentElement.lang) problems.push("no language");
    for (const e of document.querySelectorAll("[aria-live], [role=status], [role=alert]")) if (e.querySelector(".text, .reasoning") || e.closest(".text")) say("each word is announced", e);
    for (const e of document.querySelectorAll("button, input, select, summary, [role=tab]")) {
      const r = e.getBoundingClientRect();
      if (seen(e) && !e.closest("label") && (r.width < 24 || r.height < 22)) say(`small, ${Math.round(r.width)} × ${Math.round(r.height)}`, e);
    }
    for (const e of document.querySelectorAll(".mark")) if (seen(e) && e.offsetWidth !== e.offsetHeight) say(`squeezed, ${e.offsetWidth} × ${e.offsetHeight}`, e.parentElement);
    for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) say("own order of tabs", e);

    const parse = (c) => {
      const n = c.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
      return c.startsWith("color(srgb") ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1];
    };
    const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
    const backdrop = (e) => {
      const layers = [];
      for (let at = e; at; at = at.parentElement) {
        layers.push(parse(getComputedStyle(at).backgroundColor));
        if (layers.at(-1)[3] === 1 || at.tagName === "DIALOG") break;
      }
      return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
    };
    const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    for (const e of document.querySelectorAll("body *")) {
      const own = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
      if (!own || !seen(e) || e.closest(":disabled, .hidden")) continue;
      const s = getComputedStyle(e);
      const below = backdrop(e), above = over(parse(s.color), below);
      const [high, low] = [light(above), light(below)].sort((a, b) => b - a);
      const ratio = (high + 0.05) / (low + 0.05);
      const large = parseFloat(s.fontSize) >= 24 || (parseFloat(s.fontSize) >= 18.66 && Number(s.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)}`, e);
    }
    return problems;
  });
  assert.deepEqual(found, [], `${where}: what a page must have`);
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run(document, { preload: false, resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  assert.deepEqual(violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")}`), [], `${where}: axe`);
}

// run does the work and closes the browser, after a picture of what was there if something is
// not as it should be.
export async function run(browser, screenshots, name, work) {
  try {
    await work();
  } catch (error) {
    let i = 0;
    for (const context of browser.contexts()) for (const page of context.pages()) await page.screenshot({ path: `${screenshots}/${name}-failed-${++i}.png` }).catch(() => {});
    console.error(error);
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}
