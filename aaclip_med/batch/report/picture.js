"use strict";
// What the viewer draws: the open case's slice under its heat, the bars above the slice slider, the colours of the scale.

const CODE_STEP = 4; // heat pictures hold code * CODE_STEP
const CODES = 64;
const LONGEST = 512; // pixels that heat is coloured at
const OUTLINE = [90, 240, 255];
const colourTable = JSON.parse(document.getElementById("colour-table").textContent);
const heatCanvas = document.createElement("canvas");
const heatContext = heatCanvas.getContext("2d", { willReadFrequently: true });

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
  part.trouble.hidden = true;
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
