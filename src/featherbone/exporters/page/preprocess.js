/**
 * From pixels to the network's input, to the bit as Pillow, timm and Featherbone do it in Python.
 *
 * An image is {data, width, height, channels}: bytes row by row, RGB or RGBA, of which alpha is not read.
 */

const PRECISION = 22;
const FILTERS = { bilinear: { support: 1, weigh: triangle }, bicubic: { support: 2, weigh: cubic } };

/** The network's input (1, 3, H, W) and the frame that tells how the image lies on it; `input` is the manifest's. */
export function preprocess(image, input) {
  const frame = input.rule === "fit" ? fit(image.height, image.width, input.height, input.width) : null;
  const laid = frame
    ? { image: resize(image, frame.innerWidth, frame.innerHeight, input.interpolation), left: 0, top: 0 }
    : crop(image, input);
  return { values: normalise(laid, input), frame: frame ?? whole(image, input) };
}

/** How an image is scaled, with its proportions, to touch two borders of the canvas; see `data/frames.py`. */
export function fit(height, width, canvasHeight, canvasWidth) {
  const scale = Math.min(canvasHeight / height, canvasWidth / width);
  return {
    height,
    width,
    innerHeight: Math.min(Math.max(roundEven(height * scale), 1), canvasHeight),
    innerWidth: Math.min(Math.max(roundEven(width * scale), 1), canvasWidth),
    canvasHeight,
    canvasWidth,
  };
}

/** Half goes to the even neighbour, as Python rounds. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest === 0.5 ? below + (below % 2) : Math.round(value);
}

/** An image at another size, RGB, as `Image.resize` of Pillow 13 gives it: antialiased, rounded to bytes twice. */
export function resize(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  if (!filter) throw new Error(`The model asks for ${interpolation} resizing, which this page does not know.`);
  const flat = withoutAlpha(image);
  const saved = image.height - height;
  const columnsFirst = saved > 0 && saved > 2 * (image.width - width);
  return columnsFirst
    ? alongRows(alongColumns(flat, height, filter), width, filter)
    : alongColumns(alongRows(flat, width, filter), height, filter);
}

function whole(image, input) {
  const size = { height: image.height, width: image.width };
  const inner = { innerHeight: input.height, innerWidth: input.width };
  return { ...size, ...inner, canvasHeight: input.height, canvasWidth: input.width };
}

/** The image resized for the centre crop, and where its corner lies on the input; timm's transform for evaluation. */
function crop(image, input) {
  const [height, width] = croppedFrom(image, input);
  const resized = resize(image, width, height, input.interpolation);
  return { image: resized, left: centre(input.width, width), top: centre(input.height, height) };
}

function croppedFrom(image, input) {
  const [high, wide] = [Math.floor(input.height / input.crop), Math.floor(input.width / input.crop)];
  if (high === wide) {
    const long = (side, short) => Math.floor((high * side) / short);
    return image.width <= image.height ? [long(image.height, image.width), high] : [high, long(image.width, image.height)];
  }
  const ratio = Math.min(image.height / high, image.width / wide);
  return [roundEven(image.height / ratio), roundEven(image.width / ratio)];
}

/** Where a line of `length` pixels begins on one of `room`: padding is halved downwards, a cut to the even side. */
function centre(room, length) {
  return room > length ? Math.floor((room - length) / 2) : -roundEven((length - room) / 2);
}

/** Bytes to (channel - mean) / std in float32; where there is no image, 0 by the rule "fit", else black. */
function normalise({ image, left, top }, input) {
  const { height, width } = input;
  const values = new Float32Array(3 * height * width);
  const [firstRow, endRow] = [Math.max(top, 0), Math.min(top + image.height, height)];
  const [firstColumn, endColumn] = [Math.max(left, 0), Math.min(left + image.width, width)];
  for (let c = 0; c < 3; c++) {
    const table = channelTable(input.mean[c], input.std[c]);
    const plane = values.subarray(c * height * width, (c + 1) * height * width);
    if (input.rule !== "fit") plane.fill(table[0]);
    for (let y = firstRow; y < endRow; y++) {
      let from = ((y - top) * image.width + firstColumn - left) * image.channels + c;
      for (let x = firstColumn; x < endColumn; x++, from += image.channels) plane[y * width + x] = table[image.data[from]];
    }
  }
  return values;
}

