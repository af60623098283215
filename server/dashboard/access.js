// Access: who one is here, and for administrators keys, users and grants.
import {
  ask, button, confirmed, count, element, grid, moment, nothing, pageTitle, panel, problemBox, send, tell,
} from "./page.js";

const DAYS = [["", "never"], ["86400", "in a day"], ["604800", "in a week"], ["2592000", "in 30 days"], ["31536000", "in a year"]];

export function open(main) {
  const { title } = pageTitle("Access");
  const place = element("div", { className: "stack" });
  main.append(title, place);
  refresh(place);
}

async function refresh(place) {
  const who = await ask("/v1/whoami");
  if (who.status !== 200) {
    place.replaceChildren(problemBox(who.body));
    return;
  }
  place.replaceChildren(selfPanel(who.body), ...(await keyPanels(who.body, () => refresh(place))));
}

async function keyPanels(who, again) {
  if (who.via === "local") {
    return [panel("Nobody is asked for a key", nothing("auth.mode is none: whoever reaches this address may do everything. Set auth.mode to required to make keys."))];
  }
  if (!who.admin) return [panel("Keys and users", nothing("Only administrators see keys and users."))];
  const { status, body } = await ask("/v1/keys");
  if (status !== 200) return [problemBox(body)];
  return [newKeyPanel(body.users, again), keysPanel(body.keys, again), usersPanel(body.users)];
}

function selfPanel(who) {
  const tables = Object.entries(who.tables).filter(([, actions]) => actions.length);
  const facts = [["user", who.user], ["proved by", { local: "nothing: nobody is asked" }[who.via] ?? who.via], ["administrator", who.admin ? "yes" : "no"]];
  if (who.key) facts.push(["key", who.key]);
  const made = element("section", { className: "panel" }, element("div", { className: "panel-head" }, element("h2", {}, "You")),
    element("dl", { className: "facts" }, ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
  if (tables.length && !who.admin) made.append(grid(["Table", "You may"], tables.map(([name, actions]) => [name, actions.join(", ")]), "Your tables"));
  return made;
}

function field(name, input) {
  return element("label", { className: "field" }, element("span", {}, name), input);
}

function select(options) {
  return element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
}

function newKeyPanel(users, again) {
  const known = new Set(users.map((user) => user.name));
  const user = element("input", { required: true, autocomplete: "off", spellcheck: false });
  const role = select([["none", "none: what is granted"], ["reader", "reader"], ["writer", "writer"], ["admin", "admin"]]);
  const expires = select(DAYS);
  user.addEventListener("input", () => { role.disabled = known.has(user.value); });
  const form = element("form", { className: "form" }, field("User, new or known", user), field("Role of a new user", role), field("Ends", expires),
    element("button", { className: "primary" }, "Make a key"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const members = { user: user.value };
    if (!known.has(user.value)) members.role = role.value;
    if (expires.value) members.expires_in_s = Number(expires.value);
    const { status, body } = await send("POST", "/v1/keys", members);
    if (status !== 200) tell(body.detail);
    else await showSecret(body, again);
  });
  return panel("A new key", form);
}

/** The text of a key, which the node tells once. */
function showSecret(made, again) {
  const dialog = element("dialog", { ariaLabel: "The key" });
  const end = () => { dialog.close(); dialog.remove(); again(); };
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(made.key);
    tell("Copied.");
  });
  dialog.append(element("form", { method: "dialog" }, element("h2", {}, `The key of ${made.user}`),
    element("p", {}, "It is shown once: the node keeps only its hash."),
    element("code", { className: "secret" }, made.key),
    element("div", { className: "choices" }, copy, button("Done", end, { className: "primary" }))));
  dialog.addEventListener("cancel", end);
  document.body.append(dialog);
  dialog.showModal();
}

function keysPanel(keys, again) {
  if (!keys.length) return panel("Keys", nothing("There are none but that of the file auth.bootstrap_admin_key_file."));
  const rows = keys.map((key) => [element("code", {}, key.id), key.user, moment(key.created_at), moment(key.expires_at), moment(key.rotated_at),
    limits(key), element("div", { className: "actions-row" },
      button("Rotate", () => rotate(key, again), { className: "tiny" }), button("Revoke", () => revoke(key, again), { className: "tiny danger" }))]);
  return panel("Keys", grid(["Id", "User", "Made", "Ends", "Rotated", "Limits", "Actions"], rows, "Keys"));
}

function limits(key) {
  const told = [key.rate && `${count(key.rate)} requests/s`, key.concurrency && `${count(key.concurrency)} at a time`].filter(Boolean);
  return told.join(", ") || "those of the node";
}

async function rotate(key, again) {
  const text = `${key.user}'s key gets a new text; the old one stays valid for auth.rotation_grace_s.`;
  if (!(await confirmed("Rotate this key?", text, "Rotate it", { danger: false }))) return;
  const { status, body } = await send("POST", `/v1/keys/${encodeURIComponent(key.id)}/rotate`, {});
  if (status !== 200) tell(body.detail);
  else await showSecret(body, again);
}

async function revoke(key, again) {
  if (!(await confirmed("Revoke this key?", `${key.user}'s key ${key.id} and its sessions are void at once.`, "Revoke it"))) return;
  const { status, body } = await ask(`/v1/keys/${encodeURIComponent(key.id)}`, { method: "DELETE" });
  tell(status === 200 ? "Revoked." : body.detail);
  await again();
}

function usersPanel(users) {
  if (!users.length) return panel("Users", nothing("None yet: a new key makes its user."));
  const rows = users.map((user) => [user.name, element("span", { className: "badge" }, user.role),
    user.tables === null ? "all tables" : user.tables.join(", ") || "no table",
    user.grants.length ? element("div", {}, ...user.grants.map((grant) => element("div", {}, `${grant.table}: ${grant.actions.join(", ")}`)))
      : element("span", { className: "quiet" }, "nothing")]);
  return panel("Users and grants", grid(["User", "Role", "The role holds for", "Granted beside it"], rows, "Users"),
    element("a", { href: "#/sql", className: "small" }, "GRANT and REVOKE in SQL"));
}
