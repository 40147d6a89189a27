// The pages in a real browser, against a running receiver and a `query` beside it.
//
//   node browser.mjs RECEIVER_URL QUERY_URL SCREENSHOT_DIRECTORY [directory with rw1-*.body]
//
// It fills the receiver first: recorded requests of a real Prometheus if there are any, then an hour of counters, gauges
// and names that no page should take for markup. Every check prints a line; the first that fails ends the run with 1.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { push, send } from "./push.mjs";

const installed = createRequire(`${process.env.NARTHEX_PLAYWRIGHT}/`);
const { chromium } = installed("playwright-core");
const [base, beside, directory, wire] = process.argv.slice(2);
mkdirSync(directory, { recursive: true });

const hostile = "<img src=x onerror=\"window.pwned=1\">";
const start = 1795268460000;
const step = 15000;
const steps = 240;
const end = start + (steps - 1) * step;
const endText = new Date(end).toISOString().replace("T", " ").slice(0, 19);

async function fill() {
  if (wire) {
    for (const name of readdirSync(wire).filter((one) => /^rw1-.*\.body$/.test(one)).sort()) await send(base, readFileSync(path.join(wire, name)));
  }
  for (let at = 0; at < steps; at += 20) {
    const times = Array.from({ length: Math.min(20, steps - at) }, (_, index) => at + index);
    const list = [];
    const add = (labels, value) => list.push({ labels, samples: times.map((index) => [start + index * step, value(index)]) });
    for (const instance of ["a:80", "b:80", "c:80"]) {
      for (const code of ["200", "404", "500"]) {
        const rate = { 200: 40, 404: 6, 500: 1 }[code] * (1 + "abc".indexOf(instance[0]) / 2);
        add({ __name__: "demo_requests_total", job: "demo", instance, code }, (index) => Math.round(rate * (index * 15 + 200 * Math.sin(index / 30))));
      }
    }
    add({ __name__: "demo_temperature", room: "kitchen" }, (index) => 20 + 3 * Math.sin(index / 20));
    add({ __name__: "demo_temperature", room: "cellar" }, (index) => 12 + Math.sin(index / 35));
    add({ __name__: "demo_hostile", text: hostile }, (index) => index % 7);
    for (let id = 0; id < 320; id += 1) add({ __name__: "demo_many", id: String(id).padStart(3, "0") }, (index) => id + index);
    await push(base, list);
  }
}

let checks = 0;
async function check(sentence, run) {
  await run();
  checks += 1;
  console.log(`ok ${checks} ${sentence}`);
}

await fill();
const browser = await chromium.launch({
  executablePath: process.env.NARTHEX_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, timezoneId: "Europe/Berlin", locale: "en-GB", colorScheme: "light" });
const page = await context.newPage();
page.setDefaultTimeout(15000);
// For work on the pages: scripts and styles from the tree, without building the programs again.
if (process.env.NARTHEX_UI_TREE) {
  await context.route(/\/ui\/[0-9a-f]{8}\/(?!language|plotly)/, (route) =>
    route.fulfill({ path: path.join(process.env.NARTHEX_UI_TREE, path.basename(new URL(route.request().url()).pathname)) }));
}

const requests = [];
const troubles = [];
let expectedRefusals = 0;
page.on("request", (request) => requests.push(request.url()));
page.on("pageerror", (error) => troubles.push(`uncaught: ${error.message}`));
page.on("console", (message) => {
  if (message.type() !== "error" && message.type() !== "warning") return;
  // The browser itself reports an answer of 400 to 503; those that a check provokes are counted.
  if (/Failed to load resource: .*\b(400|422|503)\b/.test(message.text()) && expectedRefusals > 0) {
    expectedRefusals -= 1;
    return;
  }
  troubles.push(`console: ${message.text()}`);
});

const shot = (name) => page.screenshot({ path: path.join(directory, `${name}.png`), fullPage: true });
const at = (query, more = {}) => `${base}/?${new URLSearchParams({ "g0.expr": query, "g0.end_input": endText, "g0.range_input": "1h", ...more })}`;
const asked = () => requests.filter((url) => /api\/v1\/query(_range)?$/.test(url)).length;
const idle = () => page.waitForFunction(() => document.getElementById("result")?.getAttribute("aria-busy") === "false");
const open = async (url) => {
  await page.goto(url);
  await idle();
};
const traces = () => page.evaluate(() => (document.getElementById("plot").data ?? []).map((trace) => trace.y.filter((value) => value !== null).length));
const parameter = (name) => new URL(page.url()).searchParams.get(`g0.${name}`);
const answered = async (query, time = end / 1000) => (await (await fetch(`${base}/api/v1/query?${new URLSearchParams({ query, time })}`)).json()).data.result;

