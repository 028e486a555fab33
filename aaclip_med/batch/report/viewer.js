"use strict";
// The viewer: one case's slices under their heat. Pictures are decoded when a slice is shown, and let go with the case.

const CODE_STEP = 4; // heat pictures hold code * CODE_STEP
const CODES = 64;
const LONGEST = 512; // pixels that heat is coloured at
const OUTLINE = [90, 240, 255];
const colourTable = JSON.parse(document.getElementById("colour-table").textContent);
const part = Object.fromEntries([...document.querySelectorAll("#viewer [id]")].map((element) => [element.id, element]));
const viewer = document.getElementById("viewer");
const heatCanvas = document.createElement("canvas");
const heatContext = heatCanvas.getContext("2d", { willReadFrequently: true });
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
  loadSlice(at + 1);
  loadSlice(at - 1);
}

async function drawSlice() {
  const mine = ++ticket;
  let images;
  try {
    images = await loadSlice(at);
  } catch {
    part.trouble.textContent = "This picture is damaged; the heatmap file holds the slice.";
    part.trouble.hidden = false;
    return;
  }
  if (mine !== ticket) return; // another slice was asked for meanwhile
  const [grey, heat] = images;
  fitPicture();
  const context = part.picture.getContext("2d");
  const { width, height } = part.picture;
  context.imageSmoothingQuality = "high";
  context.drawImage(grey, 0, 0, width, height);
  if (heat) {
    colourHeat(heat);
    context.drawImage(heatCanvas, 0, 0, width, height);
  }
  drawRings(context);
  drawLetters(context);
  drawProfile();
  const { number } = preview.slices[at];
  part.picture.setAttribute("aria-label", `${preview.plane} slice ${number}${sayEdges()}, heat ${part.from.textContent}`);
  part.picture.dataset.drawn = number;
}

function sayEdges() {
  return preview.edges ? `, ${preview.edges.left} on the left, ${preview.edges.top} at the top` : "";
}

function fitPicture() {
  if (!preview) return;
  const [width, height] = preview.size;
  const room = part.stage.getBoundingClientRect();
  const scale = Math.min(room.width / width, room.height / height);
  const dense = Math.min(devicePixelRatio || 1, 2);
  const shown = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  part.picture.style.width = `${shown[0]}px`;
  part.picture.style.height = `${shown[1]}px`;
  const pixels = shown.map((side) => Math.round(side * dense));
  if (part.picture.width !== pixels[0]) part.picture.width = pixels[0];
  if (part.picture.height !== pixels[1]) part.picture.height = pixels[1];
}

// Heat is enlarged as codes and coloured after that, so that its outline is smooth. Nothing below the threshold is coloured.
function colourHeat(heat) {
  const [width, height] = preview.size;
  const scale = LONGEST / Math.max(width, height);
  heatCanvas.width = Math.max(1, Math.round(width * scale));
  heatCanvas.height = Math.max(1, Math.round(height * scale));
  heatContext.imageSmoothingQuality = "high";
  heatContext.drawImage(heat, 0, 0, heatCanvas.width, heatCanvas.height);
  const pixels = heatContext.getImageData(0, 0, heatCanvas.width, heatCanvas.height);
  const [data, across] = [pixels.data, heatCanvas.width];
  const from = CODE_STEP * part.threshold.value - CODE_STEP / 2;
  const alpha = Math.round(2.55 * part.opacity.value);
  const hot = new Uint8Array(data.length / 4);
  for (let pixel = 0; pixel < hot.length; pixel += 1) hot[pixel] = data[4 * pixel] >= from ? 1 : 0;
  for (let pixel = 0, byte = 0; pixel < hot.length; pixel += 1, byte += 4) {
    if (!hot[pixel]) {
      data[byte + 3] = 0;
      continue;
    }
    const edge = !(hot[pixel - 1] && hot[pixel + 1] && hot[pixel - across] && hot[pixel + across]);
    const code = Math.min(CODES - 1, Math.max(1, Math.round(data[byte] / CODE_STEP)));
    const colour = edge && part.outline.checked ? OUTLINE : colourTable[code - 1];
    [data[byte], data[byte + 1], data[byte + 2]] = colour;
    data[byte + 3] = edge && part.outline.checked ? 255 : alpha;
  }
  heatContext.putImageData(pixels, 0, 0);
}

