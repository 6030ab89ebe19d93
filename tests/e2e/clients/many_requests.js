// In a page: submit many prompts over one WebSocket without waiting, and hand over their results.

const [prompts, done] = arguments;
const indexes = {};
const results = {};
const ws = new WebSocket(`ws://${location.host}/api/v1/ws`);

ws.onopen = () => {
  prompts.forEach((prompt, index) => ws.send(JSON.stringify({ prompt, ref: index })));
};

ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  if (data.type === "ack") indexes[data.request_id] = data.ref;
  if (data.type === "result") results[indexes[data.request_id]] = data.result;
  if (Object.keys(results).length === prompts.length) ws.close();
};

ws.onclose = (event) => done({ results: Object.values(results), code: event.code });
