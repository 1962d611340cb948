// From a network's logits to the label map of a picture, as every runtime of sctnet computes it: bilinear
// resizes to the working size and from there to the picture's, then the class with the largest logit.

/**
 * Return the [height, width] at which the network sees a picture; `rule` is config.json's working_size.
 * Halves are rounded up, as in Python.
 */
export function workingSize(rule, height, width) {
  if (rule.rule === "fixed") return [rule.height, rule.width];
  if (rule.rule === "as-is") return [height, width];
  const scaled = (length, pixels, side) => Math.max(1, Math.floor((2 * length * pixels + side) / (2 * side)));
  const longer = Math.max(height, width);
  const side = rule.rule === "shorter-side" ? Math.min(height, width) : longer;
  const size = [scaled(height, rule.pixels, side), scaled(width, rule.pixels, side)];
  if (rule.longest === null) return size;
  return size.map((length, axis) => Math.min(length, scaled([height, width][axis], rule.longest, longer)));
}

/**
 * Return which samples each output reads, and their weights, for a chain of bilinear resizes along one
 * axis (as align_corners=False): `lengths` goes from the logits' to the picture's. Four a place; where
 * fewer are needed, the rest repeats the last with weight 0.
 */
export function sampleWeights(lengths) {
  let found = Array.from({ length: lengths[0] }, (_, place) => new Map([[place, 1]]));
  for (let step = 1; step < lengths.length; step++) {
    const [inputs, outputs, before] = [lengths[step - 1], lengths[step], found];
    found = Array.from({ length: outputs }, (_, place) => {
      const at = Math.max(0, ((place + 0.5) * inputs) / outputs - 0.5);
      const first = Math.min(Math.floor(at), inputs - 1);
      const share = at - first;
      const merged = new Map();
      for (const [source, weight] of [[first, 1 - share], [Math.min(first + 1, inputs - 1), share]])
        for (const [sample, own] of before[source])
          if (weight * own > 0) merged.set(sample, (merged.get(sample) ?? 0) + weight * own);
      return merged;
    });
  }
  const samples = new Int32Array(4 * found.length);
  const weights = new Float32Array(4 * found.length);
  found.forEach((merged, place) => {
    const pairs = [...merged];
    for (let tap = 0; tap < 4; tap++) {
      samples[4 * place + tap] = pairs[Math.min(tap, pairs.length - 1)][0];
      weights[4 * place + tap] = tap < pairs.length ? pairs[tap][1] : 0;
    }
  });
  return { samples, weights };
}

/**
 * Label every pixel. `logits` holds classes x h x w floats; `sizes` is [[h, w], working, picture], each as
 * [height, width]. Returns the labels (row by row) and how many pixels each class has. Of equal logits
 * the lowest class wins. Throws where a logit is not finite.
 */
export function labelMap(logits, classes, sizes) {
  const [[h, w], [height, width]] = [sizes[0], sizes.at(-1)];
  const byPixel = new Float32Array(logits.length); // classes last, so that inner loops read neighbours
  for (let k = 0, at = 0; k < classes; k++)
    for (let pixel = 0; pixel < h * w; pixel++, at++) {
      if (!Number.isFinite(logits[at])) throw new Error("the network's results are not finite numbers");
      byPixel[pixel * classes + k] = logits[at];
    }
  const down = sampleWeights(sizes.map((size) => size[0]));
  const across = sampleWeights(sizes.map((size) => size[1]));
  const labels = new (classes <= 255 ? Uint8Array : Uint16Array)(height * width);
  const pixels = new Float64Array(classes);
  const line = new Float32Array(w * classes);
  const largest = new Int32Array(w);
  for (let y = 0; y < height; y++) {
    const row = (tap) => [down.samples[4 * y + tap] * w * classes, down.weights[4 * y + tap]];
    const [[r0, a0], [r1, a1], [r2, a2], [r3, a3]] = [row(0), row(1), row(2), row(3)];
    for (let i = 0; i < line.length; i++)
      line[i] = a0 * byPixel[r0 + i] + a1 * byPixel[r1 + i] + a2 * byPixel[r2 + i] + a3 * byPixel[r3 + i];
    for (let x = 0; x < w; x++) largest[x] = argmax(line, x * classes, classes);
    for (let x = 0, at = y * width; x < width; x++, at++) {
      const [tap, samples, weights] = [4 * x, across.samples, across.weights];
      const [s0, s1, s2, s3] = [samples[tap], samples[tap + 1], samples[tap + 2], samples[tap + 3]];
      let label = largest[s0];
      // A class that is largest at all samples is largest in every mean of them.
      if (largest[s1] !== label || largest[s2] !== label || largest[s3] !== label) {
        const [b0, b1, b2, b3] = [weights[tap], weights[tap + 1], weights[tap + 2], weights[tap + 3]];
        let most = -Infinity;
        for (let k = 0; k < classes; k++) {
          const value =
            b0 * line[s0 * classes + k] + b1 * line[s1 * classes + k] +
            b2 * line[s2 * classes + k] + b3 * line[s3 * classes + k];
          if (value > most) [most, label] = [value, k];
        }
      }
      labels[at] = label;
      pixels[label]++;
    }
  }
  return { labels, pixels: Array.from(pixels) };
}

function argmax(values, start, count) {
  let best = 0;
  for (let k = 1; k < count; k++) if (values[start + k] > values[start + best]) best = k;
  return best;
}