try {
  await check("the page opens with the field focused, and says what to do", async () => {
    await open(`${base}/`);
    assert.equal(await page.evaluate(() => document.activeElement.id), "query");
    assert.match(await page.textContent("#empty"), /Ask something/);
    await shot("empty-light");
  });

  await check("a query is typed with completion by the keyboard alone", async () => {
    await open(at("", { "g0.tab": "graph" }));
    const type = async (text) => page.keyboard.type(text, { delay: 15 });
    const offered = async (word) => page.locator("#suggestions li", { hasText: word }).first().waitFor();
    await page.focus("#query");
    await type("sum");
    await offered("sum_over_time");
    assert.equal(await page.getAttribute("#query", "aria-expanded"), "true");
    await page.keyboard.press("Tab");
    await offered("without");
    await page.keyboard.press("Tab");
    await page.waitForFunction(() => document.getElementById("query").value === "sum by (");
    await type("co");
    await offered("code");
    await page.keyboard.press("Tab");
    await type(") (rat");
    await offered("rate");
    await page.keyboard.press("Tab");
    await page.waitForFunction(() => document.getElementById("query").value.endsWith("rate("));
    await type("demo_req");
    await offered("demo_requests_total");
    await shot("completion-light");
    await page.keyboard.press("Tab");
    await type("{");
    await offered("instance");
    await type("jo");
    await offered("job");
    await page.keyboard.press("Tab");
    await offered("demo");
    assert.deepEqual(await page.locator("#suggestions .word").allTextContents(), ["demo"]);
    await page.keyboard.press("ArrowDown");
    assert.match(await page.getAttribute("#query", "aria-activedescendant"), /^suggestion-/);
    await page.keyboard.press("Enter");
    await type("}[");
    await offered("5m");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await type("]))");
    assert.equal(await page.inputValue("#query"), 'sum by (code) (rate(demo_requests_total{job="demo"}[5m]))');
  });

  await check("what can be completed follows from what stands before the caret", async () => {
    // `|` is the caret; behind it: what is completed, what was typed of it, the metric, the other matchers, the label.
    const cases = [
      ["ra|", "name ra"],
      ["sum(ra|", "name ra"],
      ["sum |(x)", "aggregated "],
      ["sum by (jo|", "grouping jo"],
      ["a / on (jo|) b", "grouping jo"],
      ["up{|", "label  up"],
      ['up{job="a", in|', 'label in up job="a"'],
      ['up{in|, job="a"}', 'label in up job="a"'],
      ['{job="a|', "value a   job"],
      ['up{x!~"y",job=~"a|"}', 'value a up x!~"y" job'],
      ["up{job=|}", "value  up  job"],
      ['up{job="a\\"b|', 'value a\\"b up  job'],
      ['up{job="a"|}', "nothing"],
      ["up[|", "duration "],
      ["up[5|m]", "duration 5"],
      ["up offset 1|", "duration 1"],
      ["up |", "operand "],
      ["up a|", "operand a"],
      ["up and r|", "name r"],
      ["up # a|", "nothing"],
      ['"a|', "nothing"],
      ["5|", "nothing"],
    ];
    const found = await page.evaluate(async (texts) => {
      const { context } = await import(new URL("editor.js", document.querySelector("script[type=module]").src).href);
      return texts.map((text) => {
        const one = context(text.replace("|", ""), text.indexOf("|"));
        if (one === null) return "nothing";
        return [one.kind, one.typed, one.metric, one.matchers?.join(), one.label].map((part) => part ?? "").join(" ").replace(/ +$/, "") + (one.typed === "" && !one.metric && !one.label ? " " : "");
      });
    }, cases.map(([text]) => text));
    assert.deepEqual(found.map((text, index) => `${cases[index][0]} → ${text}`), cases.map(([text, wanted]) => `${text} → ${wanted}`));
  });

  await check("Enter runs it, and there is a line a series with a point a step", async () => {
    await page.keyboard.press("Enter");
    await page.waitForSelector("#legend button");
    await idle();
    const points = await traces();
    assert.equal(points.length, 3);
    assert.ok(points.every((count) => count > 200), String(points));
    assert.equal(await page.locator("#plot .scatterlayer .trace path.js-line").count(), 3);
    assert.match(await page.textContent("#summary"), /^3 series · [\d,]+ points · step \w+ · [\d,]+ ms$/);
    assert.equal(parameter("expr"), 'sum by (code) (rate(demo_requests_total{job="demo"}[5m]))');
    await shot("graph-light");
  });

  await check("what is pointed at says its time, value and series", async () => {
    const box = await page.locator("#plot .nsewdrag").boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    const path = await page.locator("#plot path.js-line").first().boundingBox();
    await page.mouse.move(path.x + path.width / 2, path.y + path.height / 2, { steps: 4 });
    await page.waitForSelector("#tip:not([hidden])");
    assert.match(await page.textContent("#tip"), /^2026-11-21 \d\d:\d\d:\d\d.* \d.*\{code="/);
    await shot("hover-light");
  });

  await check("zooming by dragging sets the range, changes the address and asks again", async () => {
    const before = { url: page.url(), asked: asked() };
    const box = await page.locator("#plot .nsewdrag").boundingBox();
    await page.mouse.move(box.x + box.width * 0.25, box.y + 60);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.4, box.y + 80, { steps: 5 });
    await page.mouse.move(box.x + box.width * 0.5, box.y + 90, { steps: 5 });
    await page.mouse.up();
    await page.waitForFunction((url) => location.href !== url, before.url);
    await idle();
    assert.ok(asked() > before.asked);
    const range = await page.inputValue("#range");
    assert.match(range, /^1[3-6]m/);
    assert.equal(parameter("range_input"), range);
    const until = Date.parse(`${parameter("end_input").replace(" ", "T")}Z`);
    assert.ok(Math.abs(until - (end - 1800000)) < 90000, parameter("end_input"));
    assert.equal((await traces()).length, 3);
  });

  await check("back restores the query and the range, forward the zoom", async () => {
    const zoomed = page.url();
    await page.goBack();
    await page.waitForFunction(() => document.getElementById("range").value === "1h");
    await idle();
    assert.equal(parameter("range_input"), "1h");
    assert.equal((await traces()).length, 3);
    await page.goForward();
    await page.waitForFunction(() => document.getElementById("range").value !== "1h");
    await idle();
    assert.equal(page.url(), zoomed);
    await page.goBack();
    await idle();
  });

  await check("a series in the legend can be shown alone, and all again", async () => {
    await page.locator("#legend button").nth(1).click();
    await page.waitForFunction(() => document.getElementById("plot").data.filter((trace) => trace.visible !== false).length === 1);
    assert.deepEqual(await page.locator("#legend button").evaluateAll((all) => all.map((one) => one.ariaPressed)), ["false", "true", "false"]);
    await page.locator("#legend button").nth(1).click();
    await page.waitForFunction(() => document.getElementById("plot").data.every((trace) => trace.visible !== false));
  });

  await check("the table shows what the API answers", async () => {
    await page.focus("#tab-graph");
    await page.keyboard.press("ArrowRight");
    await page.waitForSelector("#table:not([hidden]) td");
    await idle();
    assert.equal(parameter("tab"), "table");
    const expected = (await answered(parameter("expr"))).map((one) => [`{code="${one.metric.code}"}`, one.value[1]]);
    const rows = await page.locator("#table tbody tr").evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
    assert.equal(rows.length, 3);
    assert.deepEqual(rows, expected);
    await shot("table-light");
  });

  await check("a column sorts, both ways", async () => {
    const values = () => page.locator("#table tbody td.number").evaluateAll((all) => all.map((cell) => Number(cell.textContent)));
    const heading = page.locator("#table th button", { hasText: "Value" });
    await heading.click();
    const falling = await values();
    assert.deepEqual(falling, falling.toSorted((a, b) => b - a));
    assert.equal(await page.getAttribute("#table th.number", "aria-sort"), "descending");
    await page.keyboard.press("Enter");
    assert.deepEqual(await values(), falling.toReversed());
  });

  await check("a broken query shows the API's error under the field, with its place marked", async () => {
    expectedRefusals = 2;
    await open(at("sum(rate(demo_requests_total[5m]) by (code)", { "g0.tab": "table" }));
    const { error } = await (await fetch(`${base}/api/v1/query?query=${encodeURIComponent("sum(rate(demo_requests_total[5m]) by (code)")}`)).json();
    const text = await page.textContent("#query-error");
    assert.ok(text.includes(error), text);
    assert.match(await page.textContent("#query-error pre .at"), /^\^+$/);
    assert.equal(await page.textContent("#painted .tok-wrong"), "by");
    assert.equal(await page.getAttribute("#query", "aria-invalid"), "true");
    await shot("error-light");
    await page.focus("#query");
    await page.keyboard.press("End");
    await page.keyboard.type(" ");
    assert.equal(await page.isVisible("#query-error"), false);
    expectedRefusals = 0;
  });

  await check("an error of the evaluation is shown too", async () => {
    expectedRefusals = 2;
    await open(at('demo_requests_total + on (job) demo_requests_total', { "g0.tab": "table" }));
    assert.match(await page.textContent("#query-error"), /many-to-many matching not allowed/);
    expectedRefusals = 0;
  });

  await check("a query is put in order by the server, and a broken one keeps its text", async () => {
    await open(at("", { "g0.tab": "table" }));
    await page.fill("#query", "sum(rate(demo_requests_total[5m]))by(code)");
    await page.keyboard.press("Escape");
    await page.click("#format");
    await page.waitForFunction(() => document.getElementById("query").value === "sum by (code) (rate(demo_requests_total[5m]))");
    expectedRefusals = 1;
    await page.fill("#query", "sum(");
    await page.keyboard.press("Escape");
    await page.click("#format");
    await page.waitForSelector("#query-error:not([hidden])");
    assert.equal(await page.inputValue("#query"), "sum(");
    expectedRefusals = 0;
  });

  await check("infos and warnings stand above the result", async () => {
    await open(at("rate(demo_temperature[5m])", { "g0.tab": "table" }));
    assert.match(await page.textContent("#remarks .info"), /metric might not be a counter.*"demo_temperature"/);
    assert.equal(await page.locator("#table tbody tr").count(), 2);
    await open(at("quantile(7, demo_temperature)", { "g0.tab": "graph" }));
    assert.match(await page.textContent("#remarks .warning"), /quantile value should be between 0 and 1/);
    assert.match(await page.textContent("#empty"), /All values are infinite/);
    await open(at("quantile(7, demo_temperature) or rate(demo_temperature[5m])", { "g0.tab": "graph" }));
    assert.equal(await page.locator("#remarks .warning").count(), 1);
    assert.equal(await page.locator("#remarks .info").count(), 1);
    assert.match(await page.textContent("#notes"), /\d+ infinite values are not drawn/);
    await shot("warning-light");
  });

  await check("an empty result is said in words", async () => {
    await open(at("demo_absent", { "g0.tab": "table" }));
    assert.match(await page.textContent("#empty"), /No series\.The query ran and found nothing at 2026-11-21 15:\d\d:\d\d/);
    await open(at("demo_absent", { "g0.tab": "graph" }));
    assert.match(await page.textContent("#empty"), /No series\./);
  });

  await check("a label that is markup stays text, in table, graph, completion and address", async () => {
    await open(at("demo_hostile", { "g0.tab": "table" }));
    const escaped = hostile.replaceAll('"', '\\"');
    assert.ok((await page.textContent("#table tbody td.series")).includes(escaped));
    await open(at("demo_hostile", { "g0.tab": "graph" }));
    await page.waitForSelector("#legend button");
    assert.ok((await page.textContent("#legend button")).includes(escaped));
    const line = await page.locator("#plot path.js-line").first().boundingBox();
    for (let x = 0.2; x < 0.8; x += 0.1) await page.mouse.move(line.x + line.width * x, line.y + line.height / 2, { steps: 3 });
    await page.waitForSelector("#tip:not([hidden])");
    assert.ok((await page.textContent("#tip")).includes(escaped));
    await page.fill("#query", "");
    await page.keyboard.type('demo_hostile{text="');
    await page.waitForSelector("#suggestions li");
    assert.equal(await page.textContent("#suggestions .word"), hostile);
    await page.keyboard.press("Tab");
    assert.equal(await page.inputValue("#query"), `demo_hostile{text="${escaped}"`);
    await page.keyboard.type("}");
    await page.keyboard.press("Enter");
    await idle();
    assert.equal((await traces()).length, 1);
    assert.equal(await page.evaluate(() => document.querySelectorAll("main img").length), 0);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
  });

  await check("of many series the first hundred are drawn, and more if asked", async () => {
    await open(at("demo_many", { "g0.tab": "graph" }));
    assert.equal((await traces()).length, 100);
    assert.match(await page.textContent("#notes"), /The first 100 of 320 series are drawn\./);
    await page.click("#notes button");
    await page.waitForFunction(() => document.getElementById("plot").data.length === 320);
    assert.equal(await page.isVisible("#notes"), false);
  });

  await check("of a long table the first rows are shown, and more if asked", async () => {
    await open(at("demo_many", { "g0.tab": "table" }));
    assert.equal(await page.locator("#table tbody tr").count(), 250);
    await page.click("#table .more");
    assert.equal(await page.locator("#table tbody tr").count(), 320);
  });

  await check("the step can be given, and a bad range is said and not sent", async () => {
    await open(at("demo_temperature", { "g0.tab": "graph", "g0.step_input": "5m" }));
    assert.match(await page.textContent("#summary"), /· step 5m ·/);
    const points = await traces();
    assert.ok(points.every((count) => count === 12 || count === 13), String(points));
    const before = asked();
    await page.fill("#range", "soon");
    await page.keyboard.press("Enter");
    assert.match(await page.textContent("#control-error"), /A range is a duration/);
    assert.equal(asked(), before);
    await page.fill("#range", "30m");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => location.href.includes("g0.range_input=30m"));
    await idle();
    assert.equal(await page.isVisible("#control-error"), false);
  });

  await check("earlier, later, presets and now move the window", async () => {
    await open(at("demo_temperature", { "g0.tab": "graph" }));
    await page.click("#earlier");
    await page.waitForFunction(() => document.getElementById("end").value !== "" && !location.href.includes("15:41"));
    await idle();
    assert.equal(Date.parse(`${parameter("end_input").replace(" ", "T")}Z`), end - 1800000);
    await page.click("#later");
    await idle();
    assert.equal(Date.parse(`${parameter("end_input").replace(" ", "T")}Z`), end);
    await page.locator("#presets button", { hasText: "15m" }).click();
    await idle();
    assert.equal(parameter("range_input"), "15m");
    await page.click("#now");
    await idle();
    assert.equal(parameter("end_input"), null);
  });

  await check("times are shown in UTC if one likes, and the query stays", async () => {
    await open(at("demo_temperature", { "g0.tab": "graph" }));
    assert.equal(await page.inputValue("#end"), new Date(end + 3600000).toISOString().replace("T", " ").slice(0, 19));
    await page.click("#zone");
    await idle();
    assert.equal(await page.inputValue("#end"), endText);
    await page.click("#zone");
    await idle();
    assert.equal(parameter("end_input"), endText);
  });

  await check("a running query shows that it runs, and Escape stops it", async () => {
    await page.route("**/api/v1/query_range", async (route) => {
      await new Promise((done) => setTimeout(done, 3000));
      await route.continue().catch(() => {});
    });
    await page.goto(at("demo_temperature", { "g0.tab": "graph" }));
    await page.waitForSelector("#progress:not([hidden])", { state: "attached" });
    assert.equal(await page.textContent("#run"), "Stop");
    await page.focus("#query");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.getElementById("empty").textContent.startsWith("Stopped."));
    assert.equal(await page.textContent("#run"), "Run");
    await page.unroute("**/api/v1/query_range");
  });

  await check("while the server starts the page says so and asks again", async () => {
    expectedRefusals = 2;
    let refused = 0;
    await page.route("**/api/v1/query", async (route) => {
      refused += 1;
      if (refused > 1) return route.continue();
      return route.fulfill({ status: 503, contentType: "text/plain", headers: { "x-prometheus-stopping": "false" }, body: "Service Unavailable" });
    });
    await page.goto(at("demo_temperature", { "g0.tab": "table" }));
    await page.waitForFunction(() => document.getElementById("summary").textContent.includes("starting"));
    await page.waitForSelector("#table:not([hidden]) td");
    await page.unroute("**/api/v1/query");
    expectedRefusals = 0;
  });

  if (wire) {
    await check("native histograms are readable in the table, and the graph says why it has no line", async () => {
      const time = (start - 90000) / 1000;
      const when = new Date(time * 1000).toISOString().replace("T", " ").slice(0, 19);
      const found = await answered("prometheus_http_request_duration_seconds", time);
      const buckets = (series) => series.histogram?.[1].buckets?.length ?? 0;
      const [one] = found.toSorted((a, b) => buckets(b) - buckets(a));
      assert.ok(buckets(one) > 1, `no native histogram at ${when}`);
      const { __name__: name, ...labels } = one.metric;
      const selector = `${name}{${Object.entries(labels).map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(",")}}`;
      await open(at(selector, { "g0.tab": "table", "g0.end_input": when }));
      await page.locator("#table details summary").first().click();
      assert.ok((await page.textContent("#table details summary")).includes(`count ${one.histogram[1].count}`));
      assert.equal(await page.locator("#table details").first().locator("tr").count(), one.histogram[1].buckets.length);
      await shot("histogram-light");
      await open(at(name, { "g0.tab": "graph", "g0.end_input": when, "g0.range_input": "5m" }));
      assert.match(await page.textContent("#result"), /native histograms, which are no lines/);
    });

    await check("one series of native histograms is drawn as a field of its buckets", async () => {
      const query = "sum(prometheus_http_request_duration_seconds)";
      await open(at(query, { "g0.tab": "graph", "g0.end_input": "2026-11-21 13:40:00", "g0.range_input": "6m" }));
      const drawn = await page.evaluate(() => document.getElementById("plot").data.map((trace) => [trace.type, trace.z.length, trace.x.length]));
      const last = await answered(query, Date.parse("2026-11-21T13:40:00Z") / 1000);
      assert.equal(drawn.length, 1);
      assert.equal(drawn[0][0], "heatmap");
      assert.ok(drawn[0][1] >= last[0].histogram[1].buckets.length, String(drawn));
      const box = await page.locator("#plot .nsewdrag").boundingBox();
      await page.mouse.move(box.x + box.width * 0.98, box.y + box.height * 0.5, { steps: 4 });
      await page.mouse.move(box.x + box.width * 0.96, box.y + box.height * 0.5, { steps: 4 });
      await page.waitForSelector("#tip:not([hidden])");
      assert.match(await page.textContent("#tip"), /^2026-11-21 \d\d:\d\d:\d\d.*\d+in [\d.e-]+ … [\d.e-]+$/);
      await shot("heat-light");
    });
  }

  await check("scalars, strings and range selectors have their tables", async () => {
    await open(at("1+1", { "g0.tab": "table" }));
    assert.deepEqual(await page.locator("#table tbody td").allTextContents(), ["scalar", "2"]);
    await open(at('"a<b>"', { "g0.tab": "table" }));
    assert.deepEqual(await page.locator("#table tbody td").allTextContents(), ["string", "a<b>"]);
    await open(at("demo_temperature[1m]", { "g0.tab": "table" }));
    assert.equal(await page.locator("#table tbody tr").count(), 2);
    assert.match(await page.locator("#table tbody td.number").first().textContent(), /@ 2026-11-21/);
  });

  await check("the page of the head's series has its numbers and links", async () => {
    // The head may be cut between two questions: then they are asked again.
    for (let attempt = 1; ; attempt += 1) {
      await page.goto(`${base}/status/tsdb`);
      await page.waitForSelector("#seriesCountByMetricName tbody tr");
      const { data } = await (await fetch(`${base}/api/v1/status/tsdb`)).json();
      const lists = ["seriesCountByMetricName", "seriesCountByLabelValuePair", "labelValueCountByLabelName", "memoryInBytesByLabelName"];
      const names = (id) => page.locator(`#${id} tbody td:first-child`).allTextContents();
      const shown = [await page.textContent(".tile dd"), ...(await Promise.all(lists.map(names)))];
      const expected = [new Intl.NumberFormat("en-US").format(data.headStats.numSeries), ...lists.map((id) => data[id].map((one) => one.name))];
      if (attempt < 5 && JSON.stringify(shown) !== JSON.stringify(expected)) continue;
      assert.deepEqual(shown, expected);
      break;
    }
    await shot("tsdb-light");
    await page.locator("#seriesCountByMetricName tbody a").first().click();
    await idle();
    assert.equal(parameter("tab"), "table");
    assert.match(parameter("expr"), /^\{__name__="/);
  });

  await check("the page of the blocks has a row a block, sorts and filters", async () => {
    let blocks = [];
    const shipped = () => blocks.filter((block) => block.places.includes("bucket"));
    for (let waited = 0; shipped().length < 3 && waited < 180; waited += 1) {
      blocks = (await (await fetch(`${base}/api/v1/status/blocks`)).json()).data.blocks;
      if (shipped().length < 3) await new Promise((done) => setTimeout(done, 1000));
    }
    assert.ok(shipped().length >= 3, `blocks: ${blocks.length}, in the bucket: ${shipped().length}`);
    assert.deepEqual(shipped()[0].labels, { site: "ci" });
    await page.goto(`${base}/status/blocks`);
    await page.waitForSelector("#table tbody tr");
    const rows = await page.locator("#table tbody tr").count();
    assert.ok(rows >= blocks.length);
    assert.match(await page.textContent("#lead"), /in the bucket/);
    assert.ok((await page.locator("#table .tag", { hasText: 'site="ci"' }).count()) >= 3);
    await shot("blocks-light");
    const ulids = () => page.locator("#table tbody .mono").allTextContents();
    await page.locator("#table th button", { hasText: "ULID" }).click();
    const sorted = await ulids();
    assert.deepEqual(sorted, sorted.toSorted());
    await page.fill("#filter", blocks[0].ulid.toLowerCase());
    assert.deepEqual(await ulids(), [blocks[0].ulid]);
    await page.fill("#filter", "no such block");
    assert.match(await page.textContent("#table"), /No block is like that/);
  });

  await check("blocks of a bucket, of both places, downsampled and damaged ones are told apart", async () => {
    const block = (index, more) => ({
      ulid: `01M7ZMEXHKQD6HF7WKZG70B${String(index).padStart(3, "0")}`, places: ["bucket"], bytes: 734003200 + index, problem: null,
      minTime: start + index * 7200000, maxTime: start + (index + 1) * 7200000, level: 1, sources: 1, series: 120000, samples: 57600000,
      chunks: 480000, tombstones: 0, labels: { cluster: "eu1", replica: hostile }, resolution: 0, source: "receiver", ...more,
    });
    const blocks = [
      { ulid: "01M7ZMEXHKQD6HF7WKZG70B999", places: ["bucket"], bytes: null, problem: "partial: there is no meta.json" },
      { ulid: "01M7ZMEXHKQD6HF7WKZG70B998", places: ["local"], bytes: null, problem: "index: 01M7ZMEXHKQD6HF7WKZG70B998/index at 5: checksum is 9b8c1d2e, not 00000000" },
      block(0, { level: 3, maxTime: start + 5 * 7200000, source: "compactor", places: ["bucket"] }),
      block(0, { ulid: "01M7ZMEXHKQD6HF7WKZG70B005", level: 3, maxTime: start + 5 * 7200000, source: "compactor", resolution: 300000 }),
      block(1, { problem: "marked for deletion since 2026-11-21T10:00:00Z" }),
      block(5), block(6), block(7, { places: ["local", "bucket"] }), block(8, { places: ["local"], source: "head", labels: {} }),
    ];
    await page.route("**/api/v1/status/blocks", (route) => route.fulfill({ json: { status: "success", data: { bucket: "metrics (S3)", blocks } } }));
    await page.goto(`${base}/status/blocks`);
    await page.waitForSelector("#table tbody tr");
    const rows = () => page.locator("#table tbody tr:not(.below)").count();
    assert.equal(await rows(), blocks.length);
    assert.match(await page.textContent("#lead"), /metrics \(S3\)/);
    assert.equal(await page.locator("#table .trouble").count(), 3);
    assert.equal(await page.locator("#table img").count(), 0);
    await shot("bucket-light");
    for (const [place, count] of [["problem", 3], ["both", 1], ["local", 3], ["bucket", 7]]) {
      await page.selectOption("#place", place);
      assert.equal(await rows(), count, place);
    }
    await page.selectOption("#place", "");
    await page.fill("#filter", "compactor 5m");
    assert.equal(await rows(), 1);
    await page.unroute("**/api/v1/status/blocks");
  });

  await check("the page of the program has its version and flags", async () => {
    await page.goto(`${base}/status`);
    await page.waitForSelector("#flags tbody tr");
    await page.fill("#filter", "retention.time");
    assert.deepEqual(await page.locator("#flags tbody tr td").allTextContents(), ["--storage.tsdb.retention.time", "15d"]);
    await page.fill("#filter", "");
    await shot("status-light");
  });

  await check("Prometheus's own addresses lead here", async () => {
    await open(`${base}/graph?${new URLSearchParams({ "g0.expr": "demo_temperature", "g0.tab": "1", "g0.end_input": endText })}`);
    assert.equal(new URL(page.url()).pathname, "/");
    assert.equal(await page.locator("#table tbody tr").count(), 2);
    await page.goto(`${base}/tsdb-status`);
    assert.equal(new URL(page.url()).pathname, "/status/tsdb");
  });

  await check("dark is dark, by the system and by choice, and is remembered", async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    await page.emulateMedia({ colorScheme: "dark" });
    await open(at('sum by (code) (rate(demo_requests_total{job="demo"}[5m]))', { "g0.tab": "graph" }));
    const dark = await ground();
    await shot("graph-dark");
    await page.emulateMedia({ colorScheme: "light" });
    assert.notEqual(await ground(), dark);
    while ((await page.getAttribute("html", "data-theme")) !== "dark") await page.click("#theme");
    assert.equal(await ground(), dark);
    await page.reload();
    await idle();
    assert.equal(await ground(), dark);
    for (const [name, url] of [["table", at("demo_requests_total", { "g0.tab": "table" })], ["error", at("sum(", { "g0.tab": "table" })]]) {
      expectedRefusals = name === "error" ? 1 : 0;
      await open(url);
      await shot(`${name}-dark`);
    }
    expectedRefusals = 0;
    for (const name of ["tsdb", "blocks"]) {
      await page.goto(`${base}/status/${name}`);
      await page.waitForSelector("tbody tr");
      await shot(`${name}-dark`);
    }
    await page.evaluate(() => localStorage.clear());
  });

  await check("at 360 pixels no page scrolls sideways", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    const pages = {
      graph: at('sum by (code) (rate(demo_requests_total{job="demo"}[5m]))', { "g0.tab": "graph" }),
      table: at("demo_requests_total", { "g0.tab": "table" }), tsdb: `${base}/status/tsdb`, blocks: `${base}/status/blocks`, status: `${base}/status`,
    };
    for (const [name, url] of Object.entries(pages)) {
      await page.goto(url);
      await page.waitForSelector(name === "graph" ? "#legend button" : "tbody tr");
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(wide <= room, `${name}: ${wide} in ${room}`);
      await shot(`${name}-narrow`);
    }
    await page.setViewportSize({ width: 1280, height: 860 });
  });

  await check("axe finds nothing that keeps people out, light or dark", async () => {
    const axe = readFileSync(installed.resolve("axe-core/axe.min.js"), "utf8");
    const addresses = [
      `${base}/`, at("demo_requests_total", { "g0.tab": "graph" }), at("demo_requests_total", { "g0.tab": "table" }), at("sum(", { "g0.tab": "table" }),
      at("rate(demo_temperature[5m])", { "g0.tab": "graph" }), `${base}/status/tsdb`, `${base}/status/blocks`, `${base}/status`,
    ];
    const violations = [];
    expectedRefusals = 2;
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const url of addresses) {
        await page.goto(url);
        if (url.includes("/status")) await page.waitForSelector("tbody tr");
        else await idle();
        await page.evaluate(axe);
        // A text area may not be a combobox by the letter; an input has one line alone.
        const found = await page.evaluate(async () => (await globalThis.axe.run(document, { rules: { "aria-allowed-role": { enabled: false } } })).violations
          .map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(" ")}`));
        violations.push(...found.map((one) => `${colorScheme} ${url}: ${one}`));
      }
    }
    assert.deepEqual(violations, []);
    expectedRefusals = 0;
    await page.emulateMedia({ colorScheme: "light" });
  });

  await check("all controls are reached by Tab, in order, and the first leads to the content", async () => {
    await open(at("demo_temperature", { "g0.tab": "graph" }));
    await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
    const reached = [];
    for (let count = 0; count < 30; count += 1) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.textContent));
    }
    assert.equal(reached[0], "skip");
    const wanted = ["zone", "theme", "query", "format", "run", "tab-graph", "shorter", "range", "longer", "earlier", "end", "later", "now", "step"];
    assert.deepEqual(reached.filter((name) => wanted.includes(name)), wanted);
  });

  await check("the program beside, which only reads, has the same pages and answers", async () => {
    await page.goto(`${beside}/?${new URLSearchParams({ "g0.expr": "demo_temperature", "g0.tab": "table", "g0.end_input": endText })}`);
    await page.waitForSelector("#table:not([hidden]) td");
    assert.match(await page.title(), /narthex query$/);
    const values = (await answered("demo_temperature")).map((one) => one.value[1]);
    assert.deepEqual(await page.locator("#table tbody td.number").allTextContents(), values);
    await page.goto(`${beside}/status/blocks`);
    await page.waitForSelector("#table tbody tr");
  });

  await check("nothing was asked of any other host, and the console stayed clean", async () => {
    const hosts = new Set(requests.filter((url) => !/^(data|blob):/.test(url)).map((url) => new URL(url).origin));
    assert.deepEqual([...hosts].sort(), [base, beside].map((url) => new URL(url).origin).sort());
    assert.deepEqual(troubles, []);
  });

  await check("scripts are compressed and kept for good", async () => {
    const html = await (await fetch(`${base}/`)).text();
    const [address] = /ui\/[0-9a-f]{8}\//.exec(html);
    const answer = await fetch(`${base}/${address}plotly.js`);
    assert.equal(answer.headers.get("content-encoding"), "gzip");
    assert.match(answer.headers.get("cache-control"), /max-age=31536000, immutable/);
    assert.match(await answer.text(), /^\/\*\*\n\* plotly\.js v/);
  });
  console.log(`${checks} checks passed; screenshots are in ${directory}`);
} catch (error) {
  console.error(error);
  console.error("address:", page.url(), "\ntroubles:", troubles);
  await shot("failure").catch(() => {});
  process.exitCode = 1;
} finally {
  await browser.close();
}
