// Queries: what runs now and what was slow, from nearql.queries; KILL ends what runs.
import {
  button, clock, confirmed, count, duration, element, every, grid, moment, nothing, pageTitle, panel, problemBox, put, records, sql, tell,
} from "./page.js";

const ASKED = "SELECT id, text, \"user\", state, started, elapsed_ms, strategy, scan_ms, search_ms, duckdb_ms, rows, error FROM nearql.queries";

export function open(main) {
  const { title, asOf } = pageTitle("Queries");
  const [running, slow] = [element("div", {}), element("div", {})];
  let paused = false;
  const pause = button("Pause", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
  }, { className: "tiny" });
  main.append(title, element("div", { className: "stack" }, panel("Running", running, pause), panel("Slow, and those that were killed", slow)));
  const refresh = async () => {
    if (paused) return;
    const { status, body } = await sql(ASKED);
    if (status !== 200) {
      put(running, problemBox(body));
      slow.replaceChildren();
      return;
    }
    asOf(`data of ${clock()}, every 2 s`);
    draw(running, slow, records(body), refresh);
  };
  return every(2000, refresh);
}

function draw(running, slow, all, refresh) {
  const isOwn = (one) => one.text === ASKED; // this page's own question
  const now = all.filter((one) => ["running", "stopping"].includes(one.state) && !isOwn(one));
  const before = all.filter((one) => !["running", "stopping"].includes(one.state));
  const kill = (one) => button("Kill", () => end(one, refresh), { className: "tiny danger", key: `kill ${one.id}` });
  const users = all.some((one) => one.user !== null) ? ["User"] : []; // nobody is asked who he is
  const user = (one) => users.map(() => one.user ?? "");
  put(running, now.length ? grid(["Id", "Statement", ...users, ["So far", "number"], "How", "End it"],
    now.map((one) => [count(one.id), [element("code", {}, one.text), "statement"], ...user(one), [duration(one.elapsed_ms), "number"],
      one.strategy ?? "planning", one.state === "stopping" ? element("span", { className: "badge warn" }, "stopping") : kill(one)]), "Running statements")
    : nothing("Nothing runs at this moment."));
  put(slow, before.length ? grid(["Begun", "Statement", ...users, ["Took", "number"], "Where the time went", ["Rows", "number"], "End"],
    before.map((one) => [moment(one.started), [element("code", {}, one.text), "statement"], ...user(one), [duration(one.elapsed_ms), "number"],
      parts(one), [one.rows === null ? "" : count(one.rows), "number"], state(one)]), "Slow statements")
    : nothing("None since the start. Those that take limits.slow_statement_ms or longer are kept here."));
}

function parts(one) {
  const times = [["reading", one.scan_ms], ["search", one.search_ms], ["DuckDB", one.duckdb_ms]].filter(([, ms]) => ms !== null);
  return element("div", { className: "small" }, one.strategy ?? "", ...times.map(([name, ms]) => element("div", { className: "quiet" }, `${name} ${duration(ms)}`)));
}

function state(one) {
  return element("span", { className: `badge ${one.state === "done" ? "good" : "wrong"}` }, one.error ?? one.state);
}

async function end(one, refresh) {
  const text = one.text.length > 200 ? `${one.text.slice(0, 200)}…` : one.text;
  if (!(await confirmed(`Kill statement ${one.id}?`, text, "Kill it"))) return;
  const { status, body } = await sql(`KILL ${one.id}`);
  tell(status === 200 ? `Statement ${one.id} is being ended.` : body.detail);
  await refresh();
}
