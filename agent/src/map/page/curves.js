// The way of each link, and where its badge sits. Pure.

import { KINDS } from "./kinds.js";
import { BOX, NODE } from "./layout.js";

const BADGE = { height: 30, gap: 4 };
/** Where along its curve a badge may sit, best first. */
const SPOTS = [0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8];

/** For each link its `path` and badge (`x`, `y`), for which `width` is kept free. */
export function curves(links, { nodes, boxes, ways }, width) {
  const ends = spread(links, nodes);
  const taken = new Taken(nodes, boxes);
  const drawn = new Map();
  for (const id of [...links.keys()].sort()) {
    const link = links.get(id);
    const bends = bendsOf(ends.get(`${id}>`), ends.get(`${id}<`), along(link, links, ways));
    drawn.set(id, { path: path(bends), ...taken.spot(bends, width) });
  }
  return drawn;
}

/** The lanes of a link; of several kinds between the same two, each a little aside. */
function along({ source, target, kind }, links, ways) {
  const way = ways.get(`${source}|${target}`);
  if (!way) return [];
  const beside = KINDS.filter((one) => links.has(`${source}|${target}|${one.id}`)).map((one) => one.id);
  const aside = (beside.indexOf(kind) - (beside.length - 1) / 2) * 10;
  return way.map((part) => ({ ...part, y: part.y + aside }));
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

/** Curves from one end to the other, level where they begin, end, and go along a lane. */
function bendsOf(from, to, way) {
  const bends = [];
  let at = from;
  for (const part of way) {
    bends.push(bend(at, { x: part.from, y: part.y, side: -1 }));
    bends.push(bend({ x: part.from, y: part.y, side: 1 }, { x: part.to, y: part.y, side: -1 }));
    at = { x: part.to, y: part.y, side: 1 };
  }
  bends.push(bend(at, to));
  return bends;
}

function bend(from, to) {
  const pull = from.side === to.side
    ? 56 + Math.abs(to.y - from.y) / 6
    : Math.max(36, Math.abs(to.x - from.x) * 0.45);
  // A call of oneself leaves and arrives at the same side: a loop.
  const loop = from.side === to.side && Math.abs(to.y - from.y) < 40 && from.x === to.x ? 34 : 0;
  return [
    [from.x, from.y], [from.x + from.side * pull, from.y - loop],
    [to.x + to.side * pull, to.y + loop], [to.x, to.y],
  ];
}

function path(bends) {
  const at = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `M${at(bends[0][0])}${bends.map(([, b, c, d]) => `C${at(b)} ${at(c)} ${at(d)}`).join("")}`;
}

/** The point at a part `t` of the whole way. */
function point(bends, t) {
  const index = Math.min(bends.length - 1, Math.floor(t * bends.length));
  const [a, b, c, d] = bends[index];
  const own = t * bends.length - index;
  const u = 1 - own;
  const mix = (i) => u * u * u * a[i] + 3 * u * u * own * b[i] + 3 * u * own * own * c[i] + own * own * own * d[i];
  return { x: mix(0), y: mix(1) };
}

/** What is covered already, in a coarse grid so that thousands of badges stay cheap. */
class Taken {
  #cells = new Map();

  constructor(nodes, boxes) {
    for (const at of nodes.values()) this.#add(at, NODE.width + 8, NODE.height);
    // Where a namespace's name stands.
    for (const { x, y } of boxes.values()) this.#add({ x: x + 60, y: y + 18 }, 120, BOX.head - 12);
  }

  spot(bends, width) {
    let first = null;
    for (const t of SPOTS) {
      const at = point(bends, t);
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
