// A form for a job, made of its JSON Schema; the JSON beside it is what is sent, and either changes the other.
import { ask, notify, reason, UNREACHABLE } from "/static/live.js";

const form = document.getElementById("job");
const text = document.getElementById("json");
const mistakes = document.getElementById("mistakes");
const submit = document.getElementById("submit");
const opened = new Map(); // parts that were opened or closed by hand, by their path
const FILLED_IN = /added when the job is created/; // by the server: nobody types these
const OWN = new Set(["program", "plugin"]);
const OF_ONE = new Set(["settings", "data", "learn", "initial"]); // of one installed or uploaded problem: no other has the same
let schema = null;
let job = {}; // until the text is read, below
let key = newKey();

function newKey() { return crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; }
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
const words = (name) => name.replaceAll("_", " ");
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function resolved(node) {
  let found = node;
  while (found?.$ref) {
    const { $ref, ...beside } = found;
    found = { ...schema.$defs[$ref.split("/").at(-1)], ...beside };
  }
  return found;
}

const kindOf = (node) => node.properties?.kind?.const;
const isPart = (node) => Boolean(node.properties);
// What tells apart the alternatives of one part: the kind, and of installed and uploaded problems which one it is.
const fixed = (node) => Object.fromEntries(Object.entries(node.properties ?? {}).flatMap(([name, one]) => (one.const === undefined ? [] : [[name, one.const]])));
const titleOf = (node) => node["x-title"] ?? kindOf(node) ?? words(node.title ?? "").toLowerCase();

function fits(node, value) {
  if (value === undefined || value === null) return false;
  if (kindOf(node)) return Object.entries(fixed(node)).every(([name, one]) => value[name] === one);
  if (isPart(node)) return isObject(value) && Object.keys(value).every((name) => name in node.properties) && (node.required ?? []).every((name) => name in value);
  if (node.type === "array") return Array.isArray(value);
  if (node.type === "object") return isObject(value);
  if (node.enum || node.const !== undefined) return (node.enum ?? [node.const]).includes(value);
  return { integer: "number", number: "number", string: "string", boolean: "boolean" }[node.type] === typeof value;
}

// What a field may be: its alternatives, without null.
function alternatives(node) {
  const found = resolved(node);
  const several = found.oneOf ?? found.anyOf;
  return (several ? several.flatMap(alternatives) : [found]).filter((one) => one.type !== "null");
}

const at = (path) => path.reduce((value, name) => value?.[name], job);

function put(path, value) {
  const last = path.at(-1);
  const parent = path.slice(0, -1).reduce((one, name) => (isObject(one[name]) ? one[name] : (one[name] = {})), job);
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  text.value = JSON.stringify(job, null, 2);
  key = newKey();
}

function choice(options, value, change, blank) {
  const select = element("select");
  for (const [label, option] of [[blank, undefined], ...options.map((one) => [String(one), one])]) {
    const encoded = option === undefined ? "" : JSON.stringify(option);
    select.append(new Option(label, encoded, false, option === value));
  }
  select.onchange = () => change(select.value === "" ? undefined : JSON.parse(select.value));
  return select;
}

function read(nodes, typed) {
  const given = typed.trim();
  if (given === "") return undefined;
  const types = nodes.map((one) => one.type);
  if (types.some((type) => type === "integer" || type === "number") && Number.isFinite(Number(given))) return Number(given);
  if (types.every((type) => type === "string" || type === undefined) || types.includes("string")) return given;
  try { return JSON.parse(given); } catch { return given; } // the API says what is wrong with it
}

function control(nodes, path, value) {
  const [node] = nodes;
  const blank = node.default === undefined || isObject(node.default) ? "" : `default: ${typeof node.default === "string" ? node.default : JSON.stringify(node.default)}`;
  if (nodes.length === 1 && node.type === "array" && node.items && resolved(node.items).enum) return boxes(resolved(node.items).enum, path, value ?? []);
  const options = nodes.flatMap((one) => one.enum ?? (one.const !== undefined ? [one.const] : one.type === "boolean" ? [true, false] : []));
  const free = nodes.some((one) => !one.enum && one.const === undefined && one.type !== "boolean");
  if (options.length && !free) return choice(options, value, (chosen) => put(path, chosen), blank);
  const box = element("input", { value: value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value), placeholder: blank || options.join(" or ") });
  box.onchange = () => put(path, read(nodes, box.value));
  const suggested = nodes.find((one) => one["x-suggest"])?.["x-suggest"];
  if (suggested) box.setAttribute("list", suggestions(suggested));
  return box;
}

// Uploaded data by their names, for the fields that hold an id.
function suggestions(data) {
  if (!document.getElementById("uploaded")) {
    document.body.append(element("datalist", { id: "uploaded" }, ...data.map((one) => element("option", { value: one.value, label: one.label }))));
  }
  return "uploaded";
}

