// Cluster: who leads, which nodes answer, where each copy of each shard stands.
import {
  ask, button, clock, confirmed, count, duration, element, every, grid, nothing, pageTitle, panel, problemBox, put, send, tell,
} from "./page.js";

const EVERY_MS = 5000;
const ACTIONS = ["rebalance", "move", "drain", "failover"];
const JOB_BADGES = { done: "good", waiting: "warn", failed: "wrong", cancelled: "warn" };

export function open(main) {
  const { title, asOf } = pageTitle("Cluster");
  const place = element("div", { className: "stack" });
  const jobs = element("div", {});
  main.append(title, element("div", { className: "stack" }, place, jobs));
  const page = new ClusterPage(place, jobs, asOf);
  return every(EVERY_MS, () => page.refresh());
}

class ClusterPage {
  constructor(place, jobs, asOf) {
    Object.assign(this, { place, jobs, asOf, actions: null, followed: new Set() });
  }

  async refresh() {
    if (this.actions === null) this.actions = await offered();
    const { status, body } = await ask("/v1/cluster");
    if (status !== 200) {
      put(this.place, problemBox({ ...body, title: `No data since ${this.known ?? "this page was opened"}` }));
      return;
    }
    this.known = clock();
    this.nodes = body.nodes;
    this.asOf(`data of ${this.known}, every ${EVERY_MS / 1000} s`);
    const alone = body.nodes.length === 1;
    const parts = [leaderPanel(body, alone), this.#nodes(body, alone), this.#shards(body)];
    if (body.moves?.length) parts.push(movesPanel(body.moves));
    put(this.place, ...parts);
    await this.#followJobs();
  }

  #nodes(body, alone) {
    const cards = body.nodes.map((node) => {
      const card = element("section", { className: `panel node-card${node.role === "leader" ? " leader" : ""}${node.alive ? "" : " down"}` },
        element("div", { className: "head" }, element("strong", {}, node.name),
          element("span", { className: `badge ${node.role === "leader" ? "good" : ""}` }, node.role),
          element("span", { className: `badge ${node.alive ? "good" : "wrong"}` }, node.alive ? "alive" : "not reachable")),
        element("dl", {}, ...nodeFacts(node, body).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
      const copies = body.shards.some((shard) => shard.copies.some((copy) => copy.node === node.name));
      if (!alone && this.actions.has("drain") && copies) {
        card.append(element("div", { className: "actions-row" }, button("Drain", () => this.#drain(node.name), { className: "tiny", key: `drain ${node.name}` })));
      }
      return card;
    });
    return element("div", { className: "nodes" }, ...cards);
  }

  #shards(body) {
    if (!body.shards.length) return panel("Shards", nothing("There are no tables, so there are no shards."));
    const actions = body.nodes.length > 1 && ["failover", "move"].some((one) => this.actions.has(one));
    const alive = new Set(body.nodes.filter((node) => node.alive).map((node) => node.name));
    const rows = body.shards.flatMap((shard) => (shard.copies.length ? shard.copies : [null]).map((copy, i) => {
      const own = i === 0 ? [[shard.table, "name"], [count(shard.shard), "number"], [count(shard.epoch), "number"], shard.primary ?? "none"] : ["", "", "", ""];
      const rest = copy === null ? ["no copy known", "", "", "", ""] : copyCells(shard, copy, alive);
      return [...own, ...rest, ...(actions ? [i === 0 && shard.shard === 0 ? this.#tableActions(shard) : ""] : [])];
    }));
    const heads = ["Table", ["Shard", "number"], ["Epoch", "number"], "Primary", "Copy on", "State", ["LSN", "number"], ["Records behind", "number"], ["Time behind", "number"], ...(actions ? ["Actions"] : [])];
    const end = this.actions.has("rebalance") && body.nodes.length > 1 ? [button("Rebalance", () => this.#rebalance(), { className: "tiny", key: "rebalance" })] : [];
    return panel("Shards", grid(heads, rows, "Shards and their copies"), ...end);
  }

  /** Shards of a table go together, so its first one carries the buttons. */
  #tableActions(shard) {
    const made = [["failover", "Failover", () => this.#failover(shard)], ["move", "Move", () => this.#move(shard)]]
      .filter(([action]) => this.actions.has(action));
    return element("div", { className: "actions-row" }, ...made.map(([action, text, begin]) =>
      button(text, begin, { className: "tiny", key: `${action} ${shard.table}` })));
  }

  async #drain(node) {
    const yes = await confirmed(`Drain ${node}?`, `Every copy on ${node} moves to other nodes; it takes no new ones until it is undone.`, "Drain it");
    if (yes) await this.#act("drain", { node });
  }

  async #rebalance() {
    const yes = await confirmed("Rebalance the cluster?", "Copies and primaries move until they are spread evenly. Reads and writes go on.", "Rebalance", { danger: false });
    if (yes) await this.#act("rebalance", {});
  }

  async #failover(shard) {
    const yes = await confirmed(`Fail over ${shard.table}?`, `Another node that has all of it in sync orders its writes instead of ${shard.primary}. Nothing is lost; writes wait meanwhile.`, "Fail over");
    if (yes) await this.#act("failover", { table: shard.table });
  }

  async #move(shard) {
    const held = new Set(shard.copies.map((copy) => copy.node));
    const free = this.nodes.filter((node) => node.alive && !held.has(node.name)).map((node) => node.name);
    if (!free.length) {
      tell("Every node that can be reached has a copy of this table.");
      return;
    }
    const chosen = await moveQuestion(shard, [...held], free);
    if (chosen) await this.#act("move", { table: shard.table, ...chosen });
  }

  async #act(action, members) {
    const { status, body } = await send("POST", `/v1/cluster/${action}`, members);
    if (status !== 200 && status !== 202) {
      tell(`${action}: ${body.detail}`);
      return;
    }
    this.followed.add(body.job);
    tell(`${action} has begun.`);
    await this.#followJobs();
  }

  /** Jobs that are under way, whoever began them, and those begun here. */
  async #followJobs() {
    if (!this.actions.size) return;
    const { status, body } = await ask("/v1/jobs");
    if (status !== 200) {
      put(this.jobs, problemBox(body));
      return;
    }
    const isOpen = (job) => ["running", "waiting"].includes(job.state);
    const rows = body.jobs.filter((job) => isOpen(job) || this.followed.has(job.job)).map((job) => [
      job.kind, element("code", {}, job.job), element("span", { className: `badge ${JOB_BADGES[job.state] ?? ""}` }, job.state),
      job.total === null ? count(job.done) : `${count(job.done)} of ${count(job.total)} ${job.unit}`, job.detail,
      isOpen(job) ? button("Cancel", () => this.#cancel(job), { className: "tiny danger", key: `cancel ${job.job}` }) : ""]);
    const heads = ["Action", "Job", "State", "Done", "Finding", "End it"];
    put(this.jobs, ...(rows.length ? [panel("Jobs", grid(heads, rows, "Jobs"))] : []));
  }

  async #cancel(job) {
    const yes = await confirmed(`Cancel this ${job.kind}?`, "What it has moved stays moved; copies that are not complete yet are dropped.", "Cancel it");
    if (!yes) return;
    const { status, body } = await send("DELETE", `/v1/jobs/${encodeURIComponent(job.job)}`);
    tell(status === 200 ? `The ${job.kind} is cancelled.` : body.detail);
    await this.#followJobs();
  }
}

/** The actions that this node has routes for, where the user is an administrator. */
async function offered() {
  const [who, api] = await Promise.all([ask("/v1/whoami"), ask("/openapi.json")]);
  if (who.status !== 200 || !who.body.admin || api.status !== 200) return new Set();
  return new Set(ACTIONS.filter((name) => api.body.paths[`/v1/cluster/${name}`]?.post));
}

function leaderPanel(body, alone) {
  const facts = [["leader", body.leader ?? "none is known"], ["term", alone && body.term === 0 ? "0: no election was held" : count(body.term)],
    ["nodes", `${body.nodes.filter((node) => node.alive).length} of ${body.nodes.length} answer`], ["shards", count(body.shards.length)]];
  const made = element("section", { className: "panel" }, element("div", { className: "panel-head" },
    element("h2", {}, alone ? "One node" : "Cluster"), body.leader ? "" : element("span", { className: "badge wrong" }, "no leader: writes wait")),
  element("dl", { className: "facts" }, ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
  if (alone) made.append(nothing("This is one node: it holds every shard, and is its own leader. What it holds is as safe as its disk."));
  return made;
}

function nodeFacts(node, body) {
  const seen = node.alive && node.last_seen_ms === 0 ? "now" : node.last_seen_ms === null ? "never" : `${duration(node.last_seen_ms)} ago`;
  const of = (test) => body.shards.filter(test).length;
  const facts = [["address", node.url ?? "not known"], ["last seen", seen],
    ["primary of", count(of((shard) => shard.primary === node.name))],
    ["copies", count(of((shard) => shard.copies.some((copy) => copy.node === node.name)))]];
  if (node.draining) facts.push(["draining", "yes"]);
  if (node.fenced) facts.push(["fenced", "yes: it may not serve writes"]);
  return facts;
}

function copyCells(shard, copy, alive) {
  const inSync = shard.in_sync.includes(copy.node);
  const role = copy.node === shard.primary ? "primary" : inSync ? "in sync" : "catching up";
  const gone = !alive.has(copy.node); // the figures are the last that it told
  const state = gone ? `${inSync ? `${role}, ` : ""}not reachable` : role;
  return [copy.node, element("span", { className: `badge ${gone ? "wrong" : inSync ? "good" : "warn"}` }, state), [count(copy.lsn), "number"],
    [count(copy.lag_records), "number"], [duration(copy.lag_ms), "number"]];
}

function movesPanel(moves) {
  const names = Object.keys(moves[0]);
  return panel("Moves under way", grid(names, moves.map((move) => names.map((name) => String(move[name] ?? ""))), "Moves under way"));
}

/** {from, to}, or null. */
function moveQuestion(shard, held, free) {
  return new Promise((resolve) => {
    const select = (names) => element("select", {}, ...names.map((name) => element("option", { value: name }, name)));
    const [from, to] = [select(held), select(free)];
    const dialog = element("dialog", { ariaLabel: "Move a copy" });
    const end = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    dialog.append(element("form", { method: "dialog" }, element("h2", {}, `Move the copies of ${shard.table}`),
      element("label", { className: "field" }, element("span", {}, "From"), from),
      element("label", { className: "field" }, element("span", {}, "To"), to),
      element("div", { className: "choices" }, button("Cancel", () => end(null)),
        button("Move it", () => end({ from: from.value, to: to.value }), { className: "danger" }))));
    dialog.addEventListener("cancel", () => end(null));
    document.body.append(dialog);
    dialog.showModal();
  });
}
