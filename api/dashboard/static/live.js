// What keeps a page alive: parts that are fetched anew, buttons that ask the API, times in the reader's own zone.

import { said } from "/static/numbers.js";

const ENDS = new Set(["succeeded", "failed", "cancelled"]);
const SPEAKS = new Set(["code", "message"]); // for itself: its name is not said

export function notify(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  clearTimeout(notify.timer);
  notify.timer = setTimeout(() => { notice.textContent = ""; }, 8000);
}

// Asks as the signed-in reader. The header is what no other site can send: see api/deps.py.
export async function ask(method, url, options = {}) {
  const headers = { "X-Retrograd-Page": "1", ...(options.headers ?? {}) };
  const answer = await fetch(url, { ...options, method, headers, credentials: "same-origin" });
  if (answer.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  return answer;
}

// What went wrong, as the API says it.
export async function reason(answer) {
  try { return await answer.json(); } catch { return { detail: `the server answered ${answer.status}` }; }
}

export const UNREACHABLE = "The server does not answer; try again.";

// In the reader's own zone, as short as it can be: the hour today, else the day too. The whole of it when pointed at.
function localTimes(within) {
  const today = new Date().toDateString();
  for (const time of within.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    if (Number.isNaN(when.valueOf())) continue;
    const seconds = time.closest(".log") ? { second: "2-digit" } : {};
    const hour = { hour: "2-digit", minute: "2-digit", ...seconds };
    const day = when.toDateString() === today ? {} : { day: "numeric", month: "short", ...(when.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" }) };
    time.textContent = when.toLocaleString(undefined, { ...day, ...hour });
    time.title = when.toLocaleString();
  }
}

// What is in the page already stays where it is, and only what differs is changed: a button that is being pressed, the
// focus, and what the reader has chosen are not taken away.
function replace(part, text) {
  if (text === part.shown) return;
  const focused = part.contains(document.activeElement);
  Idiomorph.morph(part, text, { morphStyle: "innerHTML", callbacks: { beforeAttributeUpdated: (name) => name !== "checked" } });
  part.shown = text;
  localTimes(part);
  if (focused && !part.contains(document.activeElement)) part.querySelector("button, a")?.focus({ preventScroll: true });
}

// One request at a time for each part: an older answer must not overtake a newer one. Tells whether it came.
export async function refresh(part) {
  if (part.busy) { part.again = true; return part.busy; }
  part.busy = (async () => {
    let came = false;
    do {
      part.again = false;
      const url = new URL(location.href);
      const [name, value] = part.dataset.live.split("=");
      url.searchParams.set(name, value);
      const answer = await ask("GET", url).catch(() => null);
      came = Boolean(answer?.ok);
      if (came) replace(part, await answer.text());
      else if (answer?.status === 404) location.reload();
    } while (part.again);
    return came;
  })();
  try { return await part.busy; } finally { part.busy = null; }
}

// Asks again and again while it is looked at, the less often the longer an answer takes.
async function poll(part) {
  for (;;) {
    const began = performance.now();
    if (!document.hidden) await refresh(part);
    const took = performance.now() - began;
    await new Promise((wake) => setTimeout(wake, Math.max(Number(part.dataset.every), 20 * took)));
  }
}

// A job's page hears of events as they happen, and fetches what has changed; what it missed it is told when it is back.
function follow(facts) {
  const lost = document.getElementById("lost");
  const log = document.getElementById("log");
  const state = () => facts.querySelector("[data-state]").dataset;
  let last = Number(state().event);
  let ended = ENDS.has(state().state);
  let due = null;
  let again = null;
  let delay = 1000;
  let source = null;

  const changed = () => {
    due ??= setTimeout(async () => {
      due = null;
      const before = state().state;
      if (!(await refresh(facts))) { again ??= setTimeout(() => { again = null; changed(); }, delay); return; }
      const now = state();
      if (now.state !== before && now.state !== "running") notify(`The job is ${now.state}.`);
      document.dispatchEvent(new CustomEvent("retrograd:changed", { detail: { event: Number(now.event), ended: ENDS.has(now.state) } }));
    }, 250);
  };
  const told = (message) => {
    const event = JSON.parse(message.data);
    if (event.number <= last) return;
    last = event.number;
    delay = 1000;
    const line = document.createElement("li");
    line.dataset.number = event.number;
    const time = Object.assign(document.createElement("time"), { dateTime: event.created_at });
    const kind = Object.assign(document.createElement("strong"), { textContent: event.kind.replaceAll("_", " "), className: `kind ${event.kind}` });
    const data = Object.assign(document.createElement("span"), { className: "muted" });
    const told = (value) => (typeof value === "number" && !Number.isInteger(value) ? said(value) : value);
    data.textContent = Object.entries(event.data).map(([name, value]) => (name === event.kind || SPEAKS.has(name) ? told(value) : `${name.replaceAll("_", " ")} ${told(value)}`)).join(", ");
    line.append(time, " ", kind, " ", data);
    log.prepend(line);
    localTimes(line);
    while (log.children.length > 200) log.lastChild.remove();
    if (ENDS.has(event.kind)) { ended = true; source.close(); }
    changed();
  };
  const open = () => {
    clearTimeout(open.timer);
    source?.close();
    ended = false;
    source = new EventSource(`${facts.dataset.events}?after=${last}`);
    for (const kind of facts.dataset.kinds.split(" ")) source.addEventListener(kind, told);
    source.onopen = () => { if (!lost.hidden) { lost.hidden = true; changed(); } };
    source.onerror = () => {
      if (ended) return;
      // a job that has ended is answered with nothing, and the browser closes for good
      if (source.readyState === EventSource.CLOSED && ENDS.has(state().state)) { lost.hidden = true; return; }
      lost.hidden = false;
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      changed(); // signs in again, says that the job is gone, or shows how it stands meanwhile
      open.timer = setTimeout(open, delay);
      delay = Math.min(2 * delay, 30000);
    };
  };
  // browsers allow few connections to a server: a page that nobody looks at gives its own back
  document.addEventListener("visibilitychange", () => { if (document.hidden) { clearTimeout(open.timer); source?.close(); } else { open(); changed(); } });
  addEventListener("offline", () => { lost.hidden = false; });
  addEventListener("online", () => { open(); changed(); });
  document.addEventListener("retrograd:acted", () => { open(); changed(); });
  if (!document.hidden) open();
}

async function act(button) {
  const { post, sure } = button.dataset;
  const gone = button.dataset.delete;
  if (button.getAttribute("aria-disabled") || (sure && !confirm(sure))) return;
  button.setAttribute("aria-disabled", "true");
  const answer = await ask(gone ? "DELETE" : "POST", gone ?? post).catch(() => null);
  button.removeAttribute("aria-disabled");
  if (answer === null) notify(UNREACHABLE);
  else if (!answer.ok) notify((await reason(answer)).detail);
  else if (gone) location.assign("/");
  else document.dispatchEvent(new CustomEvent("retrograd:acted"));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-post], [data-delete], [data-copy]");
  if (!button) return;
  if (button.dataset.copy) {
    const { textContent } = document.querySelector(button.dataset.copy);
    navigator.clipboard.writeText(textContent).then(() => notify("Copied."), () => notify("The browser did not let it be copied."));
    return;
  }
  act(button);
});

localTimes(document);
for (const part of document.querySelectorAll("[data-every]")) poll(part);
for (const facts of document.querySelectorAll("[data-events]")) follow(facts);
