// The page: takes a picture, a video or the camera, and draws what sctnet.js finds.

import { encodeMask, load } from "./sctnet.js";

const MOST_PIXELS = 100_000_000; // of a picture; browsers hold each in four bytes
const LARGE = 12_000_000; // of which a larger one is shrunk before it is labelled
const DRAWN = 1600; // pixels of the overlay's longer side
const READ_OUT = 5000; // milliseconds between summaries of what moves

const find = (id) => document.getElementById(id);
const [viewer, hint, box, picture, video] = ["viewer", "hint", "box", "picture", "video"].map(find);
const [overlay, tip, list, mask] = ["overlay", "tip", "classes", "mask"].map(find);
const rows = new Map(); // by class: the legend's elements
let segmenter = null;
let shown = null; // the result on the screen, and the name of its source
let pinned = null; // the one class that is drawn alone
let turn = 0; // of the sources; what belongs to an earlier one is dropped
let address = null; // of the file that is shown

// --- the result ---------------------------------------------------------------------------------

const percent = (share) => (share < 0.1 ? "< 0.1 %" : `${share.toFixed(1)} %`);
const css = (colour) => `rgb(${colour.join(",")})`;

const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

const chip = (colour) => {
  const made = make("span", "chip");
  made.style.background = css(colour);
  return made;
};

function buildLegend(classes) {
  for (const { index, name, colour } of classes) {
    const [item, button, bar, filled] = [make("li"), make("button"), make("span", "bar"), make("i")];
    const share = make("span", "share");
    filled.style.background = css(colour);
    bar.append(filled);
    button.type = "button";
    button.title = "Show this class alone";
    button.setAttribute("aria-pressed", "false");
    button.append(chip(colour), make("span", "name", name), share, bar);
    button.addEventListener("click", () => pin(pinned === index ? null : index));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && draw(index));
    button.addEventListener("pointerleave", () => draw());
    item.append(button);
    item.hidden = true;
    list.append(item);
    rows.set(index, { item, button, share, filled });
  }
}

function pin(index) {
  pinned = index;
  for (const [each, { button }] of rows) button.setAttribute("aria-pressed", String(each === index));
  draw();
}

// Paints the labels in their colours, or one class alone. A large map is sampled for the screen.
function draw(only = pinned) {
  if (!shown) return;
  const { labels, width, height } = shown.result;
  const scale = Math.min(1, DRAWN / Math.max(width, height));
  const [across, down] = [width, height].map((length) => Math.max(1, Math.round(length * scale)));
  if (overlay.width !== across || overlay.height !== down) [overlay.width, overlay.height] = [across, down];
  const colours = new Uint32Array(segmenter.classes.length); // red is the lowest byte
  for (const { index, colour } of segmenter.classes)
    if (only === null || only === index)
      colours[index] = ((255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0]) >>> 0;
  const context = overlay.getContext("2d");
  const pixels = context.createImageData(across, down);
  const words = new Uint32Array(pixels.data.buffer);
  for (let y = 0, at = 0; y < down; y++) {
    const line = Math.floor(((y + 0.5) * height) / down) * width;
    for (let x = 0; x < across; x++, at++)
      words[at] = colours[labels[line + (across === width ? x : Math.floor(((x + 0.5) * width) / across))]];
  }
  context.putImageData(pixels, 0, 0);
}

function show(result, name, sorted) {
  shown = { result, name };
  const shares = new Map(result.areas.map((area) => [area.index, area.percent]));
  const most = result.areas[0].percent;
  for (const [index, { item, share, filled }] of rows) {
    const own = shares.get(index);
    item.hidden = own === undefined;
    if (item.hidden) continue;
    share.textContent = percent(own);
    filled.style.width = `${(100 * own) / most}%`;
  }
  // What moves keeps its order, or rows would jump under the pointer.
  const order = sorted ? result.areas.map((area) => area.index) : [...rows.keys()];
  if (sorted || list.firstElementChild !== rows.get(order[0]).item)
    list.append(...order.map((index) => rows.get(index).item));
  if (pinned !== null && !shares.has(pinned) && sorted) pin(null);
  find("legend-title").hidden = mask.hidden = false;
  draw();
}

function summarise(result, what) {
  const named = result.areas.filter((area) => area.percent >= 1).slice(0, 8);
  const told = named.map((area) => `${area.name} ${Math.round(area.percent)} percent`).join(", ");
  find("summary").textContent = `${what} shows: ${told}.`;
}

// --- the stage ----------------------------------------------------------------------------------

