// What is drawn of the model: every workload, or replicas as one, or a whole namespace as one.

import { slowest } from "./model.js";

/** Beyond so many, namespaces are drawn closed until somebody opens them. */
export const MANY = 60;

/** Pods of one ReplicaSet or DaemonSet: a name, then what Kubernetes made up. */
const REPLICA = /^(.+?)(-[a-f0-9]{8,10})?-[bcdfghjklmnpqrstvwxz2456789]{5}$/;

/** What Kubernetes calls the thing that a pod is one of. */
export function base(name) {
  return REPLICA.exec(name)?.[1] ?? name;
}

/**
 * The scene: `nodes` and `links` by id, and `namespaces` with how many workloads each has.
 * `open` says of a namespace whether somebody opened (true) or closed (false) it.
 */
export function scene(model, { open, together, kinds }) {
  const namespaces = new Map();
  const bases = new Map();
  for (const node of model.nodes.values()) {
    const own = together ? `${node.namespace}/${base(node.name)}|${node.identity ?? ""}` : node.id;
    if (!bases.has(own)) bases.set(own, []);
    bases.get(own).push(node);
    namespaces.set(node.namespace, (namespaces.get(node.namespace) ?? 0) + 1);
  }
  // A mesh of one namespace would be a picture of one thing.
  const many = bases.size > MANY && namespaces.size > 1;
  const shut = (name) => namespaces.get(name) > 1 && !(open.get(name) ?? !many);
  const place = new Map();
  const nodes = new Map();
  for (const members of bases.values()) {
    for (const node of members) {
      const drawn = shut(node.namespace) ? `${node.namespace}/*` : groupId(members, node);
      place.set(node.id, drawn);
      if (!nodes.has(drawn)) nodes.set(drawn, { id: drawn, namespace: node.namespace, members: [] });
      nodes.get(drawn).members.push(node);
    }
  }
  for (const node of nodes.values()) describe(node);
  return { nodes, links: gather(model.links, place, kinds), namespaces, shut };
}

function groupId(members, node) {
  return members.length > 1 ? `${node.namespace}/${base(node.name)} ×` : node.id;
}

function describe(node) {
  const [first] = node.members;
  node.closed = node.id.endsWith("/*");
  node.size = node.members.length;
  node.name = node.closed ? node.namespace || "Outside" : node.size > 1 ? base(first.name) : first.name;
  node.enrolled = node.members.filter((one) => one.enrolled).length;
  node.known = first.known;
  node.identity = node.closed ? null : first.identity;
}

function gather(links, place, kinds) {
  const gathered = new Map();
  for (const link of links.values()) {
    if (!kinds.has(link.kind)) continue;
    const [source, target] = [place.get(link.source), place.get(link.target)];
    // That a closed namespace has mutual TLS inside it is no news; what else there is, is.
    if (source === target && source.endsWith("/*") && link.kind === "mtls") continue;
    const id = `${source}|${target}|${link.kind}`;
    const known = gathered.get(id);
    gathered.set(id, known ? joined(known, link) : { ...link, id, source, target, parts: [link] });
  }
  return gathered;
}

function joined(a, b) {
  const all = { ...a, parts: [...a.parts, b] };
  for (const name of ["open", "opened", "bytesSent", "bytesReceived", "requests", "refusals"]) {
    all[name] = a[name] + b[name];
  }
  all.rates = Object.fromEntries(Object.keys(a.rates).map((key) => [key, a.rates[key] + b.rates[key]]));
  all.history = added(a.history, b.history);
  all.services = [...new Set([...a.services, ...b.services])].sort();
  all.identities = a.identities.map((id, end) => (id === b.identities[end] ? id : null));
  all.reasons = new Map(a.reasons);
  for (const [reason, number] of b.reasons) all.reasons.set(reason, (all.reasons.get(reason) ?? 0) + number);
  all.handshake = slowest([a.handshake, b.handshake]);
  all.firstByte = slowest([a.firstByte, b.firstByte]);
  all.last = Math.max(a.last ?? 0, b.last ?? 0) || null;
  return all;
}

/** Two histories, the newest samples one above the other. */
function added(a, b) {
  const [long, short] = a.length >= b.length ? [a, b] : [b, a];
  const shift = long.length - short.length;
  return long.map((value, index) => value + (short[index - shift] ?? 0));
}
