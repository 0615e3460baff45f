// A form for a job, made of its JSON Schema; the JSON beside it is what is sent, and either changes the other.
import { ask, notify, reason } from "/static/live.js";

const form = document.getElementById("job");
const text = document.getElementById("json");
const mistakes = document.getElementById("mistakes");
const schema = await (await ask("GET", form.dataset.schema)).json();
let job = JSON.parse(text.value);

function resolved(node) {
  let found = node;
  while (found?.$ref) found = { ...schema.$defs[found.$ref.split("/").at(-1)], ...Object.fromEntries(Object.entries(found).filter(([name]) => name !== "$ref")) };
  return found;
}

// The form of a node that fits a value: of alternatives the one with the value's own kind, or type.
function chosen(node, value) {
  const found = resolved(node);
  const alternatives = (found.oneOf ?? found.anyOf)?.map(resolved).filter((one) => one.type !== "null");
  if (!alternatives) return found;
  const fits = (one) => {
    if (one.properties?.kind?.const) return one.properties.kind.const === value?.kind;
    if (one.type === "object" || one.properties) return value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).every((name) => name in (one.properties ?? {}));
    if (one.type === "array") return Array.isArray(value);
    if (one.enum ?? one.const) return (one.enum ?? [one.const]).includes(value);
    return { integer: "number", number: "number", string: "string", boolean: "boolean" }[one.type] === typeof value;
  };
  return { ...(alternatives.find(fits) ?? alternatives[0]), description: found.description, kinds: alternatives.map((one) => one.properties?.kind?.const).filter(Boolean), all: alternatives };
}

function at(path) { return path.reduce((value, name) => value?.[name], job); }

function put(path, value) {
  const last = path.at(-1);
  const parent = path.slice(0, -1).reduce((one, name) => (one[name] ??= {}), job);
  if (value === undefined) delete parent[last]; else parent[last] = value;
  text.value = JSON.stringify(job, null, 2);
}

function input(node, path, value) {
  const options = node.enum ?? (node.type === "boolean" ? [true, false] : null);
  if (options) {
    const select = document.createElement("select");
    for (const one of [undefined, ...options]) select.append(new Option(one === undefined ? "" : String(one), one === undefined ? "" : JSON.stringify(one), false, one === value));
    select.onchange = () => put(path, select.value === "" ? undefined : JSON.parse(select.value));
    return select;
  }
  const box = Object.assign(document.createElement("input"), { value: value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value) });
  if (node.default !== undefined && node.default !== null && typeof node.default !== "object") box.placeholder = String(node.default);
  box.onchange = () => {
    if (box.value.trim() === "") return put(path, undefined);
    if (node.type === "string" && !node.all) return put(path, box.value);
    try { put(path, JSON.parse(box.value)); } catch { put(path, box.value); }
  };
  return box;
}

function field(name, node, path) {
  const value = at(path);
  const form = chosen(node, value);
  if (form.properties || form.kinds?.length) return part(name, form, path);
  const row = Object.assign(document.createElement("div"), { className: "field" });
  const control = input(form, path, value);
  control.id = `field-${path.join("-")}`;
  control.dataset.path = path.join(".");
  const label = Object.assign(document.createElement("label"), { textContent: name.replaceAll("_", " "), htmlFor: control.id });
  row.append(label, control);
  const said = resolved(node).description ?? form.description;
  if (said) {
    const small = Object.assign(document.createElement("small"), { textContent: said, id: `${control.id}-said` });
    control.setAttribute("aria-describedby", small.id);
    row.append(small);
  }
  return row;
}

function part(name, node, path) {
  const value = at(path);
  const details = document.createElement("details");
  const summary = Object.assign(document.createElement("summary"), { textContent: name.replaceAll("_", " ") });
  details.append(summary);
  details.open = value !== undefined && path.length < 3;
  details.dataset.path = path.join(".");
  if (node.kinds?.length > 1) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", `kind of ${name}`);
    for (const kind of node.kinds) select.append(new Option(kind, kind, false, kind === value?.kind));
    select.onchange = () => { put(path, { kind: select.value }); show(); };
    details.append(select);
  }
  const fill = () => {
    if (details.filled) return;
    details.filled = true;
    for (const [inner, below] of Object.entries(node.properties ?? {})) {
      if (inner === "kind" && node.kinds?.length) continue;
      if (below.const !== undefined) continue;
      details.append(field(inner, below, [...path, inner]));
    }
  };
  if (details.open) fill();
  details.addEventListener("toggle", () => { if (details.open) fill(); });
  return details;
}

