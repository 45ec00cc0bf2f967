// Unpacks the browser of a package, which is compressed, with the libraries that it needs.
import { createReadStream, createWriteStream, mkdirSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import { extract } from "tar-fs";

const here = new URL("node_modules/", import.meta.url).pathname;
const from = `${decodeURI(here)}@sparticuz/chromium/bin`, to = `${decodeURI(here)}.browser`;

mkdirSync(to, { recursive: true });
const read = (name) => [createReadStream(`${from}/${name}.br`), createBrotliDecompress()];
await pipeline(...read("chromium"), createWriteStream(`${to}/chromium`, { mode: 0o755 }));
await pipeline(...read("swiftshader.tar"), extract(to));
await pipeline(...read("al2023.tar"), extract(`${to}/al2023`));
