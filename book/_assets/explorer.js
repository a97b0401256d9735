/* Explorers: figures with sliders and menus, drawn from the numbers that lie in the page. No kernel, no network.
   The data is what `Explorer.data` of the package has, compressed: a picture for each state, by the positions of its controls. */
(() => {
  const vendor = new URL("vendor/", document.currentScript.src);
  const symbols = { o: "circle", s: "square", D: "diamond", "^": "triangle", v: "wye", P: "cross", "*": "star", x: "times" };

  const script = (name) =>
    new Promise((resolve, reject) => {
      const tag = document.createElement("script");
      Object.assign(tag, { src: new URL(name, vendor), onload: resolve, onerror: () => reject(new Error(`no ${tag.src}`)) });
      document.head.append(tag);
    });

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  const axisOptions = ({ label, log, limits, ticks, words }) => ({
    type: log ? "log" : "linear",
    domain: limits,
    label,
    labelArrow: "none",
    ticks,
    tickFormat: (tick) => words[ticks.indexOf(tick)],
    grid: true,
  });

  const dots = (points, { color, marker, hollow }) =>
    Plot.dot(points, { symbol: symbols[marker] ?? "circle", stroke: color, fill: hollow ? "none" : color, r: 3 });

  const marks = (series) => {
    const { kind, color, x, y, top } = series;
    const at = { x: (i) => x[i], y: (i) => y[i] };
    if (kind === "theory") return Plot.line(d3.range(x.length), { ...at, stroke: "currentColor", strokeWidth: 1.2, clip: true });
    if (kind === "mean") return Plot.ruleX(x, { stroke: color, strokeWidth: 1.8, strokeDasharray: "5 3" });
    if (kind === "band") {
      const edges = { x: at.x, y1: at.y, y2: (i) => top[i] };
      return Plot.areaY(d3.range(x.length), { ...edges, fill: "currentColor", fillOpacity: 0.15, clip: true });
    }
    return dots(d3.zip(x, y), series);
  };

  const swatches = {
    theory: () => Plot.line([[0, 5], [24, 5]], { stroke: "currentColor", strokeWidth: 1.2 }),
    mean: ({ color }) => Plot.line([[0, 5], [24, 5]], { stroke: color, strokeWidth: 1.8, strokeDasharray: "5 3" }),
    band: () => Plot.rect([0], { x1: 0, x2: 24, y1: 0, y2: 10, fill: "currentColor", fillOpacity: 0.15 }),
    measured: (style) => dots([[12, 5]], style),
    open: (style) => dots([[12, 5]], style),
    cross: (style) => dots([[12, 5]], style),
  };

  /* A legend entry: what the mark looks like, and its name. */
  const key = (style) => {
    const axis = { axis: null, type: "identity" };
    const swatch = Plot.plot({ width: 24, height: 10, margin: 0, x: axis, y: axis, marks: [swatches[style.kind](style)] });
    swatch.setAttribute("aria-hidden", true);
    return element("li", {}, swatch, style.name);
  };

  class Explorer {
    constructor(root, data) {
      this.data = data;
      this.holder = root.querySelector(".explorer-picture");
      this.words = root.querySelector(".explorer-words");
      this.legend = element("ul", { className: "explorer-legend" });
      this.holder.after(this.legend);
      this.inputs = this.data.controls.map((control) => this.control(control));
      root.querySelector(".explorer-controls").replaceChildren(...this.inputs.map(({ row }) => row));
      new ResizeObserver(() => this.holder.clientWidth !== this.width && this.draw()).observe(this.holder);
      this.draw();
    }

    control({ label, kind, labels, start }) {
      const shown = element("span", { className: "explorer-value" }); // an <output> would take the label for itself
      const input =
        kind === "slider"
          ? element("input", { type: "range", min: 0, max: labels.length - 1, step: 1, value: start })
          : element("select", {}, ...labels.map((text, value) => element("option", { value }, text)));
      input.value = start;
      input.addEventListener("input", () => this.draw());
      const name = element("span", { className: "explorer-name" }, label, " ", kind === "slider" ? shown : "");
      return { input, shown, row: element("label", {}, name, input) };
    }

    /* The positions of all controls; one that plays no part in this state stands at its first value, and is disabled. */
    state() {
      const chosen = this.inputs.map(({ input }) => Number(input.value));
      return this.data.controls.map(({ only, start, labels }, i) => {
        const plays = !only || chosen[only[0]] === only[1];
        const { input, shown } = this.inputs[i];
        input.disabled = !plays;
        shown.textContent = plays ? labels[chosen[i]] : "–";
        input.ariaValueText = shown.textContent;
        return plays ? chosen[i] : start;
      });
    }

    draw() {
      const { x, y, series, words } = this.data.pictures[this.state().join()];
      this.words.textContent = words;
      this.width = this.holder.clientWidth;
      if (this.width === 0) return; // not laid out yet, or folded away: the observer draws once there is a width
      const picture = Plot.plot({
        width: this.width,
        height: Math.max(260, Math.min(420, 0.6 * this.width)),
        marginLeft: 60,
        marginBottom: 40,
        marginTop: 30,
        style: { background: "none", color: "inherit", fontSize: "13px", overflow: "visible" },
        x: axisOptions(x),
        y: axisOptions(y),
        marks: series.map(marks),
      });
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", words);
      this.holder.replaceChildren(picture);
      const first = series.filter((one, i) => one.name && series.findIndex(({ name }) => name === one.name) === i);
      this.legend.replaceChildren(...first.map(key));
    }
  }

  /* The JSON in an explorer's own script element: base64 of gzip. */
  const unpacked = async (root) => {
    const packed = atob(root.querySelector("script[type='application/gzip']").textContent);
    const bytes = new Blob([Uint8Array.from(packed, (letter) => letter.charCodeAt(0))]);
    return new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };

  const begin = async () => {
    const found = [...document.querySelectorAll(".explorer")];
    if (found.length === 0) return;
    await script("d3.min.js");
    await script("plot.umd.min.js");
    for (const root of found) new Explorer(root, await unpacked(root));
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