function boxes(options, path, value) {
  const set = element("div", { className: "boxes" });
  set.setAttribute("role", "group");
  for (const option of options) {
    const box = element("input", { type: "checkbox", checked: value.includes(option) });
    box.onchange = () => {
      const chosen = options.filter((one, number) => set.querySelectorAll("input")[number].checked);
      put(path, chosen);
    };
    set.append(element("label", {}, box, ` ${option}`));
  }
  return set;
}

function field(name, node, path, required) {
  const nodes = alternatives(node);
  if (nodes.every(isPart) && nodes.length) return part(name, nodes, path, required, resolved(node).description, node.default);
  const made = control(nodes.map((one) => ({ ...one, default: resolved(node).default ?? one.default })), path, at(path));
  made.id = `field-${path.join("-")}`;
  made.dataset.path = path.join(".");
  const label = element("label", { textContent: words(name) + (required ? " *" : ""), htmlFor: made.id });
  if (made.getAttribute("role") === "group") made.setAttribute("aria-label", words(name));
  const row = element("div", { className: "field" }, label, made);
  const said = resolved(node).description ?? nodes[0]?.description;
  if (said) {
    row.append(element("small", { textContent: said, id: `${made.id}-said` }));
    made.setAttribute("aria-describedby", `${made.id}-said`);
  }
  return row;
}

// Whether a part says anything that one would look for: more than its default, and that something is learned.
function told(value, fallback) {
  return JSON.stringify(value) !== JSON.stringify(fallback) && !(isObject(value) && value.learn === false);
}

// A part with fields of its own: of one shape, or of the one that its selector says; optional ones can be left out.
function part(name, nodes, path, required, said, fallback) {
  const value = at(path);
  const chosen = nodes.find((one) => fits(one, value)) ?? (nodes.length === 1 ? nodes[0] : undefined);
  const details = element("details", { open: opened.get(path.join(".")) ?? (path.length < 3 && (required || (value !== undefined && told(value, fallback)))) }, element("summary", { textContent: words(name) + (required ? " *" : "") }));
  details.dataset.path = path.join(".");
  if (said) details.append(element("small", { className: "muted", textContent: said }));
  if (nodes.length > 1) {
    const titles = nodes.map(titleOf).map((title, at, all) => (all.indexOf(title) === at ? title : `${title} ${at}`));
    const select = choice(titles, chosen && titles[nodes.indexOf(chosen)], (wanted) => {
      const next = nodes[titles.indexOf(wanted)];
      const same = Object.entries(isObject(value) ? value : {}).filter(([inner]) => next && inner in next.properties && !(inner in fixed(next)) && !OF_ONE.has(inner));
      put(path, next && { ...fixed(next), ...Object.fromEntries(same) });
      for (const [inner, one] of Object.entries(next?.["x-training"] ?? {})) put(["training", inner], one);
      if (path.join(".") === "problem" && OWN.has(next && kindOf(next))) { // these have hyperparameters and batches of their own
        delete job.hyperparameters;
        put(["training", "batch_size"], undefined);
      }
      opened.set(path.join("."), true);
      show();
    }, required ? "choose" : "none");
    select.setAttribute("aria-label", `kind of ${words(name)}`);
    details.append(select);
  } else if (!required) {
    const use = element("input", { type: "checkbox", checked: value !== undefined && value !== null });
    use.onchange = () => { put(path, use.checked ? {} : undefined); opened.set(path.join("."), true); show(); };
    details.append(element("label", { className: "use" }, use, ` use ${words(name)}`));
  }
  const fill = () => {
    if (details.filled || !chosen || (nodes.length === 1 && !required && (value === undefined || value === null))) return;
    details.filled = true;
    for (const [inner, below] of Object.entries(chosen.properties)) {
      const nothing = isPart(below) && !Object.keys(below.properties).length;
      if (below.const === undefined && !nothing && !FILLED_IN.test(resolved(below).description ?? "")) details.append(field(inner, below, [...path, inner], chosen.required?.includes(inner)));
    }
  };
  details.fill = fill;
  if (details.open) fill();
  details.addEventListener("toggle", () => { if (details.open) fill(); });
  details.querySelector("summary").addEventListener("click", () => opened.set(path.join("."), !details.open));
  return details;
}

function show() {
  const focused = document.activeElement?.dataset?.path;
  form.replaceChildren(...Object.entries(schema.properties).map(([name, node]) => field(name, node, [name], schema.required?.includes(name))));
  if (focused) form.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus();
}

