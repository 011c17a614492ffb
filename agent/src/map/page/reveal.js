// What the panel fetches only when somebody asks for it: certificates and policies.

import { h } from "./dom.js";
import { ask } from "./feed.js";
import { moment, plural, span, words } from "./format.js";

/** A part of the panel behind a button. It outlives the panel, which is drawn again and again. */
export class Reveal {
  #load;
  #shown = false;
  #content = null;
  #button = null;
  #box = null;

  constructor(load) {
    this.#load = load;
  }

  element(key, label) {
    this.#button = h("button", { class: "disclose", "data-focus": key, onclick: () => this.#flip() }, broken(label));
    this.#box = h("div", { class: "more" });
    this.#draw();
    return h("div", { class: "disclosure" }, this.#button, this.#box);
  }

  #draw() {
    this.#button.setAttribute("aria-expanded", String(this.#shown));
    this.#box.hidden = !this.#shown;
    this.#box.replaceChildren(this.#content ?? note("Asking the agent…"));
  }

  async #flip() {
    this.#shown = !this.#shown;
    this.#draw();
    if (!this.#shown) return;
    try {
      this.#content = await this.#load();
    } catch (error) {
      this.#content = note(`No answer: ${error.message}`);
    }
    this.#draw();
  }
}

/** Names and values below each other; what is null is left out. */
export function facts(rows) {
  return h("dl", {}, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value ?? "–"))));
}

/** A name that may be broken after its slashes. */
function broken(text) {
  return text.split(/(?<=[^/]\/)/).flatMap((word, index) => (index ? [h("wbr"), word] : [word]));
}

function note(text) {
  return h("p", { class: "none" }, text);
}

/** What there is to see of an identity's certificate. */
export async function certificate(id) {
  const all = await ask("certs");
  const one = all.identities?.find((identity) => identity.id === id);
  if (!one) return note(`Its certificate is on another node than ${all.node}.`);
  const held = one.certificate;
  if (!held) return note(`No certificate: ${one.lastError ?? words(one.state)}.`);
  return h("div", { class: "certificate" },
    validity(held, Date.parse(all.now)),
    facts([
      ["state", words(one.state)],
      ["serial", h("code", {}, held.serial)],
      ["issuer", held.issuer],
      ["valid from", moment(Date.parse(held.notBefore))],
      ["valid until", moment(Date.parse(held.notAfter))],
      one.nextRenewal ? ["next renewal", moment(Date.parse(one.nextRenewal))] : null,
      ["used by", plural(one.userCount, "workload")],
    ]),
    h("a", { href: `certs/${id}`, download: "cert-chain.pem" }, "Certificate chain, PEM"));
}

function validity(held, now) {
  const [from, until] = [Date.parse(held.notBefore), Date.parse(held.notAfter)];
  const gone = Math.min(1, Math.max(0, (now - from) / (until - from)));
  return h("div", { class: "validity" },
    h("progress", { max: 1, value: gone.toFixed(3), "aria-label": "Part of its life that is over" }),
    h("span", {}, now > until ? `expired ${span(until, now)}` : `ends ${span(until, now)}`));
}

export async function policy(name) {
  const all = await ask("policies");
  const found = (all.policies ?? []).filter((one) => `${one.kind} ${one.namespace}/${one.name}` === name);
  if (!found.length) return note("The agent no longer has it.");
  return h("div", {}, found.map((one) => h("div", { class: "policy" },
    h("p", { class: "policy-kind" }, one.action, h("small", {}, ` for ${scopeOf(one)}`)),
    h("p", {}, one.summary),
    one.findings.length ? h("ul", { class: "findings" }, one.findings.map((finding) => h("li", {}, finding.text))) : null)));
}

function scopeOf({ scope, namespace, selector }) {
  if (scope === "mesh") return "the whole mesh";
  return selector.length ? `workloads with ${selector.join(", ")}` : `namespace ${namespace}`;
}
