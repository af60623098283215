// What all pages share: building elements from text (never from markup), asking the node, wording.

/** An element; `properties` are DOM properties, children are nodes or text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** JSON whose integers beyond 2^53 keep every digit, as text, where the browser can tell them. */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (key, value, context) => {
    const digits = context?.source;
    const exact = typeof value !== "number" || Number.isSafeInteger(value) || !/^-?\d+$/.test(digits ?? "");
    return exact ? value : digits;
  });
}

/** {status, body, headers}; status 0 where the node did not answer. */
export async function ask(path, options, read = parse) {
  try {
    const answer = await fetch(path, { redirect: "manual", ...options });
    if (answer.type === "opaqueredirect") return elsewhere();
    if (answer.status === 401) signIn();
    const text = await answer.text();
    return { status: answer.status, body: answer.ok ? read(text) : parse(text), headers: answer.headers };
  } catch (error) {
    const detail = `The node did not answer: ${error.message}.`;
    return { status: 0, body: { title: "No answer", detail, code: "no_answer" }, headers: new Headers() };
  }
}

/** What a follower's redirect to the leader means: this page may ask its own node only. */
async function elsewhere() {
  const { status, body } = await ask("/v1/cluster/nodes");
  const leader = status === 200 ? body.nodes.find((node) => node.role === "leader") : null;
  const detail = leader ? `Writes belong to the leader, ${leader.name}: open the dashboard there.`
    : "Writes belong to the leader, and none is known at this moment.";
  return { status: 307, body: { title: "This node follows", detail, code: "not_leader", at: leader?.url }, headers: new Headers() };
}

/** Asks for a key, once, where the node wants one; a cookie that no script can read remembers it. */
function signIn() {
  const asked = document.getElementById("sign-in");
  if (asked) { // Escape may have closed it
    if (!asked.open) asked.showModal();
    return;
  }
  const key = element("input", {
    type: "password", id: "key", required: true, autocomplete: "current-password", spellcheck: false,
  });
  const told = element("p", { className: "wrong", role: "alert" });
  const form = element("form", {},
    element("h2", { id: "sign-in-title" }, "Sign in"),
    element("label", { htmlFor: "key" }, "Key"), key, told,
    element("button", { className: "primary" }, "Sign in"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = JSON.stringify({ key: key.value.trim() });
    const answer = await fetch("/v1/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) location.reload();
    else told.textContent = (await answer.json()).detail;
  });
  const dialog = element("dialog", { id: "sign-in" }, form);
  dialog.setAttribute("aria-labelledby", "sign-in-title");
  document.body.append(dialog);
  dialog.showModal();
  key.focus();
}

/** Ends the session of this browser. */
export async function signOut() {
  await fetch("/v1/login", { method: "DELETE" });
  location.reload();
}

/** The last result of a text of SQL, or its problem: the same shape as `ask` gives. */
export function sql(text, more = {}) {
  return send("POST", "/v1/sql", { sql: text, ...more });
}

/** A request with a JSON body. */
export function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
}

/** The rows of a result as objects. */
export function records(body) {
  const names = body.columns.map((column) => column.name);
  return body.rows.map((row) => Object.fromEntries(names.map((name, i) => [name, row[i]])));
}

