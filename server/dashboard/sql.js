// SQL: an editor, parameters, the answer, the plan, what was asked before.
import {
  ask, button, clock, confirmed, element, panel, problemBox, shownName, sql as send, tell,
} from "./page.js";
import { answerParts } from "./answer.js";
import { planPanel } from "./plan.js";
import { makeEditor } from "./editor.js";

const HISTORY = "nearql.history";
const DRAFT = "nearql.draft";
const KEPT = 50;
const READS = /^\s*(select|with|values|table|show|describe|from)\b/i;

export function open(main) {
  const page = new SqlPage();
  main.append(page.node);
  page.start();
  return () => page.close();
}

/** Names of parameters in a text: `:name` and `$1`, not in strings, comments, names or casts. */
export function parametersOf(text) {
  const found = [];
  const token = /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|::|:([a-zA-Z_]\w*)|\$(\d+)/g;
  for (const [, name, number] of text.matchAll(token)) {
    const one = name ?? number;
    if (one !== undefined && !found.includes(one)) found.push(one);
  }
  return found;
}

/** What a person typed for a parameter: JSON where it is that, else the text itself. */
export function valueOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

class SqlPage {
  constructor() {
    this.values = new Map(); // of parameters, by name, as typed
    this.runButton = button("Run", () => this.run(), { className: "primary", title: "Ctrl + Enter" });
    this.planButton = button("Explain", () => this.explain(false), { title: "The plan; nothing is run" });
    this.analyzeButton = button("Explain analyze", () => this.explain(true), { title: "Runs it, and tells what was measured (Ctrl + Shift + Enter)" });
    this.settings = element("input", { className: "mono", placeholder: '{"target_recall": 0.95}', spellcheck: false });
    this.settings.setAttribute("aria-label", "Settings of this request, as a JSON object");
    this.parameters = element("div", { className: "parameters", hidden: true });
    this.more = element("details", {}, element("summary", {}, "Settings"), this.settings);
    this.place = element("div", { className: "editor" });
    this.out = element("div", { className: "stack", ariaLive: "polite" });
    this.catalog = element("div", { className: "catalog" });
    this.old = element("div", {});
    const bar = element("div", { className: "bar" }, this.runButton, this.planButton, this.analyzeButton,
      element("span", { className: "hint" }, "Ctrl + Enter runs"), element("div", { className: "end" }, this.more));
    this.node = element("div", {},
      element("div", { className: "title" }, element("h1", {}, "SQL")),
      element("div", { className: "sql-page" },
        element("div", { className: "stack" },
          element("section", { className: "panel", ariaLabel: "Statement" }, this.place, bar, this.parameters), this.out),
        element("div", { className: "stack" }, panel("Catalog", this.catalog),
          panel("History", this.old, button("Clear", () => this.forget(), { className: "tiny ghost" })))));
  }

  async start() {
    this.showHistory();
    this.editor = makeEditor(this.place, {
      text: sessionStorage.getItem(DRAFT) ?? "",
      changed: (text) => this.changed(text),
      run: () => this.run(),
      analyze: () => this.explain(true),
    });
    this.changed(this.editor.text());
    await this.showCatalog();
  }

  close() {
    this.closed = true;
    this.editor.close();
  }

