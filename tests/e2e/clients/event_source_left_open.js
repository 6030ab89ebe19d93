// In a page: an EventSource that nobody closes. It comes back until it is told that all is said.

const [request_id, done] = arguments;
const seen = [];
const source = new EventSource(`/api/v1/stream/${request_id}`);

for (const name of ["start", "token", "complete"]) {
  source.addEventListener(name, (event) => seen.push([name, event.lastEventId]));
}

source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) done(seen);
};