function problem(sentence) {
  find("problem").textContent = sentence;
}

// Ends what is running, and empties the stage for the next source.
function clear() {
  turn++;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.pause();
  video.removeAttribute("src");
  video.srcObject = null;
  video.load(); // or it would keep its file
  picture.removeAttribute("src");
  if (address) URL.revokeObjectURL(address);
  address = null;
  shown = null;
  pin(null);
  for (const { item } of rows.values()) item.hidden = true;
  overlay.width = overlay.height = 1;
  find("legend-title").hidden = mask.hidden = true;
  for (const id of ["problem", "caption", "live", "summary"]) find(id).textContent = "";
  find("camera").textContent = "Camera";
  tip.style.display = "none";
  box.hidden = true;
  hint.hidden = false;
  return turn;
}

function stage(element, width, height) {
  hint.hidden = true;
  box.hidden = false;
  picture.hidden = element !== picture;
  video.hidden = element !== video;
  box.style.width = `min(100%, calc(70vh * ${width / height}))`;
  box.style.aspectRatio = `${width} / ${height}`;
}

// --- sources ------------------------------------------------------------------------------------

async function takePicture(file) {
  const mine = clear();
  address = URL.createObjectURL(file);
  picture.src = address;
  find("hint-text").textContent = "One moment …";
  try {
    await picture.decode();
  } catch {
    if (mine === turn) return refuse(`${file.name}: not a picture or video that this browser can read.`);
    return;
  }
  if (mine !== turn) return;
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const size = `${width} x ${height}`;
  if (width * height > MOST_PIXELS)
    return refuse(`${file.name}: ${size} is more than the ${MOST_PIXELS / 1e6} million pixels that this page takes: make it smaller.`);
  const scale = Math.min(1, Math.sqrt(LARGE / (width * height)));
  try {
    const bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none", // as the other runtimes read files
      ...(scale < 1 && { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale), resizeQuality: "high" }),
    });
    if (mine === turn) {
      picture.alt = file.name;
      stage(picture, width, height);
      find("caption").textContent = "Labelling …";
      const result = await segmenter.label(bitmap, { width, height });
      bitmap.close();
      if (mine !== turn) return;
      show(result, file.name, true);
      const shrunk = scale < 1 ? " It was shrunk to 12 million pixels to be labelled; the mask has its full size." : "";
      find("caption").textContent = `${file.name}, ${size}, labelled in ${Math.round(result.milliseconds)} ms.${shrunk} Point at the picture, or choose a class.`;
      summarise(result, file.name);
    }
  } catch (error) {
    if (mine === turn) refuse(`${file.name}: ${error.message}`);
  }
}

async function takeVideo(file) {
  const mine = clear();
  address = URL.createObjectURL(file);
  video.src = address;
  Object.assign(video, { controls: true, loop: true });
  video.onerror = () => {
    if (mine !== turn) return;
    refuse(`${file.name}: this browser cannot play it, its codec or format is not one that it has: convert it to H.264 in .mp4, or to VP9 in .webm.`);
  };
  video.onloadeddata = () => {
    if (mine !== turn) return;
    if (!video.videoWidth) return video.onerror();
    find("caption").textContent = `${file.name}, ${video.videoWidth} x ${video.videoHeight}.`;
    follow(mine, file.name);
  };
  await video.play().catch(() => {}); // an error comes as an event too
}

async function takeCamera() {
  const mine = clear();
  if (!navigator.mediaDevices)
    return refuse("Browsers give the camera to pages from https or from 127.0.0.1 only: open this page by one of these, or choose a file.");
  find("hint-text").textContent = "The browser asks for the camera …";
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    if (mine === turn) refuse(CAMERA[error.name] ?? `The camera does not start (${error.message}): choose a file instead.`);
    return;
  }
  if (mine !== turn) return stream.getTracks().forEach((track) => track.stop());
  stream.getVideoTracks()[0].onended = () => {
    if (mine === turn) refuse("The camera was taken away: connect it again, or choose a file.");
  };
  find("camera").textContent = "Stop camera";
  Object.assign(video, { controls: false, loop: false, srcObject: stream });
  video.onloadeddata = () => {
    if (mine !== turn) return;
    find("caption").textContent = `Camera, ${video.videoWidth} x ${video.videoHeight}.`;
    follow(mine, "camera");
  };
  await video.play().catch(() => {});
}

const CAMERA = {
  NotAllowedError: "The camera was refused: allow it for this page in the browser's settings, or choose a file.",
  NotFoundError: "There is no camera on this device: choose a picture or a video instead.",
  NotReadableError: "The camera is in use by another program: close that, or choose a file.",
};

