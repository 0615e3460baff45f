// Numbers as images, drawn here: one scale of colours for all sheets of a hyperparameter, with its legend.
import { decoded, said } from "/static/numbers.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const SEQUENTIAL = ["#440154", "#472c7a", "#3b518b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32", "#fde725"];
const SIGNED_LIGHT = ["#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b"];
const SIGNED_DARK = ["#8fc3ff", "#4a86c5", "#274a70", "#20242b", "#6b3038", "#c4564f", "#ffa493"]; // nothing is as dark as the page
const SHADES = 256;

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

function shades(scale) {
  const stops = (scale === "signed" ? (dark.matches ? SIGNED_DARK : SIGNED_LIGHT) : SEQUENTIAL).map(channels);
  const found = new Uint8Array(3 * SHADES);
  for (let shade = 0; shade < SHADES; shade += 1) {
    const place = (shade / (SHADES - 1)) * (stops.length - 1);
    const at = Math.min(Math.floor(place), stops.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      found[3 * shade + channel] = Math.round(stops[at][channel] + (place - at) * (stops[at + 1][channel] - stops[at][channel]));
    }
  }
  return found;
}

// From 0 to 1 along the scale.
function placeOf({ low, high, scale }) {
  if (high <= low) return () => 0.5;
  if (scale === "log") return (value) => Math.log(value / low) / Math.log(high / low);
  return (value) => (value - low) / (high - low);
}

function paint(canvas, values, columns, rows, place, table) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let at = 0; at < values.length; at += 1) {
    const where = place(values[at]);
    if (!Number.isFinite(where)) continue; // transparent: no number
    const shade = Math.max(0, Math.min(SHADES - 1, Math.round(where * (SHADES - 1))));
    image.data.set([table[3 * shade], table[3 * shade + 1], table[3 * shade + 2], 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function summary(values) {
  let low = Infinity, high = -Infinity, sum = 0, count = 0;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
    sum += value;
    count += 1;
  }
  return count ? { low, high, mean: sum / count } : { low: null, high: null, mean: null };
}

// What stands for how many numbers of the same: made once, then painted anew for every meta-iteration.
function frame(place, found) {
  const shape = JSON.stringify(found.sheets.map((one) => [one.name, one.rows, one.columns]));
  if (place.shape === shape) return;
  place.shape = shape;
  const many = found.sheets.length > 1 && found.sheets[0].rows > 1 && found.sheets[0].row_names.length === 0;
  const list = element("div", { className: many ? "sheets many" : "sheets" });
  for (const sheet of found.sheets) {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    const body = element("div", { className: "body" }, canvas);
    if (sheet.row_names.length) {
      const names = element("ul", { className: "row-names" }, ...sheet.row_names.map((name) => element("li", { textContent: name })));
      body.prepend(names);
    }
    if (sheet.rows === 1) body.classList.add("strip");
    else if (sheet.columns > 3 * sheet.rows) body.classList.add("wide");
    const figure = element("figure", {}, body, element("figcaption", { textContent: sheet.name }));
    list.append(figure);
  }
  const legend = element("div", { className: "legend" }, element("canvas", { ariaHidden: "true" }), element("span", { className: "ticks" }), element("output", { className: "readout", ariaLive: "off" }));
  const numbers = element("details", { className: "numbers" }, element("summary", { textContent: "In numbers" }), element("div", { className: "scroll", tabIndex: 0 }));
  place.replaceChildren(list, legend, numbers);
  const notes = [];
  if (found.of > found.sheets.length) notes.push(`${found.sheets.length} of ${found.of}`);
  const [rows, columns] = found.reduced;
  if (rows * columns > 1) notes.push(`each cell is the mean of ${rows} × ${columns}`);
  if (notes.length) legend.after(element("p", { className: "muted note", textContent: notes.join("; ") }));
}

function legendOf(legend, found, table) {
  const strip = legend.querySelector("canvas");
  paint(strip, Float32Array.from({ length: SHADES }, (_, at) => at / (SHADES - 1)), SHADES, 1, (value) => value, table);
  const { low, high, scale } = found;
  const middle = scale === "log" ? Math.sqrt(low * high) : (low + high) / 2;
  legend.querySelector(".ticks").replaceChildren(...[low, middle, high].map((value) => element("span", { textContent: said(value, 3) })));
}

function tableOf(place, sheets) {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const title of ["", "lowest", "mean", "highest"]) head.append(element("th", { textContent: title, scope: "col", className: title && "number" }));
  const body = table.createTBody();
  for (const { name, values } of sheets) {
    const row = body.insertRow();
    row.append(element("th", { textContent: name || "all", scope: "row" }));
    const { low, mean, high } = summary(values);
    for (const value of [low, mean, high]) Object.assign(row.insertCell(), { textContent: said(value), className: "number" });
  }
  place.replaceChildren(table);
}

export function drawSheets(place, found, title) {
  place.drawn = [found, title];
  frame(place, found);
  const table = shades(found.scale);
  const where = placeOf(found);
  place.sheets = found.sheets.map((sheet) => ({ ...sheet, values: decoded(sheet.values) }));
  const figures = place.querySelectorAll("figure");
  for (const [at, sheet] of place.sheets.entries()) {
    const canvas = figures[at].querySelector("canvas");
    paint(canvas, sheet.values, sheet.columns, sheet.rows, where, table);
    const { low, high } = summary(sheet.values);
    canvas.setAttribute("aria-label", `${title}${sheet.name ? `, ${sheet.name}` : ""}: ${sheet.rows} × ${sheet.columns} values from ${said(low)} to ${said(high)}`);
  }
  legendOf(place.querySelector(".legend"), found, table);
  tableOf(place.querySelector(".numbers .scroll"), place.sheets);
}

// The number under the pointer.
document.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest?.(".sheets canvas");
  for (const readout of document.querySelectorAll(".readout")) if (!canvas || !readout.closest(".sheet-list").contains(canvas)) readout.value = "";
  if (!canvas) return;
  const place = canvas.closest(".sheet-list");
  const sheet = place.sheets[[...place.querySelectorAll(".sheets canvas")].indexOf(canvas)];
  const box = canvas.getBoundingClientRect();
  const column = Math.min(sheet.columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * sheet.columns)));
  const row = Math.min(sheet.rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * sheet.rows)));
  const called = sheet.row_names.length === sheet.columns ? `${sheet.row_names[row]} with ${sheet.row_names[column]}` : `row ${row + 1}, column ${column + 1}`;
  place.querySelector(".readout").value = `${sheet.name ? `${sheet.name}, ` : ""}${called}: ${said(sheet.values[row * sheet.columns + column])}`;
});

dark.addEventListener("change", () => {
  for (const place of document.querySelectorAll(".sheet-list")) if (place.drawn) drawSheets(place, ...place.drawn);
});
