/**
 * The two ways an answer can arrive. Both have `submit(body)`, a promise of the request's id, and
 * `follow(id, listener)`, which returns a function that stops following.
 *
 * A listener hears: started(), token(text), restarted(), connected(isUp), and at last
 * ended({status, error}) once, where status is completed, failed, cancelled, or gone (the server
 * no longer knows the request).
 */

import { SocketTransport } from "./socket.js";
import { SseTransport } from "./sse.js";

export const transports = { sse: new SseTransport(), websocket: new SocketTransport() };
