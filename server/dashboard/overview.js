// Overview: how much there is, how fast it answers, how well, and with what.
import { Chart } from "./chart.js";
import {
  ask, button, clock, count, duration, element, every, grid, nothing, pageTitle, panel, problemBox, put,
  quoted, records, size, sql,
} from "./page.js";
import { onReading, readings, refusal, steps } from "./samples.js";

const SAMPLED = 32; // queries of one measurement of recall
const measured = new Map(); // table.column -> {recall, strategy, at}; kept while the page is open

function tile(name) {
  const value = element("div", { className: "value" }, "…");
  const note = element("div", { className: "note" });
  return { node: element("section", { className: "panel tile" }, element("h2", {}, name), value, note), value, note };
}

/** Two significant digits at least, and no more than a person reads. */
function rate(value) {
  if (value === null || value === undefined) return "not known";
  return value >= 100 ? count(Math.round(value)) : value.toFixed(value < 10 && value !== 0 ? 2 : 1);
}

export function open(main) {
  const { title, asOf } = pageTitle("Overview");
  const tiles = Object.fromEntries([["rows", "Rows"], ["qps", "Statements/s"], ["latency", "Latency, p50"],
    ["recall", "Recall"], ["memory", "Memory"], ["device", "Device"]].map(([key, name]) => [key, tile(name)]));
  const charts = [
    new Chart("Statements per second", [{ name: "answered", of: (s) => s.qps }, { name: "refused", of: (s) => s.refused },
      { name: "failed", of: (s) => s.failed }], rate, { least: 1 }),
    new Chart("Latency of /v1/sql", [{ name: "p50", of: (s) => s.p50 }, { name: "p99", of: (s) => s.p99 }],
      duration, { least: 1 }),
    new Chart("Memory that is not of files", [{ name: "used", of: (s) => s.memory }], size, { least: 64 << 20, scale: roundedBytes }),
    new Chart("Processor", [{ name: "cores in use", of: (s) => s.cpu }], rate, { least: 1 }),
  ];
  const why = element("div", { hidden: true });
  const tables = element("div", {});
  const devices = element("div", {});
  main.append(title, element("div", { className: "stack" },
    element("div", { className: "tiles" }, ...Object.values(tiles).map((one) => one.node)), why,
    element("div", { className: "columns" }, ...charts.map((chart) => chart.node)),
    panel("Tables", tables), panel("Devices and backends", devices)));

  const draw = () => drawReadings(tiles, charts, why, asOf);
  const ends = [onReading(draw), every(5000, () => drawTables(tiles, tables)), every(30_000, () => drawDevices(tiles, devices))];
  draw();
  return () => ends.forEach((end) => end());
}

/** A round number of bytes a little above. */
function roundedBytes(value) {
  let step = 64 << 20;
  while (step < value) step *= 2;
  return step * 0.75 >= value ? step * 0.75 : step;
}

function drawReadings(tiles, charts, why, asOf) {
  const found = steps();
  for (const chart of charts) chart.update(found);
  const refused = refusal();
  why.hidden = !refused;
  if (refused) why.replaceChildren(problemBox({ ...refused, title: "The live figures are missing" }));
  const now = readings().at(-1);
  if (!now || refused) {
    for (const key of ["qps", "latency", "memory"]) tiles[key].value.textContent = refused ? "no data" : "…";
    return;
  }
  asOf(`data of ${clock(new Date(now.at))}, every 2 s`);
  const recent = found.slice(-15).filter((step) => step.qps !== undefined);
  const last = recent.at(-1);
  tiles.qps.value.textContent = last ? rate(last.qps) : "…";
  tiles.qps.note.textContent = `${count(now.statements)} since the start, ${count(now.running)} running, ${count(now.connections)} connections`;
  const busy = recent.findLast((step) => step.p50 !== null);
  tiles.latency.value.textContent = busy ? duration(busy.p50) : "no statements";
  tiles.latency.value.classList.toggle("words", !busy);
  tiles.latency.note.textContent = busy ? `p99 ${duration(busy.p99)}, in the last seconds that had statements` : "in the last 30 s";
  tiles.memory.value.textContent = size(now.memory);
  const share = now.memory / now.limit;
  const meter = element("progress", { max: 1, value: share });
  meter.setAttribute("aria-label", "Share of engine.memory_limit");
  tiles.memory.note.replaceChildren(meter, `${(share * 100).toFixed(0)} % of ${size(now.limit)}, engine.memory_limit`);
}

async function drawTables(tiles, place) {
  const { status, body } = await ask("/v1/tables");
  if (status !== 200) {
    put(place, problemBox(body));
    return;
  }
  const all = body.tables;
  const known = all.filter((table) => table.rows !== null);
  tiles.rows.value.textContent = count(known.reduce((total, table) => total + table.rows, 0));
  const bytes = size(known.reduce((total, table) => total + table.bytes, 0));
  const missing = all.length - known.length;
  tiles.rows.note.textContent = `${count(all.length)} ${all.length === 1 ? "table" : "tables"}, ${bytes}` +
    (missing ? `; ${missing} can't be read` : "");
  drawRecall(tiles.recall, all);
  put(place, all.length ? grid(["Table", ["Rows", "number"], ["Size", "number"], ["Segments", "number"], "Indexes", "Status"],
    all.map(tableRow), "Tables") : nothing("There are no tables yet.", element("a", { href: "#/sql" }, "Make the first one in SQL")));
}

