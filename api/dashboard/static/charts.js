// Curves, by uPlot: of a job as it learns, of a schedule after any number of updates, of jobs beside each other.
import { ask } from "/static/live.js";

const LIGHT = ["#1f6fe0", "#c2315c", "#0d7a5a", "#9a5b00", "#6d3fd6", "#08708c", "#7a4f10", "#b01f69"];
const DARK = ["#6ea8ff", "#ff8aa8", "#4fd6a8", "#f0b457", "#b89bff", "#5fd3ee", "#d9a85c", "#ff8fc7"];
const DASHES = [[], [7, 4], [2, 3]];
const dark = matchMedia("(prefers-color-scheme: dark)");

function series(names) {
  const colours = dark.matches ? DARK : LIGHT;
  return names.map((label, number) => ({
    label,
    stroke: colours[number % colours.length],
    dash: DASHES[Math.floor(number / colours.length) % DASHES.length],
    width: 1.5,
    spanGaps: false, // where training diverged there is nothing
    points: { show: false },
  }));
}

function said(value) { return value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString(); }

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
  for (const title of ["", "first", "last", "lowest", "highest"]) head.append(Object.assign(document.createElement("th"), { textContent: title, scope: "col" }));
  const body = table.createTBody();
  for (const [at, name] of names.entries()) {
    const known = columns[at].filter((value) => value !== null && value !== undefined);
    const row = body.insertRow();
    row.append(Object.assign(document.createElement("th"), { textContent: name, scope: "row" }));
    let lowest = Infinity, highest = -Infinity;
    for (const value of known) { if (value < lowest) lowest = value; if (value > highest) highest = value; }
    for (const value of known.length ? [known[0], known.at(-1), lowest, highest] : [null, null, null, null]) row.insertCell().textContent = said(value);
  }
  details.lastChild.replaceChildren(table);
}

function draw(place, xName, x, names, columns) {
  place.drawn = [xName, x, names, columns];
  const shape = `${names.join("|")}|${dark.matches}|${"log" in place.dataset}`;
  if (!x.length || !names.length) {
    place.chart?.destroy();
    place.chart = null;
    place.textContent = "Nothing yet.";
    return;
  }
  numbersOf(place, names, columns);
  const positive = columns.every((column) => column.every((value) => value === null || value === undefined || value > 0));
  const key = `${shape}|${positive}`;
  if (place.chart && place.shape === key) { place.chart.setData([x, ...columns]); return; }
  place.shape = key;
  place.chart?.destroy();
  place.replaceChildren();
  const colour = () => getComputedStyle(place).color;
  const grid = { stroke: "#8884", width: 1 };
  const logarithmic = "log" in place.dataset && positive;
  place.chart = new uPlot(
    {
      width: place.clientWidth || 400,
      height: 260,
      scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1 } },
      axes: [{ stroke: colour, grid, ticks: grid, label: xName, labelSize: 20 }, { stroke: colour, grid, ticks: grid, size: 64 }],
      series: [{ label: xName }, ...series(names)],
      legend: { show: names.length <= 12 },
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

const width = (place) => Math.max(200, place.clientWidth);

async function curves(places) {
  const [first] = places;
  if (!first) return;
  const { found } = await latest(first, `${first.dataset.curves}?points=${width(first)}`);
  if (!found) return;
  for (const place of places) {
    const names = place.dataset.series.split(" ").filter((name) => found[name].some((value) => value !== null));
    draw(place, "meta-iteration", found.iteration, names.map(shown), names.map((name) => found[name]));
  }
}

// Iterations whose values were kept, by their place on the slider.
function kept() {
  const { kept, iteration } = document.querySelector("[data-kept]").dataset;
  const known = JSON.parse(kept);
  return known === "all" ? Array.from({ length: Number(iteration) + 1 }, (_, number) => number) : known;
}

async function schedule(place, force = false) {
  const slider = place.parentElement.querySelector("input[type=range]");
  const known = kept();
  const atEnd = slider.value === slider.max;
  slider.max = Math.max(0, known.length - 1);
  if (atEnd) slider.value = slider.max;
  if (!known.length) { draw(place, "step", [], [], []); return; }
  const iteration = known[Math.min(Number(slider.value), known.length - 1)];
  place.parentElement.querySelector("output").textContent = iteration;
  slider.setAttribute("aria-valuetext", `after ${iteration} updates`);
  if (iteration === place.iteration && !force) return;
  place.iteration = iteration;
  const { found, missing } = await latest(place, `${place.dataset.schedule}?iteration=${iteration}&points=${width(place)}`);
  if (found) draw(place, "step", found.step, JSON.parse(place.dataset.groups), found.lines);
  else if (missing) { draw(place, "step", [], [], []); place.textContent = "These values were not kept."; place.iteration = null; }
}

async function compared(place) {
  const ids = JSON.parse(place.dataset.compare);
  const names = JSON.parse(place.dataset.names);
  const all = await Promise.all(ids.map((id) => ask("GET", `/jobs/${id}/curves?points=400`).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null)));
  const [x, ...columns] = uPlot.join(all.map((one) => [one?.iteration ?? [], one?.outer_loss ?? []]));
  draw(place, "meta-iteration", [...x], names.map((name, number) => name || ids[number].slice(0, 8)), columns);
}

async function pictures(section, version) {
  const answer = await ask("GET", section.dataset.figures).catch(() => null);
  if (!answer?.ok) return;
  const list = section.querySelector(".pictures");
  const known = (await answer.json()).data.filter((one) => !["losses", "schedules"].includes(one.name));
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
function throttled(work, milliseconds) {
  let timer = null, waiting = false;
  return function run(now = false) {
    if (timer !== null && !now) { waiting = true; return; }
    clearTimeout(timer);
    waiting = false;
    work();
    timer = setTimeout(() => { timer = null; if (waiting) run(); }, milliseconds);
  };
}

const drawCurves = throttled(() => {
  curves([...document.querySelectorAll("[data-curves]")]);
  for (const place of document.querySelectorAll("[data-schedule]")) schedule(place);
}, 1000);
const drawPictures = throttled(() => {
  const section = document.getElementById("pictures");
  if (section) pictures(section, latestEvent());
}, 15000);

document.addEventListener("input", (event) => {
  const place = event.target.closest("section")?.querySelector("[data-schedule]");
  if (place && event.target.type === "range") schedule(place);
});
document.addEventListener("retrograd:changed", (event) => {
  drawCurves(event.detail.ended);
  drawPictures(event.detail.ended);
});
addEventListener("resize", () => {
  for (const place of document.querySelectorAll(".chart")) place.chart?.setSize({ width: place.clientWidth, height: 260 });
});
dark.addEventListener("change", () => {
  for (const place of document.querySelectorAll(".chart")) if (place.drawn) draw(place, ...place.drawn);
});
for (const slider of document.querySelectorAll(".scrub input")) { slider.max = Math.max(0, kept().length - 1); slider.value = slider.max; }
drawCurves();
drawPictures();
for (const place of document.querySelectorAll("[data-compare]")) compared(place);
