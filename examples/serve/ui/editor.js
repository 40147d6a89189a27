// The query field: its colours, and what it offers to complete.
//
// The text area's own text is transparent; under it lies the same text in colour. What can be completed follows from the
// tokens before the caret: inside `{}` a label's name, behind an operator there its values, inside `by ()` a label's name,
// inside `[]` a duration, elsewhere metrics and functions. Names and values are the API's, asked for as they are needed.
import { api, el, labelName, quoted, remember, remembered } from "./common.js";
import { aggregations, functions } from "./language.js";

const groupings = new Set(["by", "without", "on", "ignoring", "group_left", "group_right"]);
const wordOperators = new Set(["and", "or", "unless", "atan2"]);
const keywords = new Set([...groupings, ...wordOperators, "bool", "offset", "anchored", "smoothed", "fill", "fill_left", "fill_right"]);
const afterOperand = { and: "both sides", or: "either side", unless: "not the right side", by: "keep these labels", without: "drop these labels", on: "match these labels", ignoring: "match all other labels", group_left: "many to one", group_right: "one to many", offset: "shift in time", bool: "0 or 1", atan2: "operator" };
const isAggregation = new Set(aggregations);
const durations = ["1m", "5m", "10m", "15m", "30m", "1h", "6h", "1d", "1w"];

const shapes = [
  ["comment", /#[^\n]*/y],
  ["string", /"(?:\\[^]|[^"\\])*"?|'(?:\\[^]|[^'\\])*'?|`[^`]*`?/y],
  ["number", /0x[\da-f]+|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+|(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)?(?![a-zA-Z_])/iy],
  ["word", /[a-zA-Z_:][\w:]*/y],
  ["operator", /=~|!~|==|!=|<=|>=|[^]/y],
];

/** The tokens of a query, blanks left out: `{kind, from, to, text}`. Never fails: what is no token is an operator. */
export function tokens(text) {
  const found = [];
  let at = 0;
  while (at < text.length) {
    const blank = /\s+/y;
    blank.lastIndex = at;
    if (blank.test(text)) {
      at = blank.lastIndex;
      continue;
    }
    for (const [kind, shape] of shapes) {
      shape.lastIndex = at;
      if (shape.test(text)) {
        found.push({ kind, from: at, to: shape.lastIndex, text: text.slice(at, shape.lastIndex) });
        at = shape.lastIndex;
        break;
      }
    }
  }
  return found;
}

const isClosed = (token) => token.text.length > 1 && token.text.endsWith(token.text[0]) && !/[^\\](\\\\)*\\.$/.test(token.text);
const unquoted = (token) => token.text.slice(1, isClosed(token) ? -1 : undefined).replace(/\\(.)/g, "$1");

