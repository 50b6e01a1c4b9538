// Runs once, when the page is there. Paints the masks over the picture and tells the
// name of the one under the pointer. Words of visitors are only ever set as text.

const fine = 900;

async function prepare(view) {
  view.dataset.ready = "no";
  const index = view.querySelector(".os-index");
  const canvas = view.querySelector(".os-paint");
  const stage = view.querySelector(".os-stage");
  const tip = view.querySelector(".os-tip");
  const range = view.querySelector(".os-opacity input");
  const given = { width: Number(view.dataset.width), height: Number(view.dataset.height) };
  await index.decode();
  // Small pictures get a finer canvas, so that outlines stay thin.
  const scale = Math.max(1, Math.ceil(fine / Math.max(given.width, given.height)));
  const width = scale * given.width, height = scale * given.height;
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false;
  pen.drawImage(index, 0, 0, width, height);
  const raw = pen.getImageData(0, 0, width, height).data;
  const ids = new Uint16Array(width * height);
  for (let i = 0; i < ids.length; i++) ids[i] = raw[4 * i] + 256 * raw[4 * i + 1];

  const rows = new Map();
  for (const row of view.querySelectorAll(".os-row")) rows.set(Number(row.dataset.id), row);
  const colours = new Map();
  for (const [id, row] of rows) {
    const hex = row.dataset.colour;
    colours.set(id, [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  }
  const reach = Math.max(1, Math.round(Math.max(width, height) / 500));
  const edge = new Uint8Array(ids.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = y * width + x, id = ids[at];
      for (let d = 1; d <= reach; d++)
        if ((x >= d && ids[at - d] !== id) || (x + d < width && ids[at + d] !== id) ||
            (y >= d && ids[at - d * width] !== id) ||
            (y + d < height && ids[at + d * width] !== id)) { edge[at] = 1; break; }
    }

  let active = 0;
  function paint() {
    const share = Number(range.value) / 100;
    const out = pen.createImageData(width, height), data = out.data;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i], at = 4 * i, colour = colours.get(id);
      if (active && id !== active) { data[at + 3] = 150; continue; }
      if (!colour) continue;
      data[at] = colour[0]; data[at + 1] = colour[1]; data[at + 2] = colour[2];
      const inside = active ? Math.min(share, 0.25) : share;
      data[at + 3] = Math.round(255 * (edge[i] && share ? 1 : inside));
    }
    pen.putImageData(out, 0, 0);
  }

  function show(id) {
    id = rows.has(id) ? id : 0;
    if (id === active) return;
    if (active) rows.get(active).classList.remove("os-active");
    active = id;
    if (id) rows.get(id).classList.add("os-active");
    view.dataset.active = id ? rows.get(id).dataset.name : "";
    paint();
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * height);
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    const id = inside ? ids[y * width + x] : 0;
    show(id);
    if (!rows.has(id)) { tip.hidden = true; return; }
    const row = rows.get(id);
    tip.textContent = row.dataset.name + "  " + Number(row.dataset.score).toFixed(2);
    tip.hidden = false;
    const outer = stage.getBoundingClientRect();
    const left = event.clientX - outer.left, top = event.clientY - outer.top;
    const far = left > outer.width - tip.offsetWidth - 24;
    tip.style.left = (far ? left - tip.offsetWidth - 12 : left + 14) + "px";
    tip.style.top = Math.max(4, Math.min(top + 14, outer.height - tip.offsetHeight - 4)) + "px";
  }

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; show(0); });
  for (const [id, row] of rows) {
    row.addEventListener("mouseenter", () => show(id));
    row.addEventListener("mouseleave", () => show(0));
    row.addEventListener("focus", () => show(id));
    row.addEventListener("blur", () => show(0));
  }
  range.addEventListener("input", paint);
  paint();
  view.dataset.ready = "yes";
}

function look() {
  for (const view of document.querySelectorAll(".os-view:not([data-ready])")) prepare(view);
}

// Each result replaces `element` itself, so what lasts is watched.
new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
look();
