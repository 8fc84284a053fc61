// Builds the page into src/unweave/page/static, or with --test the unit tests into ui/build, or with --check says whether the built page is fresh.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2]?.startsWith("--out=") ? process.argv[2].slice(6) : join(here, "../src/unweave/page/static");
const common = { absWorkingDir: here, bundle: true, charset: "utf8", jsx: "automatic", jsxImportSource: "preact", logLevel: "warning", target: "es2022" };

/** Hash of everything the page is built from; tests/test_page.py computes the same without Node. */
function version() {
  const files = readdirSync(join(here, "src"), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath ?? entry.path, entry.name));
  const all = [...paths, join(here, "build.mjs"), join(here, "package-lock.json")].map((path) => relative(here, path).replaceAll("\\", "/")).sort();
  const hash = createHash("sha256");
  for (const path of all) hash.update(`${path}\0`).update(readFileSync(join(here, path))).update("\0");
  return hash.digest("hex");
}

/** Licence texts of the packages that are in the bundle. */
function licences(inputs) {
  const names = new Set(Object.keys(inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]).filter(Boolean));
  const texts = [...names].sort().map((name) => {
    const folder = join(here, "node_modules", name);
    const { version: number, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    return `${name} ${number} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : "No licence text comes with the package."}\n`;
  });
  return `The page (app.js) contains these packages.\n\n${texts.join(`\n${"-".repeat(80)}\n\n`)}`;
}

if (process.argv[2] === "--test") {
  rmSync(join(here, "build"), { recursive: true, force: true });
  const tests = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.ts"));
  await build({ ...common, entryPoints: tests.map((name) => `test/${name}`), outdir: "build", platform: "node", format: "esm", outExtension: { ".js": ".mjs" } });
} else {
  mkdirSync(out, { recursive: true });
  const result = await build({ ...common, entryPoints: { app: "src/main.tsx" }, outdir: out, format: "iife", minify: true, metafile: true, legalComments: "none" });
  writeFileSync(join(out, "THIRD_PARTY_LICENSES.txt"), licences(result.metafile.inputs));
  writeFileSync(join(out, "VERSION"), `${version()}\n`);
  console.log(Object.entries(result.metafile.outputs).map(([path, { bytes }]) => `${path.split("/").at(-1)} ${(bytes / 1000).toFixed(1)} kB`).join("  "));
}
