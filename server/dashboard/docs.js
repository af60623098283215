// Shows /openapi.json: each route with its parameters, bodies and answers.
import { ask, element } from "./page.js";

let description;

/** What a {"$ref": "#/a/b"} points to. */
function resolved(thing) {
  if (!thing?.$ref) return thing;
  return thing.$ref.slice(2).split("/").reduce((at, name) => at[name], description);
}

/** Text whose `parts` in backticks are code. */
function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

/** A schema with its references replaced, for reading. */
function expanded(schema) {
  if (Array.isArray(schema)) return schema.map(expanded);
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) return expanded(resolved(schema));
  return Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, expanded(value)]));
}

/** A schema as a short outline: names, types, what they mean. */
function outline(schema, indent = "") {
  const type = schema.enum ? schema.enum.map((v) => JSON.stringify(v)).join(" | ") : [schema.type ?? "any"].flat().join(" | ");
  const note = schema.description ? `   ${schema.description}` : "";
  if (schema.type === "object" && schema.properties) {
    const needed = new Set(schema.required ?? []);
    const lines = Object.entries(schema.properties).map(([name, part]) =>
      `${indent}  ${name}${needed.has(name) ? "" : "?"}: ${outline(part, `${indent}  `)}`);
    return `{${note}\n${lines.join("\n")}\n${indent}}`;
  }
  if (schema.type === "array") return `[ ${outline(schema.items ?? {}, indent)} ]${note}`;
  return type + note;
}

function contents(title, content) {
  const parts = Object.entries(content ?? {}).map(([kind, { schema }]) =>
    element("div", {}, element("div", { className: "mono quiet" }, kind),
      schema && Object.keys(schema).length ? element("pre", {}, outline(expanded(schema))) : null));
  return parts.length ? [element("h3", {}, title), ...parts] : [];
}

function parameters(list) {
  if (!list?.length) return [];
  const rows = list.map(resolved).map((p) => element("tr", {},
    element("td", { className: "mono" }, p.name), element("td", {}, p.in),
    element("td", {}, ...prose(p.description ?? (p.schema.enum ?? []).join(" | ")))));
  return [element("h3", {}, "Parameters"), element("table", {}, element("tbody", {}, ...rows))];
}

function problems(responses) {
  const rows = Object.entries(responses).filter(([status]) => status !== "200").map(([status, response]) =>
    element("tr", {}, element("td", { className: "mono" }, status),
      element("td", {}, ...prose(resolved(response).description))));
  return rows.length ? [element("h3", {}, "Problems"), element("table", {}, element("tbody", {}, ...rows))] : [];
}

function operation(path, method, about) {
  return element("details", { className: "panel operation", open: path === "/v1/sql" },
    element("summary", {},
      element("span", { className: "method" }, method.toUpperCase()),
      element("code", {}, path), element("span", { className: "quiet" }, about.summary)),
    element("div", { className: "inner" },
      about.description ? element("p", {}, ...prose(about.description)) : null,
      ...parameters(about.parameters),
      ...contents("Body", about.requestBody?.content),
      ...contents("Answer", about.responses["200"].content),
      ...problems(about.responses)));
}

async function show() {
  const { status, body } = await ask("/openapi.json");
  const main = document.getElementById("operations");
  if (status !== 200) {
    main.replaceChildren(element("p", { className: "problem" }, body.detail));
    return;
  }
  description = body;
  document.getElementById("about").textContent = body.info.version;
  const all = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => operation(path, method, about)));
  const problem = body.components.schemas.Problem;
  main.replaceChildren(...all,
    element("section", { className: "panel" }, element("h2", {}, "Every problem"),
      element("div", { className: "inner" }, element("p", {}, problem.description), element("pre", {}, outline(problem)))),
    element("section", { className: "panel" }, element("h2", {}, "How values look in JSON"),
      element("div", { className: "inner" }, element("pre", {}, body.info.description))));
}

show();
