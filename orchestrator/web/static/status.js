/** What a request's statuses mean here, whichever door told of them. */

export const isLive = (status) => status === "pending" || status === "processing";

/** Return {status, error} of an ended request, from its object or its `complete` event. */
export function endOf({ status, error, error_code: code }) {
  const plain = status === "done" ? "completed" : status;
  return { status: plain, error: typeof error === "string" ? { code, message: error } : error };
}