  changed(text) {
    sessionStorage.setItem(DRAFT, text);
    const names = parametersOf(text);
    if (names.join() === this.names?.join()) return;
    this.names = names;
    this.parameters.hidden = !names.length;
    this.parameters.replaceChildren(...names.map((name) => this.#input(name)),
      element("div", { className: "hint" }, "A number, text, true, null, or a JSON list; a vector also as base64 of little-endian float32."));
  }

  #input(name) {
    const shown = /^\d+$/.test(name) ? `$${name}` : `:${name}`;
    const input = element("input", { value: this.values.get(name) ?? "", spellcheck: false, autocomplete: "off" });
    input.addEventListener("input", () => this.values.set(name, input.value));
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.run();
    });
    return element("label", {}, shown, input);
  }

  /** The members of the request beside its text; throws where the settings are no JSON object. */
  #members() {
    const members = {};
    if (this.names.length) {
      const values = this.names.map((name) => [name, valueOf(this.values.get(name) ?? "")]);
      const numbered = values.every(([name]) => /^\d+$/.test(name));
      if (numbered) {
        members.params = Array(Math.max(...this.names.map(Number))).fill(null);
        for (const [name, value] of values) members.params[name - 1] = value;
      } else {
        members.params = Object.fromEntries(values);
      }
    }
    const settings = this.settings.value.trim();
    if (settings) members.settings = JSON.parse(settings);
    return members;
  }

  async #ask(text) {
    let members;
    try {
      members = this.#members();
    } catch (error) {
      this.more.open = true;
      return { status: 0, body: { title: "Settings", detail: `They are no JSON object: ${error.message}.`, code: "invalid_settings_member" } };
    }
    const buttons = [this.runButton, this.planButton, this.analyzeButton];
    for (const one of buttons) one.disabled = true;
    this.out.replaceChildren(element("p", { className: "quiet" }, "Running …"));
    const began = performance.now();
    const answer = await send(text, members);
    for (const one of buttons) one.disabled = false;
    return { ...answer, took: performance.now() - began };
  }

  async run() {
    const text = this.editor.text();
    if (!text.trim() || this.runButton.disabled) return;
    const { status, body, took } = await this.#ask(text);
    this.remember(text, status === 200);
    if (this.closed) return;
    if (status === 200) this.out.replaceChildren(...answerParts(body, took));
    else this.#problem(body, text);
    if (status === 200 && !READS.test(text)) this.showCatalog();
  }

  async explain(analyze) {
    const text = this.editor.text().replace(/;\s*$/, "");
    if (!text.trim() || this.runButton.disabled) return;
    if (analyze && !READS.test(text) && !(await confirmed("Run this statement?",
      "EXPLAIN ANALYZE runs the statement to measure it, and this one may write.", "Run it"))) return;
    const before = `EXPLAIN (${analyze ? "ANALYZE, " : ""}FORMAT JSON) `;
    const { status, body, took } = await this.#ask(before + text);
    if (this.closed) return;
    if (status === 200) this.out.replaceChildren(planPanel(JSON.parse(body.rows[0][0]), analyze, took));
    else this.#problem({ ...body, position: body.position && Math.max(1, body.position - before.length) }, text);
  }

  #problem(body, text) {
    const at = body.position ? [element("pre", {}, pointer(text, body.position))] : [];
    this.out.replaceChildren(problemBox(body, ...at));
    if (body.position) this.editor.mark(body.position, body.detail);
  }

  // ---- the catalog --------------------------------------------------------------------

  async showCatalog() {
    const { status, body } = await ask("/v1/tables");
    if (this.closed) return;
    if (status !== 200) {
      this.catalog.replaceChildren(element("div", { className: "none" }, body.detail));
      return;
    }
    this.editor.complete(body.tables);
    const open = new Set([...this.catalog.querySelectorAll("details[open]")].map((one) => one.dataset.name));
    const few = body.tables.length <= 3;
    const shown = body.tables.map((table) => this.#table(table, few || open.has(table.name)));
    this.catalog.replaceChildren(...(shown.length ? shown : [this.#first()]));
    if (!this.editor.text() && body.tables.length) this.editor.set(examples(body.tables[0])[0].sql);
  }

  #table(table, open) {
    const columns = table.schema.columns.map((column) => element("li", {},
      button(column.name, () => this.editor.insert(shownName(column.name)), { title: `Insert ${column.name}` }),
      element("span", { className: "type" }, column.type + (column.primary_key ? " key" : ""))));
    const actions = examples(table).map(({ label, sql }) => button(label, () => this.editor.set(sql)));
    const details = element("details", { open }, element("summary", {}, table.name),
      element("ul", {}, ...columns), element("div", { className: "actions" }, ...actions));
    details.dataset.name = table.name;
    return details;
  }

  #first() {
    const text = "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3));\n" +
      "INSERT INTO docs VALUES (1, 'one', '[1,0,0]'), (2, 'two', '[0.9,0.1,0]'), (3, 'three', '[0,0,1]');\n" +
      "SELECT id, title, vec <-> '[1,0,0]' AS d FROM docs ORDER BY d LIMIT 2";
    return element("div", { className: "none" }, element("p", {}, "There are no tables yet."),
      button("A first table", () => this.editor.set(text)));
  }

  // ---- history ------------------------------------------------------------------------

  history() {
    try {
      return JSON.parse(localStorage.getItem(HISTORY)) ?? [];
    } catch {
      return [];
    }
  }

  remember(text, done) {
    const rest = this.history().filter((one) => one.text !== text);
    const kept = [{ text, done, at: Date.now() }, ...rest].slice(0, KEPT);
    try {
      localStorage.setItem(HISTORY, JSON.stringify(kept));
    } catch {
      tell("The browser has no room to keep this statement in the history.");
    }
    this.showHistory();
  }

  forget() {
    localStorage.removeItem(HISTORY);
    this.showHistory();
  }

  showHistory() {
    const kept = this.history();
    const items = kept.map((one) => element("li", {}, button("", () => this.editor.set(one.text), { title: one.text.slice(0, 2000) })));
    items.forEach((item, i) => {
      const { text, done, at } = kept[i];
      item.firstChild.append(element("code", {}, text.replaceAll(/\s+/g, " ").slice(0, 200)),
        element("span", { className: "small quiet" }, `${new Date(at).toLocaleDateString("en-GB")} ${clock(new Date(at))}${done ? "" : ", failed"}`));
    });
    this.old.replaceChildren(kept.length ? element("ul", { className: "history" }, ...items)
      : element("div", { className: "none" }, "Statements that were run are kept in this browser."));
  }
}

/** The line of the mistake, and a caret below its place. */
export function pointer(text, position) {
  const before = [...text].slice(0, position - 1).join("");
  const start = before.lastIndexOf("\n") + 1;
  const line = text.slice(start).split("\n", 1)[0];
  return `${line}\n${" ".repeat([...before.slice(start)].length)}^`;
}

/** Statements that work on this table as it is. */
export function examples(table) {
  const name = shownName(table.name);
  const columns = table.schema.columns;
  const isVector = (column) => /^(VECTOR|HALFVEC)/.test(column.type);
  const plain = columns.filter((column) => !isVector(column)).map((column) => shownName(column.name));
  const made = [{ label: "Rows", sql: `SELECT *\nFROM ${name}\nLIMIT 10` },
    { label: "Count", sql: `SELECT count(*) FROM ${name}` }];
  const vector = columns.find(isVector);
  const key = columns.find((column) => column.primary_key);
  if (vector && key && table.rows) {
    const vec = shownName(vector.name);
    const some = `(SELECT ${vec} FROM ${name} WHERE ${vec} IS NOT NULL ORDER BY ${shownName(key.name)} LIMIT 1)`;
    made.unshift({
      label: "Nearest",
      sql: `SELECT ${plain.slice(0, 4).join(", ")},\n       ${vec} <-> ${some} AS distance\n` +
        `FROM ${name}\nORDER BY distance\nLIMIT 10`,
    });
  }
  return made;
}