/** What stands at the caret: `{kind, from, to, typed, …}` with the part of the text that a completion replaces. */
export function context(text, caret) {
  const all = tokens(text);
  const touched = all.find((token) => token.from < caret && (token.to > caret || (token.to === caret && (token.kind === "word" || token.kind === "number" || (token.kind === "string" && !isClosed(token)) || token.kind === "comment"))));
  if (touched?.kind === "comment") return null;
  const before = all.filter((token) => token.to <= caret && token !== touched && token.kind !== "comment");
  const stack = [];
  before.forEach((token, index) => {
    if (token.kind !== "operator") return;
    if ("({[".includes(token.text)) stack.push({ open: token.text, index });
    else if (")}]".includes(token.text)) stack.pop();
  });
  const inner = stack.at(-1);
  const typed = touched ? text.slice(touched.from, caret) : "";
  const span = { from: touched?.from ?? caret, to: touched?.to ?? caret, typed };
  if (inner?.open === "[") return { kind: "duration", ...span };
  if (inner?.open === "{") {
    const name = before[inner.index - 1];
    const metric = name?.kind === "word" && !keywords.has(name.text) ? name.text : null;
    const parts = [[]];
    for (const token of before.slice(inner.index + 1)) {
      if (token.text === ",") parts.push([]);
      else parts.at(-1).push(token);
    }
    const current = parts.pop();
    // Matchers behind the caret count too: they narrow what can stand here.
    const behind = [];
    let rest = all.slice(before.length + (touched ? 1 : 0));
    const end = rest.findIndex((token) => token.text === "}" || token.text === "{");
    rest = end < 0 ? [] : rest.slice(0, end);
    let list = [];
    for (const token of [...rest, { text: "," }]) {
      if (token.text === ",") {
        behind.push(list);
        list = [];
      } else list.push(token);
    }
    const matchers = [...parts, ...behind]
      .filter((part) => part.length === 3 && part[2].kind === "string" && isClosed(part[2]))
      .map((part) => part.map((token) => token.text).join(""));
    const [label, operator] = current;
    if (current.length >= 2 && /^(=|!=|=~|!~)$/.test(operator.text)) {
      if (current.length > 2 || (touched && touched.kind !== "string")) return null;
      const quote = touched ? touched.text[0] : null;
      const closed = touched ? isClosed(touched) : false;
      return {
        kind: "value", metric, matchers, label: label.kind === "string" ? unquoted(label) : label.text, quote, closed,
        from: touched ? touched.from + 1 : caret, to: touched ? touched.to - (closed ? 1 : 0) : caret,
        typed: touched ? text.slice(touched.from + 1, caret) : "",
      };
    }
    if (current.length > 0 || (touched && touched.kind !== "word")) return null;
    return { kind: "label", metric, matchers, ...span };
  }
  if (touched && touched.kind !== "word" && before.at(-1)?.text !== "offset") return null;
  if (inner?.open === "(" && groupings.has(before[inner.index - 1]?.text)) {
    // Which of the words are metrics shows when the names are there.
    const metrics = all.filter((token) => token.kind === "word" && !keywords.has(token.text));
    return { kind: "grouping", metrics: metrics.map((token) => token.text), ...span };
  }
  const last = before.at(-1);
  if (last?.text === "offset") return { kind: "duration", ...span };
  if (last && isAggregation.has(last.text)) return { kind: "aggregated", ...span };
  const operand = last && (")}]".includes(last.text) || last.kind === "number" || last.kind === "string" || (last.kind === "word" && !keywords.has(last.text)));
  // A word right at the end of an operand is none of its own: `5m` and what follows.
  if (operand) return { kind: "operand", ...span };
  return { kind: "name", ...span };
}

/** How well `word` fits what was typed: smaller is better, null not at all. */
function fit(word, typed) {
  if (typed === "") return 0;
  const lower = word.toLowerCase();
  const wanted = typed.toLowerCase();
  if (word.startsWith(typed)) return word.length === typed.length ? -1 : 0;
  if (lower.startsWith(wanted)) return 1;
  const at = lower.indexOf(wanted);
  if (at > 0) return /[_:.\-/]/.test(lower[at - 1]) ? 2 : 3;
  let from = 0;
  for (const char of wanted) {
    from = lower.indexOf(char, from) + 1;
    if (from === 0) return null;
  }
  return 4;
}

/** Lists of the API, each asked for once in half a minute. */
class Lists {
  #kept = new Map();

  async #get(path, parameters, read) {
    const key = `${path}?${new URLSearchParams(Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((one) => [name, one])))}`;
    const now = performance.now();
    const kept = this.#kept.get(key);
    if (kept && now - kept.at < 30000) return kept.list;
    const list = api(path, parameters).then((answer) => read(answer.data), () => {
      this.#kept.delete(key);
      return read(null);
    });
    if (this.#kept.size > 100) this.#kept.delete(this.#kept.keys().next().value);
    this.#kept.set(key, { at: now, list });
    return list;
  }

  names(range) {
    return this.#get("label/__name__/values", { ...range, limit: 50000 }, (data) => data ?? []);
  }

  labels(range, matchers) {
    return this.#get("labels", { ...range, "match[]": matchers }, (data) => data ?? []);
  }

  values(range, label, matchers) {
    return this.#get(`label/${encodeURIComponent(label)}/values`, { ...range, "match[]": matchers, limit: 5000 }, (data) => data ?? []);
  }

  /** Type and help by metric. */
  metadata() {
    return this.#get("metadata", {}, (data) => new Map(Object.entries(data ?? {}).map(([name, [first]]) => [name, first])));
  }
}

const most = 60;

export class Editor {
  #field;
  #painted;
  #list;
  #lists = new Lists();
  #options;
  #offered = [];
  #chosen = -1;
  #moved = false;
  #context = null;
  #asked = 0;
  #wrong = null;

