// Messages as the SDK reads them: JSON and streams, with tools, thinking and structured output.
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";

export async function create(client, params) {
  const message = await client.messages.create(params);
  return { message, requestId: message._request_id };
}

export async function rawEvents(client, params) {
  const events = [];
  for await (const event of await client.messages.create({ ...params, stream: true })) events.push(event);
  return events;
}

export async function stream(client, params) {
  const seen = { events: [], texts: [], thoughts: [], inputs: [], blocks: [], times: [] };
  const stream = client.messages.stream(params);
  stream.on("text", (text) => seen.texts.push(text) && seen.times.push(performance.now()));
  stream.on("thinking", (thought) => seen.thoughts.push(thought));
  stream.on("inputJson", (json) => seen.inputs.push(json));
  stream.on("contentBlock", (block) => seen.blocks.push(block));
  for await (const event of stream) seen.events.push(event.type);
  return { ...seen, message: await stream.finalMessage(), requestId: stream.request_id };
}

export async function abort(client, params) {
  const stream = client.messages.stream(params);
  stream.on("text", () => stream.abort());
  return stream.done().then(() => null, (error) => error.constructor.name);
}

export async function parse(client, { schema, ...params }) {
  const format = jsonSchemaOutputFormat(schema);
  const message = await client.messages.parse({ ...params, output_config: { format } });
  return message.parsed_output;
}

export async function toolRunner(client, { answers, ...params }) {
  const calls = [];
  const tools = params.tools.map((tool) => ({
    ...tool,
    parse: (input) => input,
    run: (input) => calls.push([tool.name, input]) && answers[tool.name],
  }));
  const message = await client.beta.messages.toolRunner({ ...params, tools });
  return { calls, message };
}

export async function betas(client, params) {
  return client.beta.messages.create(params);
}

export async function countTokens(client, params) {
  const plain = await client.messages.countTokens(params);
  const beta = await client.beta.messages.countTokens({ ...params, betas: ["token-counting-2024-11-01"] });
  return [plain.input_tokens, beta.input_tokens];
}

export async function rawResponse(client, params) {
  const { data, response, request_id: requestId } = await client.messages.create(params).withResponse();
  const raw = await client.messages.create(params).asResponse();
  return { data, requestId, status: raw.status, headers: Object.fromEntries(response.headers), text: await raw.text() };
}
