// The page: asks the agent, keeps what is chosen, and has graph, tables and panel drawn.

import { Details } from "./details.js";
import { h, s, say, set } from "./dom.js";
import { Feed } from "./feed.js";
import { clock, plural } from "./format.js";
import { Graph, spoken } from "./graph.js";
import { scene } from "./groups.js";
import { KINDS, shape } from "./kinds.js";
import { Model } from "./model.js";
import { connectionsTable, workloadsTable } from "./tables.js";

const at = (id) => document.getElementById(id);
const model = new Model();
const state = {
  chosen: null,
  back: null,
  kinds: new Set(KINDS.map((one) => one.id)),
  open: new Map(),
  search: "",
  tab: "map",
  answered: 0,
  error: null,
};
let drawn = { nodes: new Map(), links: new Map() };

const graph = new Graph(at("graph"), pick, toggle);
const details = new Details(at("panel"), pick, close);
const tables = {
  connections: connectionsTable(at("connections"), (id) => pick("link", id)),
  workloads: workloadsTable(at("workloads"), (id) => pick("node", id), () => model.now),
};
for (const table of Object.values(tables)) table.again = draw;
const feed = new Feed("map.json", took, failed);

function took(answer) {
  const before = new Map(model.links);
  model.take(answer, performance.now());
  const first = state.answered === 0;
  state.answered = Date.now();
  state.error = null;
  draw();
  if (!first) announce(before);
}

function failed(error, times) {
  state.error = error;
  at("loading").hidden = true;
  empty();
  health(times);
}

function draw() {
  drawn = scene(model, { open: state.open, together: true, kinds: state.kinds });
  if (state.answered) at("loading").hidden = true;
  say(at("node"), model.node);
  graph.draw(drawn, model.now, state.chosen, found());
  if (state.tab === "connections") tables.connections.draw(rows(model.links), state.chosen?.id);
  if (state.tab === "workloads") tables.workloads.draw(matching(model.nodes), state.chosen?.id);
  if (state.chosen) details.show(state.chosen, lookup(), model.now);
  legend();
  empty();
  health(0);
}

/** What the panel looks things up in: what is drawn, and behind it each single workload and link. */
function lookup() {
  const nodes = new Map(drawn.nodes);
  for (const node of model.nodes.values()) {
    if (!nodes.has(node.id)) nodes.set(node.id, { ...node, members: [node], size: 1, enrolled: node.enrolled ? 1 : 0 });
  }
  return { nodes, links: new Map([...model.links, ...drawn.links]) };
}

function matches(node) {
  const text = `${node.namespace}/${node.name} ${node.identity ?? ""} ${[...(node.addresses ?? []), ...(node.pods ?? [])].join(" ")}`;
  return text.toLowerCase().includes(state.search);
}

/** Drawn nodes that the search looks for; null when there is no search. */
function found() {
  if (!state.search) return null;
  return new Set([...drawn.nodes.values()].filter((node) => node.members.some(matches)).map((node) => node.id));
}

function matching(nodes) {
  return [...nodes.values()].filter((node) => !state.search || matches(node));
}

function rows(links) {
  return [...links.values()].filter((link) => state.kinds.has(link.kind)
    && (!state.search || matches(model.nodes.get(link.source)) || matches(model.nodes.get(link.target))));
}

function pick(of, id) {
  // Where the focus was before the panel opened: Escape leads back there.
  if (!at("panel").contains(document.activeElement)) state.back = document.activeElement;
  state.chosen = { of, id };
  draw();
  at("panel").querySelector(".close")?.focus({ preventScroll: true });
}

function close() {
  const { chosen, back } = state;
  state.chosen = null;
  details.hide();
  draw();
  if (back?.isConnected && back !== document.body) back.focus();
  else if (chosen) graph.focus(chosen.id);
}

function toggle(namespace) {
  state.open.set(namespace, drawn.shut(namespace));
  state.chosen = null;
  details.hide();
  graph.view.moved = false;
  draw();
  graph.view.fit();
}

/** One line a kind: how many links, and a click hides or shows them. */
function legend() {
  const place = at("legend");
  if (!place.childElementCount) {
    place.append(...KINDS.map((one) => h("button", { class: `chip ${one.id}`, "data-kind": one.id, title: one.long, onclick: () => flip(one.id) },
      s("svg", { class: "sign-small", viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { class: "sign", d: shape(one.id) })),
      h("span", {}, one.short), h("b"))), h("span", { class: "sum", id: "sum" }));
  }
  const numbers = new Map(KINDS.map((one) => [one.id, 0]));
  for (const link of model.links.values()) numbers.set(link.kind, numbers.get(link.kind) + 1);
  for (const button of place.querySelectorAll("button")) {
    const id = button.dataset.kind;
    set(button, "aria-pressed", String(state.kinds.has(id)));
    say(button.querySelector("b"), String(numbers.get(id)));
    button.hidden = id === "local" && !numbers.get(id);
  }
  const known = [...model.nodes.values()].filter((node) => node.known);
  const enrolled = known.filter((node) => node.enrolled).length;
  say(at("sum"), state.answered ? `${enrolled} of ${plural(known.length, "workload")} in the mesh` : "");
}