function tableRow(table) {
  const link = element("a", { href: `#/tables/${encodeURIComponent(table.name)}` }, table.name);
  link.dataset.key = table.uuid;
  const indexes = table.indexes.map((index) => {
    const done = index.phase === "ready" ? "" : ` ${index.phase} ${percent(index.rows_done, index.rows_total)}`;
    return element("div", {}, `${index.kind} on ${index.column}${done}`);
  });
  const ready = table.status === "ready";
  return [link, [count(table.rows), "number"], [size(table.bytes), "number"], [count(table.segments.length), "number"],
    indexes.length ? element("div", {}, ...indexes) : element("span", { className: "quiet" }, "none: answers are exact"),
    element("span", { className: `badge ${ready ? "good" : "wrong"}` }, table.status)];
}

export function percent(done, total) {
  return total ? `${Math.floor((100 * done) / total)} %` : "0 %";
}

/** Recall is exact without an index; with one it is measured, when somebody asks for it. */
function drawRecall(tile, tables) {
  const indexed = tables.flatMap((table) => table.indexes.filter((one) => one.phase === "ready").map((index) => ({ table, index })));
  tile.value.classList.add("words");
  if (!indexed.length) {
    tile.value.textContent = "exact";
    tile.note.textContent = tables.some((table) => table.indexes.length)
      ? "no index is ready: every row is read" : "no index: every row is read";
    return;
  }
  const known = indexed.map(({ table, index }) => measured.get(`${table.uuid}.${index.column}`)).filter(Boolean);
  const worst = known.length ? Math.min(...known.map((one) => one.recall)) : null;
  tile.value.textContent = worst === null ? "not measured" : worst.toFixed(3);
  const when = known.length ? `the lowest of ${known.length}, ${SAMPLED} stored vectors each, k = 10, ${clock(known.at(-1).at)}` : "against the exact answer, of stored vectors";
  put(tile.note, element("div", {}, when), button("Measure", () => measure(tile, indexed, tables), { className: "tiny", key: "measure" }));
}

/** Of each index, the recall@10 that EXPLAIN ANALYZE measures for rows of the table itself. */
async function measure(tile, indexed, tables) {
  for (const { table, index } of indexed) {
    tile.note.replaceChildren(`measuring ${table.name}.${index.column} …`);
    const text = recallStatement(table, index);
    const { status, body } = await sql(text, { settings: { statement_timeout_ms: 120_000 } });
    if (status !== 200) {
      tile.note.replaceChildren(body.detail);
      return;
    }
    const found = recallIn(JSON.parse(body.rows[0][0]).plan);
    if (found !== null) measured.set(`${table.uuid}.${index.column}`, { recall: found, at: new Date() });
  }
  drawRecall(tile, tables);
}

const OPERATORS = { l2: "<->", ip: "<#>", inner_product: "<#>", cosine: "<=>", l1: "<+>" };

function recallStatement(table, index) {
  const [name, column] = [quoted(table.name), quoted(index.column)];
  const key = table.schema.columns.find((one) => one.primary_key);
  const order = key ? `ORDER BY hash(${quoted(key.name)})` : "";
  return `EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM (SELECT ${column} AS q FROM ${name} ` +
    `WHERE ${column} IS NOT NULL ${order} LIMIT ${SAMPLED}) a CROSS JOIN LATERAL (SELECT ${column} <-> ${column} AS d FROM ${name} b ` +
    `ORDER BY b.${column} ${OPERATORS[index.metric] ?? "<->"} a.q LIMIT 10) c`;
}

/** The recall of a plan's search; 1 where it was exact, null where there is none. */
function recallIn(node) {
  if (node.recall !== undefined && node.recall !== null) return node.recall === "exact" ? 1 : node.recall;
  return (node.children ?? []).map(recallIn).find((one) => one !== null) ?? null;
}

async function drawDevices(tiles, place) {
  const { status, body } = await sql("SELECT device, backend, status, detail FROM nearql.devices");
  if (status !== 200) {
    tiles.device.value.textContent = "no data";
    tiles.device.note.textContent = body.detail;
    put(place, problemBox(body));
    return;
  }
  const all = records(body);
  const chosen = all.find((one) => one.status === "chosen");
  tiles.device.value.classList.add("words");
  tiles.device.value.textContent = chosen ? `${chosen.device.toUpperCase()}, ${chosen.backend}` : "not known";
  tiles.device.note.textContent = chosen ? "what searches run on" : "";
  put(place, grid(["Device", "Backend", "Status", "Finding"], all.map((one) => [one.device, one.backend,
    element("span", { className: `badge ${one.status === "chosen" ? "good" : ""}` }, one.status),
    element("span", { className: "quiet" }, one.detail)]), "Devices and backends"));
}
