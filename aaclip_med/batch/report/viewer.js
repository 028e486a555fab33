"use strict";
// The viewer: one case's slices under their heat. Pictures are decoded when a slice is shown, and let go with the case.

const part = Object.fromEntries([...document.querySelectorAll("#viewer [id]")].map((element) => [element.id, element]));
const viewer = document.getElementById("viewer");
const narrow = matchMedia("(max-width: 60rem)");

let preview = null; // of the open case
let lesions = new Map();
let pictures = [];
let at = 0; // place among the preview's slices
let ringed = null; // the candidate that was jumped to
let ticket = 0;

function openCase(number, moveFocus) {
  const { row, lesions: listed, preview: found } = JSON.parse(document.getElementById(`case-${number}`).textContent);
  preview = found;
  lesions = new Map(listed.map((lesion) => [lesion.lesion, lesion]));
  pictures = [];
  ringed = null;
  ticket += 1;
  viewer.hidden = false;
  part.name.textContent = row.case;
  part.about.textContent = row.status === "ok" ? describeRow(row) : "";
  part.trouble.textContent = row.status !== "ok" ? `Failed: ${row.error || "no reason given"}` : preview ? "" : "No pictures of this case.";
  part.trouble.hidden = part.trouble.textContent === "";
  part.panel.hidden = !preview;
  delete part.picture.dataset.drawn;
  if (preview) {
    part.slice.max = preview.slices.length - 1;
    part.threshold.max = CODES - 1;
    part.threshold.value = preview.scale.threshold;
    listCandidates(row);
    sayThreshold();
    showSlice(preview.slices.findIndex((slice) => slice.number === row.peak_slice));
  }
  coverPage(moveFocus);
}

function describeRow(row) {
  const facts = [`score ${sayShare(row.score)}`];
  if (row.p_value !== null && row.p_value !== undefined) facts.push(`p ${Number(row.p_value).toFixed(3)}`);
  facts.push(row.spacing_mm ? `${String(row.spacing_mm).replaceAll("x", " × ")} mm` : "", row.orientation, row.flags);
  return facts.filter(Boolean).join(" · ");
}

// On a narrow page the viewer covers the table, which is then out of reach for keys and readers alike.
function coverPage(moveFocus) {
  if (!narrow.matches) {
    if (moveFocus) (preview ? part.picture : part.name).focus({ preventScroll: true });
    return;
  }
  for (const other of [document.querySelector("header"), document.getElementById("list")]) other.inert = true;
  document.body.classList.add("covered");
  if (moveFocus) part.name.focus();
  fitPicture();
}

function uncoverPage() {
  for (const other of [document.querySelector("header"), document.getElementById("list")]) other.inert = false;
  document.body.classList.remove("covered");
}

function closeViewer() {
  uncoverPage();
  viewer.hidden = true;
  chosen?.button.focus();
}

// Slices

async function decode(source) {
  if (!source) return null;
  const image = new Image();
  image.src = `data:image/webp;base64,${source}`;
  await image.decode();
  return image;
}

function loadSlice(place) {
  const slice = preview.slices[place];
  if (slice) pictures[place] ??= Promise.all([decode(slice.grey), decode(slice.heat)]);
  return pictures[place];
}

async function showSlice(place) {
  at = Math.min(Math.max(place, 0), preview.slices.length - 1);
  part.slice.value = at;
  const { number } = preview.slices[at];
  const selection = preview.slices.length < preview.count ? ` (${preview.slices.length} shown)` : "";
  part.place.textContent = `${number} of 0–${preview.count - 1}${selection}`;
  part.slice.setAttribute("aria-valuetext", `slice ${number}`);
  await drawSlice();
  for (const neighbour of [at + 1, at - 1]) loadSlice(neighbour)?.catch(() => {}); // told of when it is shown
}

// Heat and its scale

function heatOf(code) {
  return 1 / (1 + 10 ** -(preview.scale.low + (code - 1) * preview.scale.step));
}