function flip(id) {
  if (!state.kinds.delete(id)) state.kinds.add(id);
  draw();
}

const NOTHING = {
  away: ["No answer yet", "The agent is asked again every few seconds. On its node, culvert status says how it is."],
  none: ["No workload yet", "This agent knows of no pod in the mesh. Enrol a namespace, and its pods appear here:", "kubectl label namespace default istio.io/dataplane-mode=ambient"],
  quiet: ["No connection yet", "As soon as one workload calls another, a line joins them."],
};

/** What stands in place of a picture, or below one that has no line yet. */
function empty() {
  const place = at("empty");
  const what = !state.answered ? (state.error ? "away" : "")
    : !model.nodes.size ? "none" : !model.links.size ? "quiet" : "";
  place.hidden = !what;
  place.classList.toggle("corner", what === "quiet");
  if (!what || place.dataset.what === what) return;
  place.dataset.what = what;
  const [title, text, command] = NOTHING[what];
  place.replaceChildren(h("h2", {}, title), h("p", {}, text), ...(command ? [h("code", {}, command)] : []));
}

function health(times) {
  const place = at("health");
  const away = Boolean(state.error);
  set(place, "data-state", feed.paused ? "paused" : away ? "away" : state.answered ? "live" : "loading");
  say(at("health-text"), feed.paused ? "Paused" : away ? "Agent away" : state.answered ? "Live" : "Loading");
  const notice = at("notice");
  notice.hidden = !away;
  document.body.dataset.stale = away ? "yes" : "no";
  if (!away) return;
  const since = state.answered ? ` What you see is as of ${clock(state.answered)}.` : "";
  if (times < 2 || !notice.textContent) say(notice, `No answer from the agent (${state.error.message}). Asking again by itself.${since}`);
}

/** Tells those who do not see the picture what has changed in it, and no more than that. */
function announce(before) {
  const news = [];
  for (const [id, link] of model.links) {
    // Once when it begins, not each time that it goes on.
    const begins = link.rates.refusals > 0 && link.history.slice(-16, -1).every((value) => value === 0);
    if (!before.has(id) || begins) news.push(spoken(link, { nodes: model.nodes }));
  }
  if (!news.length) return;
  say(at("spoken"), news.length > 3 ? `${news.slice(0, 3).join(". ")}. And ${news.length - 3} more.` : news.join(". "));
}

function show(tab, focus) {
  state.tab = tab;
  for (const name of ["map", "connections", "workloads"]) {
    const button = at(`tab-${name}`);
    at(name).hidden = name !== tab;
    set(button, "aria-selected", String(name === tab));
    set(button, "tabindex", name === tab ? "0" : "-1");
  }
  draw();
  if (focus) at(`tab-${tab}`).focus();
}

function tabs() {
  const names = ["map", "connections", "workloads"];
  for (const name of names) at(`tab-${name}`).addEventListener("click", () => show(name));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(names[(names.indexOf(state.tab) + step + names.length) % names.length], true);
  });
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    show("connections");
    at("connections").focus();
  });
}

function keys() {
  addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input");
    if (event.key === "Escape" && state.chosen) close();
    else if (event.key === "Escape" && typing) event.target.blur();
    else if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "/") { event.preventDefault(); at("search").focus(); }
    else if (event.key === "+" || event.key === "=") graph.view.zoom(1.25);
    else if (event.key === "-") graph.view.zoom(0.8);
    else if (event.key === "0") graph.view.fit();
  });
}

at("search").addEventListener("input", (event) => {
  state.search = event.target.value.trim().toLowerCase();
  draw();
});
at("zoom-in").addEventListener("click", () => graph.view.zoom(1.25));
at("zoom-out").addEventListener("click", () => graph.view.zoom(0.8));
at("zoom-fit").addEventListener("click", () => graph.view.fit());
at("pause").addEventListener("click", (event) => {
  feed.pause(!feed.paused);
  set(event.currentTarget, "aria-pressed", String(feed.paused));
  health(0);
});
tabs();
keys();
legend();
feed.now();
