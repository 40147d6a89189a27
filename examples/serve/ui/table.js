// Tables whose columns sort: a heading is a button, and a click on it turns the order.
import { el } from "./common.js";

/**
 * Fills `place` with a table. A column is `{title, value(row), show?(row), number?, class?}`; `value` sorts, `show` gives
 * a node or a text. `below(row)` may give a line of its own under a row. At most `limit` rows at first; a button shows more.
 */
export function table(place, columns, rows, { sort = null, descending = false, limit = 500, caption, below, empty = "Nothing." } = {}) {
  let shown = limit;
  let order = { column: sort, descending };

  function sorted() {
    if (order.column === null) return rows;
    const value = columns[order.column].value;
    const turn = order.descending ? -1 : 1;
    const compare = (a, b) => {
      if (a === b) return 0;
      // What is not known comes last, whichever way.
      if (a === null || a === undefined) return turn;
      if (b === null || b === undefined) return -turn;
      return a < b ? -1 : 1;
    };
    return rows.toSorted((a, b) => turn * compare(value(a), value(b)));
  }

  function draw(focus) {
    if (rows.length === 0) {
      place.replaceChildren(el("p", { class: "empty" }, empty));
      return;
    }
    const headings = columns.map((column, index) => {
      const active = order.column === index;
      const button = el("button", {
        type: "button",
        onclick: () => {
          const descending = active ? !order.descending : Boolean(column.number);
          order = { column: index, descending };
          draw(index);
        },
      }, column.title);
      const direction = active ? (order.descending ? "descending" : "ascending") : null;
      return el("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": direction }, button);
    });
    const body = el("tbody");
    for (const row of sorted().slice(0, shown)) {
      const line = el("tr");
      for (const column of columns) {
        const content = column.show ? column.show(row) : column.value(row);
        const cell = el("td", { class: [column.number && "number", column.class].filter(Boolean).join(" ") || null }, content ?? "–");
        line.append(cell);
      }
      body.append(line);
      const note = below?.(row);
      if (note) {
        line.classList.add("noted");
        body.append(el("tr", { class: "below" }, el("td", { colspan: columns.length }, note)));
      }
    }
    const head = el("thead", {}, el("tr", {}, ...headings));
    const made = el("table", {}, caption ? el("caption", { class: "visually-hidden" }, caption) : null, head, body);
    place.replaceChildren(el("div", { class: "scroll" }, made));
    if (rows.length > shown) {
      const more = el("button", { type: "button", class: "more", onclick: () => { shown += 10 * limit; draw(); } },
        `Show more (${rows.length - shown} left)`);
      place.append(more);
    }
    if (focus !== undefined) headings[focus].firstChild.focus();
  }
  draw();
}

/** A tile with a number; `kind` is `bad`, or `text` for what is none. */
export function tile(title, value, note, kind = "") {
  return el("dl", { class: `tile ${kind}` }, el("dt", {}, title), el("dd", {}, value, note ? el("small", {}, note) : null));
}