function show() {
  const open = new Set([...form.querySelectorAll("details[open]")].map((one) => one.dataset.path));
  form.replaceChildren(...Object.entries(schema.properties).map(([name, node]) => field(name, node, [name])));
  for (const one of form.querySelectorAll("details")) if (open.has(one.dataset.path)) one.open = true;
}

function complain(problem) {
  for (const one of form.querySelectorAll(".mistaken")) one.classList.remove("mistaken");
  mistakes.hidden = !problem;
  if (!problem) return;
  const errors = problem.errors ?? [];
  mistakes.replaceChildren(...(errors.length ? errors.flatMap((one) => [`${one.loc.join(".")}: ${one.msg}`, document.createElement("br")]) : [problem.detail]));
  for (const one of errors) form.querySelector(`[data-path="${CSS.escape(one.loc.join("."))}"]`)?.classList.add("mistaken");
}

async function send(query) {
  try { job = JSON.parse(text.value); } catch (error) { complain({ detail: `This is not JSON: ${error.message}` }); return null; }
  const answer = await ask("POST", `/v1/jobs${query}`, {
    body: JSON.stringify(job),
    headers: { "Content-Type": "application/json", ...(query ? {} : { "Idempotency-Key": send.key }) },
  }).catch(() => null);
  if (answer === null) { complain({ detail: "The server does not answer; try again." }); return null; }
  complain(answer.ok ? null : await reason(answer));
  return answer.ok ? answer.json() : null;
}
send.key = crypto.randomUUID?.() ?? String(Math.random()).slice(2);

text.addEventListener("change", () => {
  try { job = JSON.parse(text.value); send.key = crypto.randomUUID?.() ?? String(Math.random()).slice(2); complain(null); show(); } catch (error) { complain({ detail: `This is not JSON: ${error.message}` }); }
});
form.addEventListener("change", () => { send.key = crypto.randomUUID?.() ?? String(Math.random()).slice(2); });
form.addEventListener("submit", (event) => event.preventDefault());

document.getElementById("submit").addEventListener("click", async (event) => {
  event.target.disabled = true;
  const made = await send("");
  event.target.disabled = false;
  if (made) location.assign(`/jobs/${made.id}`);
});

document.getElementById("plan").addEventListener("click", async (event) => {
  const place = document.getElementById("planned");
  event.target.disabled = true;
  place.textContent = "Looking …";
  const plan = await send("?dry_run=true");
  event.target.disabled = false;
  place.textContent = "";
  if (!plan) return;
  const seconds = (value) => (value === null ? "–" : `${value.toPrecision(3)} s`);
  const bytes = (value) => (value === null ? "–" : `${(value / 1e6).toPrecision(3)} MB`);
  const table = document.createElement("table");
  table.innerHTML = "<thead><tr><th>Engine</th><th class=number>A hypergradient</th><th class=number>The job</th><th class=number>Device</th><th class=number>Host</th></tr></thead>";
  const body = table.createTBody();
  for (const one of plan.engines) {
    const row = body.insertRow();
    for (const [number, value] of [one.name, seconds(one.seconds), seconds(one.job_seconds), bytes(one.device_bytes), bytes(one.host_bytes)].entries()) {
      const cell = row.insertCell();
      cell.textContent = value;
      if (number) cell.className = "number";
    }
  }
  const said = document.createElement("p");
  said.textContent = `${plan.num_hyperparameters.toLocaleString()} hyperparameters, ${plan.hypergradients} hypergradients by ${plan.engine}, on ${plan.machine}`;
  place.append(said, table);
  notify("The plan is made.");
});

show();
