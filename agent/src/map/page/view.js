// Moving and zooming: by wheel, by hand, by keys.

const NEAREST = 2.5;
const FARTHEST = 0.08;

/** Holds what part of the drawing is seen, and tells `apply` of it. */
export class View {
  #svg;
  #layer;
  #size = { width: 1, height: 1 };
  #at = { x: 0, y: 0, scale: 1 };
  /** Whether somebody moved it: then new data does not. */
  moved = false;

  constructor(svg, layer) {
    this.#svg = svg;
    this.#layer = layer;
    svg.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    svg.addEventListener("pointerdown", (event) => this.#drag(event));
    new ResizeObserver(() => this.moved || this.fit()).observe(svg);
  }

  /** Tells the size of the drawing; shows all of it unless somebody looks closer. */
  resize(size) {
    const same = size.width === this.#size.width && size.height === this.#size.height;
    this.#size = size;
    if (!same && !this.moved) this.fit();
  }

  fit() {
    const { width, height } = this.#svg.getBoundingClientRect();
    if (!width || !height) return;
    const room = 44;
    const scale = Math.min(
      1.25,
      (width - 2 * room) / this.#size.width,
      (height - 2 * room) / this.#size.height,
    );
    this.#at.scale = Math.max(FARTHEST, scale);
    this.#at.x = (width - this.#size.width * this.#at.scale) / 2;
    this.#at.y = (height - this.#size.height * this.#at.scale) / 2;
    this.moved = false;
    this.#apply();
  }

  zoom(factor, x, y) {
    const box = this.#svg.getBoundingClientRect();
    const [px, py] = [x ?? box.width / 2, y ?? box.height / 2];
    const scale = Math.min(NEAREST, Math.max(FARTHEST, this.#at.scale * factor));
    const ratio = scale / this.#at.scale;
    this.#at = { x: px - (px - this.#at.x) * ratio, y: py - (py - this.#at.y) * ratio, scale };
    this.moved = true;
    this.#apply();
  }

  pan(dx, dy) {
    this.#at.x += dx;
    this.#at.y += dy;
    this.moved = true;
    this.#apply();
  }

  /** Brings a point of the drawing into sight: who goes by keys must see where the focus is. */
  reveal({ x, y }) {
    const box = this.#svg.getBoundingClientRect();
    const room = 110;
    const [sx, sy] = [x * this.#at.scale + this.#at.x, y * this.#at.scale + this.#at.y];
    const dx = sx < room ? room - sx : sx > box.width - room ? box.width - room - sx : 0;
    const dy = sy < room ? room - sy : sy > box.height - room ? box.height - room - sy : 0;
    if (dx || dy) this.pan(dx, dy);
  }

  #wheel(event) {
    event.preventDefault();
    const box = this.#svg.getBoundingClientRect();
    const strength = event.deltaMode === 1 ? 0.05 : 0.0018;
    this.zoom(Math.exp(-event.deltaY * strength), event.clientX - box.left, event.clientY - box.top);
  }

  #drag(event) {
    if (event.button !== 0 || event.target.closest("[tabindex]")) return;
    this.#svg.setPointerCapture(event.pointerId);
    this.#svg.classList.add("dragged");
    const move = (to) => this.pan(to.movementX, to.movementY);
    const end = () => {
      this.#svg.classList.remove("dragged");
      this.#svg.removeEventListener("pointermove", move);
    };
    this.#svg.addEventListener("pointermove", move);
    this.#svg.addEventListener("pointerup", end, { once: true });
    this.#svg.addEventListener("pointercancel", end, { once: true });
  }

  #apply() {
    const { x, y, scale } = this.#at;
    this.#layer.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${scale.toFixed(4)})`);
    // Far away, what would be too small to read is left out.
    this.#svg.dataset.far = scale < 0.4 ? "yes" : "no";
  }
}
