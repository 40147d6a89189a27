// The query page. What it shows is in its address: query, tab, range, end and step, under the names that Prometheus uses.
import { $, api, counted, el, formatCount, formatDuration, formatTime, parseDuration, parseTime, seriesElements, zoneOffset } from "./common.js";
import { Editor } from "./editor.js";
import { Graph, drawnAtFirst } from "./graph.js";
import { table } from "./table.js";

const hour = 3600000;
const presets = ["15m", "1h", "6h", "1d", "1w"];
const ranges = ["1m", "5m", "15m", "30m", "1h", "3h", "6h", "12h", "1d", "2d", "1w", "2w", "4w", "1y", "2y"].map(parseDuration);
/** Steps that are chosen among if none is given. */
const steps = [0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800].map((seconds) => seconds * 1000);
/** More series than these are not asked for: a browser has to hold them. */
const mostSeries = { graph: 5000, table: 50000 };
const rowsAtFirst = 250;
const pointsShown = 100;

/** What is asked: times in milliseconds, `end` null for now, `step` null for a fitting one. */
let state = { expr: "", tab: "graph", range: hour, end: null, step: null };
/** What the last graph spans. */
let shown = null;
let running = null;

const editor = new Editor($("query"), $("painted"), $("suggestions"), {
  run: () => submit(),
  stop: () => running?.abort(),
  range: () => {
    // Some more than what is shown, so that what has just gone is still offered.
    const end = state.end ?? Date.now();
    return { start: Math.floor((end - Math.max(state.range, hour)) / 60000) * 60, end: Math.ceil(end / 60000) * 60 };
  },
  changed: () => hideError(),
});
const graph = new Graph(
  (from, to) => {
    // Whole seconds, as far as they are fine enough.
    const unit = to - from >= 60000 ? 1000 : 1;
    const [begin, end] = [Math.round(from / unit) * unit, Math.round(to / unit) * unit];
    change({ end, range: Math.max(unit, end - begin) });
  },
  () => change({ end: shown === null || state.end === null ? state.end : shown.end + state.range / 2, range: state.range * 2 }),
);

// The address.
function fromAddress() {
  const given = new URLSearchParams(location.search);
  const get = (name) => given.get(`g0.${name}`) ?? "";
  const tab = { 0: "graph", 1: "table" }[get("tab")] ?? get("tab");
  // Prometheus's times are UTC, and its older pages give a table's apart.
  const end = get("end_input") || get("moment_input");
  const universal = end === "" ? null : parseTime(/Z$/.test(end) || !end.includes("-") ? end : `${end}Z`, Date.now());
  return {
    expr: get("expr"),
    tab: tab === "table" ? "table" : "graph",
    range: parseDuration(get("range_input")) ?? hour,
    end: universal,
    step: parseDuration(get("step_input")),
  };
}

function address() {
  const url = new URL(location.href);
  const end = state.end === null ? "" : new Date(state.end).toISOString().replace("T", " ").replace(/(\.000)?Z$/, "");
  url.search = new URLSearchParams(Object.entries({
    "g0.expr": state.expr, "g0.tab": state.tab, "g0.range_input": formatDuration(state.range), "g0.end_input": end,
    "g0.step_input": state.step === null ? "" : formatDuration(state.step),
  }).filter(([, value]) => value !== ""));
  return url.href;
}

// The controls.
function showControls() {
  if (editor.text !== state.expr) editor.text = state.expr;
  for (const tab of ["graph", "table"]) {
    const active = state.tab === tab;
    $(`tab-${tab}`).setAttribute("aria-selected", String(active));
    $(`tab-${tab}`).tabIndex = active ? 0 : -1;
    if (active) $("result").setAttribute("aria-labelledby", `tab-${tab}`);
  }
  for (const id of ["range-group", "presets", "step-group"]) $(id).hidden = state.tab === "table";
  $("range").value = formatDuration(state.range);
  $("end").value = state.end === null ? "" : formatTime(state.end);
  $("end-label").textContent = state.tab === "table" ? "Time" : "End time";
  $("step").value = state.step === null ? "" : formatDuration(state.step);
  $("now").setAttribute("aria-pressed", String(state.end === null));
  for (const preset of $("presets").children) preset.setAttribute("aria-pressed", String(parseDuration(preset.textContent) === state.range));
  for (const id of ["range", "end", "step"]) $(id).removeAttribute("aria-invalid");
  $("control-error").hidden = true;
}

