// The SQL editor: a text area at once, CodeMirror (vendor/codemirror.js) as soon as it is loaded.
// It lives in a shadow root, where CodeMirror's styles are adopted sheets: the page's policy forbids
// inline ones.
import { element } from "./page.js";

const SYSTEM_TABLES = ["columns", "damage", "devices", "indexes", "nodes", "queries", "segments", "settings", "shards", "tables", "views"];
const FUNCTIONS = {
  l2_distance: "two vectors", inner_product: "two vectors", cosine_distance: "two vectors", l1_distance: "two vectors",
  vector_dims: "its dimensions", vector_norm: "its length", l2_normalize: "of length 1", subvector: "vector, start, count",
  bm25: "column, words", count: "rows", avg: "mean, of vectors too", sum: "sum, of vectors too", min: "least", max: "greatest",
};
// Keywords, whatever columns there are; others (year, id, title) are names where a column has them.
const CORE = new Set("select from where group order by having limit offset join on and or not in is null as with insert into values update set delete create table drop alter case when then else end".split(" "));
const LABEL = "SQL statement";

/** An editor in `place`. options: text, changed(text), run(), analyze(). */
export function makeEditor(place, options) {
  const editor = new Editor(place, options);
  editor.load();
  return editor;
}

class Editor {
  constructor(place, options) {
    this.options = options;
    this.place = place;
    this.tables = [];
    this.area = element("textarea", { value: options.text, spellcheck: false, autocapitalize: "off", ariaLabel: LABEL });
    this.area.addEventListener("input", () => options.changed(this.area.value));
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      if (event.shiftKey) options.analyze();
      else options.run();
    });
    place.replaceChildren(this.area);
    this.area.focus();
  }

  text() {
    return this.view ? this.view.state.doc.toString() : this.area.value;
  }

  /** Replaces the text. */
  set(text) {
    if (this.view) {
      this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: text } });
      this.view.focus();
    } else {
      this.area.value = text;
      this.area.focus();
      this.options.changed(text);
    }
  }

  /** Puts text where the cursor is. */
  insert(text) {
    if (this.view) {
      this.view.dispatch(this.view.state.replaceSelection(text));
      this.view.focus();
    } else {
      this.area.setRangeText(text, this.area.selectionStart, this.area.selectionEnd, "end");
      this.area.focus();
      this.options.changed(this.area.value);
    }
  }

  /** Underlines the word at a position (from 1, in characters), until the text changes. */
  mark(position, message) {
    if (!this.view) return;
    const from = [...this.text()].slice(0, position - 1).join("").length;
    const word = /^\w+|^\S/.exec(this.text().slice(from));
    const to = Math.min(this.view.state.doc.length, from + (word ? word[0].length : 1));
    const problem = { from: Math.min(from, to), to, severity: "error", message };
    this.view.dispatch(this.cm.setDiagnostics(this.view.state, [problem]));
  }

  /** Offers these tables and their columns. */
  complete(tables) {
    this.tables = tables;
    if (this.view) this.view.dispatch({ effects: this.language.reconfigure(this.#language()) });
  }

  close() {
    this.closed = true;
    this.view?.destroy();
  }

  async load() {
    this.cm = await import("./codemirror.js");
    if (this.closed) return;
    const { Compartment, EditorView } = this.cm;
    const focused = document.activeElement === this.area;
    const [from, to] = [this.area.selectionStart, this.area.selectionEnd];
    const text = this.area.value;
    const host = element("div", { className: "editor-root" });
    const root = host.attachShadow({ mode: "open" });
    this.language = new Compartment();
    this.place.replaceChildren(host);
    this.view = new EditorView({ doc: text, root, parent: root, selection: { anchor: from, head: to }, extensions: this.#extensions() });
    if (focused) this.view.focus();
  }

  #extensions() {
    const cm = this.cm;
    const close = cm.completionKeymap.find((one) => one.key === "Escape").run;
    const key = (name, call) => ({ key: name, run: (view) => { close(view); call(); return true; } });
    return [
      cm.Prec.highest(cm.keymap.of([key("Mod-Enter", this.options.run), key("Mod-Shift-Enter", this.options.analyze)])),
      cm.history(), cm.drawSelection(), cm.dropCursor(), cm.indentOnInput(), cm.bracketMatching(), cm.closeBrackets(),
      cm.lineNumbers(), cm.highlightSelectionMatches(), cm.autocompletion(), this.language.of(this.#language()),
      cm.keymap.of([...cm.closeBracketsKeymap, ...cm.completionKeymap, ...cm.defaultKeymap, ...cm.searchKeymap, ...cm.historyKeymap]),
      cm.syntaxHighlighting(colours(cm)), cm.EditorView.theme(THEME), cm.EditorView.lineWrapping,
      cm.EditorView.contentAttributes.of({ "aria-label": LABEL }),
      cm.EditorView.domEventHandlers({ beforeinput: (event, view) => this.#replace(event, view) }),
      cm.EditorView.updateListener.of((update) => {
        if (update.docChanged) this.options.changed(this.text());
      }),
    ];
  }

  /** Types over a selection. Left to itself, the browser keeps the look of what is replaced as an
      inline style, which the page's policy forbids. */
  #replace(event, view) {
    const { main } = view.state.selection;
    if (event.inputType !== "insertText" || main.empty || !event.data || view.composing) return false;
    event.preventDefault();
    const insert = () => view.state.update(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
    const handlers = view.state.facet(this.cm.EditorView.inputHandler);
    if (!handlers.some((handle) => handle(view, main.from, main.to, event.data, insert))) view.dispatch(insert());
    return true;
  }

  #language() {
    const { sql, SQLDialect, PostgreSQL } = this.cm;
    const spec = PostgreSQL.spec;
    const named = new Set(this.tables.flatMap((table) => [table.name, ...table.schema.columns.map((column) => column.name)])
      .map((name) => name.toLowerCase()).filter((name) => !CORE.has(name)));
    const keywords = spec.keywords.split(" ").filter((word) => !named.has(word)).join(" ");
    const dialect = SQLDialect.define({ ...spec, keywords, types: `${spec.types} vector halfvec` });
    const system = Object.fromEntries(SYSTEM_TABLES.map((name) => [name, []]));
    const tables = Object.fromEntries(this.tables.map((table) => [table.name, table.schema.columns.map((column) =>
      ({ label: column.name, type: "property", detail: column.type }))]));
    const support = sql({ dialect, schema: { nearql: system, ...tables }, upperCaseKeywords: true });
    return [support, support.language.data.of({ autocomplete: (context) => this.#words(context) })];
  }

  /** Functions, and every column: in a select list the tables are not known yet. */
  #words(context) {
    const word = context.matchBefore(/\w+/);
    if (!word && !context.explicit) return null;
    const functions = Object.entries(FUNCTIONS).map(([label, detail]) => ({ label, detail, type: "function", apply: `${label}(` }));
    const columns = new Map(this.tables.flatMap((table) => table.schema.columns.map((column) =>
      [column.name, { label: column.name, detail: `${column.type}, ${table.name}`, type: "property" }])));
    return { from: word ? word.from : context.pos, options: [...columns.values(), ...functions], validFor: /^\w*$/ };
  }
}

function colours({ HighlightStyle, tags }) {
  return HighlightStyle.define([
    { tag: tags.keyword, color: "var(--c3)", fontWeight: "600" },
    { tag: tags.typeName, color: "var(--c4)" },
    { tag: [tags.string, tags.special(tags.string)], color: "var(--c2)" },
    { tag: [tags.number, tags.bool, tags.null], color: "var(--c6)" },
    { tag: tags.comment, color: "var(--quiet)", fontStyle: "italic" },
    { tag: [tags.operator, tags.punctuation], color: "var(--quiet)" },
    { tag: [tags.special(tags.name), tags.standard(tags.name)], color: "var(--c1)" },
  ]);
}

const THEME = {
  "&": { color: "var(--text)", backgroundColor: "var(--surface)", fontSize: "13.5px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6", minHeight: "168px", maxHeight: "46vh", overflow: "auto" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--quiet)", border: "none", paddingLeft: "6px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--accent-soft)" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--accent-soft)" },
  ".cm-selectionMatch": { backgroundColor: "var(--sunken)" },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--wrong)", textUnderlineOffset: "3px" },
  ".cm-tooltip": { backgroundColor: "var(--surface)", border: "1px solid var(--line-strong)", borderRadius: "8px", color: "var(--text)" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", fontSize: "13px" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--accent-text)" },
  ".cm-completionDetail": { marginLeft: "1em", opacity: "0.85", fontStyle: "normal" },
  ".cm-panels": { backgroundColor: "var(--sunken)", color: "var(--text)" },
};
