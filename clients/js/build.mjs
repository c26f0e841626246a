// 造出 dist/，并把浏览器要的放进 Python 包的 web/：`node build.mjs [目录 [web 目录]]`。
// 同样的源文件与锁住的工具，每一个字节都一样（tests/system/js 核对）。

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const tools = createRequire(join(resolve(process.env.JS_TOOLS ?? here), "package.json"));
const esbuild = tools("esbuild");
const dist = resolve(process.argv[2] ?? join(here, "dist"));
const web = process.argv[3] ?? (process.argv[2] ? null : join(here, "../../src/meeting_push/web"));
const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
const banner = `/* meeting-push ${version}, MIT; made from clients/js */`;

mkdirSync(dist, { recursive: true });
bundle("meeting-push.js", { format: "esm" });
bundle("meeting-push.min.js", { format: "esm", minify: true });
bundle("meeting-push.iife.js", { format: "iife", globalName: "MeetingPush", minify: true });
const inbox = { format: "esm", minify: true, entryPoints: ["src/inbox/element.ts"] };
bundle("meeting-push-inbox.js", inbox);
writeFileSync(join(dist, "meeting-push.worker.js"), workerSource());
writeDeclarations();
if (web) {
  mkdirSync(web, { recursive: true });
  copyFileSync(join(dist, "meeting-push.min.js"), join(web, "meeting-push.js"));
  for (const name of [".iife.js", ".worker.js", ".d.ts", "-inbox.js", "-inbox.d.ts"]) {
    copyFileSync(join(dist, `meeting-push${name}`), join(web, `meeting-push${name}`));
  }
}

function bundle(name, options) {
  esbuild.buildSync({
    absWorkingDir: here,
    entryPoints: ["src/index.ts"],
    outfile: join(dist, name),
    bundle: true,
    target: "es2022",
    charset: "utf8",
    legalComments: "none",
    banner: { js: banner },
    ...options,
  });
}

function workerSource() {
  const source = readFileSync(join(here, "src/clock.ts"), "utf8");
  return `${/WORKER_SOURCE = "(.*)";/.exec(source)[1]}\n`;
}

/** tsc 给每个文件一份；接成一份，只有 index.ts 里说的是公开的。 */
function writeDeclarations() {
  const folder = mkdtempSync(join(tmpdir(), "meeting-push-types-"));
  try {
    const tsc = join(dirname(tools.resolve("typescript/package.json")), "bin/tsc");
    const given = ["-p", join(here, "tsconfig.json"), "--emitDeclarationOnly", "--outDir", folder];
    execFileSync(process.execPath, [tsc, ...given], { stdio: "inherit" });
    const read = (name) => readFileSync(join(folder, `${name}.d.ts`), "utf8");
    writeFileSync(join(dist, "meeting-push.d.ts"), joined(read));
    writeFileSync(join(dist, "meeting-push-inbox.d.ts"), inboxTypes(read));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** 元素与它下面的，接成一份；别的类型都从 meeting-push 来。 */
function inboxTypes(read) {
  const text = `${read("inbox/inbox")}\n${read("inbox/element")}`;
  const outer = new Set();
  for (const [, names, from] of text.matchAll(/^import (?:type )?\{([^}]*)\} from "([^"]+)";$/gm)) {
    if (from.startsWith("../")) for (const [name] of names.matchAll(/\w+/g)) outer.add(name);
  }
  const body = text
    .replaceAll(/^import [^;]*;\n/gm, "")
    .replaceAll(/^export \{[^}]*\};\n/gm, "");
  return `${banner}\nimport type { ${[...outer].join(", ")} } from "./meeting-push.js";\n${body}`;
}

function joined(read) {
  const seen = new Set();
  const parts = [];
  const visit = (name) => {
    if (seen.has(name)) return;
    seen.add(name);
    const text = read(name);
    for (const [, next] of text.matchAll(/from "\.\/([\w-]+)\.js"/g)) visit(next);
    parts.push(text);
  };
  visit("index");
  const index = parts.pop();
  const named = new Set();
  const types = new Set(); // 只作类型公开的类，运行时没有
  for (const [, type, names, file] of index.matchAll(/export (type )?(\{[^}]*\}|\*) from "\.\/([\w-]+)\.js"/g)) {
    if (names === "*") {
      const all = read(file).matchAll(/^export (?:declare )?(?:interface|type|class|function|const) (\w+)/gm);
      for (const [whole, one] of all) (whole.includes(" class ") ? types : named).add(one);
    } else for (const [one] of names.replaceAll(/\btype /g, "").matchAll(/\w+/g)) named.add(one);
  }
  const body = parts
    .join("\n")
    .replaceAll(/^import [^;]*;\n/gm, "")
    .replaceAll(/^export \{\};\n/gm, "")
    .replaceAll(/^export ((?:declare )?(?:interface|type|class|function|const) (\w+))/gm, (whole, rest, name) =>
      named.has(name) ? whole : rest,
    );
  return `${banner}\n${body}\nexport type { ${[...types].join(", ")} };\n`;
}
