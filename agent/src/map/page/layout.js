// Where everything is drawn. Pure, and the same for the same input: the picture does not dance.
//
//   1. in each namespace, workloads stand in columns: who calls left, who is called right
//   2. the namespaces, as boxes of the size that came out, stand in columns by the same rule
//   3. links are curves from right sides to left sides, their ends spread along the side

export const NODE = { width: 190, height: 50 };
const GAP = { column: 138, row: 16 };
const BOX = { pad: 20, head: 38, column: 150, row: 36 };
/** Most workloads in one column. */
const TALL = 9;

/** Positions: `nodes` (x, y of the centre), `boxes` (x, y, width, height), `size`. */
export function layout(scene) {
  const byNamespace = new Map();
  for (const id of [...scene.nodes.keys()].sort()) {
    const { namespace } = scene.nodes.get(id);
    if (!byNamespace.has(namespace)) byNamespace.set(namespace, []);
    byNamespace.get(namespace).push(id);
  }
  const arcs = arcsOf(scene.links);
  const boxes = new Map();
  for (const [name, ids] of byNamespace) boxes.set(name, inside(ids, arcs));
  const size = arrange(boxes, between(scene, arcs));
  const nodes = new Map();
  for (const box of boxes.values()) {
    for (const [id, at] of box.places) nodes.set(id, { x: box.x + at.x, y: box.y + at.y });
  }
  return { nodes, boxes, size };
}

/** Ordered pairs of different nodes, each once, in a fixed order. */
function arcsOf(links) {
  const seen = new Map();
  for (const { source, target } of links.values()) {
    if (source !== target) seen.set(`${source}|${target}`, [source, target]);
  }
  return [...seen.keys()].sort().map((key) => seen.get(key));
}

function between(scene, arcs) {
  const seen = new Map();
  for (const [source, target] of arcs) {
    const from = scene.nodes.get(source).namespace;
    const to = scene.nodes.get(target).namespace;
    if (from !== to) seen.set(`${from}|${to}`, [from, to]);
  }
  return [...seen.values()];
}

/** Columns of a graph: each arc leads to the right, but for those that close a circle. */
export function layers(ids, arcs) {
  const inside = new Set(ids);
  const next = new Map(ids.map((id) => [id, []]));
  for (const [source, target] of arcs) {
    if (inside.has(source) && inside.has(target)) next.get(source).push(target);
  }
  const order = topological(ids, next);
  const rank = new Map(order.map((id, index) => [id, index]));
  const depth = new Map(ids.map((id) => [id, 0]));
  for (const id of order) {
    for (const to of next.get(id)) {
      if (rank.get(to) > rank.get(id)) depth.set(to, Math.max(depth.get(to), depth.get(id) + 1));
    }
  }
  return depth;
}

/** Callers first. Written without recursion: a chain of a thousand must not end the page. */
function topological(ids, next) {
  const called = new Map(ids.map((id) => [id, 0]));
  for (const targets of next.values()) for (const to of targets) called.set(to, called.get(to) + 1);
  // Who is called least begins: in a circle with an entry that is the entry.
  const starts = [...ids].sort((a, b) => called.get(a) - called.get(b) || (a < b ? -1 : 1));
  const done = new Set();
  const finished = [];
  for (const start of starts) {
    const stack = done.has(start) ? [] : [[start, 0]];
    done.add(start);
    while (stack.length) {
      const top = stack.at(-1);
      const to = next.get(top[0])[top[1]];
      top[1] += 1;
      if (to === undefined) finished.push(stack.pop()[0]);
      else if (!done.has(to)) {
        done.add(to);
        stack.push([to, 0]);
      }
    }
  }
  return finished.reverse();
}

/** One namespace: its workloads' places, and its size. */
function inside(ids, arcs) {
  const own = new Set(ids);
  const linked = new Set();
  for (const [source, target] of arcs) {
    if (own.has(source) && own.has(target)) linked.add(source).add(target);
  }
  const columns = columnsOf(ids.filter((id) => linked.has(id)), arcs);
  const places = new Map();
  const rows = Math.max(0, ...columns.map((column) => column.length));
  const high = rows * (NODE.height + GAP.row) - GAP.row;
  columns.forEach((column, index) => {
    const top = (high - (column.length * (NODE.height + GAP.row) - GAP.row)) / 2;
    column.forEach((id, row) => places.set(id, cell(index, top + row * (NODE.height + GAP.row))));
  });
  const rest = ids.filter((id) => !linked.has(id));
  const wide = columns.length
    ? columns.length * (NODE.width + GAP.column) - GAP.column : 0;
  const grid = placeRest(rest, places, columns.length ? high + GAP.row * 2 : 0, wide);
  return {
    places,
    width: Math.max(wide, grid.width) + 2 * BOX.pad,
    height: BOX.head + (rest.length ? grid.bottom : high) + BOX.pad,
  };
}

