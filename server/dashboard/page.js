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
    return { status: answer.status, body: parse(await answer.text()), headers: answer.headers };
  } catch (error) {
    const detail = `The node did not answer: ${error.message}.`;
    return { status: 0, body: { title: "No answer", detail, code: "no_answer" }, headers: new Headers() };
  }
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