/** Takes what stands in the fields; answers whether it can be read. */
function readControls() {
  const range = parseDuration($("range").value);
  const step = $("step").value.trim();
  const stepRead = step === "" || step === "auto" ? null : parseDuration(step);
  const end = $("end").value.trim();
  // A field that still says what it was filled with keeps what it does not show.
  const unchanged = state.end !== null && end === formatTime(state.end);
  const endRead = end === "" || end === "now" ? null : unchanged ? state.end : parseTime(end, Date.now());
  const wrong = [
    range === null && ["range", "A range is a duration like 30m, 1h or 1d12h."],
    end !== "" && end !== "now" && endRead === null && ["end", "A time is like 2026-11-21 13:40:00, -2h, or seconds since 1970; nothing is now."],
    step !== "" && step !== "auto" && stepRead === null && ["step", "A step is a duration like 15s or 1m; nothing chooses a fitting one."],
  ].filter(Boolean);
  for (const id of ["range", "end", "step"]) $(id).toggleAttribute("aria-invalid", false);
  for (const [id] of wrong) $(id).setAttribute("aria-invalid", "true");
  $("control-error").textContent = wrong.map(([, text]) => text).join(" ");
  $("control-error").hidden = wrong.length === 0;
  if (wrong.length > 0) return false;
  state = { ...state, expr: editor.text, range, end: endRead, step: stepRead };
  return true;
}

/** Runs what the fields say. */
function submit() {
  if (readControls()) run();
}

/** Runs with something changed. */
function change(changes) {
  if (!readControls()) return;
  state = { ...state, ...changes };
  run();
}

// Running.
function autoStep() {
  const points = Math.max(150, Math.min(600, Math.floor($("result").clientWidth / 2)));
  const least = state.range / points;
  return steps.find((step) => step >= least && (step >= 1000 || state.range < 60000)) ?? Math.ceil(least / 86400000) * 86400000;
}

function hideError() {
  $("query-error").hidden = true;
  $("query").removeAttribute("aria-invalid");
}

function showError(error) {
  const box = $("query-error");
  const at = /(?:^|: )(\d+):(\d+): parse error: /.exec(error.message);
  const kind = { bad_data: "The query is not right", execution: "The query failed", timeout: "The query took too long", canceled: "The query was stopped" }[error.type];
  box.replaceChildren(...(kind ? [el("b", {}, `${kind}. `)] : []), el("span", {}, error.message));
  if (at && editor.text.trim() === state.expr.trim()) {
    const { line, column, length } = editor.mark(Number(at[1]), Number(at[2]));
    const from = Math.max(0, column - 60);
    const excerpt = [...line].slice(from, column + 60).join("");
    box.append(el("pre", { "aria-hidden": "true" }, `${from > 0 ? "…" : ""}${excerpt}\n${" ".repeat(column - from + (from > 0 ? 1 : 0))}`, el("span", { class: "at" }, "^".repeat(Math.min(length, 60)))));
  }
  box.hidden = false;
  $("query").setAttribute("aria-invalid", "true");
}

function showRemarks(warnings, infos) {
  const notice = (kind, title) => (text) => el("div", { class: `notice ${kind}` }, el("b", {}, `${title}: `), text.replace(/^PromQL (warning|info): /, ""));
  $("remarks").replaceChildren(...warnings.map(notice("warning", "Warning")), ...infos.map(notice("info", "Info")));
}

function showOnly(...ids) {
  for (const id of ["graph", "legend", "table", "empty"]) $(id).hidden = !ids.includes(id);
}

function say(title, text) {
  graph.clear();
  showOnly("empty");
  $("empty").replaceChildren(el("strong", {}, title), text);
}

let patience = null;

function busy(on) {
  clearTimeout(patience);
  $("result").setAttribute("aria-busy", String(on));
  const show = () => {
    $("progress").hidden = !on;
    $("result").classList.toggle("stale", on);
    $("run").textContent = on ? "Stop" : "Run";
    $("run").classList.toggle("running", on);
    if (on) $("summary").textContent = "Running…";
  };
  // What is answered at once should not flicker.
  if (on) patience = setTimeout(show, 150);
  else show();
}

