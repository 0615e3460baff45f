// What keeps a page alive: parts that are fetched anew, buttons that ask the API, times in the reader's own zone.

export function notify(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  clearTimeout(notify.timer);
  notify.timer = setTimeout(() => { notice.textContent = ""; }, 8000);
}

// Asks the API as the signed-in reader. The header is what no other site can send: see api/deps.py.
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

function localTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    if (!Number.isNaN(when.valueOf())) { time.textContent = when.toLocaleString(); time.title = time.dateTime; }
  }
}

async function refresh(part) {
  const url = new URL(location.href);
  const [name, value] = part.dataset.live.split("=");
  url.searchParams.set(name, value);
  const answer = await ask("GET", url);
  if (!answer.ok) return false;
  const text = await answer.text();
  if (text !== part.shown) {
    const chosen = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
    const focused = document.activeElement?.dataset?.post ?? document.activeElement?.getAttribute?.("href");
    part.innerHTML = text;
    part.shown = text;
    for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = chosen.has(box.value);
    if (focused) [...part.querySelectorAll("[data-post], [href]")].find((one) => (one.dataset.post ?? one.getAttribute("href")) === focused)?.focus();
    localTimes(part);
  }
  return true;
}

function poll(part) {
  setInterval(() => { if (!document.hidden) refresh(part).catch(() => {}); }, Number(part.dataset.every));
}

// A job's page hears of events as they happen, and fetches what has changed; what it missed it is told when it is back.
function follow(facts) {
  const lost = document.getElementById("lost");
  const log = document.getElementById("log");
  const state = () => facts.querySelector("[data-state]").dataset;
  let due = null;
  const changed = () => {
    due ??= setTimeout(async () => {
      due = null;
      await refresh(facts).catch(() => {});
      document.dispatchEvent(new CustomEvent("retrograd:changed", { detail: { iteration: Number(state().iteration) } }));
    }, 250);
  };
  const told = (message) => {
    const event = JSON.parse(message.data);
    const line = document.createElement("li");
    const time = Object.assign(document.createElement("time"), { dateTime: event.created_at });
    const kind = Object.assign(document.createElement("strong"), { textContent: event.kind.replaceAll("_", " ") });
    const data = Object.assign(document.createElement("span"), { className: "muted" });
    data.textContent = Object.keys(event.data).length ? JSON.stringify(event.data) : "";
    line.append(time, " ", kind, " ", data);
    localTimes(line);
    log.prepend(line);
    while (log.children.length > 200) log.lastChild.remove();
    changed();
  };
  const open = () => {
    const source = new EventSource(`${facts.dataset.events}?after=${state().event}`);
    for (const kind of facts.dataset.kinds.split(" ")) source.addEventListener(kind, told);
    source.onopen = () => { if (!lost.hidden) { lost.hidden = true; changed(); } };
    source.onerror = () => {
      const ended = ["succeeded", "failed", "cancelled"].includes(state().state);
      lost.hidden = ended;
      if (source.readyState === EventSource.CLOSED && !ended) setTimeout(open, 2000);
      if (ended) source.close();
    };
    facts.source = source;
  };
  addEventListener("offline", () => { lost.hidden = false; });
  addEventListener("online", () => { facts.source.close(); open(); changed(); });
  open();
  document.addEventListener("retrograd:acted", () => { if (facts.source.readyState === EventSource.CLOSED) open(); changed(); });
}

async function act(button) {
  const { post, sure } = button.dataset;
  const gone = button.dataset.delete;
  if (sure && !confirm(sure)) return;
  button.disabled = true;
  const answer = await ask(gone ? "DELETE" : "POST", gone ?? post).catch(() => null);
  button.disabled = false;
  if (answer === null) notify("The server does not answer; try again.");
  else if (!answer.ok) notify((await reason(answer)).detail);
  else if (gone) location.assign("/");
  else document.dispatchEvent(new CustomEvent("retrograd:acted"));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-post], [data-delete], [data-copy]");
  if (!button) return;
  if (button.dataset.copy) {
    navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent).then(() => notify("Copied."), () => notify("The browser did not let it be copied."));
    return;
  }
  act(button);
});

localTimes(document);
for (const part of document.querySelectorAll("[data-every]")) poll(part);
for (const facts of document.querySelectorAll("[data-events]")) follow(facts);
