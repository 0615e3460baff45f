// Curves, by uPlot: of a job as it learns, and of jobs beside each other; and the figures that the server draws.
import { ask } from "/static/live.js";
import { said } from "/static/numbers.js";

const LIGHT = ["#1f6fe0", "#c2315c", "#0d7a5a", "#9a5b00", "#6d3fd6", "#08708c", "#7a4f10", "#b01f69"];
const DARK = ["#6ea8ff", "#ff8aa8", "#4fd6a8", "#f0b457", "#b89bff", "#5fd3ee", "#d9a85c", "#ff8fc7"];
const DASHES = [[], [7, 4], [2, 3]];
const HEIGHT = 260, MOST_NAMED = 24;
const WHOLE = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power)); // steps are counted
const dark = matchMedia("(prefers-color-scheme: dark)");

// Which colour and which dash each line has. What belongs together, as weights and biases of a layer, shares a colour.
function looks(names) {
  const split = names.map((name) => [name.slice(0, Math.max(0, name.lastIndexOf("."))), name.slice(name.lastIndexOf(".") + 1)]);
  const [wholes, parts] = [0, 1].map((at) => [...new Set(split.map((one) => one[at]))]);
  const paired = split.every(([whole]) => whole) && parts.length <= DASHES.length && wholes.length <= LIGHT.length && wholes.length < names.length;
  if (paired) return split.map(([whole, part]) => [wholes.indexOf(whole), parts.indexOf(part)]);
  return names.map((_, number) => [number % LIGHT.length, Math.floor(number / LIGHT.length) % DASHES.length]);
}

function series(names) {
  const colours = dark.matches ? DARK : LIGHT;
  const looked = looks(names);
  return names.map((label, number) => ({
    label,
    stroke: colours[looked[number][0]],
    dash: DASHES[looked[number][1]],
    width: 1.5,
    spanGaps: false, // where training diverged there is nothing
    points: { show: false },
    value: (_, value) => (value === null || value === undefined ? "" : said(value)),
  }));
}

// The same in numbers, for who cannot see it.
function numbersOf(place, names, columns) {
  let details = place.nextElementSibling;
  if (!details?.classList.contains("numbers")) {
    details = Object.assign(document.createElement("details"), { className: "numbers" });
    details.append(Object.assign(document.createElement("summary"), { textContent: "In numbers" }), document.createElement("div"));
    details.lastChild.className = "scroll";
    details.lastChild.tabIndex = 0;
    place.after(details);
  }
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const title of ["", "first", "last", "lowest", "highest"]) head.append(Object.assign(document.createElement("th"), { textContent: title, scope: "col", className: title && "number" }));
  const body = table.createTBody();
  for (const [at, name] of names.entries()) {
    const known = Array.prototype.filter.call(columns[at], (value) => value !== null && value !== undefined);
    const row = body.insertRow();
    row.append(Object.assign(document.createElement("th"), { textContent: name, scope: "row" }));
    let lowest = Infinity, highest = -Infinity;
    for (const value of known) { if (value < lowest) lowest = value; if (value > highest) highest = value; }
    for (const value of known.length ? [known[0], known.at(-1), lowest, highest] : [null, null, null, null]) Object.assign(row.insertCell(), { textContent: said(value), className: "number" });
  }
  details.lastChild.replaceChildren(table);
}

// A line across at the best meta-iteration.
function mark(chart, at) {
  if (at === null || at === undefined) return;
  const { ctx, bbox } = chart;
  const x = Math.round(chart.valToPos(at, "x", true));
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  ctx.save();
  ctx.strokeStyle = dark.matches ? "#74d69b" : "#1a6b3c";
  ctx.setLineDash([4, 4]);
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

// How a line looks, in the legend.
function marker({ stroke, dash: [on, off] }) {
  return on ? `repeating-linear-gradient(90deg, ${stroke} 0 ${on}px, transparent ${on}px ${on + off}px)` : stroke;
}

// As many digits as tell the ticks of an axis apart.
function ticks(chart, splits) {
  return splits.map((value) => (value === null ? "" : said(value)));
}

// Lines over x, or bars; what is drawn already gets other numbers.
export function draw(place, xName, x, names, columns, options = {}) {
  place.drawn = [xName, x, names, columns, options];
  const shape = `${xName}|${names.join("|")}|${dark.matches}|${"log" in place.dataset}`;
  if (!x.length || !names.length) {
    place.chart?.destroy();
    place.chart = null;
    place.replaceChildren(Object.assign(document.createElement("p"), { className: "muted waiting", textContent: place.dataset.none ?? "Nothing yet." }));
    return;
  }
  numbersOf(place, names, columns);
  const positive = columns.every((column) => column.every((value) => value === null || value === undefined || value > 0));
  const key = `${shape}|${positive}|${x.length === 1}`;
  if (place.chart && place.shape === key) { place.chart.setData([x, ...columns]); return; }
  place.shape = key;
  place.chart?.destroy();
  place.replaceChildren();
  const { color: colour, fontFamily } = getComputedStyle(place);
  const font = `12px ${fontFamily}`;
  const grid = { stroke: dark.matches ? "#ffffff14" : "#00000012", width: 1 };
  const axis = { stroke: colour, grid, ticks: { ...grid, size: 4 }, font, labelFont: font };
  const logarithmic = "log" in place.dataset && positive;
  const drawn = series(names);
  if (options.bars) drawn.forEach((one) => Object.assign(one, { paths: uPlot.paths.bars({ size: [0.9, 40] }), fill: `${one.stroke}66`, width: 1 }));
  else if (x.length === 1) drawn.forEach((one) => { one.points.show = true; });
  const marked = { hooks: { draw: [(chart) => mark(chart, place.drawn[4].mark)] } };
  place.chart = new uPlot(
    {
      width: place.clientWidth || 400,
      height: HEIGHT,
      scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1 } },
      axes: [{ ...axis, label: xName, labelSize: 18, size: 34, ...(options.bars ? {} : { incrs: WHOLE }) }, { ...axis, size: 60, values: logarithmic ? undefined : ticks }],
      series: [{ label: xName, value: (_, value) => (value === null ? "" : value.toLocaleString("en", { maximumSignificantDigits: 6 })) }, ...drawn],
      legend: { show: names.length <= MOST_NAMED, markers: { fill: (_, number) => number && marker(drawn[number - 1]) } },
      plugins: [marked],
    },
    [x, ...columns],
    place,
  );
}

