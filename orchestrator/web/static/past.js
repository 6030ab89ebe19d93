/** The turns a conversation has had: what its session, its requests and this tab know, joined. */

import * as api from "./api.js";
import { recall } from "./memory.js";

const PAGE = 100;
const PAGES = 5;

/** Return [{request, prompt, body, answer}], oldest first; `request` is null where it is gone. */
export async function pastTurns(sessionId) {
  const [messages, requests] = await Promise.all([sessionMessages(sessionId), ownRequests(sessionId)]);
  const { prompts, orphans } = match(pairs(messages), requests);
  const turns = requests.map((request) => {
    const body = recall(request.request_id);
    const prompt = body?.prompt ?? prompts.get(request.request_id) ?? null;
    return { request, prompt, body, answer: null };
  });
  return [...orphans.map((pair) => ({ request: null, body: null, ...pair })), ...turns.reverse()];
}

async function sessionMessages(id) {
  try {
    return (await api.session(id)).messages;
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}

/** Return the session's requests, newest first. A page may be short and yet not the last. */
async function ownRequests(id) {
  const found = [];
  let cursor = null;
  for (let page = 0; page < PAGES; page += 1) {
    const answer = await api.requests({ session_id: id, limit: PAGE, cursor });
    found.push(...answer.data);
    cursor = answer.next_cursor;
    if (!cursor) break;
  }
  return found;
}

function pairs(messages) {
  const said = messages.filter(({ role }) => role !== "system");
  const found = [];
  for (let at = 0; at + 1 < said.length; at += 2) {
    found.push({ prompt: said[at].content, answer: said[at + 1].content });
  }
  return found;
}

/** Give each completed request its prompt: newest first, by the answer they share. */
function match(exchanges, requests) {
  const left = requests
    .filter(({ status }) => status === "completed")
    .sort((one, other) => other.completed_at.localeCompare(one.completed_at));
  const prompts = new Map();
  const orphans = [];
  for (const exchange of exchanges.toReversed()) {
    const at = left.findIndex(({ result }) => result === exchange.answer);
    if (at < 0) orphans.unshift(exchange);
    else prompts.set(left.splice(at, 1)[0].request_id, exchange.prompt);
  }
  return { prompts, orphans };
}
