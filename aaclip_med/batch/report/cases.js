"use strict";
// The table of cases: sorting, filtering, moving through it with the keyboard. Opening a case is the viewer's (openCase).

const body = document.getElementById("cases");
const rows = [...body.rows].map((element) => ({
  element,
  button: element.querySelector("button"),
  number: Number(element.dataset.number),
  ok: element.dataset.status === "ok",
  text: element.textContent.toLowerCase(),
  values: Object.fromEntries([...element.cells].map((cell) => [cell.className, readValue(cell)])),
}));
let order = [...rows];
let chosen = null;

const logOdds = (share) => Math.log10(Math.max(share, 1e-8) / Math.max(1 - share, 1e-8));
const ends = rows.filter((row) => row.ok).map((row) => logOdds(row.values.score));
const lowest = Math.min(...ends);
const highest = Math.max(...ends);

function readValue(cell) {
  if (cell.className === "case") return cell.querySelector("bdi").textContent.toLowerCase();
  return !cell.dataset.value ? null : Number(cell.dataset.value);
}

// Shares near 1 are told apart by their distance from it: 0.99953.
function sayShare(share) {
  if (share >= 0.01 && share < 0.99) return share.toFixed(3);
  if (share < 0.01) return share.toPrecision(2);
  const digits = 1 - Math.floor(Math.log10(Math.max(1 - share, 1e-9)) + 1e-6);
  return share.toFixed(Math.min(7, Math.max(3, digits)));
}

function visibleRows() {
  return order.filter((row) => !row.element.hidden);
}

function sortBy(key, direction) {
  const collator = new Intl.Collator(undefined, { numeric: true });
  order.sort((a, b) => {
    const [left, right] = [a.values[key] ?? null, b.values[key] ?? null];
    if (left === null || right === null) return (left === null) - (right === null); // what is missing comes last
    return direction * (typeof left === "string" ? collator.compare(left, right) : left - right);
  });
  body.append(...order.map((row) => row.element));
  for (const heading of document.querySelectorAll("th[data-key]")) {
    if (heading.dataset.key === key) heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else heading.removeAttribute("aria-sort");
  }
}

function filterRows() {
  const find = document.getElementById("find").value.trim().toLowerCase();
  const status = document.querySelector("#filters input[name=status]:checked").value;
  const slider = document.getElementById("least");
  const least = lowest + ((highest - lowest) * slider.value) / 1000 - 1e-9;
  const wanted = {
    all: () => true,
    ok: (row) => row.ok,
    failed: (row) => !row.ok,
    candidates: (row) => row.values.candidates > 0,
  }[status];
  const hot = (row) => slider.value === "0" || (row.ok && logOdds(row.values.score) >= least);
  for (const row of rows) row.element.hidden = !(row.text.includes(find) && wanted(row) && hot(row));
  const said = slider.value === "0" ? "any" : sayShare(1 / (1 + 10 ** -least));
  document.getElementById("least-said").textContent = said;
  const shown = visibleRows().length;
  document.getElementById("shown").textContent =
    shown === rows.length ? `All ${rows.length} cases` : `${shown} of ${rows.length} cases`;
}

function choose(row, moveFocus) {
  chosen?.element.removeAttribute("aria-current");
  chosen = row;
  row.element.setAttribute("aria-current", "true");
  openCase(row.number, moveFocus);
}

// The neighbour of the chosen case among those that are shown.
function stepCase(by) {
  const shown = visibleRows();
  const place = shown.indexOf(chosen);
  const next = shown[place < 0 ? 0 : place + by];
  if (!next) return;
  choose(next, false);
  next.element.scrollIntoView({ block: "nearest" });
}

document.querySelector("thead").addEventListener("click", (event) => {
  const heading = event.target.closest("th[data-key]");
  if (!heading) return;
  const down = heading.getAttribute("aria-sort") === "descending";
  const up = heading.getAttribute("aria-sort") === "ascending";
  const first = heading.dataset.key === "case" || heading.dataset.key === "p" ? 1 : -1;
  sortBy(heading.dataset.key, down ? 1 : up ? -1 : first);
});

body.addEventListener("click", (event) => {
  const element = event.target.closest("tr");
  if (!element || (!event.target.closest("button") && String(getSelection()) !== "")) return; // text is being selected
  choose(rows.find((row) => row.element === element), true);
});

body.addEventListener("keydown", (event) => {
  const shown = visibleRows();
  const place = shown.findIndex((row) => row.button === document.activeElement);
  const places = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1 };
  if (place < 0 || !(event.key in places)) return;
  event.preventDefault();
  shown[places[event.key]]?.button.focus();
});

document.getElementById("filters").addEventListener("input", filterRows);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
