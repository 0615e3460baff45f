// The list of jobs is filtered as one types; the address says what is shown, so that it can be kept and shared.
import { refresh } from "/static/live.js";

const filters = document.getElementById("filters");
const rows = document.getElementById("rows");
let due = null;

function show() {
  clearTimeout(due);
  const wanted = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value !== ""));
  const address = `/${wanted.size ? `?${wanted}` : ""}`;
  if (address === location.pathname + location.search) return;
  history.replaceState(null, "", address);
  refresh(rows).then(() => { document.getElementById("found").textContent = `${rows.querySelectorAll("tbody tr").length} jobs are shown.`; });
}

filters.addEventListener("input", (event) => {
  clearTimeout(due);
  due = setTimeout(show, event.target.type === "search" ? 150 : 0);
});
filters.addEventListener("submit", (event) => { event.preventDefault(); show(); });
