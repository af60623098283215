// What /metrics says, read every two seconds while the dashboard can be seen: the last ten minutes.
// Rates and times are of what happened between two readings; nothing is filled in where there is none.
import { ask, every } from "./page.js";

const EVERY_MS = 2000;
const KEPT = 300;
const STORE = "nearql.samples";
const SQL = { route: "/v1/sql" };
const listeners = new Set();
let samples = restored();
let problem = null;

/** The readings so far, oldest first. */
export function readings() {
  return samples;
}

/** Why there are none, where the node refused. */
export function refusal() {
  return problem;
}

/** Has `call()` called after each reading; returns how to end that. */
export function onReading(call) {
  listeners.add(call);
  return () => listeners.delete(call);
}

/** Begins to read. */
export function watch() {
  every(EVERY_MS, async () => {
    const answer = await read();
    if (answer) add(answer);
    for (const call of listeners) call();
  });
}

async function read() {
  const { status, body } = await ask("/metrics", {}, (text) => text);
  problem = status === 200 ? null : body;
  return status === 200 ? sample(families(body)) : null;
}

function add(one) {
  if (samples.length && one.requests < samples.at(-1).requests) samples = []; // it was started anew
  samples = [...samples, one].slice(-KEPT);
  try {
    sessionStorage.setItem(STORE, JSON.stringify(samples));
  } catch {
    sessionStorage.removeItem(STORE); // no room: then a reload begins with none
  }
}

function restored() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(STORE)) ?? [];
    return kept.filter((one) => Date.now() - one.at < KEPT * EVERY_MS * 2);
  } catch {
    return [];
  }
}

/** name -> [{labels, value}], of Prometheus' text format. */
export function families(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replaceAll(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    }
    if (!found.has(parts[1])) found.set(parts[1], []);
    found.get(parts[1]).push({ labels, value: Number(parts[3]) });
  }
  return found;
}

/** The sum of a metric over the series with these labels; null where there is no such metric. */
function sum(metrics, name, labels = {}) {
  const series = metrics.get(name);
  if (!series) return null;
  const wanted = Object.entries(labels);
  return series.filter((one) => wanted.every(([key, value]) => one.labels[key] === value))
    .reduce((total, one) => total + one.value, 0);
}

function sample(metrics) {
  const buckets = {};
  for (const { labels, value } of metrics.get("nearql_http_request_seconds_bucket") ?? []) {
    if (labels.route === SQL.route) buckets[labels.le] = (buckets[labels.le] ?? 0) + value;
  }
  const failed = (metrics.get("nearql_http_requests_total") ?? [])
    .filter((one) => one.labels.status?.startsWith("5")).reduce((total, one) => total + one.value, 0);
  return {
    at: Date.now(),
    requests: sum(metrics, "nearql_http_requests_total"),
    statements: sum(metrics, "nearql_http_requests_total", SQL),
    refused: sum(metrics, "nearql_http_requests_total", { status: "429" }),
    failed,
    buckets,
    memory: sum(metrics, "nearql_memory_used_bytes"),
    limit: sum(metrics, "nearql_memory_limit_bytes"),
    cpu: sum(metrics, "process_cpu_seconds_total"),
    connections: sum(metrics, "nearql_http_connections"),
    running: sum(metrics, "nearql_statements_running"),
    loaded: sum(metrics, "nearql_bulk_rows_total"),
  };
}

/** What happened between two readings: per second, and seconds. */
export function between(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const rate = (name) => (before[name] === null || after[name] === null ? null
    : Math.max(0, after[name] - before[name]) / seconds);
  const counts = Object.entries(after.buckets)
    .map(([edge, value]) => [edge === "+Inf" ? Infinity : Number(edge), value - (before.buckets[edge] ?? 0)])
    .sort((a, b) => a[0] - b[0]);
  return {
    at: after.at,
    qps: rate("statements"), refused: rate("refused"), failed: rate("failed"), loaded: rate("loaded"),
    cpu: rate("cpu"),
    p50: quantile(counts, 0.5), p99: quantile(counts, 0.99),
    memory: after.memory,
  };
}

/** As Prometheus' histogram_quantile, in ms; null where nothing was counted. */
function quantile(counts, share) {
  const total = counts.at(-1)?.[1] ?? 0;
  if (!total) return null;
  const rank = share * total;
  let [low, below] = [0, 0];
  for (const [edge, upTo] of counts) {
    if (upTo >= rank) {
      if (edge === Infinity) return low * 1000;
      return (low + (edge - low) * ((rank - below) / (upTo - below))) * 1000;
    }
    [low, below] = [edge, upTo];
  }
  return low * 1000;
}

/** The steps between readings; a gap (a hidden page) is a step without values. */
export function steps() {
  const found = [];
  for (let i = 1; i < samples.length; i += 1) {
    const apart = samples[i].at - samples[i - 1].at;
    if (apart > 5 * EVERY_MS) found.push({ at: samples[i].at - 1 });
    else found.push(between(samples[i - 1], samples[i]));
  }
  return found;
}
