// Submit a prompt and poll until its result is there, as with axios. Prints statuses and result.

const [address, prompt] = process.argv.slice(2);

async function call(path, body) {
  const response = await fetch(`${address}/api/v1${path}`, {
    method: body ? "POST" : "GET",
    headers: { Accept: "application/json, text/plain, */*", "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return { status: response.status, data: await response.json() };
}

const { data } = await call("/infer", { prompt, session_id: crypto.randomUUID() });

for (;;) {
  const response = await call(`/result/${data.request_id}`);
  console.log(response.status);
  if (response.status === 200) {
    console.log(response.data.result);
    break;
  }
  if (response.status !== 202) throw new Error(response.data.error.message);
  await new Promise((resolve) => setTimeout(resolve, 100));
}
