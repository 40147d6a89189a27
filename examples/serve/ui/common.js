// What all pages share: elements, the API, times and numbers as text, the theme and the time zone.

export const $ = (id) => document.getElementById(id);

/** Makes an element. Text is set as text, never as markup: labels are whatever a sender wrote. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** The root's address, from that of this file: ROOT/ui/VERSION/common.js. */
export const root = new URL("../../", import.meta.url);

export class Failure extends Error {
  constructor(type, message, status) {
    super(message);
    this.type = type;
    this.status = status;
  }
}

/**
 * Calls the API; answers `{data, warnings, infos}`. `post` is for what is too long for an address.
 * Throws a Failure with the API's own words, or an AbortError.
 */
export async function api(path, parameters = {}, { signal, post = false } = {}) {
  const form = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) if (one !== undefined && one !== "") form.append(name, one);
  }
  const url = new URL(`api/v1/${path}`, root);
  if (!post) url.search = form;
  let response;
  try {
    response = await fetch(url, { method: post ? "POST" : "GET", body: post ? form : undefined, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("network", "The server cannot be reached.", 0);
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    const starting = response.status === 503 && response.headers.get("x-prometheus-stopping") !== "true";
    const message = starting ? "The server is starting: it reads its log back." : `${response.status}: ${text.trim().slice(0, 400)}`;
    throw new Failure(starting ? "starting" : "http", message, response.status);
  }
  if (answer.status !== "success") throw new Failure(answer.errorType, answer.error, response.status);
  return { data: answer.data, warnings: answer.warnings ?? [], infos: answer.infos ?? [] };
}

/** Runs `load`; while the server is starting, again every second. What goes wrong is shown in `problem`. */
export async function loading(problem, load) {
  for (;;) {
    try {
      await load();
      problem.hidden = true;
      return;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      if (error.type !== "starting") return;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remembered(name) {
  try {
    return JSON.parse(stored(name) ?? "null");
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, typeof value === "string" ? value : JSON.stringify(value));
  } catch {
    // Not remembered, then.
  }
}

// Theme and zone. Pages that draw listen for "appearance" on the document.
const themes = { system: "◐ System", light: "☀ Light", dark: "☾ Dark" };
let utc = stored("narthex.zone") === "utc";

function showTools() {
  const theme = document.documentElement.dataset.theme ?? "system";
  $("theme").textContent = themes[theme];
  $("theme").setAttribute("aria-label", `Theme: ${theme}`);
  const zone = utc ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
  $("zone").textContent = utc ? "UTC" : "Local time";
  $("zone").title = `Times are shown in ${zone}`;
  $("zone").setAttribute("aria-label", `${$("zone").textContent}: times are shown in ${zone}`);
}

$("theme").addEventListener("click", () => {
  const order = Object.keys(themes);
  const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % order.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  remember("narthex.theme", next);
  showTools();
  document.dispatchEvent(new Event("appearance"));
});
$("zone").addEventListener("click", () => {
  utc = !utc;
  remember("narthex.zone", utc ? "utc" : "local");
  showTools();
  document.dispatchEvent(new Event("appearance"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("appearance")));
showTools();

/** How far the shown clock is ahead of UTC at `ms`, in milliseconds. */
export function zoneOffset(ms) {
  return utc ? 0 : -new Date(ms).getTimezoneOffset() * 60000;
}

function inZone(ms) {
  const date = new Date(ms + zoneOffset(ms));
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** `2026-11-21 13:40:00`, with milliseconds if there are any. */
export function formatTime(ms) {
  const text = inZone(ms);
  if (text === null) return String(ms);
  return text.replace("T", " ").replace(/(\.000)?Z$/, "");
}

/** The same without a fraction. */
export const formatSecond = (ms) => formatTime(Math.floor(ms / 1000) * 1000);

/**
 * The time that a text means: `2026-11-21 13:40`, with a `Z` for UTC whatever the zone; `-2h` before `now`; seconds since
 * 1970. Null if it is none.
 */
export function parseTime(text, now) {
  const trimmed = text.trim();
  if (/^-?\d{6,12}(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000);
  if (trimmed.startsWith("-")) {
    const before = parseDuration(trimmed.slice(1));
    return before === null ? null : now - before;
  }
  const parts = /^(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d)(:\d\d(?:\.\d+)?)?)?(Z?)$/.exec(trimmed);
  if (parts === null) return null;
  const [, day, minutes = "00:00", seconds = ":00", universal] = parts;
  const shown = Date.parse(`${day}T${minutes}${seconds}Z`);
  if (Number.isNaN(shown)) return null;
  if (universal) return shown;
  // The offset at the time that is meant; near a change of clocks the first guess may be an hour off.
  return shown - zoneOffset(shown - zoneOffset(shown));
}

const units = { ms: 1, s: 1000, m: 60000, h: 3600000, d: 86400000, w: 604800000, y: 31536000000 };

/** Milliseconds of `1h30m`, `90s` or a plain number of seconds; null if it is none. */
export function parseDuration(text) {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000) || null;
  if (!/^(\d+(ms|[smhdwy]))+$/.test(trimmed)) return null;
  let sum = 0;
  for (const [, number, unit] of trimmed.matchAll(/(\d+)(ms|[smhdwy])/g)) sum += Number(number) * units[unit];
  return sum || null;
}

/** `1h30m`; at most `parts` units. */
export function formatDuration(ms, parts = 9) {
  if (ms === 0) return "0s";
  let rest = Math.round(Math.abs(ms));
  // Of what is longer, milliseconds are noise, if not all is to be said.
  if (parts < 9 && rest > 10000) rest = Math.round(rest / 1000) * 1000;
  let out = "";
  for (const unit of ["y", "w", "d", "h", "m", "s", "ms"]) {
    if ((unit === "y" || unit === "w") && rest % units[unit] !== 0) continue;
    const count = Math.floor(rest / units[unit]);
    if (count === 0) continue;
    out += `${count}${unit}`;
    rest -= count * units[unit];
    if (--parts === 0) break;
  }
  return (ms < 0 ? "-" : "") + out;
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
/** `1,234,567` */
export const formatCount = (number) => whole.format(number);

export function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let unit = 0;
  while (bytes >= 1024 && unit < 5) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** `1 series`, `3 blocks`: with a plural if there is one. */
export function counted(number, one, many = one) {
  return `${formatCount(number)} ${number === 1 ? one : many}`;
}

const plainName = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const plainLabel = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
export const quoted = (text) => `"${text.replace(/\\/g, "\\\\").replace(/"/g, '\\"').replace(/\n/g, "\\n")}"`;
export const labelName = (name) => (plainLabel.test(name) ? name : quoted(name));

/** A selector's text for a metric with exactly these labels. */
export function seriesText(labels) {
  const { __name__: name, ...others } = labels;
  const pairs = Object.entries(others).map(([key, value]) => `${labelName(key)}=${quoted(value)}`);
  if (name !== undefined && !plainName.test(name)) pairs.unshift(quoted(name));
  const shown = name !== undefined && plainName.test(name) ? name : "";
  return pairs.length > 0 || shown === "" ? `${shown}{${pairs.join(", ")}}` : shown;
}

/** A series as elements: the name stands out, label names stand back. */
export function seriesElements(labels) {
  const { __name__: name, ...others } = labels;
  const out = el("span", { class: "series" });
  if (name !== undefined && plainName.test(name)) out.append(el("b", {}, name));
  const pairs = Object.entries(others);
  if (name !== undefined && !plainName.test(name)) pairs.unshift([null, name]);
  if (pairs.length > 0 || name === undefined) out.append(el("span", { class: "k" }, "{"));
  pairs.forEach(([key, value], index) => {
    if (index > 0) out.append(el("span", { class: "k" }, ", "));
    if (key !== null) out.append(el("span", { class: "k" }, `${labelName(key)}=`));
    out.append(el("span", { class: "v" }, quoted(value)));
  });
  if (pairs.length > 0 || name === undefined) out.append(el("span", { class: "k" }, "}"));
  return out;
}

/** The query page's address with `query` in its table. */
export function queryAddress(query) {
  const url = new URL(root);
  url.search = new URLSearchParams({ "g0.expr": query, "g0.tab": "table" });
  return url.href;
}