function sayThreshold() {
  drawColours();
  const code = Number(part.threshold.value);
  const heat = sayShare(heatOf(code));
  part.from.textContent = `from ${Number(heat)}`;
  part.reset.disabled = code === preview.scale.threshold;
  const rate = 1 / (1 - heatOf(code));
  const words = rate <= 10000.5 ? `hotter than all but 1 in ${Math.round(rate).toLocaleString("en")} normal voxels` : "rarer than 1 in 10,000 normal voxels";
  part.threshold.setAttribute("aria-valuetext", preview.calibrated ? `${heat}, ${words}` : heat);
  part.legend.textContent = preview.calibrated
    ? `Coloured: ${words}.`
    : `Coloured: model probability from ${Number(heat)}, not calibrated.`;
  part.opaque.textContent = `${part.opacity.value} %`;
}

// Candidates

function listCandidates(row) {
  part.found.textContent = row.candidates > preview.candidates.length
    ? `Candidates: the first ${preview.candidates.length} of ${row.candidates}`
    : `Candidates: ${row.candidates || "none"}`;
  part.parts.hidden = !row.candidates;
  part.candidates.replaceChildren(
    ...preview.candidates.map((candidate) => {
      const [item, button] = [document.createElement("li"), document.createElement("button")];
      const lesion = lesions.get(candidate.id);
      button.type = "button";
      for (const text of describeCandidate(candidate, lesion)) {
        const cell = document.createElement("span");
        cell.textContent = text;
        button.append(cell, " ");
      }
      button.addEventListener("click", () => jumpTo(candidate, button));
      item.append(button);
      return item;
    }),
  );
}

function describeCandidate(candidate, lesion) {
  if (!lesion) return [`${candidate.id}`, `slice ${candidate.slice}`];
  const span = lesion.first_slice === lesion.last_slice ? `slice ${lesion.first_slice}` : `slices ${lesion.first_slice}–${lesion.last_slice}`;
  return [`${candidate.id}`, `${sayNumber(lesion.volume_ml)} mL`, sayShare(lesion.peak), span];
}

function sayNumber(value) {
  return value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2);
}

function jumpTo(candidate, button) {
  ringed = candidate;
  for (const other of part.candidates.querySelectorAll("button")) other.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  const distances = preview.slices.map((slice) => Math.abs(slice.number - candidate.slice));
  showSlice(distances.indexOf(Math.min(...distances)));
}

// Hands

part.slice.addEventListener("input", () => showSlice(Number(part.slice.value)));
for (const control of [part.threshold, part.opacity, part.outline]) {
  control.addEventListener("input", () => {
    sayThreshold();
    drawSlice();
  });
}
part.reset.addEventListener("click", () => {
  part.threshold.value = preview.scale.threshold;
  sayThreshold();
  drawSlice();
});
part.previous.addEventListener("click", () => stepCase(-1));
part.next.addEventListener("click", () => stepCase(1));
part.close.addEventListener("click", closeViewer);
viewer.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (document.body.classList.contains("covered")) closeViewer();
  else chosen?.button.focus();
});

part.picture.addEventListener("keydown", (event) => {
  const last = preview.slices.length - 1;
  const places = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: last };
  if (!(event.key in places) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  showSlice(places[event.key]);
});

let wheeled = 0;
part.stage.addEventListener("wheel", (event) => {
  if (event.ctrlKey || !preview) return; // a zoom
  event.preventDefault();
  wheeled += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY;
  const steps = Math.trunc(wheeled);
  wheeled -= steps;
  if (steps) showSlice(at + Math.sign(steps) * Math.min(Math.abs(steps), 3));
}, { passive: false });

// A vertical drag or swipe over the picture goes through the whole scan.
let dragged = null;
part.stage.addEventListener("pointerdown", (event) => {
  dragged = { y: event.clientY, from: at };
  part.stage.setPointerCapture(event.pointerId);
});
part.stage.addEventListener("pointermove", (event) => {
  if (!dragged || !preview) return;
  const step = Math.max(6, part.stage.clientHeight / preview.slices.length);
  const place = dragged.from + Math.round((event.clientY - dragged.y) / step);
  if (place !== at) showSlice(place);
});
for (const end of ["pointerup", "pointercancel"]) part.stage.addEventListener(end, () => (dragged = null));

narrow.addEventListener("change", () => (narrow.matches ? closeViewer() : uncoverPage()));
new ResizeObserver(() => preview && !viewer.hidden && part.picture.dataset.drawn && drawSlice()).observe(part.stage);
filterRows();
if (!narrow.matches && rows.length) choose(visibleRows()[0], false);
