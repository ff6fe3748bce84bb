// What is shipped is what is written: the bundle, the README, the docs.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path) => readFileSync(join(root, path), "utf8");

// scratch is a folder inside the package, so that the package can import itself.
function scratch(t) {
  const dir = mkdtempSync(join(root, "test", "scratch-"));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

test("the committed bundle is what its source makes, and small", (t) => {
  const fresh = join(scratch(t), "sluice.js");
  execFileSync(process.execPath, ["bundle.mjs", fresh], { cwd: root });
  assert.ok(readFileSync(fresh, "utf8") === read("dist/sluice.js"), "dist/sluice.js is stale: npm run build, and commit it");
  assert.ok(statSync(fresh).size < 100_000);
});

test("the Socket.IO client that the gateway serves is the one that this package depends on", () => {
  for (const name of ["socket.io.min.js", "socket.io.esm.min.js"]) {
    const shipped = readFileSync(new URL(`../node_modules/socket.io-client/dist/${name}`, import.meta.url), "utf8");
    assert.equal(read(`served/${name}`), shipped.replace(/\/\/# sourceMappingURL=.*\n?$/, ""), `served/${name} is stale: copy it, without its last line`);
  }
});

test("the code in README.md compiles", (t) => {
  const dir = scratch(t);
  const blocks = [...read("README.md").matchAll(/^```(tsx?)\n(.*?)^```/gms)];
  assert.ok(blocks.length >= 5, `${blocks.length} blocks`);
  blocks.forEach(([, kind, code], i) => writeFileSync(join(dir, `block${i}.${kind}`), code));
  writeFileSync(join(dir, "tsconfig.json"), JSON.stringify({
    compilerOptions: { target: "ES2022", module: "NodeNext", lib: ["ES2022", "DOM"], types: [], jsx: "react-jsx", strict: true, noEmit: true, skipLibCheck: true },
    include: ["*.ts", "*.tsx"],
  }));
  try {
    execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", dir], { encoding: "utf8" });
  } catch (error) {
    assert.fail(error.stdout);
  }
});

test("what npm packs can be imported, with its types, by a project of its own", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "sluice-fresh-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const run = (program, ...args) => execFileSync(program, args, { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  const [packed] = JSON.parse(execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", dir], { cwd: root, encoding: "utf8" }));
  const top = new Set(packed.files.map((f) => f.path.split("/")[0]));
  assert.deepEqual([...top].sort(), ["README.md", "dist", "lib", "package.json"]);
  assert.deepEqual(packed.files.filter((f) => f.path.startsWith("dist/")).map((f) => f.path), ["dist/sluice.js"]);

  const at = join(dir, "node_modules/@sluice/client");
  mkdirSync(at, { recursive: true });
  mkdirSync(join(dir, "node_modules/@types"));
  run("tar", "-xzf", packed.filename, "-C", at, "--strip-components=1");
  for (const name of ["socket.io-client", "react", "@types/react"]) symlinkSync(join(root, "node_modules", name), join(dir, "node_modules", name));
  writeFileSync(join(dir, "package.json"), '{"type":"module"}');
  writeFileSync(join(dir, "app.mjs"), `
    import * as client from "@sluice/client";
    import * as bundle from "@sluice/client/bundle";
    import { useAnswer } from "@sluice/client/react";
    console.log(JSON.stringify([Object.keys(client).sort(), Object.keys(bundle).sort(), typeof useAnswer]));
  `);
  const names = ["Answer", "Sluice", "SluiceError", "connect", "memoryStorage", "webStorage"];
  assert.deepEqual(JSON.parse(run(process.execPath, "app.mjs")), [names, names, "function"]);

  writeFileSync(join(dir, "app.ts"), `
    import { connect, SluiceError, type Answer, type Delta, type Progress, type Result, type Saved, type SluiceEvents } from "@sluice/client";
    import { connect as bundled } from "@sluice/client/bundle";
    import { useAnswer, type UseAnswer } from "@sluice/client/react";
    export const answer: Answer = connect("http://x", { auth: async (refused?: SluiceError) => refused?.code ?? "t" }).ask("q", { model: "m" });
    export const place: number | undefined = (answer.snapshot().progress as Progress | null)?.position;
    export const trouble: SluiceError | null = bundled().trouble;
    export const used: UseAnswer = useAnswer(null);
    export type All = [Delta, Result, Saved, SluiceEvents["models"]];
    // @ts-expect-error there is no such option
    connect("http://x", { tokens: 1 });
    // @ts-expect-error a question is asked with words
    answer.cancel("why");
  `);
  const options = { target: "ES2022", lib: ["ES2022", "DOM"], types: [], strict: true, exactOptionalPropertyTypes: true, noEmit: true };
  for (const modules of [{ module: "NodeNext" }, { module: "ESNext", moduleResolution: "Bundler" }]) {
    writeFileSync(join(dir, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...options, ...modules }, include: ["app.ts"] }));
    try {
      run(join(root, "node_modules/.bin/tsc"), "-p", dir);
    } catch (error) {
      assert.fail(`${modules.module}:\n${error.stdout}`);
    }
  }
});

test("every export and every public member is documented", () => {
  for (const file of readdirSync(join(root, "lib")).filter((f) => f.endsWith(".d.ts"))) {
    const lines = read(`lib/${file}`).split("\n");
    lines.forEach((line, i) => {
      const declares = /^export (declare|interface|type \w+ =|default)/.test(line) && !/^export (type )?\{/.test(line);
      const member = file !== "events.d.ts" && /^    (?!#|private|constructor)[\w\[]/.test(line) && /[:(]/.test(line) && inClass(lines, i);
      if (declares || member) assert.match(lines[i - 1] ?? "", /\*\/$|^\s*get \w+|^\s+on</, `${file}: ${line.trim()} has no doc comment`);
    });
  }
});

function inClass(lines, i) {
  while (i-- > 0) if (/^export/.test(lines[i])) return /^export declare class/.test(lines[i]);
  return false;
}

test("it depends on socket.io-client alone, and the lock names no other place", () => {
  const own = JSON.parse(read("package.json"));
  assert.deepEqual(Object.keys(own.dependencies), ["socket.io-client"]);
  const { packages } = JSON.parse(read("package-lock.json"));
  for (const [name, p] of Object.entries(packages)) {
    assert.ok(name === "" || p.integrity, `${name} has no integrity`);
    assert.ok(!p.resolved || p.resolved.startsWith("https://registry.npmjs.org/"), `${name} comes from ${p.resolved}`);
  }
});
