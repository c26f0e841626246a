// 跑 test/*.test.ts：esbuild 打包，node:test 执行。`ws` 是真的套接字，服务器照剧本演。

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const tools = resolve(process.env.JS_TOOLS ?? here);
const esbuild = createRequire(join(tools, "package.json"))("esbuild");
const folder = mkdtempSync(join(tmpdir(), "meeting-push-tests-"));
const names = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.ts"));
try {
  esbuild.buildSync({
    absWorkingDir: here,
    entryPoints: names.map((name) => `test/${name}`),
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    nodePaths: [join(tools, "node_modules")],
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  });
  const files = names.map((name) => join(folder, name.replace(".ts", ".mjs")));
  const { status } = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" });
  process.exitCode = status ?? 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
