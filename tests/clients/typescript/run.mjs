// One case of the official SDK: node run.mjs FILE NAME OPTIONS GIVEN. Prints what came of it, as JSON.
import Anthropic from "@anthropic-ai/sdk";

const [file, name, options, given] = process.argv.slice(2);
const cases = await import(`./${file}.mjs`);
const client = new Anthropic(JSON.parse(options));
process.stdout.write(JSON.stringify(await cases[name](client, JSON.parse(given))));