function cell(column, top) {
  return {
    x: BOX.pad + column * (NODE.width + GAP.column) + NODE.width / 2,
    y: BOX.head + top + NODE.height / 2,
  };
}

/** Workloads without a link inside their namespace stand close together below the others. */
function placeRest(rest, places, top, wide) {
  const step = NODE.width + GAP.row;
  const beside = Math.max(1, Math.floor((wide + GAP.row) / step));
  const across = Math.min(rest.length, Math.max(beside, Math.ceil(rest.length / TALL)));
  rest.forEach((id, index) => {
    const [row, column] = [Math.floor(index / across), index % across];
    places.set(id, {
      x: BOX.pad + column * step + NODE.width / 2,
      y: BOX.head + top + row * (NODE.height + GAP.row) + NODE.height / 2,
    });
  });
  const rows = across ? Math.ceil(rest.length / across) : 0;
  return {
    width: across * step - GAP.row,
    bottom: top + rows * (NODE.height + GAP.row) - GAP.row,
  };
}

/** Columns with few crossings: each node near the middle of those it is linked with. */
function columnsOf(ids, arcs) {
  const depth = layers(ids, arcs);
  const columns = [];
  for (const id of ids) (columns[depth.get(id)] ??= []).push(id);
  const near = new Map(ids.map((id) => [id, []]));
  for (const [source, target] of arcs) {
    if (near.has(source) && near.has(target)) {
      near.get(source).push(target);
      near.get(target).push(source);
    }
  }
  for (let sweep = 0; sweep < 6; sweep += 1) {
    const place = new Map();
    for (const column of columns) {
      column.forEach((id, row) => place.set(id, (row + 0.5) / column.length));
    }
    const weight = (id) => near.get(id).reduce((sum, to) => sum + place.get(to), 0) / (near.get(id).length || 1);
    const order = sweep % 2 ? [...columns].reverse() : columns;
    for (const column of order) {
      column.sort((a, b) => weight(a) - weight(b) || (a < b ? -1 : 1));
      column.forEach((id, row) => place.set(id, (row + 0.5) / column.length));
    }
  }
  return columns.flatMap((column) => split(column));
}

/** A column that is too tall becomes several. */
function split(column) {
  const parts = Math.ceil(column.length / TALL);
  const size = Math.ceil(column.length / parts);
  return Array.from({ length: parts }, (_, part) => column.slice(part * size, (part + 1) * size));
}

/** Puts the boxes of the namespaces in columns; those without a link follow below. */
function arrange(boxes, arcs) {
  const linked = new Set(arcs.flat());
  const names = [...boxes.keys()].sort();
  const inside = names.filter((name) => linked.has(name));
  const depth = layers(inside, arcs);
  const columns = [];
  for (const name of inside) (columns[depth.get(name)] ??= []).push(name);
  const high = (column) => column.reduce((sum, name) => sum + boxes.get(name).height + BOX.row, -BOX.row);
  const tallest = Math.max(0, ...columns.map(high));
  let x = 0;
  for (const column of columns) {
    let y = (tallest - high(column)) / 2;
    const width = Math.max(...column.map((name) => boxes.get(name).width));
    for (const name of column) {
      const box = boxes.get(name);
      Object.assign(box, { x: x + (width - box.width) / 2, y });
      y += box.height + BOX.row;
    }
    x += width + BOX.column;
  }
  const wide = x ? x - BOX.column : 0;
  return shelves(names.filter((name) => !linked.has(name)), boxes, wide, tallest);
}

/** Boxes beside each other as long as the picture is not wider than it should be. */
function shelves(names, boxes, wide, top) {
  const area = names.reduce((sum, name) => sum + boxes.get(name).width * boxes.get(name).height, 0);
  const limit = Math.max(wide, Math.sqrt(area * 2));
  let [x, y, high, widest] = [0, top ? top + BOX.row : 0, 0, wide];
  for (const name of names) {
    const box = boxes.get(name);
    if (x && x + box.width > limit) {
      y += high + BOX.row;
      [x, high] = [0, 0];
    }
    Object.assign(box, { x, y });
    x += box.width + BOX.row;
    high = Math.max(high, box.height);
    widest = Math.max(widest, x - BOX.row);
  }
  return { width: widest, height: names.length ? y + high : top };
}
