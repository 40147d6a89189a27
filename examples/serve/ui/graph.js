// The graph: plotly draws lines and hands out what is dragged; the legend and what hovers are ours, as labels are text.
import { $, el, formatCount, formatTime, seriesElements, zoneOffset } from "./common.js";

/** More series than this are drawn only if asked for. */
export const drawnAtFirst = 100;

const palette = ["#3b82c4", "#e0702c", "#3f9e57", "#c2468f", "#8a6bd1", "#b58a14", "#2aa0a4", "#d34a4a", "#6b8e23", "#7d8597", "#b5651d", "#5577ee"];
const color = (index) => palette[index % palette.length];

let plotly = null;

/** plotly.js, fetched when the first graph is drawn. */
function library() {
  plotly ??= new Promise((done, failed) => {
    const script = el("script", { src: new URL("plotly.js", import.meta.url).href });
    script.addEventListener("load", () => done(globalThis.Plotly));
    script.addEventListener("error", () => {
      plotly = null;
      script.remove();
      failed(new Error("plotly.js cannot be loaded."));
    });
    document.head.append(script);
  });
  return plotly;
}

/** A value in few digits: the whole is in the table. */
const short = (text, digits = 7) => (Number.isFinite(Number(text)) ? String(Number(Number(text).toPrecision(digits))) : text);

