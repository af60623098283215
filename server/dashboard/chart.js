// A line chart over time, as SVG: drawn anew with each reading, read aloud as a sentence.
import { clock, element } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT] = [52, 6, 8, 20, 168];
const SPANS_MS = [120_000, 300_000, 600_000]; // the shortest that holds all there is

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A number a little above `value` that people count in. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export class Chart {
  /** series: [{name, of: step -> number or null}]; show: a value as text; least: the top at least. */
  constructor(title, series, show, { least = 0, scale = roundUp } = {}) {
    Object.assign(this, { title, series, show, least, scale, steps: [], at: null });
    this.keys = series.map((one, i) => {
      const value = element("span", {});
      return { value, node: element("span", { className: "key" }, element("i", { className: `b${i + 1}` }), one.name, value) };
    });
    this.svg = shape("svg", { role: "img", "aria-label": title });
    this.node = element("figure", { className: "panel chart" },
      element("figcaption", {}, element("b", {}, title), ...this.keys.map((key) => key.node)), this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  update(steps) {
    this.steps = steps;
    this.draw();
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = (event.clientX - box.left - LEFT) / (this.width - LEFT - RIGHT);
    this.at = this.start + x * this.span;
    this.draw();
  }

  draw() {
    this.width = this.svg.clientWidth;
    if (!this.width) return;
    const end = this.steps.at(-1)?.at ?? Date.now();
    const known = end - (this.steps[0]?.at ?? end);
    this.span = SPANS_MS.find((span) => span >= known) ?? SPANS_MS.at(-1);
    this.start = end - this.span;
    const seen = this.steps.filter((step) => step.at >= this.start);
    const values = seen.flatMap((step) => this.series.map((one) => one.of(step) ?? 0));
    const top = this.scale(Math.max(this.least, ...values));
    const x = (at) => LEFT + ((at - this.start) / this.span) * (this.width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren(...this.#axes(top, x, y),
      ...this.series.flatMap((one, i) => this.#line(one, i + 1, seen, x, y)), ...this.#cross(seen, x, y));
    this.#say(seen);
  }

  #axes(top, x, y) {
    const marks = [0, 0.5, 1].flatMap((share) => [
      shape("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y(top * share), y2: y(top * share) }),
      shape("text", { class: "axis", x: LEFT - 8, y: y(top * share) + 4, "text-anchor": "end" }, this.show(top * share)),
    ]);
    const times = [[0, "start", `${this.span / 60_000} min ago`], [0.5, "middle", `${this.span / 120_000} min`], [1, "end", "now"]].map(([share, anchor, text]) =>
      shape("text", { class: "axis", x: x(this.start + share * this.span), y: HEIGHT - 3, "text-anchor": anchor }, text));
    return [...marks, ...times];
  }

  /** The runs of values, each a line and the area below it. */
  #line(series, number, steps, x, y) {
    const runs = [[]];
    for (const step of steps) {
      const value = series.of(step);
      if (value === null || value === undefined) runs.push([]);
      else runs.at(-1).push(`${x(step.at).toFixed(1)} ${y(value).toFixed(1)}`);
    }
    return runs.filter((run) => run.length).flatMap((run) => {
      if (run.length === 1) {
        const [cx, cy] = run[0].split(" ");
        return [shape("circle", { class: `f${number}`, cx, cy, r: 1.8 })];
      }
      const [first, last] = [run[0].split(" ")[0], run.at(-1).split(" ")[0]];
      const area = `M${first} ${y(0)} L${run.join(" L")} L${last} ${y(0)} Z`;
      const parts = [shape("path", { class: `line s${number}`, d: `M${run.join(" L")}` })];
      return number === 1 ? [shape("path", { class: "area f1", d: area }), ...parts] : parts;
    });
  }

  #cross(steps, x, y) {
    const chosen = this.#chosen(steps);
    if (this.at === null || !chosen) return [];
    const dots = this.series.flatMap((one, i) => {
      const value = one.of(chosen);
      return value === null || value === undefined ? []
        : [shape("circle", { class: `f${i + 1}`, cx: x(chosen.at), cy: y(value), r: 3.5 })];
    });
    return [shape("line", { class: "cross", x1: x(chosen.at), x2: x(chosen.at), y1: TOP, y2: HEIGHT - BOTTOM }), ...dots];
  }

  #chosen(steps) {
    if (this.at === null) return steps.at(-1);
    return steps.reduce((best, one) => (!best || Math.abs(one.at - this.at) < Math.abs(best.at - this.at) ? one : best), null);
  }

  /** The values at the pointer, else the newest, beside the names. */
  #say(steps) {
    const chosen = this.#chosen(steps);
    const told = this.series.map((one, i) => {
      const value = chosen ? one.of(chosen) : null;
      const text = value === null || value === undefined ? "no data" : this.show(value);
      this.keys[i].value.textContent = text;
      return `${one.name} ${text}`;
    });
    const when = chosen ? clock(new Date(chosen.at)) : "so far";
    this.svg.setAttribute("aria-label", `${this.title}, ${when}: ${told.join(", ")}`);
  }
}