function channelTable(mean, std) {
  const f = Math.fround;
  return Float32Array.from({ length: 256 }, (_, byte) => f(f(f(byte / 255) - f(mean)) / f(std)));
}

function triangle(x) {
  return Math.max(1 - Math.abs(x), 0);
}

/** Keys' cubic with a = -0.5. */
function cubic(signed) {
  const x = Math.abs(signed);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** For each pixel of a resized line the first it is made of, how many, and their weights in fixed point. */
function coefficients(length, made, filter) {
  const scale = length / made;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const [first, count, weights] = [new Int32Array(made), new Int32Array(made), new Int32Array(made * most)];
  for (let i = 0; i < made; i++) {
    const middle = (i + 0.5) * scale;
    first[i] = Math.max(Math.trunc(middle - support + 0.5), 0);
    count[i] = Math.min(Math.trunc(middle + support + 0.5), length) - first[i];
    const own = Array.from({ length: count[i] }, (_, k) => filter.weigh((k + first[i] - middle + 0.5) * (1 / stretch)));
    const sum = own.reduce((total, weight) => total + weight, 0);
    own.forEach((weight, k) => (weights[i * most + k] = toFixed(sum ? weight / sum : weight)));
  }
  return { first, count, weights, most };
}

function toFixed(weight) {
  return Math.trunc(weight * 2 ** PRECISION + (weight < 0 ? -0.5 : 0.5));
}

/** Every row of an RGB image at another width. */
function alongRows(image, width, filter) {
  if (width === image.width) return image;
  const { data, height } = image;
  const { first, count, weights, most } = coefficients(image.width, width, filter);
  const made = new Uint8ClampedArray(3 * width * height);
  const half = 1 << (PRECISION - 1);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      let red = half;
      let green = half;
      let blue = half;
      let from = (y * image.width + first[x]) * 3;
      const end = x * most + count[x];
      for (let k = x * most; k < end; k++, from += 3) {
        const weight = weights[k];
        red = (red + data[from] * weight) | 0;
        green = (green + data[from + 1] * weight) | 0;
        blue = (blue + data[from + 2] * weight) | 0;
      }
      made[to] = red >> PRECISION;
      made[to + 1] = green >> PRECISION;
      made[to + 2] = blue >> PRECISION;
    }
  }
  return { data: made, width, height, channels: 3 };
}

/** Every column of an RGB image at another height. */
function alongColumns(image, height, filter) {
  if (height === image.height) return image;
  const { data, width } = image;
  const { first, count, weights, most } = coefficients(image.height, height, filter);
  const line = 3 * width;
  const made = new Uint8ClampedArray(line * height);
  const sums = new Int32Array(line);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (PRECISION - 1));
    for (let k = 0; k < count[y]; k++) {
      const weight = weights[y * most + k];
      const from = (first[y] + k) * line;
      for (let x = 0; x < line; x++) sums[x] += data[from + x] * weight;
    }
    for (let x = 0; x < line; x++) made[y * line + x] = sums[x] >> PRECISION;
  }
  return { data: made, width, height, channels: 3 };
}

function withoutAlpha(image) {
  if (image.channels === 3) return image;
  const { data, width, height, channels } = image;
  const made = new Uint8ClampedArray(3 * width * height);
  for (let from = 0, to = 0; to < made.length; from += channels, to += 3) {
    made[to] = data[from];
    made[to + 1] = data[from + 1];
    made[to + 2] = data[from + 2];
  }
  return { data: made, width, height, channels: 3 };
}
