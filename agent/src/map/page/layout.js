// Where everything is drawn. Pure, and the same for the same input: the picture does not dance.
//
//   1. in each namespace, workloads stand in columns: who calls left, who is called right
//   2. the namespaces, as boxes of the size that came out, stand in columns by the same rule
//   3. links are curves from right sides to left sides (curves.js), along the lanes of 1 and 2

import { columns, isLane, tall } from "./columns.js";

export const NODE = { width: 184, height: 50 };
export const BOX = { pad: 18, head: 40 };
const GAP = { column: 116, row: 16, boxColumn: 96, boxRow: 30 };
const LANE = { height: 22, link: 16 };
/** How much looser rows may stand where the picture is wider than a screen. */
const LOOSE = [1, 1.8, 2.8, 3.8];
const ASPECT = 2;

/**
 * Positions: `nodes` (x, y of the centre), `boxes` (x, y, width, height), `size`, and `ways`: for
 * `source|target` the level stretches (`from`, `to`, `y`) that a link goes along.
 */
export function layout(scene) {
  const arcs = arcsOf(scene.links);
  const outer = between(scene, arcs);
  let made = null;
  for (const loose of LOOSE) {
    made = attempt(scene, arcs, outer, loose);
    if (made.size.width < made.size.height * ASPECT) break;
  }
  return made;
}

function attempt(scene, arcs, outer, loose) {
  const byNamespace = new Map();
  for (const id of [...scene.nodes.keys()].sort()) {
    const { namespace } = scene.nodes.get(id);
    if (!byNamespace.has(namespace)) byNamespace.set(namespace, []);
    byNamespace.get(namespace).push(id);
  }
  const boxes = new Map();
  for (const [name, ids] of byNamespace) boxes.set(name, inside(ids, arcs, GAP.row * loose));
  const { size, lanes } = arrange(boxes, outer, GAP.boxRow * Math.sqrt(loose));
  const nodes = new Map();
  const ways = new Map();
  for (const box of boxes.values()) {
    for (const [id, at] of box.places) nodes.set(id, { x: box.x + at.x, y: box.y + at.y });
    for (const [key, way] of box.ways) {
      ways.set(key, way.map(({ from, to, y }) => ({ from: box.x + from, to: box.x + to, y: box.y + y })));
    }
  }
  // From top to bottom, so that links that share a lane do not cross in front of it.
  const height = ([source, target]) => nodes.get(source).y + nodes.get(target).y / 1e4;
  for (const [source, target] of [...arcs].sort((a, b) => height(a) - height(b))) {
    const pair = `${scene.nodes.get(source).namespace}|${scene.nodes.get(target).namespace}`;
    const own = lanes.get(pair);
    if (own) ways.set(`${source}|${target}`, own.next().value);
  }
  return { nodes, boxes, size, ways };
}

/** Ordered pairs of different nodes, each once, in a fixed order. */
function arcsOf(links) {
  const seen = new Map();
  for (const { source, target } of links.values()) {
    if (source !== target) seen.set(`${source}|${target}`, [source, target]);
  }
  return [...seen.keys()].sort().map((key) => seen.get(key));
}

/** Pairs of namespaces with the number of arcs between them. */
function between(scene, arcs) {
  const seen = new Map();
  for (const [source, target] of arcs) {
    const from = scene.nodes.get(source).namespace;
    const to = scene.nodes.get(target).namespace;
    const key = `${from}|${to}`;
    if (from !== to) seen.set(key, [from, to, (seen.get(key)?.[2] ?? 0) + 1]);
  }
  return [...seen.values()];
}

/** One namespace: its workloads' places and its size. */
function inside(ids, arcs, gap) {
  const own = new Set(ids);
  const linked = new Set();
  for (const [source, target] of arcs) {
    if (own.has(source) && own.has(target)) linked.add(source).add(target);
  }
  const made = columns(ids.filter((id) => linked.has(id)), arcs);
  const high = (id) => (isLane(id) ? LANE.height : NODE.height);
  const heights = made.columns.map((column) => stack(column, high, gap));
  const tallest = Math.max(0, ...heights);
  const places = new Map();
  made.columns.forEach((column, index) => {
    let y = BOX.head + (tallest - heights[index]) / 2;
    for (const id of column) {
      const x = BOX.pad + index * (NODE.width + GAP.column) + NODE.width / 2;
      places.set(id, { x, y: y + high(id) / 2 });
      y += high(id) + gap;
    }
  });
  const ways = new Map();
  for (const [key, lanes] of made.lanes) {
    ways.set(key, lanes.map((lane) => stretch(places.get(lane), NODE.width)));
  }
  for (const id of places.keys()) if (isLane(id)) places.delete(id);
  const wide = made.columns.length ? made.columns.length * (NODE.width + GAP.column) - GAP.column : 0;
  const rest = placeRest(ids.filter((id) => !linked.has(id)), places, tallest ? tallest + gap * 1.5 : 0, wide, gap);
  return {
    places,
    ways,
    width: Math.max(wide, rest.width) + 2 * BOX.pad,
    height: BOX.head + Math.max(tallest, rest.bottom) + BOX.pad,
  };
}

