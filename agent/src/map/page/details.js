// The panel at the side: one link or one node, with certificates and policies a click away.

import { h, s } from "./dom.js";
import { bytes, count, millis, plural, rate, span, words } from "./format.js";
import { isRefusal, kind, shape } from "./kinds.js";
import { Reveal, certificate, facts, policy } from "./reveal.js";

/** Fills `panel`; `close` is called by its button, `pick(of, id)` by links inside it. */
export class Details {
  #panel;
  #pick;
  #close;
  #open = new Map();

  constructor(panel, pick, close) {
    this.#panel = panel;
    this.#pick = pick;
    this.#close = close;
  }

  hide() {
    this.#panel.hidden = true;
    this.#panel.replaceChildren();
    this.#open.clear();
  }

  show(chosen, scene, now) {
    const subject = chosen.of === "node" ? scene.nodes.get(chosen.id) : scene.links.get(chosen.id);
    const body = !subject ? gone()
      : chosen.of === "node" ? this.#node(subject, scene, now) : this.#link(subject, scene, now);
    const focus = focusPath(this.#panel);
    const scroll = this.#panel.scrollTop;
    this.#panel.hidden = false;
    this.#panel.replaceChildren(
      h("button", { class: "icon close", title: "Close (Esc)", "data-focus": "close", onclick: this.#close },
        s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: "m4 4 8 8m0-8-8 8" })),
        h("span", { class: "hidden" }, "Close")),
      ...body.filter(Boolean),
    );
    this.#panel.scrollTop = scroll;
    // Drawn anew every two seconds: whoever stands on a button in it must keep standing there.
    if (focus) this.#panel.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  }

  #link(link, scene, now) {
    const [from, to] = [scene.nodes.get(link.source), scene.nodes.get(link.target)];
    const refused = link.kind === "refused";
    return [
      h("p", { class: `chip ${link.kind}` }, sign(link.kind), kind(link.kind).short),
      h("h2", {}, this.#jump(from), h("span", { class: "arrow", "aria-label": " to " }, "→"), this.#jump(to)),
      h("p", { class: "lead" }, sentence(link)),
      refused ? reasons(link) : figures(link),
      curve(link),
      link.services.length ? part("Asked for", h("ul", { class: "tags" }, link.services.map((name) => h("li", {}, name)))) : null,
      refused ? null : part("Latency", times(link)),
      part("Source identity", this.#identity(link.identities[0], "source")),
      part("Destination identity", this.#identity(link.identities[1], "destination")),
      part("Since the agent started", facts([
        ["connections", count(refused ? link.refusals : link.opened)],
        refused ? null : ["open now", count(link.open)],
        refused ? null : ["sent", bytes(link.bytesSent)],
        refused ? null : ["received", bytes(link.bytesReceived)],
        link.requests ? ["HTTP requests", count(link.requests)] : null,
        ["last opened", link.last ? span(link.last, now) : "–"],
      ])),
    ];
  }

  #node(node, scene, now) {
    const [first] = node.members;
    const links = [...scene.links.values()];
    const out = links.filter((link) => link.source === node.id);
    const into = links.filter((link) => link.target === node.id);
    const single = node.size === 1;
    return [
      h("p", { class: `chip ${node.enrolled ? "mtls" : "plain"}` },
        node.enrolled === node.size ? "In the mesh" : node.enrolled ? `${node.enrolled} of ${node.size} in the mesh` : node.known ? "Not enrolled" : "Outside the mesh"),
      h("h2", {}, node.name),
      h("p", { class: "lead" }, single ? `namespace ${first.namespace || "unknown"}` : plural(node.size, "workload")),
      !node.enrolled && first.known ? hint(first) : null,
      node.closed ? null : part("Workload", facts([
        single ? ["node", first.node] : null,
        single && first.addresses?.length ? ["addresses", first.addresses.join(", ")] : null,
        single && first.pods?.length > 1 ? ["pods", first.pods.slice(0, 100).join(", ")] : null,
        ["inbound mode", modeOf(first)],
      ])),
      node.closed ? null : part("Identity", this.#identity(first.enrolled ? first.identity : null, "own"), ends(first.certificate, now)),
      node.closed ? null : this.#policies(first),
      part(`Calls ${out.length || "nobody"}`, this.#list(out, "target", scene)),
      part(`Called by ${into.length || "nobody"}`, this.#list(into, "source", scene)),
      single ? null : part("Workloads", h("ul", { class: "tags" },
        node.members.slice(0, 100).map((one) => h("li", {}, one.name)))),
    ];
  }

  #jump(node) {
    if (!node) return "?";
    return h("button", { class: "jump", "data-focus": `node ${node.id}`, onclick: () => this.#pick("node", node.id) }, node.name);
  }

  #list(links, end, scene) {
    if (!links.length) return null;
    return h("ul", { class: "rows" }, links.slice(0, 50).map((link) => h("li", {},
      h("button", { class: `row ${link.kind}`, "data-focus": `link ${link.id}`, onclick: () => this.#pick("link", link.id) },
        sign(link.kind), h("span", {}, scene.nodes.get(link[end])?.name ?? link[end]),
        h("small", {}, link.kind === "refused" ? plural(link.refusals, "refusal") : `${rate(link.rates.opened)}/s`)))));
  }

  #identity(id, which) {
    if (!id) return h("p", { class: "none" }, which === "own" ? "None: it is not enrolled." : "Not proven.");
    return this.#more(`certificate ${which} ${id}`, id, () => certificate(id));
  }

  #policies(node) {
    const names = node.policies ?? [];
    if (!names.length) return part("Policies", h("p", { class: "none" }, "No policy selects it."));
    return part("Policies", h("ul", { class: "stack" }, names.map((name) =>
      h("li", {}, this.#more(`policy ${name}`, name, () => policy(name))))));
  }

  /** A button that opens what is fetched when it is first asked for. */
  #more(key, label, load) {
    if (!this.#open.has(key)) this.#open.set(key, new Reveal(load));
    return this.#open.get(key).element(key, label);
  }
}

function focusPath(panel) {
  const active = document.activeElement;
  return panel.contains(active) ? active.dataset.focus : null;
}

function gone() {
  return [h("h2", {}, "No longer there"), h("p", { class: "lead" }, "The agent has not told of it lately.")];
}

function sign(id) {
  return s("svg", { class: "sign-small", viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { class: "sign", d: shape(id) }));
}

/** Until when a certificate is good, where this agent has it. */
function ends(held, now) {
  if (!held) return null;
  const at = Date.parse(held.notAfter);
  const until = at ? `, ${at < now ? "expired" : "ends"} ${span(at, now)}` : "";
  return h("p", { class: "none" }, `Certificate ${words(held.state)}${until}.`);
}

function part(title, ...children) {
  return h("section", {}, h("h3", {}, title), children);
}

function sentence(link) {
  const text = kind(link.kind).long;
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function figures(link) {
  const tile = (name, value, unit) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, h("small", {}, unit)));
  return h("dl", { class: "tiles" },
    link.requests ? tile("requests", rate(link.rates.requests), "/s") : tile("connections", rate(link.rates.opened), "/s"),
    tile("sent", ...split(bytes(link.rates.bytesSent))),
    tile("received", ...split(bytes(link.rates.bytesReceived))));
}

function split(text) {
  const [number, unit] = text.split(" ");
  return [number, ` ${unit}/s`];
}

function times(link) {
  const cell = (q, which) => h("td", {}, millis(q?.[which]));
  const row = (name, q) => h("tr", {}, h("th", { scope: "row" }, name), cell(q, "p50"), cell(q, "p99"));
  return h("table", { class: "times" },
    h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col" }, "p50"), h("th", { scope: "col" }, "p99"))),
    h("tbody", {}, link.handshake ? row("TLS handshake", link.handshake) : null, row("First byte", link.firstByte)));
}

function reasons(link) {
  const most = Math.max(...link.reasons.values());
  const rows = [...link.reasons].filter(([reason]) => isRefusal(reason)).sort((a, b) => b[1] - a[1]);
  return h("ul", { class: "reasons" }, rows.map(([reason, number]) => h("li", {},
    h("span", {}, words(reason)), h("b", {}, count(number)),
    s("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { width: Math.max(2, (100 * number) / most), height: 4, rx: 2 })))));
}

/** The last two minutes, as a small curve; the picture adds nothing that the figures do not say. */
function curve({ history, kind: id }) {
  if (history.length < 3) return null;
  const top = Math.max(...history, 1e-9);
  const step = 300 / (history.length - 1);
  const line = history.map((value, index) => `${(index * step).toFixed(1)},${(46 - (value / top) * 40).toFixed(1)}`).join(" ");
  return h("figure", { class: `spark ${id}`, "aria-hidden": "true" },
    s("svg", { viewBox: "0 0 300 48", preserveAspectRatio: "none" },
      s("polygon", { points: `0,48 ${line} 300,48` }), s("polyline", { points: line })),
    h("figcaption", {}, id === "refused" ? "refusals a second" : "bytes a second", h("span", {}, "now")));
}

function modeOf({ mtls }) {
  const mode = typeof mtls === "string" ? mtls : mtls?.mode;
  return mode ? mode.toUpperCase() : "–";
}

function hint({ namespace, name }) {
  return h("div", { class: "hint" },
    h("p", {}, "Under STRICT, what it sends to the mesh is refused. To enrol it:"),
    h("code", {}, `kubectl -n ${namespace} label pod ${name} istio.io/dataplane-mode=ambient`));
}
