// A table's vectors on a plane: GET /v1/tables/{t}/map projects a sample, a canvas shows it.
import { ask, button, count, duration, element } from "./page.js";

const GROUPS = 8; // colours; further values share the last
const PAD = 18;
const VECTOR = /^(VECTOR|HALFVEC)/;

/** The panel; null where the table has no vectors. rows: some of the table's, to choose a colour by. */
export function mapPanel(table, rows) {
  const vectors = table.schema.columns.filter((column) => VECTOR.test(column.type));
  return vectors.length ? new VectorMap(table, vectors, rows).node : null;
}

/** The column that groups these rows into the most groups that still hold two rows each. */
function grouping(columns, rows) {
  const different = (name) => new Set(rows.map((row) => JSON.stringify(row[name]))).size;
  const found = columns.filter((column) => !column.primary_key).map((column) => ({ name: column.name, groups: different(column.name) }))
    .filter((one) => one.groups > 1 && one.groups <= rows.length / 2).sort((a, b) => b.groups - a.groups);
  return found[0]?.name;
}

function choice(label, names, chosen) {
  const select = element("select", { className: "tiny", ariaLabel: label }, ...names.map(([value, text]) => element("option", { value }, text)));
  if (chosen) select.value = chosen;
  return select;
}

class VectorMap {
  constructor(table, vectors, rows) {
    this.table = table;
    const others = table.schema.columns.filter((column) => !VECTOR.test(column.type));
    const group = grouping(others, rows);
    this.column = choice("Vector column", vectors.map((one) => [one.name, one.name]));
    this.colour = choice("Colour by", [["", "one colour"], ...others.map((one) => [one.name, `colour: ${one.name}`])], group);
    this.more = element("div", { className: "none" }, element("p", {}, "A sample of the rows, projected on the two directions in which they differ most (PCA). It reads the sample's vectors."),
      button("Show the map", () => this.load()));
    this.node = element("section", { className: "panel" }, element("div", { className: "panel-head" }, element("h2", {}, "Map of the vectors"),
      element("div", { className: "end" }, this.column, this.colour)), this.more);
    for (const one of [this.column, this.colour]) one.addEventListener("change", () => this.load());
  }

  async load() {
    const query = new URLSearchParams({ column: this.column.value });
    if (this.colour.value) query.set("color", this.colour.value);
    const began = performance.now();
    const { status, body } = await ask(`/v1/tables/${encodeURIComponent(this.table.name)}/map?${query}`);
    if (status !== 200) {
      this.more.className = "none";
      this.more.replaceChildren(element("p", {}, body.detail));
      return;
    }
    this.#show(body, performance.now() - began);
  }

  #show(body, took) {
    if (!body.points.length) {
      this.more.className = "none";
      this.more.replaceChildren(element("p", {}, "There are no vectors in this column."));
      return;
    }
    this.body = body;
    this.canvas = element("canvas", { role: "img" });
    this.tip = element("div", { className: "tip", hidden: true });
    const share = body.explained.reduce((sum, one) => sum + one, 0);
    const told = `${count(body.points.length)} of ${count(body.rows)} rows; the two directions hold ${(100 * share).toFixed(0)} % of what differs; ${duration(took)}`;
    this.canvas.setAttribute("aria-label", `Map of ${body.column}: ${told}`);
    this.scale = colours(body);
    this.more.className = "map";
    this.more.replaceChildren(this.canvas, this.tip, this.scale.legend, element("div", { className: "small quiet" }, told));
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  draw() {
    const { canvas, body } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    const dense = devicePixelRatio || 1;
    canvas.width = width * dense;
    canvas.height = height * dense;
    const context = canvas.getContext("2d");
    context.scale(dense, dense);
    const span = (at) => {
      const values = body.points.map((point) => point[at]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return [low, high - low || 1];
    };
    const [[left, wide], [low, tall]] = [span(1), span(2)];
    const styles = palette();
    context.globalAlpha = 0.75;
    this.spots = body.points.map((point) => {
      const x = PAD + ((point[1] - left) / wide) * (width - 2 * PAD);
      const y = height - PAD - ((point[2] - low) / tall) * (height - 2 * PAD);
      context.fillStyle = this.scale.of(point[3], styles);
      context.beginPath();
      context.arc(x, y, 3.2, 0, 2 * Math.PI);
      context.fill();
      return { x, y, point };
    });
  }

  #hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const far = (spot) => (spot.x - x) ** 2 + (spot.y - y) ** 2;
    const near = this.spots.reduce((best, spot) => (!best || far(spot) < far(best) ? spot : best), null);
    this.tip.hidden = !near || far(near) > 144;
    if (this.tip.hidden) return;
    const [key, , , value] = near.point;
    const named = this.body.key ? `${this.body.key} ${key}` : "a row";
    this.tip.textContent = this.body.color ? `${named}, ${this.body.color} ${value === null ? "null" : value}` : named;
    this.tip.style.left = `${Math.min(near.x + 24, box.width - 160)}px`;
    this.tip.style.top = `${near.y + 20}px`;
  }
}

/** How values become colours: numbers along a ramp, others by how often they come. */
function colours({ color, points }) {
  if (!color) return { of: (_, styles) => styles[1], legend: element("div", { className: "legend" }) };
  const values = points.map((point) => point[3]).filter((value) => value !== null);
  if (values.some((value) => typeof value === "object")) return colours({ color: null, points });
  const counted = new Map();
  for (const value of values) counted.set(value, (counted.get(value) ?? 0) + 1);
  if (counted.size > GROUPS && values.every((value) => typeof value === "number")) return ramp(values);
  const ranked = [...counted].sort((a, b) => b[1] - a[1]).map(([value]) => value);
  const number = (value) => (value === null ? GROUPS : Math.min(ranked.indexOf(value) + 1, GROUPS));
  const named = ranked.slice(0, GROUPS - 1);
  const rest = ranked.length > named.length || points.some((point) => point[3] === null);
  const keys = named.map((value, i) => element("span", {}, element("i", { className: `k${i + 1}` }), String(value)));
  if (rest) keys.push(element("span", {}, element("i", { className: `k${GROUPS}` }), ranked.length > named.length ? `${count(ranked.length - named.length)} more` : "null"));
  return { of: (value, styles) => styles[number(value)], legend: element("div", { className: "legend" }, ...keys) };
}

const STOPS = [3, 1, 5, 2];

function ramp(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const of = (value, styles) => {
    if (value === null) return styles[GROUPS];
    const at = ((value - low) / (high - low)) * (STOPS.length - 1);
    const i = Math.min(Math.floor(at), STOPS.length - 2);
    const [a, b] = [STOPS[i], STOPS[i + 1]].map((number) => styles[number].match(/[\d.]+/g).map(Number));
    return `rgb(${a.slice(0, 3).map((part, at3) => Math.round(part + (at - i) * (b[at3] - part))).join(" ")})`;
  };
  return { of, legend: element("div", { className: "legend" }, element("span", {}, String(low)), element("b", { className: "ramp" }), element("span", {}, String(high))) };
}

/** The colours --c1 to --c8 as they are now, dark or light: [, "rgb(...)", ...]. */
function palette() {
  const probe = element("span", { hidden: true });
  document.body.append(probe);
  const found = [null];
  for (let number = 1; number <= GROUPS; number += 1) {
    probe.style.color = `var(--c${number})`;
    found.push(getComputedStyle(probe).color);
  }
  probe.remove();
  return found;
}
