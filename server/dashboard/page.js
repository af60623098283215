// What both pages share: building elements from text (never from markup), and asking the node.

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
export async function ask(path, options) {
  try {
    const answer = await fetch(path, options);
    if (answer.status === 401) signIn();
    return { status: answer.status, body: parse(await answer.text()), headers: answer.headers };
  } catch (error) {
    const detail = `The node did not answer: ${error.message}.`;
    return { status: 0, body: { title: "No answer", detail, code: "no_answer" }, headers: new Headers() };
  }
}

/** Asks for a key, once, where the node wants one; a cookie that no script can read remembers it. */
function signIn() {
  if (document.getElementById("sign-in")) return;
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

/** Who the node takes this browser for, with a way out; nothing where nobody is asked. */
export async function showUser(place) {
  const { status, body } = await ask("/v1/whoami");
  if (status !== 200 || body.via === "local") return;
  const leave = element("button", { onclick: signOut }, "Sign out");
  place.append(element("span", { className: "about" }, body.user), leave);
}

async function signOut() {
  await fetch("/v1/login", { method: "DELETE" });
  location.reload();
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
