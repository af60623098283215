// The answer of a statement: facts, notices, rows; vectors are collapsed; export as CSV and JSON.
import { button, count, duration, element, nothing } from "./page.js";

const ROWS_SHOWN = 200;
const TEXT_SHOWN = 160;
const NUMERIC = /^(U?(TINY|SMALL|BIG|HUGE)?INT|INTEGER|UINTEGER|FLOAT|DOUBLE|DECIMAL|REAL)/;

/** The panels of one answer. took: ms until the browser had it. */
export function answerParts(body, took) {
  const facts = element("dl", { className: "facts" });
  const fact = (name, value) => facts.append(
    element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  fact(body.columns.length ? "rows" : "rows affected", count(body.row_count));
  fact("server", duration(body.stats.elapsed_ms));
  if (body.stats.search_ms !== undefined) fact("search", duration(body.stats.search_ms));
  fact("round trip", duration(took));
  if (body.stats.strategy) fact("strategy", body.stats.strategy);
  if (body.stats.write) fact("durable on", `${body.stats.write.copies} ${body.stats.write.copies === 1 ? "node" : "nodes"}`);
  fact("node", body.stats.node);
  const head = element("div", { className: "panel-head" }, element("h2", {}, "Answer"));
  if (body.rows.length) {
    head.append(element("div", { className: "end" },
      button("CSV", () => download("answer.csv", "text/csv", csv(body)), { className: "tiny", title: "Save every row as CSV" }),
      button("JSON", () => download("answer.json", "application/json", json(body)), { className: "tiny", title: "Save every row as JSON" })));
  }
  const notices = (body.notices ?? []).map((text) => element("p", { className: "notice" }, text));
  const made = element("section", { className: "panel result" }, head, facts);
  if (notices.length) made.append(element("div", { className: "inner" }, ...notices));
  if (body.columns.length) made.append(...rowsOf(body));
  return [made];
}

/** The table of a result, and a way to the rows that are not shown at first. */
export function rowsOf(body) {
  const numeric = body.columns.map((column) => NUMERIC.test(column.type) && !column.type.endsWith("]"));
  const head = body.columns.map((column, i) => element("th", { className: numeric[i] ? "number" : "", scope: "col" },
    column.name, element("span", { className: "type" }, column.type)));
  const lines = element("tbody", {});
  const box = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Rows of the answer" },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), lines));
  const more = element("div", { className: "bar" });
  const show = (upTo) => {
    const shown = lines.children.length;
    lines.append(...body.rows.slice(shown, upTo).map((row) => element("tr", {}, ...row.map((value, i) => cell(value, numeric[i])))));
    const left = body.rows.length - lines.children.length;
    more.hidden = !left;
    more.replaceChildren(element("span", { className: "hint" },
      `${count(lines.children.length)} of ${count(body.rows.length)} rows are shown.`),
    button(`Show ${count(Math.min(left, 1000))} more`, () => show(lines.children.length + 1000), { className: "tiny" }));
  };
  show(ROWS_SHOWN);
  return body.rows.length ? [box, more] : [box, nothing("No rows.")];
}

function cell(value, numeric) {
  if (value === null) return element("td", { className: "null" }, "null");
  if (Array.isArray(value)) return element("td", {}, listCell(value));
  if (typeof value === "object") return element("td", { className: "mono" }, JSON.stringify(value));
  const text = String(value);
  if (text.length > TEXT_SHOWN) return element("td", {}, folded(`${text.slice(0, TEXT_SHOWN)}…`, text, "vector text"));
  return element("td", { className: numeric ? "number" : "" }, text);
}

/** Long lists (vectors) show their first values; a click shows them all. */
function listCell(list) {
  const text = JSON.stringify(list);
  if (list.length <= 4) return element("span", { className: "mono" }, text);
  const first = list.slice(0, 3).map((v) => (typeof v === "number" ? v.toFixed(3) : JSON.stringify(v)));
  return folded(`[${first.join(", ")}, … ${list.length}]`, text, "vector");
}

/** The beginning of something long; a click shows all of it. */
function folded(beginning, whole, className) {
  const all = element("pre", { hidden: true }, whole);
  const toggle = button(beginning, () => {
    all.hidden = !all.hidden;
    toggle.ariaExpanded = String(!all.hidden);
  }, { className, title: "Show all of it" });
  toggle.ariaExpanded = "false";
  return element("div", {}, toggle, all);
}

/** RFC 4180; lists and objects as JSON, NULL as nothing. */
export function csv(body) {
  const field = (value) => {
    if (value === null) return "";
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\r\n]/.test(text) || text === "" ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [body.columns.map((column) => field(column.name)), ...body.rows.map((row) => row.map(field))];
  return `${lines.map((line) => line.join(",")).join("\r\n")}\r\n`;
}

function json(body) {
  return JSON.stringify({ columns: body.columns, rows: body.rows }, null, 1);
}

function download(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