function shown(name) { return name.replaceAll("_", " ").replace(/ loss$/, ""); }

// Of several questions for one place, the answer to the last one counts. null: it is not there, or does not come.
async function latest(place, url) {
  const asked = (place.asked = (place.asked ?? 0) + 1);
  const answer = await ask("GET", url).catch(() => null);
  const found = answer?.ok ? await answer.json() : null;
  return asked === place.asked ? { found, missing: answer?.status === 404 } : { found: null, missing: false };
}

export const width = (place) => Math.max(200, place.clientWidth);

async function curves(places) {
  const [first] = places;
  if (!first) return;
  const { found } = await latest(first, `${first.dataset.curves}?points=${width(first)}`);
  if (!found) return;
  for (const place of places) {
    const names = place.dataset.series.split(" ").filter((name) => found[name].some((value) => value !== null));
    draw(place, place.dataset.x, found.iteration, names.map(shown), names.map((name) => found[name]), { mark: found.best });
  }
}

async function compared(place) {
  const ids = JSON.parse(place.dataset.compare);
  const names = JSON.parse(place.dataset.names);
  const all = await Promise.all(ids.map((id) => ask("GET", `/jobs/${id}/curves?points=400&only=outer_loss`).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null)));
  const [x, ...columns] = uPlot.join(all.map((one) => [one?.iteration ?? [], one?.outer_loss ?? []]));
  draw(place, "meta-iteration", [...x], names.map((name, number) => name || ids[number].slice(0, 8)), columns);
}

const DRAWN_HERE = new Set(["losses", "schedules", "penalties", "inputs", "initial_weights", "task_mixing", "augmentation", "init_scales"]);

// Figures that the server draws of what is no curve and no sheet: training before and after, valleys, chaos, memory.
async function figures(section, version) {
  const answer = await ask("GET", section.dataset.figures).catch(() => null);
  if (!answer?.ok) return;
  const list = section.querySelector(".pictures");
  const known = (await answer.json()).data.filter((one) => !DRAWN_HERE.has(one.name));
  section.hidden = !known.length;
  list.querySelector("p")?.remove();
  for (const one of known) {
    let figure = list.querySelector(`[data-name="${CSS.escape(one.name)}"]`);
    if (!figure) {
      figure = document.createElement("figure");
      figure.dataset.name = one.name;
      figure.append(Object.assign(document.createElement("img"), { alt: one.title }), Object.assign(document.createElement("figcaption"), { textContent: one.title, className: "muted" }));
      const image = figure.firstChild;
      image.onerror = () => { if (!image.retried) { image.retried = true; setTimeout(() => { image.src = `${image.src}0`; }, 3000); } };
      list.append(figure);
    }
    figure.firstChild.retried = false;
    figure.firstChild.src = `${one.png}?version=${version}`;
  }
}

const latestEvent = () => Number(document.querySelector("[data-event]")?.dataset.event ?? 0);

// Runs at once, and then once more for all that came meanwhile: what comes last is always shown.
export function throttled(work, milliseconds) {
  let timer = null, waiting = false;
  return function run(now = false) {
    if (timer !== null && !now) { waiting = true; return; }
    clearTimeout(timer);
    waiting = false;
    work();
    timer = setTimeout(() => { timer = null; if (waiting) run(); }, milliseconds);
  };
}

const drawCurves = throttled(() => { curves([...document.querySelectorAll("[data-curves]")]); }, 1000);
const section = document.getElementById("pictures");
let looked = false; // they take the server a second each: drawn once somebody comes near
const drawFigures = throttled(() => { if (section && looked) figures(section, latestEvent()); }, 15000);

document.addEventListener("retrograd:changed", (event) => {
  drawCurves(event.detail.ended);
  if (looked) drawFigures(event.detail.ended);
});
addEventListener("resize", () => {
  for (const place of document.querySelectorAll(".chart")) place.chart?.setSize({ width: place.clientWidth, height: HEIGHT });
});
dark.addEventListener("change", () => {
  for (const place of document.querySelectorAll(".chart")) if (place.drawn) draw(place, ...place.drawn);
});
drawCurves();
// not before the curves are there: a figure keeps the server busy for as long as ten pages
function watch() {
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    observer.disconnect();
    looked = true;
    drawFigures(true);
  }, { rootMargin: "150px" }).observe(section);
}
if (section) setTimeout(watch, 1000);
for (const place of document.querySelectorAll("[data-compare]")) compared(place);
