// Renders each .mmd file of this folder as an .svg beside it: `make diagrams`.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { renderMermaidSVG } from "beautiful-mermaid";

const DARK = "@media (prefers-color-scheme: dark) { svg { --bg: #0d1117 !important; --fg: #e6edf3 !important; } }";

const folder = import.meta.dirname;
for (const name of readdirSync(folder).filter((each) => each.endsWith(".mmd"))) {
  const source = readFileSync(join(folder, name), "utf8");
  const digest = createHash("sha256").update(source).digest("hex");
  const svg = renderMermaidSVG(source, { bg: "#ffffff", fg: "#1f2328", font: "Arial" });
  const styled = svg.replace("<style>", `<!-- of ${name}, sha256 ${digest} -->\n<style>\n  ${DARK}`).replace(/@import url\([^)]*\);?/g, "");
  writeFileSync(join(folder, `${basename(name, ".mmd")}.svg`), styled + "\n");
}
