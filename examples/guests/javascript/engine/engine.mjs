// Makes the engine of all JavaScript guests: node engine.mjs engine.wasm
//
// The npm engine, the glue and an empty place for scripts become one module, which
// exports what the host calls and nothing else. build.mjs puts the scripts in.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { place } from "./build.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const tool = (name, ...args) => execFileSync(here(`../../node_modules/.bin/${name}`), args, { stdio: ["ignore", "ignore", "inherit"] });
const dir = mkdtempSync(join(tmpdir(), "sluice-js-"));
const at = (name) => join(dir, name);

try {
  writeFileSync(at("script.wat"), `(module
    (import "env" "memory" (memory 0))
    (data $scripts "${place}")
    (func (export "scripts") (param $to i32) (param $n i32)
      (memory.init $scripts (local.get $to) (i32.const 0) (local.get $n))))`);
  tool("wasm-as", "--enable-bulk-memory", at("script.wat"), "-o", at("script.wasm"));
  tool("asc", here("glue.ts"), "-O3", "--runtime", "stub", "--importMemory", "--noExportMemory", "--use", "abort=", "-o", at("glue.wasm"));
  // All under one name, as each imports from the others.
  const modules = [here("../../node_modules/quickjs-wasi/quickjs.wasm"), at("glue.wasm"), at("script.wasm")];
  tool("wasm-merge", ...modules.flatMap((m) => [m, "env"]), "--all-features", "-o", at("all.wasm"));
  const keep = ["memory", "_initialize", ...["abi", "warm", "describe", "configure", "generate", "resume", "count_tokens"].map((name) => "sluice_" + name)];
  writeFileSync(at("keep.json"), JSON.stringify(keep.map((name) => ({ name, export: name, root: true }))));
  tool("wasm-metadce", at("all.wasm"), "--all-features", "--graph-file", at("keep.json"), "-o", process.argv[2]);
} finally {
  rmSync(dir, { recursive: true });
}
