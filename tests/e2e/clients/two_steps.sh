# Submit, then fetch the result until it is there: curl and jq, the server's address in $1.

REQUEST_ID=$(curl -s -X POST "$1/api/v1/infer" \
  -H "Content-Type: application/json" \
  -d '{"prompt": "Explain quantum computing", "session_id": "curl-session-123"}' \
  | jq -r '.request_id')

while [ "$(curl -s "$1/api/v1/status/$REQUEST_ID" | jq -r '.status')" != completed ]; do
  sleep 0.1
done

curl -s "$1/api/v1/result/$REQUEST_ID" | jq
