// The dashboard: tables, a SQL box, results. Everything comes from the public routes.
import { ask, element, showUser, size } from "./page.js";

const ROWS_SHOWN = 500;
const byId = (id) => document.getElementById(id);
const box = byId("sql");
const runButton = byId("run");
const results = byId("results");

/** An identifier as SQL takes it. */
function quoted(name) {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

async function showNode() {
  const { status, body, headers } = await ask("/v1/cluster");
  const version = headers.get("NearQL-Version");
  const here = status === 200 ? `node ${body.leader}` : "";
  byId("about").textContent = [version, here].filter(Boolean).join(" · ");
}

async function showTables() {
  const list = byId("tables");
  const { status, body } = await ask("/v1/tables");
  if (status !== 200) {
    list.replaceChildren(element("li", { className: "quiet" }, body.detail ?? "Not available."));
    return;
  }
  const open = new Set([...list.querySelectorAll("details[open]")].map((d) => d.dataset.name));
  const items = body.tables.map((table) => tableItem(table, open.has(table.name)));
  list.replaceChildren(...(items.length ? items : [noTables()]));
  if (!box.value && body.tables.length) box.value = examples(body.tables[0])[0].sql;
}

function noTables() {
  const sql = "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3));\n" +
    "INSERT INTO docs VALUES (1, 'one', '[1,0,0]'), (2, 'two', '[0.9,0.1,0]'), (3, 'three', '[0,0,1]');\n" +
    "SELECT id, title, vec <-> '[1,0,0]' AS d FROM docs ORDER BY d LIMIT 2";
  const make = element("button", { onclick: () => put(sql) }, "A first table");
  return element("li", { className: "quiet" }, element("p", {}, "There are no tables yet."), make);
}

function tableItem(table, open) {
  const columns = element("dl", { className: "small" });
  for (const column of table.schema.columns) {
    const name = column.primary_key ? `${column.name} (key)` : column.name;
    columns.append(element("dt", {}, name), element("dd", { className: "mono" }, column.type));
  }
  const count = table.rows === null ? "not available" : `${table.rows.toLocaleString()} rows`;
  const facts = table.bytes === null ? table.status : `${size(table.bytes)}, ${table.shards.length} shard(s)`;
  const actions = examples(table).map(({ label, sql }) => element("button", { onclick: () => put(sql) }, label));
  const details = element("details", { open },
    element("summary", {},
      element("span", { className: "name" }, table.name),
      element("span", { className: "count small" }, count)),
    columns,
    element("div", { className: "quiet small facts-line" }, facts),
    element("div", { className: "actions" }, ...actions));
  details.dataset.name = table.name;
  return element("li", {}, details);
}

/** Statements that work on this table as it is. */
function examples(table) {
  const name = quoted(table.name);
  const columns = table.schema.columns;
  const isVector = (column) => /^(VECTOR|HALFVEC)/.test(column.type);
  const plain = columns.filter((column) => !isVector(column)).map((column) => quoted(column.name));
  const made = [{ label: "Rows", sql: `SELECT * FROM ${name} LIMIT 10` },
    { label: "Count", sql: `SELECT count(*) FROM ${name}` }];
  const vector = columns.find(isVector);
  const key = columns.find((column) => column.primary_key);
  if (vector && key && table.rows) {
    const vec = quoted(vector.name);
    const some = `(SELECT ${vec} FROM ${name} WHERE ${vec} IS NOT NULL ORDER BY ${quoted(key.name)} LIMIT 1)`;
    made.unshift({
      label: "Nearest",
      sql: `SELECT ${plain.slice(0, 4).join(", ")},\n       ${vec} <-> ${some} AS distance\n` +
        `FROM ${name}\nORDER BY distance\nLIMIT 10`,
    });
  }
  return made;
}

function put(sql) {
  box.value = sql;
  box.focus();
}

async function run() {
  const sql = box.value;
  if (!sql.trim()) return;
  runButton.disabled = true;
  const began = performance.now();
  const headers = { "Content-Type": "application/json" };
  const { status, body } = await ask("/v1/sql", { method: "POST", headers, body: JSON.stringify({ sql }) });
  const took = performance.now() - began;
  runButton.disabled = false;
  results.replaceChildren(status === 200 ? answerPanel(body, took) : problemPanel(body, sql));
  if (status === 200) showTables();
}

function answerPanel(body, took) {
  const facts = element("dl", { className: "facts" });
  const fact = (name, value) => facts.append(
    element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  fact(body.columns.length ? "rows" : "rows affected", body.row_count.toLocaleString());
  fact("server", `${body.stats.elapsed_ms.toFixed(2)} ms`);
  fact("round trip", `${took.toFixed(1)} ms`);
  if (body.stats.strategy) fact("strategy", body.stats.strategy);
  if (body.stats.write) fact("durable on", `${body.stats.write.copies} node(s)`);
  const notices = (body.notices ?? []).map((text) => element("p", { className: "notice" }, text));
  const inner = element("div", { className: "inner" }, facts, ...notices);
  if (body.columns.length) inner.append(grid(body));
  return element("div", { className: "panel" }, inner);
}

function grid(body) {
  const numeric = body.columns.map((column) => /^(U?(TINY|SMALL|BIG|HUGE)?INT|INTEGER|UINTEGER|FLOAT|DOUBLE|DECIMAL)/.test(column.type) && !column.type.endsWith("]"));
  const head = body.columns.map((column, i) => element("th", { className: numeric[i] ? "number" : "" },
    column.name, element("span", { className: "type" }, column.type)));
  const shown = body.rows.slice(0, ROWS_SHOWN);
  const rows = shown.map((row) => element("tr", {}, ...row.map((value, i) => cell(value, numeric[i]))));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const all = element("div", {}, element("div", { className: "scroll" }, table));
  if (body.rows.length > shown.length) {
    all.append(element("p", { className: "quiet small" },
      `The first ${shown.length} of ${body.rows.length.toLocaleString()} rows are shown.`));
  }
  return all;
}

function cell(value, numeric) {
  if (value === null) return element("td", { className: "null" }, "null");
  if (Array.isArray(value)) return element("td", {}, listCell(value));
  if (typeof value === "object") return element("td", { className: "mono" }, JSON.stringify(value));
  return element("td", { className: numeric ? "number" : "" }, String(value));
}

/** Long lists (vectors) show their first values; a click shows them all. */
function listCell(list) {
  const text = JSON.stringify(list);
  if (list.length <= 4) return element("span", { className: "mono" }, text);
  const first = list.slice(0, 3).map((v) => (typeof v === "number" ? v.toFixed(3) : JSON.stringify(v)));
  const all = element("pre", { hidden: true }, text);
  const button = element("button", { className: "vector", title: "Show every value" },
    `[${first.join(", ")}, … ${list.length}]`);
  button.onclick = () => { all.hidden = !all.hidden; };
  return element("div", {}, button, all);
}

function problemPanel(problem, sql) {
  const panel = element("div", { className: "problem", role: "alert" },
    element("strong", {}, problem.title ?? "Error"), element("div", {}, problem.detail ?? ""));
  if (problem.position) panel.append(element("pre", {}, pointer(sql, problem.position)));
  const facts = [problem.code, problem.sqlstate, problem.request_id && `request ${problem.request_id}`];
  panel.append(element("div", { className: "quiet small" }, facts.filter(Boolean).join(" · ")));
  return panel;
}

/** The line of the mistake, and a caret below its place. */
function pointer(sql, position) {
  const before = [...sql].slice(0, position - 1).join("");
  const start = before.lastIndexOf("\n") + 1;
  const line = sql.slice(start).split("\n", 1)[0];
  return `${line}\n${" ".repeat([...before.slice(start)].length)}^`;
}

runButton.addEventListener("click", run);
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
});
showNode();
showUser(document.querySelector("nav"));
showTables();