/** An identifier as SQL takes it. */
export function quoted(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

/** As `quoted`, but as people write it where they may. */
export function shownName(name) {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : quoted(name);
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A whole number with separators; what is missing is said. */
export function count(value) {
  return value === null || value === undefined ? "not known" : Number(value).toLocaleString("en");
}

/** Milliseconds in the unit that fits. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "not known";
  if (ms === 0) return "0 ms";
  if (ms < 10) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`;
}

/** The time of day of some data. */
export function clock(at = new Date()) {
  return at.toLocaleTimeString("en-GB");
}

/** A moment that the node told, in the browser's time; what is missing is said. */
export function moment(text) {
  return text ? new Date(text).toLocaleString("en-GB") : "never";
}

/** What a problem document says, as one box. */
export function problemBox(problem, ...more) {
  if (problem.code === "unauthenticated") return nothing("Sign in with a key to see this.");
  const facts = [problem.code, problem.sqlstate, problem.request_id && `request ${problem.request_id}`];
  const there = /^https?:\/\//.test(problem.at ?? "") ? element("a", { href: problem.at }, problem.at) : null;
  return element("div", { className: "problem", role: "alert" },
    element("strong", {}, problem.title ?? "Error"), element("div", {}, problem.detail ?? ""), there, ...more,
    element("div", { className: "quiet small" }, facts.filter(Boolean).join(" · ")));
}

/** A table. heads: names, or [name, class]; rows: cells as nodes, text, or [content, class]. */
export function grid(heads, rows, caption) {
  const cell = (tag, content, more = {}) => {
    const [inner, className] = Array.isArray(content) ? content : [content, ""];
    return element(tag, { className, ...more }, inner);
  };
  const head = element("tr", {}, ...heads.map((one) => cell("th", one, { scope: "col" })));
  const body = rows.map((row) => element("tr", {}, ...row.map((one) => cell("td", one))));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  const box = element("div", { className: "scroll", tabIndex: 0, role: "region" }, table);
  box.setAttribute("aria-label", caption);
  return box;
}

/** A panel with a title, and things at the end of its line. */
export function panel(title, content, ...end) {
  const head = element("div", { className: "panel-head" }, element("h2", {}, title),
    element("div", { className: "end" }, ...end));
  return element("section", { className: "panel" }, head, ...[content].flat());
}

/** What a panel says where there is nothing to show. */
export function nothing(...texts) {
  return element("div", { className: "none" }, ...texts.map((text) =>
    (typeof text === "string" ? element("p", {}, text) : text)));
}

/** The title of a page; `asOf(text)` says of when its data is. */
export function pageTitle(text, ...more) {
  const asOf = element("span", { className: "as-of" });
  const title = element("div", { className: "title" }, element("h1", {}, text), ...more, asOf);
  return { title, asOf: (told) => { asOf.textContent = told; } };
}

/** Puts `nodes` in place of what is there, unless that would take the focus from somebody. */
export function put(place, ...nodes) {
  const held = place.contains(document.activeElement) ? document.activeElement : null;
  const key = held?.dataset?.key;
  place.replaceChildren(...nodes);
  if (held && place.isConnected) {
    const again = key && [...place.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    again?.focus();
  }
}

/** A button. key: what it is found again by when its place is drawn anew. */
export function button(text, onclick, { className = "", key, title } = {}) {
  const made = element("button", { type: "button", className, onclick }, text);
  if (key) made.dataset.key = key;
  if (title) made.title = title;
  return made;
}

/** Calls `work` now and every `ms` after it has ended, while the page can be seen; returns the end. */
export function every(ms, work) {
  let timer = 0;
  let ended = false;
  const turn = async () => {
    if (!document.hidden) await work();
    if (!ended) timer = setTimeout(turn, ms);
  };
  const seen = () => {
    if (document.hidden || ended) return;
    clearTimeout(timer);
    turn();
  };
  document.addEventListener("visibilitychange", seen);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}

/** A question; true where the answer is yes. */
export function confirmed(title, text, yes, { danger = true } = {}) {
  return new Promise((resolve) => {
    const dialog = element("dialog", {});
    const answer = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    const go = button(yes, () => answer(true), { className: danger ? "danger" : "primary" });
    dialog.append(element("form", { method: "dialog" },
      element("h2", { id: "question" }, title), element("p", {}, text),
      element("div", { className: "choices" }, button("Cancel", () => answer(false)), go)));
    dialog.setAttribute("aria-labelledby", "question");
    dialog.addEventListener("cancel", () => answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Says something for a moment, at the edge of the page. */
export function tell(text) {
  const place = document.getElementById("told");
  place.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { place.textContent = ""; }, 6000);
}
