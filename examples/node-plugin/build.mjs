// Makes one program of the plugin and all it imports: node build.mjs <folder>
// A host runs exactly the file whose digest it knows, so there is nothing beside it.
import { build } from "esbuild";
import { chmodSync, copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = process.argv[2];
mkdirSync(out, { recursive: true });
await build({
  entryPoints: [join(here, "echo.mjs")], outfile: join(out, "echo"), absWorkingDir: here,
  bundle: true, platform: "node", format: "cjs", target: "node20", logLevel: "warning",
  loader: { ".proto": "text" },
  // The environment of a plugin has no PATH: this very node runs it.
  banner: { js: `#!${process.execPath}` },
});
chmodSync(join(out, "echo"), 0o755);
copyFileSync(join(here, "plugin.yaml"), join(out, "plugin.yaml"));
