// The frame of the dashboard: which page is shown, who asks, dark or light, keys.
import { ask, button, element, signOut } from "./page.js";
import { watch } from "./samples.js";

const PAGES = ["overview", "sql", "tables", "cluster", "queries", "access", "settings"];
const main = document.getElementById("main");
let close = () => {};
let turn = 0;

/** `#/tables/docs` -> ["tables", "docs"]. */
function place() {
  const parts = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  return PAGES.includes(parts[0]) ? parts : ["overview"];
}

async function show() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a link within the page
  const mine = (turn += 1);
  const [page, ...rest] = place();
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const module = await import(`./${page}.js`);
  if (mine !== turn) return; // another page was asked for meanwhile
  close();
  main.replaceChildren();
  document.title = `${document.querySelector("#pages [aria-current]").textContent.trim()} · NearQL`;
  close = module.open(main, rest) ?? (() => {});
}

async function showNode() {
  const { status, body, headers } = await ask("/v1/cluster/nodes");
  const version = headers.get("NearQL-Version");
  const name = status === 200 && body.nodes.length === 1 ? body.nodes[0].name : null;
  const parts = [name && element("b", {}, name), version && ` version ${version}`].filter(Boolean);
  document.getElementById("node").replaceChildren(...parts);
}

/** Who the node takes this browser for, with a way out; nothing where nobody is asked. */
async function showUser() {
  const { status, body } = await ask("/v1/whoami");
  if (status !== 200 || body.via === "local") return;
  document.getElementById("user").replaceChildren(
    element("span", {}, body.user), button("Sign out", signOut, { className: "tiny" }));
}

const THEMES = [["", "Theme: system"], ["light", "Theme: light"], ["dark", "Theme: dark"]];

function chooseTheme(step) {
  const now = localStorage.getItem("nearql.theme") ?? "";
  const at = Math.max(0, THEMES.findIndex(([name]) => name === now));
  const [name, text] = THEMES[(at + step) % THEMES.length];
  if (name) localStorage.setItem("nearql.theme", name);
  else localStorage.removeItem("nearql.theme");
  document.documentElement.dataset.theme = name;
  const toggle = document.getElementById("theme");
  toggle.textContent = text;
  toggle.title = "Change it (t)";
}

function typing(target) {
  return target.closest("input, textarea, select, [contenteditable], .editor, dialog");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.composedPath()[0])) return;
  const number = Number(event.key);
  if (number >= 1 && number <= PAGES.length) location.hash = `#/${PAGES[number - 1]}`;
  else if (event.key === "t") chooseTheme(1);
});
document.querySelectorAll("#pages a").forEach((link, i) => { link.title = `Key ${i + 1}`; });
document.getElementById("theme").addEventListener("click", () => chooseTheme(1));
window.addEventListener("hashchange", show);
chooseTheme(0);
watch();
show();
showNode();
showUser();
