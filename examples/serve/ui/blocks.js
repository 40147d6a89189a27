// The blocks: which there are, what is in them, where they lie.
import { $, api, counted, el, formatBytes, formatCount, formatDuration, formatSecond, loading } from "./common.js";
import { table, tile } from "./table.js";

let status = null;

const resolutions = { 0: "raw", 300000: "5m", 3600000: "1h" };
const resolution = (block) => resolutions[block.resolution] ?? formatDuration(block.resolution);
const duration = (block) => block.maxTime - block.minTime;
const labels = (block) => Object.entries(block.labels ?? {}).map(([name, value]) => `${name}="${value}"`);
const readable = (block) => block.minTime !== undefined;

/** Everything of a block that can be searched for. */
const text = (block) => [
  block.ulid, block.source, readable(block) ? `level ${block.level}` : "", readable(block) ? resolution(block) : "",
  ...block.places, ...labels(block), block.problem ?? "",
].join(" ").toLowerCase();

function chosen(block) {
  const place = $("place").value;
  if (place === "problem" && !block.problem) return false;
  if (place === "both" && block.places.length < 2) return false;
  if ((place === "local" || place === "bucket") && !block.places.includes(place)) return false;
  const found = text(block);
  return $("filter").value.toLowerCase().split(/\s+/).every((word) => found.includes(word));
}

const tags = (list) => el("div", { class: "tags" }, ...list);
const places = (block) => el("div", { class: "tags row" }, ...block.places.map((place) => el("span", { class: `tag ${place}` }, place)));
/** Why a block is not served may be nothing to worry about. */
const calm = (block) => /^(merged into|marked for deletion)/.test(block.problem);
const trouble = (block) => (block.problem ? el("div", { class: calm(block) ? "trouble dim" : "trouble" }, block.problem) : null);

const known = (read) => (block) => (readable(block) ? read(block) : null);

const columns = [
  { title: "ULID", value: (block) => block.ulid, class: "mono nowrap" },
  { title: "Where", value: (block) => block.places.join(" "), show: places },
  { title: "From", value: (block) => block.minTime, show: known((block) => formatSecond(block.minTime)), class: "nowrap" },
  { title: "To", value: (block) => block.maxTime, show: known((block) => formatSecond(block.maxTime)), class: "nowrap" },
  { title: "Duration", value: known(duration), show: known((block) => formatDuration(duration(block), 2)), class: "nowrap" },
  { title: "Level", value: (block) => block.level, number: true },
  { title: "Resolution", value: (block) => block.resolution, show: known(resolution), class: "nowrap" },
  { title: "Labels", value: (block) => labels(block).join(","), show: (block) => (labels(block).length > 0 ? tags(labels(block).map((label) => el("span", { class: "tag", title: label }, label))) : "–") },
  { title: "Series", value: (block) => block.series, show: known((block) => formatCount(block.series)), number: true },
  { title: "Samples", value: (block) => block.samples, show: known((block) => formatCount(block.samples)), number: true },
  { title: "Size", value: (block) => block.bytes, show: (block) => formatBytes(block.bytes), number: true },
  { title: "Chunks", value: (block) => block.chunks, show: known((block) => formatCount(block.chunks)), number: true },
  { title: "Source", value: (block) => block.source },
];

/** Time from left to right, a lane a level and resolution: gaps and overlaps are seen at a glance. */
function drawLanes(blocks) {
  const shown = blocks.filter(readable);
  $("lanes").hidden = shown.length === 0;
  if (shown.length === 0) return;
  const from = Math.min(...shown.map((block) => block.minTime));
  const to = Math.max(...shown.map((block) => block.maxTime));
  const lanes = new Map();
  for (const block of shown.toSorted((a, b) => a.level - b.level || a.resolution - b.resolution)) {
    const name = block.resolution > 0 ? `${resolution(block)} L${block.level}` : `level ${block.level}`;
    lanes.set(name, [...(lanes.get(name) ?? []), block]);
  }
  const share = (ms) => `${(100 * ms) / Math.max(1, to - from)}%`;
  const drawn = [...lanes].map(([name, list]) => {
    const lane = el("div", { class: "lane" }, el("span", { class: "name" }, name));
    for (const block of list) {
      const title = `${block.ulid}\n${formatSecond(block.minTime)} – ${formatSecond(block.maxTime)}\n${counted(block.series, "series")}`;
      const piece = el("i", { class: block.problem ? (calm(block) ? "calm" : "problem") : block.places.includes("local") ? "local" : "bucket", title });
      piece.style.left = share(block.minTime - from);
      piece.style.width = share(duration(block));
      lane.append(piece);
    }
    return lane;
  });
  $("lanes").replaceChildren(...drawn, el("div", { class: "axis" }, el("span", {}, formatSecond(from)), el("span", {}, formatSecond(to))));
  $("lanes").setAttribute("aria-hidden", "true");
}

function draw() {
  if (status === null) return;
  const blocks = status.blocks.filter(chosen);
  const sum = (read) => blocks.filter(readable).reduce((total, block) => total + (read(block) ?? 0), 0);
  const problems = blocks.filter((block) => block.problem);
  const bucket = blocks.filter((block) => block.places.includes("bucket")).length;
  const local = blocks.filter((block) => block.places.includes("local")).length;
  $("lead").textContent = status.bucket
    ? `Finished spans of time, on this machine's disk and in the bucket ${status.bucket}.`
    : "Finished spans of time on this machine's disk. No bucket is configured.";
  $("tiles").replaceChildren(
    tile("Blocks", formatCount(blocks.length), status.bucket ? `${local} local, ${bucket} in the bucket` : null),
    tile("Samples", formatCount(sum((block) => block.samples))),
    tile("Size", formatBytes(blocks.reduce((total, block) => total + (block.bytes ?? 0), 0))),
    tile("Not served", formatCount(problems.length), null, problems.every(calm) ? "" : "bad"),
  );
  drawLanes(blocks);
  const none = status.blocks.length === 0
    ? "There are no blocks yet. One is cut when the head holds enough time."
    : "No block is like that.";
  const labelled = status.blocks.some((block) => labels(block).length > 0);
  const fitting = columns.filter((column) => column.title !== "Labels" || labelled);
  table($("table"), fitting, blocks, { sort: 2, descending: true, caption: "Blocks", empty: none, below: trouble });
  const card = $("table");
  card.className = "card";
}

$("filter").addEventListener("input", draw);
$("place").addEventListener("change", draw);
document.addEventListener("appearance", draw);
loading($("problem"), async () => {
  status = (await api("status/blocks")).data;
  draw();
});
