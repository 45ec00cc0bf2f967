// Runs one case of the official SDK: node run.mjs FILE NAME OPTIONS PARAMS. Prints its result as JSON.
import Anthropic from "@anthropic-ai/sdk";

const [file, name, options, params] = process.argv.slice(2);
const cases = await import(`./${file}.mjs`);
const client = new Anthropic(JSON.parse(options));
process.stdout.write(JSON.stringify(await cases[name](client, JSON.parse(params))));
