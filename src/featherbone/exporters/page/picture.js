/** Images from files and from the camera, as upright pixels over white. */

const MAX_PIXELS = 16_000_000; // every browser has canvases of this size

/** A file as {canvas, image}: its pixels as Pillow reads them, colour profiles ignored. */
export async function readFile(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, options);
  } catch {
    const name = file.name ? `“${file.name}”` : "This";
    throw new Error(`${name} is not an image that this browser can read; use a JPEG, PNG or WebP file.`);
  }
  const picture = draw(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return picture;
}

/** The current frame of a video. */
export function readFrame(video) {
  return draw(video, video.videoWidth, video.videoHeight);
}

/** The camera (the rear one if there are two), as a playing video. */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The camera needs a page over https or on localhost; choose a photo instead.");
  }
  try {
    const wanted = { video: { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } } };
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, srcObject: await navigator.mediaDevices.getUserMedia(wanted) });
    await video.play();
    return video;
  } catch (error) {
    throw new Error(refusal(error));
  }
}

/** Switch the camera off. */
export function closeCamera(video) {
  for (const track of video.srcObject.getTracks()) track.stop();
}

function refusal({ name }) {
  if (name === "NotAllowedError") return "Access to the camera was refused; allow it for this page, or choose a photo.";
  if (name === "NotFoundError") return "No camera was found; choose a photo instead.";
  return "The camera is not available, perhaps because another program uses it; choose a photo instead.";
}

function draw(source, width, height) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.floor(width * scale), 1);
  canvas.height = Math.max(Math.floor(height * scale), 1);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { canvas, image: { data, width: canvas.width, height: canvas.height } };
}
