// Curves, by uPlot: of a job as it learns, of a schedule after any number of updates, of jobs beside each other.
import { ask } from "/static/live.js";

const COLOURS = ["#3b82f6", "#e0567a", "#16a37b", "#c27b12", "#8b5cf6", "#0ea5c9", "#a16207", "#db2777"];

function series(names) {
  return names.map((label, number) => ({ label, stroke: COLOURS[number % COLOURS.length], width: 1.5, spanGaps: true, points: { show: false } }));
}

function positive(columns) {
  return columns.every((column) => column.every((value) => value === null || value > 0));
}

function draw(place, xName, x, names, columns) {
  const colour = () => getComputedStyle(place).color;
  const grid = { stroke: "#8884", width: 1 };
  const logarithmic = "log" in place.dataset && positive(columns);
  place.chart?.destroy();
  place.replaceChildren();
  if (!x.length) { place.textContent = "Nothing yet."; return; }
  place.chart = new uPlot(
    {
      width: place.clientWidth || 400,
      height: 260,
      scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1 } },
      axes: [{ stroke: colour, grid, ticks: grid, label: xName, labelSize: 20 }, { stroke: colour, grid, ticks: grid, size: 64 }],
      series: [{ label: xName }, ...series(names)],
      legend: { show: names.length > 1 && names.length <= 12 },
    },
    [x, ...columns],
    place,
  );
}

function shown(name) { return name.replaceAll("_", " ").replace(/ loss$/, ""); }

const fetched = new Map();
async function numbers(url) {
  if (!fetched.has(url)) {
    const asked = ask("GET", url).then((answer) => (answer.ok ? answer.json() : null));
    fetched.set(url, asked);
    asked.finally(() => fetched.delete(url));
  }
  return fetched.get(url);
}

async function curves(place) {
  const found = await numbers(`${place.dataset.curves}?points=${Math.max(200, place.clientWidth)}`);
  if (!found) return;
  const names = place.dataset.series.split(" ").filter((name) => found[name].some((value) => value !== null));
  draw(place, "meta-iteration", found.iteration, names.map(shown), names.map((name) => found[name]));
}

async function schedule(place) {
  const slider = place.parentElement.querySelector("input[type=range]");
  const kept = JSON.parse(slider.dataset.kept);
  if (!kept.length) { place.textContent = "Nothing yet."; return; }
  const iteration = kept[Number(slider.value)];
  place.parentElement.querySelector("output").textContent = iteration;
  const asked = (place.asked = (place.asked ?? 0) + 1);
  const found = await numbers(`${place.dataset.schedule}?iteration=${iteration}&points=${Math.max(200, place.clientWidth)}`);
  if (found && asked === place.asked) draw(place, "step", found.step, JSON.parse(place.dataset.groups), found.lines);
}

async function compared(place) {
  const ids = JSON.parse(place.dataset.compare);
  const names = JSON.parse(place.dataset.names);
  const all = await Promise.all(ids.map((id) => numbers(`/jobs/${id}/curves?points=400`)));
  const tables = all.map((one) => [one?.iteration ?? [], one?.outer_loss ?? []]);
  const [x, ...columns] = uPlot.join(tables);
  draw(place, "meta-iteration", [...x], names.map((name, number) => name || ids[number].slice(0, 8)), columns);
}

async function pictures(section) {
  const answer = await ask("GET", section.dataset.figures);
  if (!answer.ok) return;
  const list = section.querySelector(".pictures");
  const known = (await answer.json()).data.filter((one) => !["losses", "schedules"].includes(one.name));
  section.hidden = !known.length;
  list.replaceChildren(...known.map((one) => {
    const figure = document.createElement("figure");
    const image = Object.assign(document.createElement("img"), { src: `${one.png}?${Date.now()}`, alt: one.title, loading: "lazy" });
    const caption = Object.assign(document.createElement("figcaption"), { textContent: one.title, className: "muted" });
    figure.append(image, caption);
    return figure;
  }));
}

let drawnAt = 0;
async function all() {
  for (const place of document.querySelectorAll("[data-curves]")) curves(place);
  for (const place of document.querySelectorAll("[data-schedule]")) schedule(place);
  for (const place of document.querySelectorAll("[data-compare]")) compared(place);
  const section = document.getElementById("pictures");
  if (section && Date.now() - drawnAt > 5000) { drawnAt = Date.now(); pictures(section); }
}

document.addEventListener("input", (event) => {
  const place = event.target.closest("section")?.querySelector("[data-schedule]");
  if (place && event.target.type === "range") schedule(place);
});

document.addEventListener("retrograd:changed", (event) => {
  for (const slider of document.querySelectorAll("input[data-kept]")) {
    const kept = JSON.parse(slider.dataset.kept);
    const newest = Number(slider.value) === kept.length - 1 || !kept.length;
    if (kept.at(-1) !== event.detail.iteration) {
      kept.push(event.detail.iteration);
      slider.dataset.kept = JSON.stringify(kept);
      slider.max = kept.length - 1;
      if (newest) slider.value = kept.length - 1;
    }
  }
  all();
});
addEventListener("resize", () => { clearTimeout(all.timer); all.timer = setTimeout(all, 200); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
all();
