// A graph in columns: who calls stands left of who is called. Pure.
//
// A link that passes a column gets a lane in it, as if something stood there: so it is drawn
// between the others and not across them.

/** Most that stand in one column of so many: a large picture is as high as it is wide. */
export function tall(number) {
  return Math.max(9, Math.ceil(Math.sqrt(number * 2.3)));
}

const SWEEPS = 6;
/** Beyond so many lanes there is no room between them: links then go straight across. */
const LANES = 40;

/** Columns of ids and of lanes, and for each arc (`source|target`) the lanes that it passes. */
export function columns(ids, arcs) {
  const own = new Set(ids);
  const inside = arcs.filter(([source, target]) => own.has(source) && own.has(target));
  const depth = depths(ids, inside);
  const raw = [];
  for (const id of ids) (raw[depth.get(id)] ??= []).push(id);
  const near = new Map(ids.map((id) => [id, []]));
  const lanes = new Map();
  const long = inside.reduce((sum, [source, target]) => sum + Math.max(0, depth.get(target) - depth.get(source) - 1), 0);
  for (const [source, target] of inside) {
    const chain = [source];
    for (let at = depth.get(source) + 1; long <= LANES && at < depth.get(target); at += 1) {
      const lane = `lane ${at} ${source}|${target}`;
      raw[at].push(lane);
      near.set(lane, []);
      chain.push(lane);
    }
    if (chain.length > 1) lanes.set(`${source}|${target}`, chain.slice(1));
    chain.push(target);
    for (let i = 1; i < chain.length; i += 1) {
      near.get(chain[i - 1]).push(chain[i]);
      near.get(chain[i]).push(chain[i - 1]);
    }
  }
  order(raw, near);
  return { columns: raw.flatMap((column) => split(column, tall(ids.length))), lanes };
}

/** Whether an item of a column is a lane. */
export function isLane(id) {
  return id.startsWith("lane ");
}

/** The column of each: every arc leads to the right, but for those that close a circle. */
function depths(ids, arcs) {
  const next = new Map(ids.map((id) => [id, []]));
  for (const [source, target] of arcs) next.get(source).push(target);
  const sorted = callersFirst(ids, next);
  const rank = new Map(sorted.map((id, index) => [id, index]));
  const depth = new Map(ids.map((id) => [id, 0]));
  for (const id of sorted) {
    for (const to of next.get(id)) {
      if (rank.get(to) > rank.get(id)) depth.set(to, Math.max(depth.get(to), depth.get(id) + 1));
    }
  }
  // Where all call all, depth says little, and a picture of few columns is easier to read.
  const deepest = Math.max(0, ...depth.values());
  const most = Math.max(5, Math.ceil(Math.sqrt(ids.length / 4)));
  if (deepest >= most) {
    for (const [id, own] of depth) depth.set(id, Math.floor((own * most) / (deepest + 1)));
  }
  return depth;
}

/** Written without recursion: a chain of a thousand must not end the page. */
function callersFirst(ids, next) {
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

/** Few crossings: each item near the middle of those it is linked with. */
function order(raw, near) {
  const place = new Map();
  const number = (column) => column.forEach((id, row) => place.set(id, (row + 0.5) / column.length));
  raw.forEach(number);
  const weight = (id) => {
    const all = near.get(id);
    return all.length ? all.reduce((sum, to) => sum + place.get(to), 0) / all.length : place.get(id);
  };
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (const column of sweep % 2 ? [...raw].reverse() : raw) {
      const weights = new Map(column.map((id) => [id, weight(id)]));
      column.sort((a, b) => weights.get(a) - weights.get(b) || (a < b ? -1 : 1));
      number(column);
    }
  }
}

/** A column that is too tall becomes several. */
function split(column, most) {
  const parts = Math.ceil(column.filter((id) => !isLane(id)).length / most) || 1;
  const size = Math.ceil(column.length / parts);
  return Array.from({ length: parts }, (_, part) => column.slice(part * size, (part + 1) * size));
}