// Tells mistakes under the JSON and at their fields, opens the parts that these stand in, and goes to the first.
function complain(problem) {
  for (const one of form.querySelectorAll(".mistaken")) { one.classList.remove("mistaken"); one.removeAttribute("aria-invalid"); }
  for (const one of form.querySelectorAll("small.wrong")) one.remove();
  mistakes.hidden = !problem;
  if (!problem) return;
  const errors = problem.errors ?? [];
  const lines = errors.map((one) => `${one.loc.join(".")}: ${one.msg}`);
  mistakes.replaceChildren(...(lines.length ? lines.map((line) => element("div", { textContent: line })) : [problem.detail]));
  let first = null;
  for (const one of errors) {
    let place = null;
    for (let length = 1; length <= one.loc.length; length += 1) {
      const found = form.querySelector(`[data-path="${CSS.escape(one.loc.slice(0, length).join("."))}"]`);
      if (found?.fill) { found.open = true; found.fill(); }
      place = found ?? place;
    }
    if (!place) continue;
    place.classList.add("mistaken");
    place.setAttribute("aria-invalid", "true");
    const said = element("small", { className: "wrong", textContent: one.msg });
    if (place.tagName === "DETAILS") place.querySelector("summary").after(said);
    else place.after(said);
    first ??= place.tagName === "DETAILS" ? place.querySelector("summary") : place;
  }
  first?.focus();
}

function parsed() {
  try {
    const found = JSON.parse(text.value);
    if (isObject(found)) { form.inert = false; return found; }
    complain({ detail: "This is no JSON object: a job is {…}." });
  } catch (error) { complain({ detail: `This is not JSON: ${error.message}` }); }
  form.inert = true; // until it is: what is typed there must not be lost
  return null;
}

async function send(query) {
  const found = parsed();
  if (!found) return null;
  job = found;
  const headers = { "Content-Type": "application/json", ...(query ? {} : { "Idempotency-Key": key }) };
  const answer = await ask("POST", `/v1/jobs${query}`, { body: JSON.stringify(job), headers }).catch(() => null);
  if (answer === null) { complain({ detail: UNREACHABLE }); return null; }
  complain(answer.ok ? null : await reason(answer));
  return answer.ok ? answer.json() : null;
}

function once(button, work) {
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    try { await work(); } finally { button.removeAttribute("aria-disabled"); }
  });
}

once(submit, async () => {
  const made = await send("");
  if (!made) return;
  if (!made.webhook || job.webhook?.secret) { location.assign(`/jobs/${made.id}`); return; }
  const place = document.getElementById("planned");
  place.replaceChildren(
    element("p", { textContent: "The job is made. Its webhook is signed with this secret, which is shown only now:" }),
    element("pre", { id: "secret", textContent: made.webhook.secret }),
    element("a", { href: `/jobs/${made.id}`, textContent: "To the job" }),
  );
});

once(document.getElementById("plan"), async () => {
  const place = document.getElementById("planned");
  place.textContent = "Compiling and timing a few steps, for a minute at most …";
  place.scrollIntoView({ block: "nearest" });
  const plan = await send("?dry_run=true");
  place.textContent = "";
  if (!plan) { mistakes.scrollIntoView({ block: "nearest" }); return; }
  const seconds = (value) => (value === null ? "–" : `${value.toPrecision(3)} s`);
  const bytes = (value) => (value === null ? "–" : `${(value / 1e6).toPrecision(3)} MB`);
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const title of ["engine", "a hypergradient", "the job", "device", "host", ""]) head.append(element("th", { textContent: title, scope: "col" }));
  const body = table.createTBody();
  for (const one of plan.engines) {
    const row = body.insertRow();
    for (const value of [one.name, seconds(one.seconds), seconds(one.job_seconds), bytes(one.device_bytes), bytes(one.host_bytes), one.remark]) row.insertCell().textContent = value;
  }
  const head2 = `${plan.num_hyperparameters.toLocaleString()} hyperparameters, ${plan.hypergradients} hypergradients by ${plan.engine}, on ${plan.machine}`;
  place.append(element("p", { textContent: head2 }), element("div", { className: "scroll", tabIndex: 0 }, table));
  place.scrollIntoView({ block: "nearest" });
  notify("The plan is made.");
});

text.addEventListener("change", () => {
  const found = parsed();
  if (!found) return;
  job = found;
  key = newKey();
  complain(null);
  if (schema) show(); // it may still be on its way
});
form.addEventListener("submit", (event) => event.preventDefault());

job = parsed() ?? {};
const answer = await ask("GET", form.dataset.schema).catch(() => null);
if (answer?.ok) {
  schema = await answer.json();
  show();
} else {
  form.textContent = answer ? (await reason(answer)).detail : `${UNREACHABLE} The JSON beside this can be sent all the same.`;
}
