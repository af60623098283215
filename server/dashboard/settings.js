// Settings: every setting of this node as it is in force, from nearql.settings.
import { element, grid, nothing, pageTitle, panel, problemBox, records, sql } from "./page.js";

export function open(main) {
  const { title } = pageTitle("Settings");
  const search = element("input", { type: "search", className: "search", placeholder: "Search: memory, timeout, ...", ariaLabel: "Search settings" });
  const place = element("div", { className: "stack whole" });
  main.append(title, element("div", { className: "stack" }, element("div", {}, search,
    element("p", { className: "small quiet" }, "They are set in a file, by variables such as NEARQL_HTTP_PORT or by flags, and hold until a restart.")), place));
  show(search, place);
}

async function show(search, place) {
  const { status, body } = await sql("SELECT name, value, description FROM nearql.settings ORDER BY name");
  if (status !== 200) {
    place.replaceChildren(problemBox(body));
    return;
  }
  const all = records(body);
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.filter((one) => words.every((word) => `${one.name} ${one.value} ${one.description}`.toLowerCase().includes(word)));
    const sections = Map.groupBy(found, (one) => one.name.split(".")[0]);
    const panels = [...sections].map(([name, settings]) => panel(name, grid(["Setting", "Value", "What it is"],
      settings.map((one) => [element("code", {}, one.name), one.value === "" ? element("span", { className: "quiet" }, "not set") : element("code", {}, one.value),
        element("span", { className: "quiet" }, one.description)]), `Settings of ${name}`)));
    place.replaceChildren(...(panels.length ? panels : [element("div", { className: "panel" }, nothing("No setting matches."))]));
  };
  search.addEventListener("input", draw);
  draw();
}
