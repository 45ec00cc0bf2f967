// The Models API as the SDK reads it.

export async function pages(client, query) {
  const ids = [];
  const requests = [];
  for await (const page of (await client.models.list(query)).iterPages()) {
    requests.push(page.data.length);
    ids.push(...page.data.map((model) => model.id));
  }
  return { ids, requests };
}

export async function list(client, query) {
  const models = [];
  for await (const model of client.models.list(query)) models.push(model);
  return models;
}

export async function betaList(client, query) {
  const ids = [];
  for await (const model of client.beta.models.list(query)) ids.push(model.id);
  return ids;
}

export const retrieve = (client, { id }) =>
  client.models.retrieve(id).then((model) => ({ model }), (error) => ({ thrown: error.constructor.name }));
