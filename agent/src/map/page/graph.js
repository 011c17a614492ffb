// The graph in SVG: boxes of namespaces, curves, nodes, and badges that name each curve's kind.
// Elements are kept from one answer to the next; only what changed is touched.

import { curves } from "./curves.js";
import { keyed, s, say, set } from "./dom.js";
import { account, count, plural, rate, words } from "./format.js";
import { kind, shape } from "./kinds.js";
import { NODE, layout } from "./layout.js";
import { View } from "./view.js";

/** Links beyond which nothing moves along the curves: a browser has better things to do. */
const ANIMATED = 200;
/** Width kept free for a badge, whatever figure it will show. */
const ROOM = 92;
/** A link over which nothing has gone for so long is drawn faintly, in milliseconds. */
const QUIET = 60_000;

export class Graph {
  #svg;
  #layers;
  #kept = { boxes: new Map(), paths: new Map(), nodes: new Map(), badges: new Map() };
  #shape = null;
  #places = null;
  #drawn = new Map();
  #scene = null;
  #pick;
  #toggle;

  /** `pick(kind, id)` is told what was chosen, `toggle(namespace)` which box is to open or close. */
  constructor(svg, pick, toggle) {
    this.#svg = svg;
    this.#pick = pick;
    this.#toggle = toggle;
    this.#layers = Object.fromEntries(
      ["boxes", "paths", "nodes", "badges"].map((name) => [name, s("g", { class: name })]),
    );
    const all = s("g", {}, Object.values(this.#layers));
    svg.append(all);
    this.view = new View(svg, all);
    svg.addEventListener("focusin", (event) => this.#focused(event.target));
    svg.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Draws a scene; `chosen` is what is selected, `found` which nodes a search looks for. */
  draw(scene, now, chosen, found) {
    this.#scene = scene;
    this.#place(scene);
    const { boxes, size } = this.#places;
    set(this.#svg, "data-still", scene.links.size > ANIMATED ? "yes" : "no");
    set(this.#svg, "data-picked", chosen || found ? "yes" : "no");
    this.#boxes(scene, boxes);
    const near = neighbours(scene, chosen);
    const dim = (id) => (near && !near.has(id)) || (found && !found.has(id));
    keyed(this.#kept.nodes, scene.nodes, this.#layers.nodes, (node) => this.#makeNode(node), (element, node) => {
      this.#updateNode(element, node, chosen?.id === node.id, dim(node.id));
    });
    this.#links(scene, now, chosen, near, found);
    this.view.resize(size);
  }

  /** Puts the focus back on what was chosen. */
  focus(id) {
    (this.#kept.nodes.get(id) ?? this.#kept.badges.get(id))?.focus();
  }

  /** A new layout only when there is something new to lay out: rates alone move nothing. */
  #place(scene) {
    const form = [...scene.nodes.keys()].sort().join() + [...scene.links.keys()].sort().join();
    if (form === this.#shape) return;
    this.#shape = form;
    this.#places = layout(scene);
    this.#drawn = curves(scene.links, this.#places, ROOM);
  }

  #boxes(scene, boxes) {
    const wanted = new Map([...boxes].map(([name, box]) => [name, { name, ...box }]));
    keyed(this.#kept.boxes, wanted, this.#layers.boxes, (box) => this.#makeBox(box), (element, box) => {
      const [frame, head] = element.children;
      set(element, "transform", `translate(${box.x.toFixed(1)} ${box.y.toFixed(1)})`);
      set(frame, "width", box.width.toFixed(1));
      set(frame, "height", box.height.toFixed(1));
      const total = scene.namespaces.get(box.name);
      const shut = scene.shut(box.name);
      set(head, "aria-expanded", String(!shut));
      set(head, "aria-label", `Namespace ${box.name || "outside the mesh"}, ${plural(total, "workload")}, ${shut ? "closed" : "open"}`);
      say(head.querySelector(".box-size"), total > 1 ? `${total} ${shut ? "▸" : "▾"}` : "");
      set(head.querySelector(".box-size"), "x", (box.width - 18).toFixed(1));
      set(head.querySelector("rect"), "width", (box.width - 8).toFixed(1));
    });
  }

  #makeBox({ name }) {
    const toggle = () => this.#toggle(name);
    return s("g", { class: "box" },
      s("rect", { class: "frame", rx: 16 }),
      s("g", { class: "box-head", tabindex: 0, role: "button", onclick: toggle, "data-toggle": name },
        s("rect", { x: 4, y: 4, height: 28, rx: 12 }),
        s("text", { x: 18, y: 23, class: "box-name" }, name || "outside the mesh"),
        s("text", { y: 23, class: "box-size" })));
  }

  #makeNode(node) {
    const pick = () => this.#pick("node", node.id);
    const [x, y] = [-NODE.width / 2, -NODE.height / 2];
    return s("g", { class: "node-card", tabindex: 0, role: "button", "data-id": node.id, onclick: pick },
      s("rect", { class: "stack", x: x + 5, y: y + 5, width: NODE.width, height: NODE.height, rx: 11 }),
      s("rect", { class: "card", x, y, width: NODE.width, height: NODE.height, rx: 11 }),
      s("g", { class: "shield", transform: `translate(${x + 12} ${y + 13})` },
        s("path", { class: "shield-body", d: "M12 1.5 21 5v7c0 5-3.6 8.6-9 10.5C6.600 20.600 3 17 3 12V5z" }),
        s("path", { class: "shield-sign" })),
      s("text", { class: "node-name", x: x + 46, y: -4 }),
      s("text", { class: "node-sub", x: x + 46, y: 13 }));
  }

  #updateNode(element, node, chosen, dim) {
    const at = this.#places.nodes.get(node.id);
    set(element, "transform", `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`);
    const state = !node.enrolled ? "out" : node.enrolled < node.size ? "mixed" : "in";
    set(element, "data-state", state);
    set(element, "data-size", node.size > 1 ? "many" : "one");
    set(element, "data-chosen", chosen ? "yes" : "no");
    set(element, "data-dim", dim ? "yes" : "no");
    set(element.querySelector(".shield-sign"), "d", state === "in" ? "m8 12 3 3 5.500-6" : state === "mixed" ? "M8 12h8" : "m9 9 6 6m0-6-6 6");
    const title = node.size > 1 && !node.closed ? `${node.name} × ${node.size}` : node.name;
    fit(element.querySelector(".node-name"), title, 134, 7.6);
    fit(element.querySelector(".node-sub"), subtitle(node), 134, 6.1);
    set(element, "aria-label", `${title}, namespace ${node.namespace || "none"}, ${subtitle(node)}, ${STATES[state]}`);
  }

