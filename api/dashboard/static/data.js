// Data sets: sent, and looked at.
import { ask, notify, reason, UNREACHABLE } from "/static/live.js";
import { said } from "/static/numbers.js";

function cell(row, text, heading = false) {
  const one = document.createElement(heading ? "th" : "td");
  one.textContent = text;
  row.append(one);
}

function table(headings, rows) {
  const found = document.createElement("table");
  const head = found.createTHead().insertRow();
  for (const one of headings) cell(head, one, true);
  const body = found.createTBody();
  for (const values of rows) { const row = body.insertRow(); for (const one of values) cell(row, one ?? "–"); }
  const scroll = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
  scroll.append(found);
  return scroll;
}

function preview(data) {
  const shape = (one) => `${one.dtype} ${JSON.stringify(one.shape)}`;
  const rows = [["id", data.id], ["inputs", shape(data.inputs)], ["labels", shape(data.labels)], ["classes", data.class_counts.length ? data.class_counts.join(", ") : "none: numbers to fit"]];
  const parts = [Object.assign(document.createElement("h2"), { textContent: data.name }), table(["what", "is"], rows)];
  if (data.table) {
    parts.push(Object.assign(document.createElement("h2"), { textContent: "Columns" }));
    parts.push(table(["column", "role", "type", "missing", "mean"], data.table.columns.map((one) => [one.name, one.role, one.type, one.missing, typeof one.mean === "number" ? said(one.mean) : null])));
    parts.push(Object.assign(document.createElement("h2"), { textContent: "First rows" }));
    parts.push(table(data.table.columns.map((one) => one.name), data.table.rows));
  }
  return parts;
}

const look = document.getElementById("look");
document.addEventListener("click", async (event) => {
  const url = event.target.closest("[data-preview]")?.dataset.preview;
  if (!url) return;
  const answer = await ask("GET", url);
  look.hidden = false;
  look.replaceChildren(...(answer.ok ? preview(await answer.json()) : [(await reason(answer)).detail]));
  look.scrollIntoView({ block: "nearest" });
});

const upload = document.getElementById("upload");
upload?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const mistakes = document.getElementById("mistakes");
  const button = upload.querySelector("button");
  const sent = new FormData();
  sent.append("name", upload.elements.name.value);
  const { target, categorical, ignored } = upload.elements;
  const names = (box) => box.value.split(",").map((name) => name.trim()).filter(Boolean);
  if (target.value) sent.append("columns", JSON.stringify({ target: target.value, categorical: names(categorical), ignored: names(ignored) }));
  sent.append("file", upload.elements.file.files[0]);
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  document.getElementById("preview").textContent = "Sending, and looking …";
  const answer = await ask("POST", "/v1/datasets", { body: sent }).catch(() => null);
  button.removeAttribute("aria-disabled");
  document.getElementById("preview").textContent = "";
  mistakes.hidden = Boolean(answer?.ok);
  if (!answer?.ok) { mistakes.textContent = answer ? (await reason(answer)).detail : UNREACHABLE; return; }
  const { id } = await answer.json();
  const kept = await ask("GET", `/v1/datasets/${id}`);
  upload.reset();
  notify("The data are kept.");
  const use = Object.assign(document.createElement("a"), { href: `/new?dataset=${id}`, textContent: "A job about it", className: "button" });
  document.getElementById("preview").replaceChildren(use, ...(kept.ok ? preview(await kept.json()) : [id]));
});