async function run({ push = true } = {}) {
  running?.abort();
  hideError();
  editor.unmark();
  editor.close();
  showControls();
  const link = address();
  if (push && link !== location.href) history.pushState(null, "", link);
  const expr = state.expr.trim();
  document.title = document.title.replace(/^[^]*(?= · narthex )/, expr === "" ? "Query" : expr.slice(0, 80));
  if (expr === "") {
    running = null;
    busy(false);
    showRemarks([], []);
    $("summary").textContent = "";
    $("notes").hidden = true;
    say("Ask something.", "A metric's name is a query: type its first letters. Enter runs, Tab completes.");
    return;
  }
  const mine = new AbortController();
  running = mine;
  busy(true);
  const asked = performance.now();
  const end = state.end ?? Date.now();
  const step = state.step ?? autoStep();
  const window = { start: end - state.range, end, step };
  const seconds = (ms) => (ms / 1000).toFixed(3);
  const isGraph = state.tab === "graph";
  try {
    const answer = isGraph
      ? await api("query_range", { query: expr, start: seconds(window.start), end: seconds(end), step: seconds(step), limit: mostSeries.graph }, { signal: mine.signal, post: true })
      : await api("query", { query: expr, time: seconds(end), limit: mostSeries.table }, { signal: mine.signal, post: true });
    const taken = Math.round(performance.now() - asked);
    if (running !== mine) return;
    clearTimeout(patience);
    editor.keep(expr);
    showRemarks(answer.warnings, answer.infos);
    $("result").hidden = false;
    $("notes").hidden = true;
    if (isGraph) await showGraph(answer.data.result, window, taken);
    else showTable(answer.data, end, taken);
  } catch (error) {
    if (running !== mine) return;
    if (error.type === "starting") {
      clearTimeout(patience);
      $("summary").textContent = `${error.message} Trying again…`;
      setTimeout(() => { if (running === mine) run({ push: false }); }, 1000);
      return;
    }
    showRemarks([], []);
    $("notes").hidden = true;
    $("summary").textContent = "";
    if (error.name === "AbortError") say("Stopped.", "The query was stopped before it answered.");
    else {
      showError(error);
      say("No result.", "What is wrong stands under the query.");
    }
  }
  if (running === mine) {
    running = null;
    busy(false);
  }
}

// Results.
async function showGraph(result, window, taken, limit = drawnAtFirst) {
  shown = window;
  const points = result.reduce((sum, one) => sum + (one.values?.length ?? 0) + (one.histograms?.length ?? 0), 0);
  $("summary").textContent = `${counted(result.length, "series")} · ${counted(points, "point", "points")} · step ${formatDuration(window.step)} · ${formatCount(taken)} ms`;
  if (result.length === 0) {
    say("No series.", `The query found nothing between ${formatTime(window.start)} and ${formatTime(window.end)}.`);
    return;
  }
  const histograms = result.filter((one) => one.histograms);
  const notes = [];
  if (result.length === 1 && histograms.length === 1 && !result[0].values) {
    showOnly("graph");
    if (await graph.heat(result[0], window)) showOnly("graph", "legend");
    else say("Nothing to draw.", "The histograms are empty.");
    return;
  }
  if (histograms.length > 0) {
    notes.push(`${histograms.length === 1 ? "One series has native histograms" : `${formatCount(histograms.length)} series have native histograms`}, which are no lines: `
      + "sum() makes one of them, which is drawn as a field; histogram_quantile() and histogram_count() make numbers; the table shows their buckets.");
  }
  if (result.every((one) => !one.values)) {
    say("Only native histograms.", notes[0]);
    return;
  }
  showOnly("graph");
  const drawn = await graph.draw(result, window, limit);
  if (drawn.drawn === 0) {
    say("Nothing to draw.", "All values are infinite or not a number. The table shows them.");
    return;
  }
  showOnly("graph", "legend");
  notes.push(...drawn.notes);
  $("notes").replaceChildren(notes.join(" "));
  if (drawn.drawn < drawn.lines) {
    const more = Math.min(drawn.lines, 10 * limit);
    $("notes").append(`${notes.length > 0 ? " " : ""}The first ${formatCount(drawn.drawn)} of ${formatCount(drawn.lines)} series are drawn. `,
      el("button", { type: "button", class: "link", onclick: () => showGraph(result, window, taken, more) }, `Draw ${formatCount(more)}`));
  }
  $("notes").hidden = $("notes").childNodes.length === 0 || $("notes").textContent === "";
}

const number = (text) => (text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));

/** A native histogram: its sums in a line, its buckets below with a bar each. */
function histogramElement({ count, sum, buckets = [] }) {
  const mean = number(sum) / number(count);
  const title = el("span", {}, el("span", { class: "dim" }, "count "), count, el("span", { class: "dim" }, "  sum "), sum,
    el("span", { class: "dim" }, "  mean "), Number.isFinite(mean) ? mean.toPrecision(4) : "–");
  if (buckets.length === 0) return title;
  const most = Math.max(...buckets.map((bucket) => Math.abs(number(bucket[3]))), Number.MIN_VALUE);
  const rows = buckets.map(([ends, lower, upper, inside]) => {
    const open = ends === 1 || ends === 3 ? "[" : "(";
    const close = ends === 0 || ends === 3 ? "]" : ")";
    return el("tr", {}, el("td", {}, `${open}${short(lower)}, ${short(upper)}${close}`),
      el("td", { class: "number bar", "--share": `${(100 * Math.abs(number(inside))) / most}%` }, el("span", {}, inside)));
  });
  return el("details", {}, el("summary", {}, title, el("span", { class: "dim" }, `  ${counted(buckets.length, "bucket", "buckets")}`)), el("table", { class: "buckets" }, el("tbody", {}, ...rows)));
}

