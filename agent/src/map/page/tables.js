// The twins of the graph: the same in tables, for screen readers, for copying, for sorting.

import { h, s } from "./dom.js";
import { account, bytes, count, millis, rate, span, words } from "./format.js";
import { KINDS, kind, shape } from "./kinds.js";

/** A table that is sorted by a click on a head, and whose rows open the details. */
class Table {
  #place;
  #columns;
  #caption;
  #sort;
  #pick;
  #text = "";

  constructor(place, caption, columns, sort, pick) {
    this.#place = place;
    this.#caption = caption;
    this.#columns = columns;
    this.#sort = sort;
    this.#pick = pick;
  }

  draw(rows, chosen) {
    const { column, down } = this.#sort;
    const by = this.#columns[column].value;
    const sorted = [...rows].sort((a, b) => compare(by(a), by(b)) * (down ? -1 : 1) || compare(a.id, b.id));
    const cells = sorted.map((row) => this.#columns.map((one) => one.text(row)));
    const text = JSON.stringify([cells, sorted.map((row) => row.id), this.#sort, chosen]);
    // Built anew only when something in it changed: a reader in the middle of it is not thrown out.
    if (text === this.#text) return;
    this.#text = text;
    const focus = this.#place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    this.#place.replaceChildren(h("div", { class: "sheet" },
      h("table", {}, h("caption", {}, `${this.#caption}: ${rows.length}`), this.#head(), h("tbody", {}, sorted.map((row, index) => this.#row(row, cells[index], chosen))))));
    if (focus) this.#place.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  }

  #head() {
    const { column, down } = this.#sort;
    return h("thead", {}, h("tr", {}, this.#columns.map((one, index) => h("th", {
      scope: "col",
      class: one.number ? "number" : null,
      "aria-sort": index === column ? (down ? "descending" : "ascending") : null,
    }, h("button", { "data-focus": `head ${index}`, onclick: () => this.#by(index) }, one.name)))));
  }

  #by(index) {
    const { column, down } = this.#sort;
    this.#sort = { column: index, down: index === column ? !down : Boolean(this.#columns[index].number) };
    this.again?.();
  }

  #row(row, cells, chosen) {
    return h("tr", { "data-id": row.id, class: row.kind ?? null, "aria-current": chosen === row.id ? "true" : null, onclick: () => this.#pick(row.id) },
      this.#columns.map((one, index) => h(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: one.number ? "number" : null },
        index === 0 ? h("button", { "data-focus": `row ${row.id}`, onclick: (event) => { event.stopPropagation(); this.#pick(row.id); } }, cells[index])
          : one.sign ? [s("svg", { class: "sign-small", viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { class: "sign", d: shape(row.kind) })), cells[index]]
          : cells[index])));
  }
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
}

const order = (link) => KINDS.findIndex((one) => one.id === link.kind);

function security(link) {
  if (link.kind !== "refused") return kind(link.kind).short;
  return `Refused: ${[...link.reasons].map(([reason, times]) => `${words(reason)} (${count(times)})`).join(", ")}`;
}

/** The table of connections. */
export function connectionsTable(place, pick) {
  const name = (id) => id.replace(/^\//, "");
  const plain = (label, text, value = text) => ({ name: label, text, value });
  const number = (label, text, value) => ({ name: label, text, value, number: true });
  return new Table(place, "Connections", [
    plain("Source", (link) => name(link.source)),
    plain("Destination", (link) => name(link.target)),
    { name: "Security", text: security, value: order, sign: true },
    plain("Asked for", (link) => link.services.join(", ") || "–"),
    number("Open", (link) => count(link.open), (link) => link.open),
    number("New / s", (link) => rate(link.rates.opened), (link) => link.rates.opened),
    number("Sent, received / s", (link) => `${bytes(link.rates.bytesSent)}, ${bytes(link.rates.bytesReceived)}`, (link) => link.rates.bytesSent + link.rates.bytesReceived),
    number("Handshake p50, p99", (link) => pair(link.handshake), (link) => link.handshake?.p99 ?? -1),
    number("First byte p50, p99", (link) => pair(link.firstByte), (link) => link.firstByte?.p99 ?? -1),
  ], { column: 2, down: true }, pick);
}

/** The table of workloads. */
export function workloadsTable(place, pick, now) {
  const plain = (label, text, value = text) => ({ name: label, text, value });
  const until = (node) => Date.parse(node.certificate?.notAfter) || 0;
  return new Table(place, "Workloads", [
    plain("Workload", (node) => (node.namespace ? `${node.namespace}/${node.name}` : node.name)),
    plain("In the mesh", (node) => (node.enrolled ? "enrolled" : node.known ? "not enrolled" : "outside")),
    plain("Identity", (node) => account(node.identity) ?? "–"),
    plain("Inbound", (node) => (typeof node.mtls === "string" ? node.mtls : node.mtls?.mode)?.toUpperCase() ?? "–"),
    plain("Certificate", (node) => (until(node) ? `ends ${span(until(node), now())}` : "–"), until),
    plain("Policies", (node) => (node.policies ?? []).join(", ") || "–"),
    plain("Node", (node) => node.node ?? "–"),
    plain("Addresses", (node) => (node.addresses ?? []).join(", ") || "–"),
  ], { column: 0, down: false }, pick);
}

function pair(q) {
  return q ? `${millis(q.p50)}, ${millis(q.p99)}` : "–";
}
