// Labels pictures in the browser: `sctnet.d.ts` describes what is exported here.

export class SctnetError extends Error {}

export async function load(folder, options = {}) {
  const address = new URL(String(folder).replace(/\/?$/, "/"), document.baseURI);
  const worker = new Worker(new URL("sctnet-worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;

  const failAll = (sentence) => {
    for (const { reject } of waiting.values()) reject(new SctnetError(sentence));
    waiting.clear();
  };
  worker.onmessage = ({ data: { number, result, sentence } }) => {
    const call = waiting.get(number);
    waiting.delete(number);
    if (sentence) call?.reject(new SctnetError(sentence));
    else call?.resolve(result);
  };
  worker.onerror = (event) => failAll(`The labelling stopped (${event.message || "out of memory?"}): reload the page.`);

  const ask = (task, content) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      worker.postMessage({ number: last, task, ...content });
    });

  try {
    const described = await ask("load", { folder: address.href, options });
    const { classes } = described;
    return {
      ...described,
      async label(image, size = image) {
        const { pixels, ...result } = await ask("label", { image, width: size.width, height: size.height });
        const areas = classes
          .map((each) => ({
            ...each,
            pixels: pixels[each.index],
            percent: (100 * pixels[each.index]) / result.labels.length,
          }))
          .filter((area) => area.pixels > 0)
          .sort((a, b) => b.pixels - a.pixels);
        return { ...result, areas };
      },
      close() {
        worker.terminate();
        failAll("The model was closed.");
      },
    };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}

export async function encodeMask({ width, height, labels }, classes) {
  const wide = labels.BYTES_PER_ELEMENT === 2;
  const stride = 1 + width * labels.BYTES_PER_ELEMENT;
  const lines = new Uint8Array(height * stride); // each begins with 0: it is not filtered
  const view = new DataView(lines.buffer);
  for (let y = 0; y < height; y++) {
    const line = labels.subarray(y * width, (y + 1) * width);
    if (wide) line.forEach((label, x) => view.setUint16(y * stride + 1 + 2 * x, label));
    else lines.set(line, y * stride + 1);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * labels.BYTES_PER_ELEMENT);
  header.setUint8(9, wide ? 0 : 3); // grey, or by a palette
  const palette = new Uint8Array(3 * 256);
  if (!wide) classes.forEach(({ colour }, index) => palette.set(colour, 3 * index));
  const packed = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const parts = [
    chunk("IHDR", new Uint8Array(header.buffer)),
    ...(wide ? [] : [chunk("PLTE", palette)]),
    chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...parts], { type: "image/png" });
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, checksum(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

const REMAINDERS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

function checksum(bytes) {
  let remainder = 0xffffffff;
  for (const byte of bytes) remainder = REMAINDERS[(remainder ^ byte) & 255] ^ (remainder >>> 8);
  return ~remainder >>> 0;
}
