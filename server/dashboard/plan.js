// EXPLAIN as a tree: operators, what feeds them, what a run measured, and where its time went.
import { count, duration, element } from "./page.js";

const MEANING = {
  Project: "plain columns, taken without DuckDB", DuckDB: "runs the rest of the statement",
  VectorSearch: "the nearest rows", RangeSearch: "rows within a distance", KnnJoin: "the nearest rows to each row",
  Filter: "which rows qualify, as a bitmap", Scan: "reads columns", Materialize: "a part that is needed once",
  QueryVector: "makes the vector to search for", Left: "makes the vectors to search for", SystemTable: "what the node knows of itself",
};
const PARTS = [["planning_ms", "planning", "b4"], ["scan_ms", "reading and filters", "b3"], ["search_ms", "search", "b1"], ["duckdb_ms", "DuckDB", "b2"]];
const HIDDEN = new Set(["operator", "text", "children"]);

/** The panel of a plan. document: of EXPLAIN (FORMAT JSON). */
export function planPanel(document, analyzed, took) {
  const made = element("section", { className: "panel plan-panel" },
    element("div", { className: "panel-head" }, element("h2", {}, analyzed ? "Plan, as it ran" : "Plan")));
  if (analyzed) made.append(facts(document, took), ...split(document));
  made.append(element("ul", { className: "plan", ariaLabel: "Plan" }, step(document.plan)));
  if (document.notes?.length) {
    made.append(element("div", { className: "inner" }, ...document.notes.map((text) => element("p", { className: "notice" }, text))));
  }
  return made;
}

function facts(document, took) {
  const pairs = [["rows", count(document.rows)], ["execution", duration(document.execution_ms)],
    ["planning", duration(document.planning_ms)], ["round trip", duration(took)]];
  return element("dl", { className: "facts" }, ...pairs.filter(([, value]) => value !== "not known").map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

/** A bar of the parts of the time; what no part measured is shown as the rest. A search's time holds
    that of its filter and its query vector, which are parts of their own here. */
function split(document) {
  const total = (document.planning_ms ?? 0) + (document.execution_ms ?? 0);
  const parts = PARTS.map(([key, name, colour]) => ({ key, name, colour, ms: document[key] ?? 0 }));
  const twice = parts.reduce((sum, part) => sum + part.ms, 0) - total;
  const inside = document.plan.operator === "Project" ? (document.scan_ms ?? 0) + (document.duckdb_ms ?? 0) : Math.max(0, twice);
  const search = parts.find((part) => part.key === "search_ms");
  search.ms = Math.max(0, search.ms - inside);
  const known = parts.filter((part) => part.ms > 0);
  if (!known.length || !total) return [];
  const rest = total - known.reduce((sum, part) => sum + part.ms, 0);
  if (rest > 0.001 * total) known.push({ name: "the rest", colour: "b8", ms: rest });
  const bar = element("div", { className: "split", role: "img", ariaLabel: known.map((p) => `${p.name} ${duration(p.ms)}`).join(", ") },
    ...known.map((part) => {
      const piece = element("div", { className: part.colour });
      piece.style.width = `${(100 * part.ms) / total}%`;
      return piece;
    }));
  const keys = element("div", { className: "split-keys" }, ...known.map((part) =>
    element("span", {}, element("i", { className: part.colour }), part.name, element("b", {}, duration(part.ms)))));
  return [element("div", { className: "inner" }, bar, keys)];
}

function step(node) {
  const line = element("div", { className: "step" }, element("b", {}, node.operator));
  if (node.text) line.append(element("code", {}, node.text));
  if (MEANING[node.operator]) line.title = MEANING[node.operator];
  const details = Object.entries(node).filter(([name, value]) => !HIDDEN.has(name) && value !== null);
  const made = element("li", {}, line);
  if (details.length) made.append(element("dl", { className: "measured" }, ...details.map(detail)));
  if (node.children?.length) made.append(element("ul", {}, ...node.children.map(step)));
  return made;
}

function detail([name, value]) {
  const whole = Number.isInteger(value) && name !== "recall";
  const shown = typeof value === "number" ? (whole ? count(value) : value.toFixed(3)) : String(value);
  const className = name === "recall" ? `badge ${value === "exact" || value >= 0.95 ? "good" : "warn"}` : "";
  return element("div", {}, element("dt", {}, name), element("dd", {}, className ? element("span", { className }, shown) : shown));
}
