// Draws what demo_results.py packs: a picture under its classes, a video, or a sentence.

const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const colourOf = (row) => `rgb(${row.colour.join(",")})`;
const percentOf = (row) => (row.percent < 0.1 ? "< 0.1 %" : `${row.percent.toFixed(1)} %`);

const chip = (row) => {
  const made = make("span", "chip");
  made.style.background = colourOf(row);
  return made;
};

const save = (base64, type, name) => {
  const address = URL.createObjectURL(new Blob([bytesOf(base64)], { type }));
  const link = make("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
};

const button = (text, act) => {
  const made = make("button", "", text);
  made.type = "button";
  made.addEventListener("click", () => act(made));
  return made;
};

// The labels are bytes and not a picture: what browsers change in canvases cannot touch them.
const unpackLabels = async (result) => {
  const packed = new Blob([bytesOf(result.labels)]).stream();
  const unpacked = packed.pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(unpacked).arrayBuffer();
  return result.bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);
};

// Paints each class in its colour, or only one of them.
const paint = (canvas, labels, rows, only) => {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const colours = new Uint32Array(65536); // red is the lowest byte; 0 lets the picture through
  for (const { index, colour } of rows) {
    if (only === undefined || only === index)
      colours[index] = (255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0];
  }
  const words = new Uint32Array(pixels.data.buffer);
  for (let at = 0; at < labels.length; at++) words[at] = colours[labels[at]];
  context.putImageData(pixels, 0, 0);
};

const listOf = (result, focus) => {
  const list = make("ul", "classes");
  const most = Math.max(...result.classes.map((row) => row.percent));
  for (const row of result.classes) {
    const item = make("li");
    item.dataset.index = row.index;
    const bar = make("span", "bar");
    const filled = make("i");
    filled.style.width = `${(100 * row.percent) / most}%`;
    filled.style.background = colourOf(row);
    bar.append(filled);
    item.append(chip(row), make("span", "name", row.name), make("span", "percent", percentOf(row)), bar);
    if (focus) {
      item.tabIndex = 0;
      for (const event of ["pointerenter", "focus"]) item.addEventListener(event, () => focus(row.index));
      for (const event of ["pointerleave", "blur"]) item.addEventListener(event, () => focus());
    }
    list.append(item);
  }
  return list;
};

const layOut = (main, caption, result, list, ...actions) => {
  const left = make("div");
  left.append(main, make("p", "caption", caption));
  const side = make("div", "side");
  const buttons = make("div", "actions");
  buttons.append(...actions);
  side.append(make("h2", "", "Share of the " + result.kind), list, buttons);
  const made = make("div", "result");
  made.append(left, side);
  return made;
};

const drawPicture = async (result) => {
  const labels = await unpackLabels(result);
  const [height, width] = result.shown;
  const box = make("div", "picture");
  box.style.width = `min(100%, calc(68vh * ${width / height}))`;
  box.style.aspectRatio = `${width} / ${height}`;
  const picture = make("img");
  picture.alt = result.name;
  picture.src = `data:image/jpeg;base64,${result.picture}`;
  const canvas = make("canvas");
  canvas.width = width;
  canvas.height = height;
  paint(canvas, labels, result.classes);
  const tip = make("div", "tip");
  box.append(picture, canvas, tip);

  const rows = new Map(result.classes.map((row) => [row.index, row]));
  const list = listOf(result, (index) => paint(canvas, labels, result.classes, index));
  const mark = (index) => {
    for (const item of list.children) item.classList.toggle("under", Number(item.dataset.index) === index);
  };
  const point = (event) => {
    const area = box.getBoundingClientRect();
    const x = event.clientX - area.left;
    const y = event.clientY - area.top;
    const column = Math.floor((x / area.width) * width);
    const line = Math.floor((y / area.height) * height);
    const row = column >= 0 && column < width && rows.get(labels[line * width + column]);
    mark(row ? row.index : -1);
    tip.style.display = row ? "flex" : "none";
    if (!row) return;
    tip.replaceChildren(chip(row), make("b", "", row.name), make("span", "", percentOf(row)));
    const right = x + 16 + tip.offsetWidth > area.width;
    tip.style.left = `${Math.max(0, right ? x - tip.offsetWidth - 12 : x + 16)}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 12, area.height - tip.offsetHeight))}px`;
  };
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointerleave", () => {
    tip.style.display = "none";
    mark(-1);
  });

  const stem = result.name.replace(/\.[^.]*$/, "");
  const note = make("span");
  note.setAttribute("role", "status");
  const overlay = button("Download overlay", async (pressed) => {
    pressed.disabled = true;
    note.textContent = "";
    try {
      const opacity = getComputedStyle(document.documentElement).getPropertyValue("--class-opacity");
      const answer = await server.overlay(result.token, Number(opacity || 0.5));
      if (answer.png) save(answer.png, "image/png", `${stem}_overlay.png`);
      else note.textContent = answer.sentence;
    } catch {
      note.textContent = "The server does not answer: is it still running?";
    } finally {
      pressed.disabled = false;
    }
  });
  const mask = button("Download mask", () => save(result.mask, "image/png", `${stem}_labels.png`));
  const caption = `${result.name}, ${result.size[1]} x ${result.size[0]}. Point at the picture, or at a class.`;
  return layOut(box, caption, result, list, mask, overlay, note);
};

const drawVideo = (result) => {
  const video = make("video");
  const content = new Blob([bytesOf(result.video)], { type: "video/mp4" });
  Object.assign(video, { controls: true, autoplay: true, loop: true, muted: true, playsInline: true });
  video.src = element.address = URL.createObjectURL(content);
  const stem = result.name.replace(/\.[^.]*$/, "");
  const download = button("Download video", () => save(result.video, "video/mp4", `${stem}_overlay.mp4`));
  const rate = (result.frames / Math.max(result.seconds, 0.1)).toFixed(1);
  const told = `${result.name}: ${result.frames} frames in ${result.seconds} s (${rate} frames/s).`;
  return layOut(video, [told, result.damage].filter(Boolean).join(" "), result, listOf(result), download);
};

const hint = () => {
  const made = make("div", "hint");
  made.innerHTML =
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.3">' +
    '<rect x="3" y="4" width="18" height="16" rx="2.5"/><circle cx="8.5" cy="9.5" r="1.6"/>' +
    '<path d="M3.5 17.5 9 13l3.5 3 4-5 4 5"/></svg>';
  made.append(make("div", "", "Your picture appears here, each part in the colour of what it is."));
  return made;
};

let latest = 0;
const draw = async () => {
  const mine = ++latest;
  const result = props.value;
  if (element.address) URL.revokeObjectURL(element.address);
  let made = hint();
  if (result && result.kind === "error") {
    made = make("div", "problem", result.sentence);
    made.setAttribute("role", "alert");
  }
  if (result && result.kind === "picture") made = await drawPicture(result);
  if (result && result.kind === "video") made = drawVideo(result);
  const viewer = element.querySelector(".viewer");
  if (mine !== latest || !viewer) return;
  viewer.replaceChildren(made);
  if (result && viewer.getBoundingClientRect().top > window.innerHeight * 0.6)
    viewer.scrollIntoView({ behavior: "smooth", block: "start" });
};

watch("value", draw);
draw();