  #links(scene, now, chosen, near, found) {
    const look = (link) => {
      const dim = (near && chosen.id !== link.id && !(chosen.of === "node" && (link.source === chosen.id || link.target === chosen.id)))
        || (found && !found.has(link.source) && !found.has(link.target));
      return { quiet: quiet(link, now), dim, chosen: chosen?.id === link.id };
    };
    const pick = (id) => () => this.#pick("link", id);
    keyed(this.#kept.paths, scene.links, this.#layers.paths, (link) => makePath(link, pick(link.id)), (element, link) => {
      dress(element, look(link));
      const { path } = this.#drawn.get(link.id);
      for (const child of element.children) set(child, "d", path);
      const width = Math.min(6, 1.75 + Math.log10(1 + link.rates.bytesSent + link.rates.bytesReceived) * 0.55);
      set(element, "stroke-width", width.toFixed(1));
    });
    keyed(this.#kept.badges, scene.links, this.#layers.badges, (link) => makeBadge(link, pick(link.id)), (element, link) => {
      dress(element, look(link));
      const { x, y } = this.#drawn.get(link.id);
      set(element, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      say(element.querySelector("text"), figure(link));
      const wide = badgeWidth(link);
      const pill = element.querySelector("rect");
      set(pill, "x", -wide / 2);
      set(pill, "width", wide);
      set(element.querySelector("g"), "transform", `translate(${-wide / 2 + 7} -8)`);
      set(element.querySelector("text"), "x", -wide / 2 + 26);
      set(element, "aria-label", spoken(link, scene));
    });
  }

  #focused(target) {
    const id = target.dataset?.id;
    const at = this.#places?.nodes.get(id) ?? this.#drawn.get(id);
    if (at && target.matches(":focus-visible")) this.view.reveal(at);
  }

  #key(event) {
    const id = event.target.dataset?.id;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (event.target.dataset?.toggle !== undefined) this.#toggle(event.target.dataset.toggle);
      else if (id) this.#pick(this.#kept.nodes.has(id) ? "node" : "link", id);
    } else if (event.key.startsWith("Arrow") && id) {
      event.preventDefault();
      this.#step(id, event.key);
    }
  }

  /** Arrow keys go to what is nearest in their direction, node or badge. */
  #step(id, key) {
    const all = new Map([...this.#places.nodes, ...this.#drawn]);
    const from = all.get(id);
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
    let best = null;
    for (const [other, at] of all) {
      const along = (at.x - from.x) * dx + (at.y - from.y) * dy;
      const aside = Math.abs((at.x - from.x) * dy) + Math.abs((at.y - from.y) * dx);
      if (along > 4 && (!best || along + 2 * aside < best.cost)) best = { id: other, cost: along + 2 * aside };
    }
    if (best) this.focus(best.id);
  }
}

