// The list of jobs is filtered as one types; the address says what is shown, so that it can be kept and shared.
import { notify, refresh } from "/static/live.js";

const filters = document.getElementById("filters");
const rows = document.getElementById("rows");
let due = null;

const counted = (count) => (count === 1 ? "One job is shown." : `${count} jobs are shown.`);

function show() {
  clearTimeout(due);
  const wanted = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value !== ""));
  const address = `/${wanted.size ? `?${wanted}` : ""}`;
  if (address === location.pathname + location.search) return;
  history.replaceState(null, "", address);
  refresh(rows).then(() => { document.getElementById("found").textContent = counted(rows.querySelectorAll("tbody tr").length); });
}

filters.addEventListener("input", (event) => {
  clearTimeout(due);
  due = setTimeout(show, event.target.type === "search" ? 150 : 0);
});
filters.addEventListener("submit", (event) => { event.preventDefault(); show(); });
rows.closest("form").addEventListener("submit", (event) => {
  if (rows.querySelector("input:checked")) return;
  event.preventDefault();
  notify("Choose jobs first, by the boxes before their names.");
});
