// What the SQL page needs of CodeMirror, in one module; `python3 dev.py vendor` makes codemirror.js of it.
export { Compartment, Prec } from "@codemirror/state";
export { EditorView, drawSelection, dropCursor, keymap, lineNumbers } from "@codemirror/view";
export { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
export { HighlightStyle, bracketMatching, indentOnInput, syntaxHighlighting } from "@codemirror/language";
export { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
export { highlightSelectionMatches, searchKeymap } from "@codemirror/search";
export { setDiagnostics } from "@codemirror/lint";
export { PostgreSQL, SQLDialect, sql } from "@codemirror/lang-sql";
export { tags } from "@lezer/highlight";