const STATES = { in: "enrolled", out: "not enrolled", mixed: "some enrolled, some not" };

function subtitle(node) {
  if (node.closed) return `${node.size} workloads, ${node.enrolled} enrolled`;
  if (!node.enrolled) return node.known ? "not enrolled" : "not a workload of the mesh";
  return account(node.identity) ?? "no identity yet";
}

/** Text cut to a width; the letters' usual width is near enough and costs no layout. */
function fit(element, text, width, letter) {
  const room = Math.floor(width / letter);
  say(element, text.length > room ? `${text.slice(0, room - 1)}…` : text);
}

function neighbours(scene, chosen) {
  if (!chosen) return null;
  const near = new Set([chosen.id]);
  for (const link of scene.links.values()) {
    if (link.id === chosen.id || link.source === chosen.id || link.target === chosen.id) {
      near.add(link.source).add(link.target);
    }
  }
  return near;
}

function quiet(link, now) {
  return !link.open && !link.rates.refusals && !link.rates.opened && (link.last == null || now - link.last > QUIET);
}

function dress(element, { quiet, dim, chosen }) {
  set(element, "data-quiet", quiet ? "yes" : "no");
  set(element, "data-dim", dim ? "yes" : "no");
  set(element, "data-chosen", chosen ? "yes" : "no");
}

function makePath(link, pick) {
  return s("g", { class: `link ${link.kind}`, "data-id": link.id, onclick: pick },
    s("path", { class: "hit" }), s("path", { class: "line" }), s("path", { class: "flow" }));
}

function makeBadge(link, pick) {
  return s("g", { class: `badge ${link.kind}`, tabindex: 0, role: "button", "data-id": link.id, onclick: pick },
    s("rect", { y: -13, height: 26, rx: 13 }),
    s("g", {}, s("path", { class: "sign", d: shape(link.kind) })),
    s("text", { y: 4.2 }));
}

/** What stands in a badge: what happens a second, else how many there were. */
function figure(link) {
  if (link.kind === "refused") return link.rates.refusals ? `${rate(link.rates.refusals)}/s` : `${count(link.refusals)}`;
  if (link.rates.requests) return `${rate(link.rates.requests)} req/s`;
  if (link.rates.opened) return `${rate(link.rates.opened)}/s`;
  return link.open ? `${count(link.open)} open` : count(link.opened);
}

function badgeWidth(link) {
  return Math.round(35 + figure(link).length * 6.4);
}

export function spoken(link, scene) {
  const name = (id) => scene.nodes.get(id)?.name ?? id;
  const way = `${name(link.source)} to ${name(link.target)}`;
  if (link.kind === "refused") {
    const why = [...link.reasons].map(([reason, number]) => `${number} ${words(reason)}`).join(", ");
    return `${way}, refused: ${why}`;
  }
  return `${way}, ${kind(link.kind).short}, ${plural(link.open, "open connection")}, ${rate(link.rates.opened)} new a second`;
}
