// In a page: submit over a WebSocket, and hand over every frame up to the last one.

const [prompt, stream, done] = arguments;
const frames = [];
const ws = new WebSocket(`ws://${location.host}/api/v1/ws`);

ws.onopen = () => {
  ws.send(JSON.stringify({ prompt, session_id: crypto.randomUUID(), stream }));
};

ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  frames.push(data);
  if (data.type === "result" || data.type === "error") ws.close();
};

ws.onclose = (event) => done({ frames, code: event.code, clean: event.wasClean });
