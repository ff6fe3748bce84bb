// The real thing: the sluice binary, a redis-server, and a network that can be cut.
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer, connect as dial } from "node:net";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const required = Boolean(process.env.SLUICE_REQUIRE);

// need gives the path of a program; without it the test is skipped, or fails if SLUICE_REQUIRE is set.
export function need(t, program) {
  const found = spawnSync("sh", ["-c", 'command -v "$0"', program], { encoding: "utf8" }).stdout.trim();
  if (!found && required) throw new Error(`${program} is not installed; make test says how`);
  if (!found) t.skip(`${program} is not installed`);
  return found;
}

let installed;

// install builds the binary and the echo plugin, once per process: into a folder of its own, unless SLUICE_BINARY and
// SLUICE_PLUGINS name what is built already.
export function install() {
  return (installed ??= (async () => {
    const { SLUICE_BINARY: binary, SLUICE_PLUGINS: plugins } = process.env;
    const dir = mkdtempSync(join(tmpdir(), "sluice-client-"));
    process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
    if (binary && plugins) return { dir, binary, plugins };
    const run = promisify(execFile);
    const built = { dir, binary: join(dir, "sluice"), plugins: join(dir, "plugins") };
    await run("go", ["build", "-o", built.binary, "."], { cwd: root });
    await run(built.binary, ["plugin", "build", "plugins/echo/native.yaml", join(built.plugins, "echo")], { cwd: root });
    return built;
  })());
}

// start runs sluice until the test ends, or until stop() or kill(), and waits until it is ready.
export async function start(t, { words = [], redis = "", addr = "127.0.0.1:0", env = {} } = {}) {
  const { dir, binary, plugins } = await install();
  const cwd = mkdtempSync(join(dir, "run-"));
  const child = spawn(binary, words, {
    cwd,
    env: {
      ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SLUICE_"))),
      SLUICE_GATEWAY__ADDR: addr, SLUICE_PLUGINS__DIRS: plugins, SLUICE_PLUGINS__CACHE_DIR: join(dir, "cache"),
      ...(redis ? { SLUICE_REDIS__URL: redis } : { SLUICE_REDIS__EMBEDDED: "memory" }), ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  const exited = once(child, "exit");
  const stop = async (signal = "SIGTERM") => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await exited;
  };
  t.after(async () => {
    await stop();
    if (/panic:|DATA RACE/.test(log)) throw new Error(log.slice(-8000));
  });
  const ready = new Promise((resolve, reject) => {
    const hear = (text) => {
      log += text;
      const found = /Sluice is ready: .*(http:\/\/[^/\s]+)\/|Sluice takes jobs/.exec(log);
      if (found) resolve(found[1]);
    };
    child.stdout.setEncoding("utf8").on("data", hear);
    child.stderr.setEncoding("utf8").on("data", hear);
    child.on("exit", () => reject(new Error(`sluice ${words.join(" ")} ended:\n${log.slice(-8000)}`)));
  });
  const url = await ready;
  return { url, port: Number(new URL(url ?? "http://x:1").port), stop, kill: () => stop("SIGKILL") };
}

// redisServer runs a Redis on a socket until the test ends and gives its url, or null without one.
export async function redisServer(t) {
  const program = need(t, "redis-server");
  if (!program) return null;
  const { dir } = await install();
  const at = mkdtempSync(join(dir, "redis-"));
  const socket = join(at, "r.sock");
  const child = spawn(program, ["--port", "0", "--unixsocket", socket, "--dir", at, "--save", ""], { stdio: ["ignore", "pipe", "ignore"] });
  const exited = once(child, "exit");
  t.after(async () => {
    child.kill();
    await exited;
  });
  for await (const text of child.stdout.setEncoding("utf8")) if (/ready to accept/i.test(text)) break;
  if (!existsSync(socket)) throw new Error("redis-server has no socket");
  return "unix://" + socket;
}

// proxy is a network between a client and a port: it can be cut, and stay away. A function in place of the port is asked
// for each connection, as a load balancer would be. A connection that carries more than most bytes to the port is cut.
export async function proxy(t, port, { most = Infinity } = {}) {
  const pairs = new Set();
  let away = false, cuts = 0;
  const server = createServer((near) => {
    if (away) return void near.destroy();
    const far = dial(typeof port === "function" ? port() : port, "127.0.0.1");
    const pair = [near, far];
    pairs.add(pair);
    const drop = () => {
      pairs.delete(pair);
      for (const s of pair) s.destroy();
    };
    for (const s of pair) s.on("error", drop).on("close", drop);
    let carried = 0;
    near.on("data", (bytes) => {
      carried += bytes.length;
      if (carried <= most) return;
      cuts++;
      for (const s of pair) s.resetAndDestroy();
    });
    near.pipe(far).pipe(near);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => { for (const pair of [...pairs]) for (const s of pair) s.resetAndDestroy(); };
  t.after(() => { cut(); server.close(); });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut,
    get cuts() { return cuts; }, // for what was carried
    away(yes) { away = yes; if (yes) cut(); },
    to(p) { port = p; },
  };
}

// words is a prompt that echo says back, one token a word.
export const words = (n) => Array.from({ length: n }, (_, i) => `word${i}`).join(" ");