/** A bucket's end: bounds of exponential buckets have seventeen digits, of which few tell anything. */
const short = (text) => (text.replace(/^-?|e.*$/g, "").length > 9 ? String(Number(number(text).toPrecision(6))) : text);

/** The samples of a range selector, newest last, each with its time. */
function samplesElement(series) {
  const samples = [...(series.values ?? []), ...(series.histograms ?? [])].sort((a, b) => a[0] - b[0]);
  const out = el("div");
  const latest = samples.slice(-pointsShown);
  if (latest.length < samples.length) out.append(el("div", { class: "dim" }, `${formatCount(samples.length - latest.length)} earlier samples are not shown`));
  for (const [t, value] of latest) {
    out.append(el("div", {}, typeof value === "string" ? value : histogramElement(value), el("span", { class: "dim" }, `  @ ${formatTime(Math.round(t * 1000))}`)));
  }
  return out;
}

function showTable({ resultType, result }, time, taken) {
  shown = { start: time - state.range, end: time, step: 0 };
  graph.clear();
  const single = resultType === "scalar" || resultType === "string";
  const found = single ? resultType : counted(result.length, "series");
  $("summary").textContent = `${found} · at ${formatTime(time)} · ${formatCount(taken)} ms`;
  if (!single && result.length === 0) {
    say("No series.", `The query ran and found nothing at ${formatTime(time)}. Series without a sample for five minutes before are gone.`);
    return;
  }
  const rows = single ? [{ metric: null, value: result }] : result;
  const show = (row) => (row.value ? row.value[1] : row.histogram ? histogramElement(row.histogram[1]) : samplesElement(row));
  const known = (value) => (Number.isNaN(value) ? null : value);
  const value = (row) => known(number((row.value ?? row.values?.at(-1) ?? [0, (row.histogram ?? row.histograms?.at(-1))?.[1].count ?? "0"])[1]));
  const name = (row) => (row.metric === null ? el("span", { class: "dim" }, resultType) : seriesElements(row.metric));
  table($("table"), [
    { title: "Series", value: (row) => JSON.stringify(row.metric), show: name, class: "series" },
    { title: resultType === "matrix" ? "Samples" : "Value", value, show, number: true },
  ], rows, { caption: "Result", limit: rowsAtFirst });
  showOnly("table");
}

/** Writes the query as the server would. */
async function format() {
  const text = editor.text;
  hideError();
  try {
    const { data } = await api("format_query", { query: text }, { post: true });
    if (editor.text === text) editor.text = data;
  } catch (error) {
    state.expr = text;
    showError(error);
  }
  $("query").focus();
}

// What people do.
$("format").addEventListener("click", format);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running && $("run").classList.contains("running")) running.abort();
  else submit();
});
for (const tab of ["graph", "table"]) {
  $(`tab-${tab}`).addEventListener("click", () => { if (state.tab !== tab) change({ tab }); });
  $(`tab-${tab}`).addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const other = tab === "graph" ? "table" : "graph";
    $(`tab-${other}`).focus();
    change({ tab: other });
  });
}
$("presets").append(...presets.map((text) => el("button", { type: "button", "aria-label": `The last ${text}`, onclick: () => change({ range: parseDuration(text) }) }, text)));
$("shorter").addEventListener("click", () => change({ range: ranges.findLast((range) => range < state.range) ?? state.range / 2 }));
$("longer").addEventListener("click", () => change({ range: ranges.find((range) => range > state.range) ?? state.range * 2 }));
function shift(direction) {
  const by = state.tab === "graph" ? state.range / 2 : 60000;
  change({ end: Math.round(((state.end ?? shown?.end ?? Date.now()) + direction * by) / 1000) * 1000 });
}
$("earlier").addEventListener("click", () => shift(-1));
$("later").addEventListener("click", () => shift(1));
$("now").addEventListener("click", () => {
  $("end").value = "";
  change({ end: null });
});
for (const id of ["range", "end", "step"]) {
  $(id).addEventListener("change", () => {
    const before = address();
    if (readControls() && address() !== before) run();
  });
  $(id).addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    submit();
  });
}
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("query").focus();
  } else if (event.key === "Escape" && running) running.abort();
});
let offset = zoneOffset(Date.now());
document.addEventListener("appearance", () => {
  const zoned = zoneOffset(Date.now());
  if (zoned !== offset && shown !== null && !running) run({ push: false });
  else {
    showControls();
    graph.again();
  }
  offset = zoned;
});
window.addEventListener("popstate", () => {
  state = fromAddress();
  run({ push: false });
});

state = fromAddress();
history.replaceState(null, "", location.search === "" ? location.href : address());
run({ push: false });
if (state.expr === "") $("query").focus();