// Labels what the video shows, one frame after the other, as fast as this device can.
async function follow(mine, name) {
  stage(video, video.videoWidth, video.videoHeight);
  const times = [];
  let readOut = -Infinity;
  let last = -1;
  while (mine === turn) {
    if (video.currentTime === last || video.readyState < 2) {
      await new Promise(requestAnimationFrame);
      continue;
    }
    last = video.currentTime;
    try {
      const frame = await createImageBitmap(video);
      const result = await segmenter.label(frame);
      frame.close();
      if (mine !== turn) return;
      show(result, name, false);
      const now = performance.now();
      times.push(now);
      while (times.length > 2 && now - times[0] > 2000) times.shift();
      const rate = times.length > 1 ? (1000 * (times.length - 1)) / (now - times[0]) : 0;
      find("live").textContent = `${rate.toFixed(1)} frames per second, ${Math.round(result.milliseconds)} ms each`;
      if (now - readOut > READ_OUT) {
        readOut = now;
        summarise(result, name);
      }
    } catch (error) {
      if (mine === turn) refuse(`${name}: ${error.message}`);
      return;
    }
    await new Promise(requestAnimationFrame); // let the page draw
  }
}

function refuse(sentence) {
  clear();
  invite();
  problem(sentence);
}

const take = (file) => (/^video\//.test(file.type) || /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|wmv|ts)$/i.test(file.name) ? takeVideo(file) : takePicture(file));

// --- what a person does -------------------------------------------------------------------------

function invite() {
  find("hint-text").textContent = "Drop a picture or a video here, choose one, or use the camera.";
}

find("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = ""; // or the same file could not be chosen again
});
find("camera").addEventListener("click", () => {
  if (!video.srcObject) return takeCamera();
  clear();
  invite();
});
find("opacity").addEventListener("input", ({ target }) => {
  find("percent").textContent = `${target.value} %`;
  document.documentElement.style.setProperty("--opacity", target.value / 100);
});
mask.addEventListener("click", async () => {
  const { result, name } = shown;
  const link = make("a");
  link.href = URL.createObjectURL(await encodeMask(result, segmenter.classes));
  link.download = `${name.replace(/\.[^.]*$/, "")}_labels.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would open the file
    viewer.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && segmenter && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });

const point = (event) => {
  if (!shown) return;
  const { labels, width, height, areas } = shown.result;
  const area = box.getBoundingClientRect();
  const [x, y] = [event.clientX - area.left, event.clientY - area.top];
  const column = Math.min(width - 1, Math.max(0, Math.floor((x / area.width) * width)));
  const line = Math.min(height - 1, Math.max(0, Math.floor((y / area.height) * height)));
  const found = areas.find(({ index }) => index === labels[line * width + column]);
  for (const [index, { button }] of rows) button.classList.toggle("under", index === found.index);
  tip.style.display = "flex";
  tip.replaceChildren(chip(found.colour), make("b", "", found.name), make("span", "", percent(found.percent)));
  const right = x + 16 + tip.offsetWidth > area.width;
  tip.style.left = `${Math.max(0, right ? x - tip.offsetWidth - 12 : x + 16)}px`;
  tip.style.top = `${Math.max(0, Math.min(y + 12, area.height - tip.offsetHeight))}px`;
};
box.addEventListener("pointermove", point);
box.addEventListener("pointerdown", point);
box.addEventListener("pointerleave", () => {
  tip.style.display = "none";
  for (const { button } of rows.values()) button.classList.remove("under");
});

// ?backend=wasm&threads=1 chooses where it runs, to compare.
const asked = new URLSearchParams(location.search);
try {
  segmenter = await load("model/", {
    backend: asked.get("backend") ?? "auto",
    threads: asked.has("threads") ? Number(asked.get("threads")) : undefined,
  });
  buildLegend(segmenter.classes);
  const { name, precision, classes, backend, threads, terms } = segmenter;
  const noun = threads > 1 ? "threads" : "thread";
  const slow = window.crossOriginIsolated ? "" : " (this server does not send the headers that more threads need)";
  const where = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} ${noun}${slow}`;
  find("about").textContent = [`${name}, ${precision}, ${classes.length} classes, computed by ${where}.`, terms && `Terms of the model: ${terms}.`].filter(Boolean).join(" ");
  find("file").disabled = find("camera").disabled = false;
  invite();
} catch (error) {
  find("hint-text").textContent = "There is no model to label with.";
  problem(error.message);
}
