// Tables: what each is made of, how far its indexes are, some rows, and its vectors on a plane.
import { rowsOf } from "./answer.js";
import { mapPanel } from "./map.js";
import { percent } from "./overview.js";
import {
  ask, clock, count, duration, element, every, grid, nothing, pageTitle, panel, problemBox, put, records, shownName, size, sql,
} from "./page.js";

export function open(main, [chosen]) {
  const { title, asOf } = pageTitle("Tables");
  const list = element("ul", { className: "list" });
  const shown = element("div", { className: "stack" });
  main.append(title, element("div", { className: "with-list" }, element("nav", { className: "panel", ariaLabel: "Tables" }, list), shown));
  const page = new TablesPage(list, shown, chosen, asOf);
  return every(3000, () => page.refresh());
}

class TablesPage {
  constructor(list, shown, chosen, asOf) {
    Object.assign(this, { list, shown, chosen, asOf, uuid: null });
  }

  async refresh() {
    const { status, body } = await ask("/v1/tables");
    if (status !== 200) {
      put(this.shown, problemBox(body));
      return;
    }
    this.asOf(`data of ${clock()}, every 3 s`);
    const all = body.tables;
    const table = this.chosen ? all.find((one) => one.name === this.chosen) : all[0];
    put(this.list, ...all.map((one) => this.#item(one, one === table)));
    if (!all.length) {
      this.list.replaceChildren(element("li", { className: "none" }, "No tables yet."));
      put(this.shown, element("div", { className: "panel" }, nothing("There are no tables yet.", element("a", { href: "#/sql" }, "Make the first one in SQL"))));
    } else if (!table) {
      put(this.shown, problemBox({ title: "Not found", detail: `There is no table ${this.chosen} (any more).` }));
    } else {
      this.#show(table);
    }
  }

  #item(table, current) {
    const link = element("a", { href: `#/tables/${encodeURIComponent(table.name)}` }, table.name,
      element("span", { className: "count" }, table.rows === null ? table.status.slice(0, 20) : count(table.rows)));
    link.dataset.key = table.uuid;
    if (current) link.setAttribute("aria-current", "true");
    return element("li", {}, link);
  }

  /** What changes is drawn anew each time; rows and map once per table. */
  #show(table) {
    if (this.uuid !== table.uuid) {
      this.uuid = table.uuid;
      this.places = { facts: element("div", { className: "stack" }), rows: element("div", {}), segments: element("div", { className: "stack" }) };
      this.places.map = element("div", { hidden: true });
      this.shown.replaceChildren(this.places.facts, panel("Rows", this.places.rows), this.places.map, this.places.segments);
      this.#sample(table);
    }
    put(this.places.facts, factsPanel(table), columnsPanel(table), indexPanel(table));
    put(this.places.segments, segmentsPanel(table), shardsPanel(table));
  }

  async #sample(table) {
    const { rows: place, map } = this.places;
    const { status, body } = await sql(`SELECT * FROM ${shownName(table.name)} LIMIT 20`);
    if (status !== 200) place.replaceChildren(problemBox(body));
    else if (!body.rows.length) place.replaceChildren(nothing("The table is empty."));
    else place.replaceChildren(...rowsOf(body));
    const shown = status === 200 && body.rows.length ? mapPanel(table, records(body)) : null;
    map.hidden = !shown;
    if (shown) map.replaceChildren(shown);
  }
}

function factsPanel(table) {
  const dead = table.segments.reduce((sum, segment) => sum + segment.dead_rows, 0);
  const pairs = [["rows", count(table.rows)], ["size", size(table.bytes)], ["log", size(table.wal_bytes)],
    ["dead rows", count(dead)], ["shards", count(table.shards.length)], ["copies", count(table.replicas)], ["status", table.status]];
  return element("section", { className: "panel" }, element("div", { className: "panel-head" }, element("h2", {}, table.name)),
    element("dl", { className: "facts" }, ...pairs.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
}

function columnsPanel(table) {
  const rows = table.schema.columns.map((column) => [column.name, element("code", {}, column.type),
    column.primary_key ? element("span", { className: "badge good" }, "primary key") : "",
    column.nullable ? "yes" : "no", column.default === null ? element("span", { className: "quiet" }, "none") : element("code", {}, column.default)]);
  return panel("Columns", grid(["Column", "Type", "Key", "Takes NULL", "Default"], rows, "Columns"));
}

function indexPanel(table) {
  if (!table.indexes.length) return panel("Indexes", nothing("None: searches read every row that qualifies, and answers are exact."));
  const rows = table.indexes.map((index) => {
    const bar = element("progress", { max: Math.max(1, index.rows_total), value: index.rows_done });
    bar.setAttribute("aria-label", `${index.name}: rows built`);
    const left = index.phase === "ready" ? "" : ` · ${index.rate === null ? "rate not known" : `${count(Math.round(index.rate))} rows/s`} · ${index.eta_ms === null ? "end not known" : `${duration(index.eta_ms)} left`}`;
    const progress = element("div", {}, bar, element("div", { className: "small quiet" },
      `${count(index.rows_done)} of ${count(index.rows_total)} rows, ${percent(index.rows_done, index.rows_total)}${left}`));
    const state = { ready: "good", failed: "wrong" }[index.phase] ?? "warn";
    const phase = element("div", {}, element("span", { className: `badge ${state}` }, index.phase),
      index.detail ? element("div", { className: "small" }, index.detail) : null);
    return [index.name, `${index.kind} (${index.metric})`, index.column, phase, progress, [size(index.bytes), "number"]];
  });
  return panel("Indexes", grid(["Name", "Kind", "Column", "Phase", "Built", ["Memory", "number"]], rows, "Indexes"));
}

function segmentsPanel(table) {
  if (!table.segments.length) return panel("Segments", nothing("None."));
  const rows = table.segments.map((segment) => [[count(segment.shard), "number"], [count(segment.first_row), "number"],
    element("span", { className: `badge ${{ sealed: "good", damaged: "wrong" }[segment.state] ?? ""}` }, segment.state),
    [count(segment.rows), "number"], [count(segment.dead_rows), "number"], [size(segment.bytes), "number"]]);
  return panel("Segments", grid([["Shard", "number"], ["First row", "number"], "State", ["Rows", "number"], ["Dead rows", "number"], ["Size", "number"]], rows, "Segments"));
}

function shardsPanel(table) {
  if (!table.shards.length) return panel("Shards", nothing("Not known: the table could not be opened."));
  const rows = table.shards.flatMap((shard) => shard.copies.map((copy) => [[count(shard.shard), "number"], [count(shard.epoch), "number"],
    copy.node, copy.node === shard.primary ? "primary" : "replica", shard.in_sync.includes(copy.node) ? "in sync" : "catching up",
    [count(copy.lsn), "number"], [`${count(copy.lag_records)} records, ${duration(copy.lag_ms)}`, "number"]]));
  return panel("Shards and copies", grid([["Shard", "number"], ["Epoch", "number"], "Node", "Copy", "State", ["LSN", "number"], ["Lag", "number"]], rows, "Shards and copies"));
}