function drawRings(context) {
  const { width, height } = part.picture;
  const radius = Math.max(width, height) / 28;
  const { number } = preview.slices[at];
  if (!ringed || ringed.slice !== number) return;
  context.lineWidth = Math.max(1.5, width / 320);
  context.strokeStyle = "#fff";
  context.setLineDash([radius / 3, radius / 4]);
  context.beginPath();
  context.arc(ringed.at[0] * width, ringed.at[1] * height, radius, 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
}

function drawLetters(context) {
  const { width, height } = part.picture;
  const size = Math.round(Math.max(12, Math.min(width, height) / 26));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineWidth = size / 5;
  context.strokeStyle = "#000";
  context.fillStyle = "#e8e8e8";
  const write = (text, x, y, align) => {
    context.textAlign = align;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  };
  if (preview.edges) {
    write(preview.edges.left, size * 0.4, height / 2, "left");
    write(preview.edges.right, width - size * 0.4, height / 2, "right");
    write(preview.edges.top, width / 2, size * 0.8, "center");
    write(preview.edges.bottom, width / 2, height - size * 0.8, "center");
  }
  if (preview.pixel_mm) drawRuler(context, size, write);
}

function drawRuler(context, size, write) {
  const { width, height } = part.picture;
  const pixelsPerMm = width / (preview.size[0] * preview.pixel_mm);
  const mm = [100, 50, 20, 10, 5, 2, 1].find((length) => length * pixelsPerMm <= width / 4);
  if (!mm) return;
  const [left, top] = [size * 0.5, height - size * 0.7];
  context.fillRect(left, top, mm * pixelsPerMm, Math.max(2, size / 8));
  write(mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, left, top - size * 0.7, "left");
}

// Above the slice slider: each shown slice's score, the candidates of the run's own threshold coloured.
function drawProfile() {
  const [width, height] = sizeCanvas(part.profile);
  const context = part.profile.getContext("2d");
  const style = getComputedStyle(viewer);
  const step = width / preview.slices.length;
  context.clearRect(0, 0, width, height);
  preview.slices.forEach((slice, place) => {
    const tall = Math.max(1, (height - 2) * (slice.score / (CODES - 1)));
    const hot = slice.score >= part.threshold.value;
    context.fillStyle = place === at ? style.getPropertyValue("--accent") : style.getPropertyValue(hot ? "--hot" : "--line");
    context.fillRect(place * step, height - tall, Math.max(1, step - Math.max(1, step / 6)), tall);
  });
}

function sizeCanvas(canvas) {
  const dense = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * dense));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * dense));
  return [canvas.width, canvas.height];
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

function drawColours() {
  const context = part.colours.getContext("2d");
  part.colours.width = CODES - 1;
  part.colours.height = 1;
  colourTable.forEach((colour, place) => {
    context.globalAlpha = place + 1 < part.threshold.value ? 0.25 : 1;
    context.fillStyle = `rgb(${colour.join(",")})`;
    context.fillRect(place, 0, 1, 1);
  });
  const marks = preview.calibrated
    ? [[0.9, "1 in 10"], [0.999, "1 in 1,000"], [0.99999, "rarer"]]
    : [[0.001, "0.001"], [0.5, "0.5"], [0.999, "0.999"]];
  part.ticks.replaceChildren(
    ...marks.map(([heat, text]) => {
      const tick = document.createElement("span");
      const share = (logOdds(heat) - preview.scale.low) / preview.scale.step / (CODES - 2);
      tick.textContent = text;
      tick.style.left = `${100 * share}%`;
      tick.hidden = share < -0.02 || share > 1;
      return tick;
    }),
  );
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
