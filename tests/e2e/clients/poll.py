"""Submit a prompt and poll until its result is there. Prints each status code, then the result."""

import sys
import time
import uuid

import requests

address, prompt = sys.argv[1:]

response = requests.post(
    f"{address}/api/v1/infer",
    json={"prompt": prompt, "session_id": str(uuid.uuid4()), "metadata": {"priority": "high"}},
    timeout=10,
)
response.raise_for_status()
request_id = response.json()["request_id"]

while True:
    response = requests.get(f"{address}/api/v1/result/{request_id}", timeout=10)
    print(response.status_code)
    if response.status_code == 200:
        print(response.json()["result"])
        break
    if response.status_code != 202:
        sys.exit(response.json()["error"]["message"])
    time.sleep(0.1)
