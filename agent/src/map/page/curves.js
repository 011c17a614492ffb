// The way of each link, and where its badge sits. Pure.

import { NODE } from "./layout.js";

const BADGE = { height: 26, gap: 4 };
/** Where along its curve a badge may sit, best first. */
const SPOTS = [0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8];

/** For each link its `path` and badge (`x`, `y`), for which `width` is kept free. */
export function curves(links, places, width) {
  const ends = spread(links, places);
  const taken = new Taken(places);
  const drawn = new Map();
  for (const id of [...links.keys()].sort()) {
    const link = links.get(id);
    const curve = bend(ends.get(`${id}>`), ends.get(`${id}<`), link.source === link.target);
    drawn.set(id, { path: path(curve), ...taken.spot(curve, width) });
  }
  return drawn;
}

/** Sides on which a link leaves and arrives: 1 right, -1 left. */
function sides(from, to) {
  if (to.x > from.x + NODE.width / 2) return [1, -1];
  if (to.x < from.x - NODE.width / 2) return [-1, 1];
  return [1, 1];
}

/** The ends of all links, those on one side of a node apart from each other and in order. */
function spread(links, places) {
  const bySide = new Map();
  for (const [id, link] of links) {
    const [from, to] = [places.get(link.source), places.get(link.target)];
    const [out, into] = sides(from, to);
    push(bySide, `${link.source}>${out}`, { key: `${id}>`, at: from, side: out, other: to.y, id });
    push(bySide, `${link.target}>${into}`, { key: `${id}<`, at: to, side: into, other: from.y, id });
  }
  const ends = new Map();
  for (const group of bySide.values()) {
    group.sort((a, b) => a.other - b.other || (a.id < b.id ? -1 : 1));
    const step = Math.min(16, (NODE.height - 14) / group.length);
    group.forEach((end, index) => {
      const y = end.at.y + (index - (group.length - 1) / 2) * step;
      ends.set(end.key, { x: end.at.x + end.side * NODE.width / 2, y, side: end.side });
    });
  }
  return ends;
}

function push(map, key, value) {
  if (!map.has(key)) map.set(key, []);
  map.get(key).push(value);
}

function bend(from, to, self) {
  const pull = from.side === to.side || self
    ? 56 + Math.abs(to.y - from.y) / 6
    : Math.max(44, Math.abs(to.x - from.x) * 0.45);
  return [
    [from.x, from.y], [from.x + from.side * pull, from.y - (self ? 40 : 0)],
    [to.x + to.side * pull, to.y + (self ? 40 : 0)], [to.x, to.y],
  ];
}

function path([a, b, c, d]) {
  const at = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `M${at(a)}C${at(b)} ${at(c)} ${at(d)}`;
}

function point([a, b, c, d], t) {
  const u = 1 - t;
  const mix = (i) => u * u * u * a[i] + 3 * u * u * t * b[i] + 3 * u * t * t * c[i] + t * t * t * d[i];
  return { x: mix(0), y: mix(1) };
}

/** What is covered already, in a coarse grid so that thousands of badges stay cheap. */
class Taken {
  #cells = new Map();

  constructor(places) {
    for (const at of places.values()) this.#add(at, NODE.width + 8, NODE.height);
  }

  spot(curve, width) {
    let first = null;
    for (const t of SPOTS) {
      const at = point(curve, t);
      first ??= at;
      if (this.#free(at, width)) {
        this.#add(at, width + BADGE.gap, BADGE.height);
        return at;
      }
    }
    this.#add(first, width, BADGE.height);
    return first;
  }

  #free(at, width) {
    for (const key of cells(at, width, BADGE.height)) {
      for (const other of this.#cells.get(key) ?? []) {
        const apart = Math.abs(at.x - other.x) >= (width + other.width) / 2
          || Math.abs(at.y - other.y) >= (BADGE.height + other.height) / 2;
        if (!apart) return false;
      }
    }
    return true;
  }

  #add(at, width, height) {
    const one = { x: at.x, y: at.y, width, height };
    for (const key of cells(at, width, height)) push(this.#cells, key, one);
  }
}

function cells(at, width, height) {
  const size = 128;
  const keys = [];
  for (let x = Math.floor((at.x - width / 2) / size); x <= Math.floor((at.x + width / 2) / size); x += 1) {
    for (let y = Math.floor((at.y - height / 2) / size); y <= Math.floor((at.y + height / 2) / size); y += 1) {
      keys.push(`${x},${y}`);
    }
  }
  return keys;
}
