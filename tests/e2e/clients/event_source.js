// In a page: submit with fetch, read the answer with an EventSource, and hand over what came.

const [prompt, done] = arguments;

const response = await fetch("/api/v1/infer", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ prompt, stream: true }),
});
const { request_id } = await response.json();

const events = [];
const source = new EventSource(`/api/v1/stream/${request_id}`);
for (const name of ["start", "token", "complete"]) {
  source.addEventListener(name, (event) => {
    events.push([name, event.lastEventId, JSON.parse(event.data)]);
    if (name === "complete") {
      source.close();
      done({ request_id, events });
    }
  });
}
