// What the head holds, and which names cost the most.
import { $, api, counted, el, formatBytes, formatCount, formatDuration, formatSecond, loading, quoted, queryAddress } from "./common.js";
import { table, tile } from "./table.js";

let status = null;

const lists = [
  { key: "seriesCountByMetricName", title: "Series by metric", name: "Metric", unit: "Series", query: (name) => `{__name__=${quoted(name)}}` },
  { key: "seriesCountByLabelValuePair", title: "Series by label pair", name: "Pair", unit: "Series", query: pairQuery },
  { key: "labelValueCountByLabelName", title: "Values by label name", name: "Label", unit: "Values" },
  { key: "memoryInBytesByLabelName", title: "Memory by label name", name: "Label", unit: "Bytes", bytes: true },
];

/** `job=api` as a query that counts its series by metric. Label names may be anything; the first `=` is taken. */
function pairQuery(pair) {
  const at = pair.indexOf("=");
  const name = pair.slice(0, at);
  const label = /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) ? name : quoted(name);
  return `count by (__name__) ({${label}=${quoted(pair.slice(at + 1))}})`;
}

function draw() {
  if (status === null) return;
  const head = status.headStats;
  const known = head.minTime <= head.maxTime;
  $("tiles").replaceChildren(
    tile("Series", formatCount(head.numSeries)),
    tile("Chunks", formatCount(head.chunkCount)),
    tile("Label pairs", formatCount(head.numLabelPairs)),
    tile("Oldest sample", known ? formatSecond(head.minTime) : "none", null, "text"),
    tile("Newest sample", known ? formatSecond(head.maxTime) : "none", null, "text"),
    tile("Time in memory", known ? formatDuration(head.maxTime - head.minTime, 2) : "none"),
  );
  $("tables").replaceChildren(...lists.map((list) => {
    const rows = status[list.key] ?? [];
    const most = Math.max(1, ...rows.map((row) => row.value));
    const place = el("div");
    const name = (row) => {
      const text = row.name === "" ? "(empty)" : row.name;
      return list.query ? el("a", { href: queryAddress(list.query(row.name)) }, text) : text;
    };
    const bar = (row) => el("div", { class: "bar", "--share": `${(100 * row.value) / most}%` }, el("span", {}, name(row)));
    table(place, [
      { title: list.name, value: (row) => row.name, show: bar, class: "mono wide" },
      { title: list.unit, value: (row) => row.value, show: (row) => (list.bytes ? formatBytes(row.value) : formatCount(row.value)), number: true },
    ], rows, { caption: list.title, empty: "There are no series in memory.", limit: 1000 });
    return el("section", { class: "card", id: list.key }, el("h2", {}, list.title), place);
  }));
  document.title = document.title.replace(/^[^·]*/, `TSDB: ${counted(head.numSeries, "series")} `);
}

const load = () => loading($("problem"), async () => {
  status = (await api("status/tsdb", { limit: $("limit").value })).data;
  draw();
});
$("limit").addEventListener("change", load);
document.addEventListener("appearance", draw);
load();
