// What a job learns, as it is learned: one slider leads all schedules, images and matrices through its meta-iterations.
import { ask } from "/static/live.js";
import { draw, throttled, width } from "/static/charts.js";
import { decoded } from "/static/numbers.js";
import { drawSheets } from "/static/sheets.js";

const KEPT_FRAMES = 64;
const MOST_PLAYED = 150; // frames from the start to the end
const FRAME_MILLISECONDS = 60;
const BUSY_MILLISECONDS = 2000; // until a server that had no room is asked again

const section = document.getElementById("learned");
const slider = document.getElementById("scrub");
const after = document.getElementById("after");
const play = document.getElementById("play");
const toBest = document.getElementById("to-best");
const frames = new Map(); // by iteration; what was learned stays what it is, but its scale is also that of the latest
let shown = null, latest = null, asking = null, again = false;

const placeOf = (name) => section.querySelector(`[data-view="${CSS.escape(name)}"] :is(.chart, .sheet-list)`);
const facts = () => document.querySelector("[data-kept]").dataset;

// Iterations whose values were kept: how many, which is at a place of the slider, and at which place it is.
function kept() {
  const known = JSON.parse(facts().kept);
  if (known !== "all") return { count: known.length, at: (place) => known[place], placeOf: (iteration) => known.indexOf(iteration) };
  return { count: Number(facts().iteration) + 1, at: (place) => place, placeOf: (iteration) => iteration };
}

// Where there is no number a curve has a gap.
function known(line) {
  const numbers = decoded(line);
  return numbers.some(Number.isNaN) ? Array.from(numbers, (one) => (Number.isNaN(one) ? null : one)) : numbers;
}

function drawHistogram(place, found) {
  const middles = found.counts.map((_, at) => (found.edges[at] + found.edges[at + 1]) / 2);
  draw(place, "value", middles, ["how many"], [found.counts], { bars: true });
}

function drawFrame({ iteration, views }) {
  for (const [name, found] of Object.entries(views)) {
    const place = placeOf(name);
    const { kind, lines, axis } = place.parentElement.dataset;
    if (kind === "curves") draw(place, axis, found.x, JSON.parse(lines), found.lines.map(known));
    else if (kind === "histogram") drawHistogram(place, found);
    else drawSheets(place, found, name.replaceAll("_", " "));
  }
  shown = iteration;
  document.dispatchEvent(new CustomEvent("retrograd:drawn", { detail: { iteration } }));
}

function say(iteration) {
  const of = Number(facts().iteration);
  after.value = iteration.toLocaleString("en");
  document.getElementById("of").textContent = of.toLocaleString("en");
  slider.setAttribute("aria-valuetext", `after ${iteration} of ${of} updates`);
  const best = facts().best;
  toBest.hidden = best === "" || Number(best) === iteration || kept().placeOf(Number(best)) < 0;
}

async function fetched(iteration) {
  const found = frames.get(iteration), then = latest;
  if (found) return found;
  const answer = await ask("GET", `${section.dataset.frame}?iteration=${iteration}&points=${Math.max(200, width(section))}`).catch(() => null);
  if (!answer?.ok) return { 404: "missing", 503: "busy" }[answer?.status] ?? null;
  const frame = await answer.json();
  if (then === latest) frames.set(iteration, frame);
  if (frames.size > KEPT_FRAMES) frames.delete(frames.keys().next().value);
  return frame;
}

// One request at a time, and then one for where the slider is by then.
async function show() {
  if (asking) { again = true; return asking; }
  asking = (async () => {
    do {
      again = false;
      const { count, at } = kept();
      for (const control of section.querySelectorAll(".scrubber > :not(h2, #to-best)")) control.hidden = count < 2;
      if (!count) return;
      const iteration = at(Math.min(Number(slider.value), count - 1));
      say(iteration);
      if (iteration === shown) continue;
      const found = await fetched(iteration);
      if (found === "busy") {
        await new Promise((wake) => setTimeout(wake, BUSY_MILLISECONDS));
        again = true;
      } else if (found === "missing") {
        shown = null;
        for (const place of section.querySelectorAll(".view:not(.of-trace) :is(.chart, .sheet-list)")) empty(place, "These values were not kept.");
      } else if (found) drawFrame(found);
    } while (again);
  })();
  try { await asking; } finally { asking = null; }
}

function empty(place, text) {
  place.chart?.destroy();
  place.chart = place.shape = place.drawn = null;
  place.replaceChildren(Object.assign(document.createElement("p"), { className: "muted waiting", textContent: text }));
}

// The slider grows as the job does; at its end it follows.
function grow() {
  const atEnd = slider.value === slider.max;
  const { count, at } = kept();
  if (at(count - 1) !== latest) frames.clear();
  latest = at(count - 1);
  slider.max = Math.max(0, count - 1);
  if (atEnd) slider.value = slider.max;
}

async function trace() {
  const places = [...section.querySelectorAll(".of-trace .chart")];
  if (!places.length) return;
  const answer = await ask("GET", `${section.dataset.traces}?points=${Math.max(200, width(places[0]))}`).catch(() => null);
  if (!answer?.ok) return;
  const found = await answer.json();
  for (const place of places) {
    const { view, lines } = place.parentElement.dataset;
    if (found.iteration.length) draw(place, "updates", found.iteration, JSON.parse(lines), found.lines[view]);
  }
}

const update = throttled(() => {
  trace();
  if (!slider) return;
  grow();
  show();
}, 1000);

async function playing() {
  const stride = Math.max(1, Math.ceil(Number(slider.max) / MOST_PLAYED));
  if (slider.value === slider.max) slider.value = 0;
  while (play.getAttribute("aria-pressed") === "true") {
    const began = performance.now();
    await show();
    if (slider.value === slider.max) break;
    slider.value = Math.min(Number(slider.max), Number(slider.value) + stride);
    await new Promise((wake) => setTimeout(wake, Math.max(0, FRAME_MILLISECONDS - (performance.now() - began))));
  }
  stop();
}

function stop() {
  play.setAttribute("aria-pressed", "false");
  play.textContent = "Play";
}

if (section) {
  document.addEventListener("retrograd:changed", (event) => update(event.detail.ended));
  update();
}
if (slider) {
  slider.addEventListener("input", () => { stop(); show(); });
  toBest.addEventListener("click", () => { stop(); slider.value = kept().placeOf(Number(facts().best)); show(); slider.focus(); });
  play.addEventListener("click", () => {
    if (play.getAttribute("aria-pressed") === "true") { stop(); return; }
    play.setAttribute("aria-pressed", "true");
    play.textContent = "Stop";
    playing();
  });
  addEventListener("resize", () => frames.clear()); // they are as wide as the page was
}