function stretch({ x, y }, width) {
  return { from: x - width / 2, to: x + width / 2, y };
}

function stack(items, high, gap) {
  return items.reduce((sum, id) => sum + high(id) + gap, -gap);
}

/** Workloads without a link inside their namespace stand close together below the others. */
function placeRest(rest, places, top, wide, gap) {
  if (!rest.length) return { width: 0, bottom: 0 };
  const step = NODE.width + GAP.row;
  const beside = Math.floor((wide + GAP.row) / step);
  const across = Math.min(rest.length, Math.max(1, beside, Math.ceil(rest.length / tall(rest.length))));
  rest.forEach((id, index) => {
    const [row, column] = [Math.floor(index / across), index % across];
    places.set(id, {
      x: BOX.pad + column * step + NODE.width / 2,
      y: BOX.head + top + row * (NODE.height + gap) + NODE.height / 2,
    });
  });
  const rows = Math.ceil(rest.length / across);
  return { width: across * step - GAP.row, bottom: top + rows * (NODE.height + gap) - gap };
}

/** Puts the boxes of the namespaces in columns; those without a link follow below. */
function arrange(boxes, outer, gap) {
  const linked = new Set(outer.flatMap(([from, to]) => [from, to]));
  const names = [...boxes.keys()].sort();
  const made = columns(names.filter((name) => linked.has(name)), outer);
  const count = new Map(outer.map(([from, to, number]) => [`${from}|${to}`, number]));
  const laneHeight = (id) => LANE.height + LANE.link * count.get(id.replace(/^lane \d+ /, ""));
  const high = (id) => (isLane(id) ? laneHeight(id) : boxes.get(id).height);
  const heights = made.columns.map((column) => stack(column, high, gap));
  const tallest = Math.max(0, ...heights);
  const lanes = new Map();
  let x = 0;
  made.columns.forEach((column, index) => {
    let y = (tallest - heights[index]) / 2;
    const width = Math.max(0, ...column.filter((id) => !isLane(id)).map((name) => boxes.get(name).width));
    for (const id of column) {
      if (isLane(id)) lanes.set(id, stretch({ x: x + width / 2, y: y + high(id) / 2 }, width));
      else Object.assign(boxes.get(id), { x: x + (width - boxes.get(id).width) / 2, y });
      y += high(id) + gap;
    }
    x += width + GAP.boxColumn;
  });
  const wide = x ? x - GAP.boxColumn : 0;
  const size = shelves(names.filter((name) => !linked.has(name)), boxes, wide, tallest);
  const ways = new Map([...made.lanes].map(([key, own]) => [key, sharing(own.map((lane) => lanes.get(lane)), count.get(key))]));
  return { size, lanes: ways };
}

/** Hands a lane out to several links, one beside the other. */
function* sharing(way, number) {
  for (let index = 0; index < number; index += 1) {
    const aside = (index - (number - 1) / 2) * LANE.link;
    yield way.map((part) => ({ ...part, y: part.y + aside }));
  }
}

/** Boxes beside each other as long as the picture is not wider than it should be. */
function shelves(names, boxes, wide, top) {
  const area = names.reduce((sum, name) => sum + boxes.get(name).width * boxes.get(name).height, 0);
  const limit = Math.max(wide, Math.sqrt(area * 2));
  let [x, y, high, widest] = [0, top ? top + GAP.boxRow : 0, 0, wide];
  for (const name of names) {
    const box = boxes.get(name);
    if (x && x + box.width > limit) {
      y += high + GAP.boxRow;
      [x, high] = [0, 0];
    }
    Object.assign(box, { x, y });
    x += box.width + GAP.boxRow;
    high = Math.max(high, box.height);
    widest = Math.max(widest, x - GAP.boxRow);
  }
  return { width: widest, height: names.length ? y + high : top };
}
