// Elements in few words. Text always goes in as text, so that no name can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with attributes and children; null and false children are left out. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Sets an attribute only when it changes: what is equal costs the browser nothing. */
export function set(element, key, value) {
  const text = String(value);
  if (element.getAttribute(key) !== text) element.setAttribute(key, text);
}

/** The same for text. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children of `parent` those of `wanted` (a map by key), keeping elements that stay. */
export function keyed(kept, wanted, parent, make, update) {
  for (const [key, element] of kept) {
    if (!wanted.has(key)) {
      element.remove();
      kept.delete(key);
    }
  }
  for (const [key, value] of wanted) {
    let element = kept.get(key);
    if (!element) {
      element = make(value);
      kept.set(key, element);
      parent.append(element);
    }
    update(element, value);
  }
}
