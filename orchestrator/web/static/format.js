/** Times and numbers, as people read them. */

const number = new Intl.NumberFormat("en");
const hour = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const second = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const exact = new Intl.DateTimeFormat("en-GB", {
  dateStyle: "medium",
  timeStyle: "medium",
});

export const count = (value) => number.format(value);
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** Return milliseconds as 80 ms, 1.24 s or 2 min 5 s. */
export function duration(ms) {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_995) return `${(ms / 1000).toFixed(2)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** Return the hour of a time, and the day before it where that is not today. */
export const clock = (time) => withDay(hour, new Date(time));

/** Return the same to the second. */
export const moment = (time) => withDay(second, new Date(time));

function withDay(form, date) {
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? form.format(date) : `${day.format(date)}, ${form.format(date)}`;
}

export const exactly = (time) => exact.format(new Date(time));

/** Return the first part of a UUID, and any other id as it is. */
export const brief = (id) => id.replace(/^([0-9a-f]{8})-[0-9a-f-]{27}$/i, "$1");

/** Return how long a request took from its submit to its end, or null while it is live. */
export function tookMs({ created_at: from, completed_at: to }) {
  return to ? Math.max(0, new Date(to) - new Date(from)) : null;
}

/** Return the first line of a text that says something, cut to a length. */
export function gist(text, length = 120) {
  const line = text.slice(0, 4 * length).trim().split("\n", 1)[0];
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}