/** A colour of the style sheet as it is in the theme that is on. */
function themed(name) {
  const probe = el("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function heatTrace(x, { z }) {
  // Counts differ by powers of ten: their roots tell more of them apart.
  const strength = z.map((row) => row.map((count) => (count === null ? null : Math.sqrt(Math.abs(count)))));
  return { type: "heatmap", x, y: z.map((_, index) => index), z: strength, zmin: 0, hoverinfo: "none", showscale: false, ygap: 1, colorscale: [[0, themed("--accent-soft")], [1, themed("--accent-fill")]] };
}

/** Rows are buckets; some say where they end. */
function heatAxis({ rows }) {
  const every = Math.max(1, Math.ceil(rows.length / 10));
  const ticks = rows.map((_, index) => index).filter((index) => index % every === 0);
  return { tickmode: "array", tickvals: ticks.map((index) => index + 0.5), ticktext: ticks.map((index) => rows[index][3]), showgrid: false, zeroline: false, range: [-0.5, rows.length - 0.5] };
}

export class Graph {
  #zoomed;
  #widened;
  #shown = null;
  #hidden = new Set();
  #bound = false;

  /** `zoomed(from, to)` in milliseconds, when a span is dragged; `widened()`, when the graph is clicked twice. */
  constructor(zoomed, widened) {
    this.#zoomed = zoomed;
    this.#widened = widened;
  }

  /** Draws `series` (as the API answers a matrix) over `{start, end, step}`. Answers what is to be said about it; `drawn` is 0 if no value has a height. */
  async draw(series, window, limit = drawnAtFirst) {
    const lines = series.filter((one) => one.values);
    this.#hidden.clear();
    this.#shown = { lines: lines.slice(0, limit), window, x: [], y: [] };
    const notes = [];
    const infinite = this.#columns();
    if (this.#shown.y.every((column) => column.every((value) => value === null))) {
      this.clear();
      return { drawn: 0, lines: lines.length, notes };
    }
    if (infinite > 0) notes.push(`${formatCount(infinite)} infinite ${infinite === 1 ? "value is" : "values are"} not drawn.`);
    await this.#render();
    this.#legend();
    return { drawn: this.#shown.lines.length, lines: lines.length, notes };
  }

  /**
   * Draws one series of native histograms as a field: time to the right, a row a bucket, the more samples the stronger.
   * Answers whether there is anything to draw.
   */
  async heat(series, window) {
    this.#hidden.clear();
    const times = this.#times(window);
    const bounds = new Map();
    for (const [, { buckets = [] }] of series.histograms) {
      for (const [, lower, upper] of buckets) bounds.set(`${lower} ${upper}`, [Number(lower.replace("Inf", "Infinity")), Number(upper.replace("Inf", "Infinity")), `${short(lower, 6)} … ${short(upper, 6)}`, short(upper, 4)]);
    }
    const keys = [...bounds.keys()].sort((a, b) => bounds.get(a)[0] - bounds.get(b)[0] || bounds.get(a)[1] - bounds.get(b)[1]);
    const row = new Map(keys.map((key, index) => [key, index]));
    const z = keys.map(() => new Array(times.length).fill(null));
    for (const [t, { buckets = [] }] of series.histograms) {
      const column = Math.round((t * 1000 - window.start) / window.step);
      for (const [, lower, upper, count] of buckets) z[row.get(`${lower} ${upper}`)][column] = Number(count);
    }
    if (keys.length === 0) {
      this.clear();
      return false;
    }
    this.#shown = { window, times, lines: [], heat: { series, z, rows: keys.map((key) => bounds.get(key)) } };
    await this.#render();
    $("legend").replaceChildren(el("p", { class: "dim" }, seriesElements(series.metric)));
    $("legend").hidden = false;
    return true;
  }

  #times(window) {
    const count = Math.floor((window.end - window.start) / window.step) + 1;
    return Float64Array.from({ length: count }, (_, index) => window.start + index * window.step);
  }

  clear() {
    this.#shown = null;
    $("tip").hidden = true;
  }

  /** The same again: the theme or the zone is another. */
  async again() {
    if (this.#shown === null) return;
    await this.#render();
  }

  /** All series share the steps; where one has no sample, its line breaks. */
  #columns() {
    const { lines, window, y } = this.#shown;
    this.#shown.times = this.#times(window);
    const count = this.#shown.times.length;
    let infinite = 0;
    for (const line of lines) {
      const column = new Array(count).fill(null);
      for (const [t, text] of line.values) {
        const index = Math.round((t * 1000 - window.start) / window.step);
        const value = text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
        if (Number.isFinite(value)) column[index] = value;
        else if (!Number.isNaN(value)) infinite += 1;
      }
      y.push(column);
    }
    return infinite;
  }

  async #render() {
    const Plotly = await library();
    if (this.#shown === null) return;
    const { window, times, heat } = this.#shown;
    // A date axis knows no zones, and takes numbers for the browser's own: texts say what the clock shows.
    const clock = (t) => new Date(t + zoneOffset(t)).toISOString().slice(0, 23).replace("T", " ");
    const x = Array.from(times, clock);
    const traces = heat ? [heatTrace(x, heat)] : this.#shown.y.map((column, index) => {
      // A sample with gaps on both sides makes no line.
      const alone = column.some((value, at) => value !== null && (column[at - 1] ?? null) === null && (column[at + 1] ?? null) === null);
      return {
        type: "scatter", mode: alone ? "lines+markers" : "lines", x, y: column, hoverinfo: "none",
        visible: !this.#hidden.has(index), line: { color: color(index), width: 1.6 }, marker: { color: color(index), size: 4 },
      };
    });
    const grid = themed("--grid");
    const dim = themed("--dim");
    const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: themed("--line-strong"), tickcolor: grid, automargin: true };
    const spike = { showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "solid", spikecolor: themed("--line-strong"), spikesnap: "hovered data" };
    const layout = {
      margin: { l: 52, r: 12, t: 8, b: 30 }, showlegend: false, hovermode: "closest", hoverdistance: 60, dragmode: "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: dim, size: 12, family: getComputedStyle(document.body).fontFamily },
      xaxis: { ...axis, ...spike, type: "date", range: [clock(window.start), clock(window.end)] },
      yaxis: { ...axis, fixedrange: true, exponentformat: "SI", ...(heat ? heatAxis(heat) : {}) },
    };
    const plot = $("plot");
    await Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true, doubleClick: false, showTips: false });
    if (!this.#bound) this.#bind(plot);
  }

  #bind(plot) {
    this.#bound = true;
    plot.on("plotly_relayout", (changed) => {
      const from = changed["xaxis.range[0]"];
      const to = changed["xaxis.range[1]"];
      if (from === undefined || to === undefined || this.#shown === null) return;
      // As texts too, with as many digits as it likes: 2026-11-21, 2026-11-21 13:40, 2026-11-21 13:40:00.1234.
      const time = (text) => {
        const [, day, clock = "00:00", rest = ":00"] = /^(\S+)(?:[ T](\d\d:\d\d)(:\d\d(?:\.\d{1,3})?)?)?/.exec(text);
        const shown = Date.parse(`${day}T${clock}${rest}Z`);
        return shown - zoneOffset(shown - zoneOffset(shown));
      };
      const [begin, end] = [time(from), time(to)];
      if (end - begin >= 1) this.#zoomed(begin, end);
    });
    plot.on("plotly_doubleclick", () => this.#widened());
    plot.on("plotly_hover", (event) => this.#hover(event.points[0], event.event));
    plot.on("plotly_unhover", () => { $("tip").hidden = true; });
  }

  #hover(point, mouse) {
    if (this.#shown === null) return;
    const { lines, heat, times } = this.#shown;
    const line = heat ? heat.series : lines[point.curveNumber];
    if (!line) return;
    const tip = $("tip");
    if (heat) {
      const [row, column] = point.pointNumber;
      tip.replaceChildren(
        el("div", { class: "when" }, formatTime(times[column])),
        el("div", { class: "value" }, String(heat.z[row][column])),
        el("div", {}, `in ${heat.rows[row][2]}`),
      );
    } else {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = color(point.curveNumber);
      tip.replaceChildren(
        el("div", { class: "when" }, formatTime(times[point.pointNumber])),
        el("div", { class: "value" }, swatch, ` ${point.y}`),
        el("div", {}, seriesElements(line.metric)),
      );
    }
    tip.hidden = false;
    const place = $("graph").getBoundingClientRect();
    const [x, y] = [mouse.clientX - place.left, mouse.clientY - place.top];
    const left = x + 16 + tip.offsetWidth > place.width ? x - 16 - tip.offsetWidth : x + 16;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 12, place.height - tip.offsetHeight))}px`;
  }

  #legend() {
    const { lines } = this.#shown;
    const rows = lines.map((line, index) => {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = color(index);
      const button = el("button", { type: "button", "aria-pressed": "true", title: "Click: this one alone, or all again. With Control: on or off" },
        swatch, seriesElements(line.metric), el("span", { class: "last" }, short(line.values.at(-1)[1])));
      button.addEventListener("click", (event) => this.#toggle(index, event.ctrlKey || event.metaKey || event.shiftKey));
      return button;
    });
    $("legend").replaceChildren(...rows);
    $("legend").hidden = rows.length === 0;
  }

  async #toggle(index, only) {
    const count = this.#shown.lines.length;
    if (only) {
      if (!this.#hidden.delete(index)) this.#hidden.add(index);
    } else {
      const alone = this.#hidden.size === count - 1 && !this.#hidden.has(index);
      this.#hidden = new Set(alone ? [] : Array.from({ length: count }, (_, at) => at).filter((at) => at !== index));
    }
    Array.from($("legend").children).forEach((button, at) => button.setAttribute("aria-pressed", String(!this.#hidden.has(at))));
    const Plotly = await library();
    const visible = Array.from({ length: count }, (_, at) => !this.#hidden.has(at));
    await Plotly.restyle($("plot"), { visible });
  }
}