  /** `options`: `run()`, `stop()`, `range()` in seconds for the lists, `changed()`. */
  constructor(field, painted, list, options) {
    this.#field = field;
    this.#painted = painted;
    this.#list = list;
    this.#options = options;
    field.addEventListener("input", (event) => {
      this.#wrong = null;
      this.paint();
      options.changed?.();
      if (event.inputType?.startsWith("delete") && !this.#open) return;
      this.#offer(false);
    });
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("blur", () => this.close());
    field.addEventListener("click", () => this.close());
    field.addEventListener("scroll", () => { painted.scrollTop = field.scrollTop; });
    new ResizeObserver(() => this.#grow()).observe(field.parentElement);
    // So that the first letter finds them.
    field.addEventListener("focus", () => { this.#lists.names(options.range()); this.#lists.metadata(); }, { once: true });
  }

  get text() {
    return this.#field.value;
  }

  set text(text) {
    this.#field.value = text;
    this.#wrong = null;
    this.paint();
  }

  /** Underlines the token at `line` and `column` (in bytes of UTF-8, both from 1), and answers where that is. */
  mark(line, column) {
    const lines = this.text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    const bytes = new TextEncoder().encode(lines[line - 1] ?? "");
    const shown = new TextDecoder().decode(bytes.slice(0, column - 1));
    const from = start + shown.length;
    const token = tokens(this.text).find((one) => one.from <= from && from < one.to);
    this.#wrong = { from, to: token ? token.to : from + 1 };
    this.paint();
    return { line: lines[line - 1] ?? "", column: [...shown].length, length: Math.max(1, [...this.text.slice(from, this.#wrong.to)].length) };
  }

  unmark() {
    this.#wrong = null;
    this.paint();
  }

  paint() {
    const text = this.text;
    const out = [];
    const wrong = this.#wrong;
    const piece = (from, to, kind) => {
      if (from >= to) return;
      // A piece that is partly at fault is painted in up to three.
      if (wrong && from < wrong.to && to > wrong.from) {
        const a = Math.max(from, wrong.from);
        const b = Math.min(to, wrong.to);
        out.push(span(from, a, kind), span(a, b, `${kind} tok-wrong`), span(b, to, kind));
      } else out.push(span(from, to, kind));
    };
    const span = (from, to, kind) => (from < to ? el("span", { class: kind.trim() || null }, text.slice(from, to)) : "");
    let at = 0;
    const all = tokens(text);
    let braces = 0;
    all.forEach((token, index) => {
      piece(at, token.from, "");
      let kind = { comment: "tok-comment", string: "tok-string", number: "tok-number" }[token.kind] ?? "";
      if (token.text === "{") braces += 1;
      if (token.text === "}") braces -= 1;
      if (token.kind === "word") {
        const next = all[index + 1]?.text;
        if (braces > 0) kind = "tok-label";
        else if (isAggregation.has(token.text) && (next === "(" || next === "by" || next === "without")) kind = "tok-function";
        else if (Object.hasOwn(functions, token.text) && next === "(") kind = "tok-function";
        else if (keywords.has(token.text)) kind = "tok-keyword";
      }
      piece(token.from, token.to, kind);
      at = token.to;
    });
    piece(at, text.length, "");
    if (wrong && wrong.from >= text.length) out.push(el("span", { class: "tok-wrong" }, "\u00a0"));
    this.#painted.replaceChildren(...out, "\u200b");
    this.#grow();
  }

  #grow() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, 320)}px`;
    this.#field.style.overflowY = this.#field.scrollHeight > 320 ? "auto" : "hidden";
  }

  /** Keeps a query among the latest. */
  keep(query) {
    const kept = (remembered("narthex.history") ?? []).filter((one) => one !== query);
    remember("narthex.history", [query, ...kept].slice(0, 40));
  }

  get #open() {
    return !this.#list.hidden;
  }

  close() {
    this.#asked += 1;
    this.#list.hidden = true;
    this.#field.setAttribute("aria-expanded", "false");
    this.#field.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    if (event.isComposing) return;
    const open = this.#open;
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (open && this.#moved && plain) this.#accept(this.#chosen);
      else {
        this.close();
        this.#options.run();
      }
    } else if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      this.#offer(true);
    } else if (event.key === "Escape") {
      if (open) {
        event.preventDefault();
        this.close();
      } else this.#options.stop();
    } else if (event.key === "Tab" && plain && !event.shiftKey && open && this.#chosen >= 0) {
      event.preventDefault();
      this.#accept(this.#chosen);
    } else if (open && plain && ["ArrowDown", "ArrowUp", "PageDown", "PageUp"].includes(event.key)) {
      event.preventDefault();
      const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
      const count = this.#offered.length;
      if (count === 0) return;
      const next = this.#moved || by !== 1 || this.#chosen < 0 ? this.#chosen + by : this.#chosen + 1;
      this.#moved = true;
      this.#choose(Math.abs(by) === 1 ? (next + count) % count : Math.min(count - 1, Math.max(0, next)));
    } else if (event.key === "ArrowDown" && plain && this.text === "") {
      event.preventDefault();
      this.#offer(true);
    }
  }

  async #offer(explicit) {
    const asked = ++this.#asked;
    const { selectionStart: caret, selectionEnd: end } = this.#field;
    const found = caret === end ? context(this.text, caret) : null;
    const empty = found?.typed === "";
    if (!found || (!explicit && empty && !["label", "value", "duration", "grouping", "aggregated"].includes(found.kind))) {
      this.close();
      return;
    }
    const items = await this.#items(found, explicit);
    if (asked !== this.#asked || document.activeElement !== this.#field) return;
    const fitting = items
      .map((item) => ({ ...item, fit: fit(item.word, found.typed) }))
      .filter((item) => item.fit !== null)
      .sort((a, b) => a.fit - b.fit || (a.rank ?? 0) - (b.rank ?? 0) || (found.typed === "" ? 0 : a.word.length - b.word.length))
      .slice(0, most);
    // Nothing to add to what stands there.
    const done = fitting.length > 0 && fitting[0].word === found.typed && !explicit && (fitting.length === 1 || found.kind === "duration");
    if ((fitting.length === 0 && !explicit) || done) {
      this.close();
      return;
    }
    this.#context = found;
    this.#show(fitting);
  }

  async #items(found, explicit) {
    const range = this.#options.range();
    const selector = () => {
      const inside = [...(found.metric ? [`__name__=${quoted(found.metric)}`] : []), ...found.matchers];
      // A matcher that matches the empty text alone selects everything, which the API refuses.
      return inside.some((one) => !/(=""|=~""|!=|!~)/.test(one)) ? [`{${inside.join(",")}}`] : [];
    };
    switch (found.kind) {
      case "duration":
        return durations.map((word) => ({ word, what: "duration" }));
      case "label": {
        const names = await this.#lists.labels(range, selector());
        return names.filter((name) => name !== "__name__").map((word) => ({ word, what: "label", text: labelName(word), matcher: true }));
      }
      case "value": {
        const values = await this.#lists.values(range, found.label, selector());
        return values.filter((value) => value !== "").map((word) => ({ word, what: found.label }));
      }
      case "grouping": {
        const known = new Set(await this.#lists.names(range));
        const metrics = [...new Set(found.metrics)].filter((name) => known.has(name));
        const names = await this.#lists.labels(range, metrics.map((name) => `{__name__=${quoted(name)}}`));
        return names.map((word) => ({ word, what: "label", text: labelName(word) }));
      }
      case "aggregated":
        return ["by", "without"].map((word) => ({ word, what: afterOperand[word], text: `${word} (` }));
      case "operand":
        return Object.entries(afterOperand).map(([word, what]) => ({ word, what, text: groupings.has(word) ? `${word} (` : `${word} ` }));
      default: {
        const [names, metadata] = await Promise.all([this.#lists.names(range), this.#lists.metadata()]);
        const metrics = names.map((word) => {
          const known = metadata.get(word) ?? metadata.get(word.replace(/_(bucket|sum|count|total)$/, ""));
          const what = known ? [known.type, known.help].filter(Boolean).join(" · ") : "metric";
          return { word, what, rank: 1, text: /^[a-zA-Z_:][\w:]*$/.test(word) ? word : `{${quoted(word)}}` };
        });
        if (this.text === "" && explicit) {
          const kept = (remembered("narthex.history") ?? []).map((word) => ({ word, what: "lately", rank: 0 }));
          return [...kept, ...metrics];
        }
        return [
          ...metrics,
          ...Object.entries(functions).map(([word, what]) => ({ word, what, text: `${word}(`, rank: 2 })),
          ...aggregations.map((word) => ({ word, what: "aggregation", text: `${word} `, rank: 0 })),
          ...["bool", "on", "ignoring"].map((word) => ({ word, what: afterOperand[word], text: word === "bool" ? "bool " : `${word} (`, rank: 3 })),
        ];
      }
    }
  }

  #show(items) {
    this.#offered = items;
    this.#moved = false;
    this.#chosen = items.length > 0 ? 0 : -1;
    const typed = this.#context.typed;
    const entries = items.map((item, index) => {
      const at = typed === "" ? -1 : item.word.toLowerCase().indexOf(typed.toLowerCase());
      const word = el("span", { class: "word" }, ...(at < 0 ? [item.word] : [item.word.slice(0, at), el("b", {}, item.word.slice(at, at + typed.length)), item.word.slice(at + typed.length)]));
      const entry = el("li", { role: "option", id: `suggestion-${index}`, "aria-selected": "false" }, word, el("span", { class: "what" }, item.what));
      // The field keeps the focus.
      entry.addEventListener("mousedown", (event) => event.preventDefault());
      entry.addEventListener("click", () => this.#accept(index));
      return entry;
    });
    if (items.length === 0) entries.push(el("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "No suggestions"));
    this.#list.replaceChildren(...entries);
    this.#list.hidden = false;
    this.#list.scrollTop = 0;
    this.#field.setAttribute("aria-expanded", "true");
    this.#place();
    if (this.#chosen >= 0) this.#choose(this.#chosen);
  }

  /** Puts the list under the first character that it replaces. */
  #place() {
    const editor = this.#field.parentElement.getBoundingClientRect();
    let rest = this.#context.from;
    const walker = document.createTreeWalker(this.#painted, NodeFilter.SHOW_TEXT);
    let node = walker.nextNode();
    while (node && rest > node.length) {
      rest -= node.length;
      node = walker.nextNode();
    }
    const range = document.createRange();
    if (node) range.setStart(node, Math.min(rest, node.length));
    else range.selectNodeContents(this.#painted);
    const at = range.getBoundingClientRect();
    const widest = Math.max(0, editor.width - this.#list.offsetWidth);
    this.#list.style.left = `${Math.min(widest, Math.max(0, at.left - editor.left - 13))}px`;
    this.#list.style.top = `${(at.bottom || editor.bottom) - editor.top + 10}px`;
  }

  #choose(index) {
    this.#list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    this.#chosen = index;
    const entry = this.#list.children[index];
    entry.setAttribute("aria-selected", "true");
    entry.scrollIntoView({ block: "nearest" });
    this.#field.setAttribute("aria-activedescendant", entry.id);
  }

  #accept(index) {
    const item = this.#offered[index];
    const found = this.#context;
    if (!item) return;
    const behind = this.text.slice(found.to);
    let insert = item.text ?? item.word;
    if (insert.endsWith("(") && /^\s*\(/.test(behind)) insert = insert.slice(0, -1);
    if (insert.endsWith(" ") && /^\s/.test(behind)) insert = insert.slice(0, -1);
    if (found.kind === "value") {
      const quote = found.quote ?? '"';
      const value = quote === "`" ? item.word : item.word.replace(/\\/g, "\\\\").replaceAll(quote, `\\${quote}`).replace(/\n/g, "\\n");
      insert = `${found.quote ? "" : quote}${value}${found.closed ? "" : quote}`;
    }
    let again = insert.endsWith("(");
    if (item.matcher && !/^\s*(=|!)/.test(behind)) {
      insert += '="';
      again = true;
    }
    this.close();
    this.#field.setSelectionRange(found.from, found.to);
    // As if it had been typed, so that undo takes it back.
    if (!document.execCommand("insertText", false, insert)) {
      this.#field.setRangeText(insert, found.from, found.to, "end");
      this.paint();
      this.#options.changed?.();
    }
    if (found.kind === "value" && found.closed) this.#field.setSelectionRange(this.#field.selectionStart + 1, this.#field.selectionStart + 1);
    if (again || item.text?.endsWith(" ")) this.#offer(false);
    else this.close();
  }
}
