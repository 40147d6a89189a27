// What the program is and how it was started.
import { $, api, el, formatDuration, formatSecond, loading } from "./common.js";
import { table } from "./table.js";

let flags = [];

function pairs(section, rows) {
  const body = el("tbody", {}, ...rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "mono" }, value))));
  const place = section.querySelector("table");
  const made = el("table", {}, body);
  if (place) place.replaceWith(made);
  else section.append(made);
}

function drawFlags() {
  const word = $("filter").value.toLowerCase();
  const rows = flags.filter(([name, value]) => `--${name} ${value}`.toLowerCase().includes(word));
  table($("flags"), [
    { title: "Flag", value: ([name]) => name, show: ([name]) => `--${name}`, class: "mono" },
    { title: "Value", value: ([, value]) => value, show: ([, value]) => (value === "" ? el("span", { class: "dim" }, "not set") : value), class: "mono" },
  ], rows, { sort: 0, caption: "Flags", empty: "No flag is like that." });
}

function load() {
  return loading($("problem"), async () => {
    const [build, runtime, given] = await Promise.all(["buildinfo", "runtimeinfo", "flags"].map((name) => api(`status/${name}`)));
    const started = Date.parse(runtime.data.startTime);
    const now = Date.parse(runtime.data.serverTime);
    pairs($("build"), [
      ["Program", build.data.branch],
      ["Version", build.data.revision],
      ["Prometheus API", build.data.version],
    ]);
    pairs($("runtime"), [
      ["Started", formatSecond(started)],
      ["Running for", formatDuration(Math.floor((now - started) / 1000) * 1000, 2)],
      ["Server time", formatSecond(now)],
      ["Host", runtime.data.hostname],
      ["Working directory", runtime.data.CWD],
      ["Cores used", String(runtime.data.GOMAXPROCS)],
      ["Retention", runtime.data.storageRetention || "not this program's"],
    ]);
    flags = Object.entries(given.data);
    drawFlags();
  });
}

$("filter").addEventListener("input", drawFlags);
document.addEventListener("appearance", load);
load();
