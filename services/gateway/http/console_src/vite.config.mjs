import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { defineConfig } from "vite";

const OUT = "../console";
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** The files below a folder but for node_modules, as sorted paths with slashes. */
function filesOf(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .filter((path) => !path.startsWith("node_modules/"))
    .sort();
}

/** Writes build.json: a hash of the sources and one of each built file, which a test compares. */
const provenance = {
  name: "provenance",
  closeBundle() {
    const hashes = (folder, names) =>
      Object.fromEntries(names.map((name) => [name, sha256(readFileSync(join(folder, name)))]));
    const sources = hashes(".", filesOf("."));
    const lines = Object.entries(sources).map(([name, hash]) => `${hash}  ${name}\n`);
    const built = hashes(OUT, filesOf(OUT).filter((name) => name !== "build.json"));
    const document = { sources_sha256: sha256(lines.join("")), files_sha256: built };
    writeFileSync(join(OUT, "build.json"), JSON.stringify(document, null, 2) + "\n");
  },
};

export default defineConfig({
  base: "./",
  plugins: [provenance],
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
