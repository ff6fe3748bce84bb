// Makes one program of a plugin and all it imports: node build.mjs <folder> [<source>]
// A host runs exactly the file whose digest it knows, so there is nothing beside it.
import { build } from "esbuild";
import { chmodSync, copyFileSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const [out, source = join(here, "echo.mjs")] = process.argv.slice(2);
const program = join(out, basename(source, ".mjs"));
mkdirSync(out, { recursive: true });
await build({
  entryPoints: [source], outfile: program, absWorkingDir: here,
  bundle: true, platform: "node", format: "cjs", target: "node20", logLevel: "warning",
  loader: { ".proto": "text" },
  // The environment of a plugin has no PATH: this very node runs it.
  banner: { js: `#!${process.execPath}` },
});
chmodSync(program, 0o755);
copyFileSync(join(dirname(source), "plugin.yaml"), join(out, "plugin.yaml"));
