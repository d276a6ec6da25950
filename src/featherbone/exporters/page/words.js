/** Sentences about a model and its results. */

/** What the page is about. */
export function title({ task }) {
  const titles = { classification: "Image classification", multilabel: "Image labels", detection: "Object detection" };
  return titles[task] ?? `${task[0].toUpperCase()}${task.slice(1)} segmentation`;
}

/** What the model recognises. */
export function knows({ classes }) {
  const few = classes.slice(0, 4);
  const rest = classes.length - few.length;
  return `It recognises ${listed(rest ? [...few, `${rest} more`] : few)}.`;
}

/** Names and values of the panel “About this model”. */
export function facts(manifest) {
  const { input, versions = {} } = manifest;
  const rows = [
    ["Network", manifest.head ? `${manifest.backbone}, ${manifest.head}` : manifest.backbone],
    ["Input", `${input.width} × ${input.height} pixels`],
    ["Classes", String(manifest.classes.length)],
    ["Precision", manifest.precision],
    ["Licence of the starting weights", manifest.weights_licence],
    ["Made with", versions.featherbone && `Featherbone ${versions.featherbone}`],
  ];
  return rows.filter(([, value]) => value);
}

/** A record in one sentence. */
export function summary({ task, objects, segments, classes, width, abstained }) {
  if (objects) return counted(objects) || "Nothing found";
  if (segments) return panoptic(segments);
  if (width) return `Mostly ${listed(classes.slice(0, 3).map(({ name }) => name))}`;
  if (task === "multilabel") return listed(classes.map(({ name }) => name)) || "Nothing found";
  return `${abstained ? "Not certain: " : ""}${classes[0].name}, ${percent(classes[0].score)}`;
}

/** A share in percent. */
export function percent(share) {
  return share > 0 && share < 0.01 ? "<1%" : `${Math.round(100 * share)}%`;
}

function panoptic(segments) {
  const things = counted(segments.filter((segment) => segment.thing));
  const stuff = segments.filter((segment) => !segment.thing).sort((one, other) => other.area - one.area);
  const around = listed(stuff.slice(0, 3).map((segment) => segment.name));
  return [things, around && (things ? `amid ${around}` : around)].filter(Boolean).join(" ") || "Nothing found";
}

/** As "3 × cat and dog". */
function counted(rows) {
  const counts = new Map();
  for (const { name } of rows) counts.set(name, (counts.get(name) ?? 0) + 1);
  return listed([...counts].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)));
}

function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
