// The errors that the SDK throws, and its retries.
import { ERROR_CODE_CLASSES } from "@anthropic-ai/sdk/core/error-classes";

const HELLO = { model: "claude-haiku-4-5", max_tokens: 64, messages: [{ role: "user", content: "Hello" }] };

const described = (error) => ({
  class: error.constructor.name,
  parent: Object.getPrototypeOf(error.constructor).name,
  status: error.status ?? null,
  type: error.type,
  code: error.errorCode,
  message: error.apiMessage,
  requestId: error.requestID ?? null,
  retry: error.headers?.get("x-should-retry") ?? null,
});

const errorOf = (call) => call.then(() => null, described);

// The classes that the SDK has for a status with a code: [[status, code, class]].
export const classes = () => [...ERROR_CODE_CLASSES].map(([key, cls]) => [...key.split(" "), cls.name]);

export async function each(client, { count }) {
  const thrown = [];
  for (let n = 0; n < count; n += 1) thrown.push(await errorOf(client.messages.create(HELLO)));
  return thrown;
}

export async function create(client, { options, ...more }) {
  const began = performance.now();
  const error = await errorOf(client.messages.create({ ...HELLO, ...more }, options));
  return { error, seconds: (performance.now() - began) / 1000 };
}

export const stream = (client, more) => errorOf(client.messages.stream({ ...HELLO, ...more }).finalMessage());
