/* Explorers: figures with sliders and menus, drawn from the numbers that lie in the page. No kernel, no network.
   The data is what `Explorer.data` of the package wrote: a picture for each state, by the positions of its controls. */
(() => {
  const vendor = new URL("vendor/", document.currentScript.src);
  const symbols = { o: "circle", s: "square", D: "diamond", "^": "triangle", v: "wye", P: "cross", "*": "star" };

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

  /* Ticks of a logarithmic axis: powers of ten at most eight of them, or 1, 2, 5 where the range is short. */
  const logTicks = ([low, high]) => {
    const decades = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1);
    const within = (values) => values.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    const step = Math.ceil(decades.length / 8);
    const powers = within(decades.filter((decade) => decade % step === 0).map((decade) => Number(`1e${decade}`)));
    if (powers.length > 2) return powers;
    const fine = within(decades.flatMap((decade) => [1, 2, 5].map((digit) => Number(`${digit}e${decade}`))));
    return fine.length > 1 ? fine : d3.ticks(low, high, 5);
  };

  const superscript = (number) => String(number).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  const tickWords = (value) => {
    if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) return String(Number(value.toPrecision(6)));
    const [digits, power] = value.toExponential().split("e");
    return `${digits === "1" ? "" : `${Number(digits).toPrecision(2)}·`}10${superscript(Number(power))}`;
  };

  const axisOptions = ({ label, log, limits }) => ({
    type: log ? "log" : "linear",
    domain: limits,
    label,
    labelArrow: "none",
    ticks: log ? logTicks(limits) : 6,
    tickFormat: tickWords,
    grid: true,
  });

  const marks = ({ kind, color, marker, hollow }, [x, y, top]) => {
    const at = { x: (i) => x[i], y: (i) => y[i] };
    if (kind === "theory") return Plot.line(d3.range(x.length), { ...at, stroke: "currentColor", strokeWidth: 1.2, clip: true });
    if (kind === "mean") return Plot.ruleX(x, { stroke: color, strokeWidth: 1.8, strokeDasharray: "5 3" });
    if (kind === "band") {
      const edges = { x: at.x, y1: at.y, y2: (i) => top[i] };
      return Plot.areaY(d3.range(x.length), { ...edges, fill: "currentColor", fillOpacity: 0.15, clip: true });
    }
    const look = { symbol: symbols[marker] ?? "circle", stroke: color, fill: hollow ? "none" : color, r: 3 };
    return Plot.dot(d3.range(x.length), { ...at, ...look });
  };

  const key = ({ kind, color, name }) =>
    element("li", {}, element("span", { className: `explorer-${kind}`, style: `color: ${color}`, ariaHidden: true }), name);

  class Explorer {
    constructor(root) {
      this.data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
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
      const shown = element("output", { className: "explorer-value" });
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
      return this.data.controls.map(({ only = {}, start, labels }, i) => {
        const plays = Object.entries(only).every(([other, values]) => values.includes(chosen[other]));
        const { input, shown } = this.inputs[i];
        input.disabled = !plays;
        shown.value = plays ? labels[chosen[i]] : "–";
        input.ariaValueText = shown.value;
        return plays ? chosen[i] : start;
      });
    }

    draw() {
      const [axes, series, words] = this.data.pictures[this.state().join()];
      const { x, y } = this.data.axes[axes];
      const column = ([row, length]) => this.data.columns[row].slice(0, length);
      const drawn = series.map(([style, ...columns]) => [this.data.styles[style], columns.map(column)]);
      this.width = this.holder.clientWidth;
      const picture = Plot.plot({
        width: this.width,
        height: Math.max(260, Math.min(420, 0.6 * this.width)),
        marginLeft: 60,
        marginBottom: 40,
        marginTop: 30,
        style: { background: "none", color: "inherit", fontSize: "13px", overflow: "visible" },
        x: axisOptions(x),
        y: axisOptions(y),
        marks: drawn.map(([style, columns]) => marks(style, columns)),
      });
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", words);
      this.holder.replaceChildren(picture);
      this.legend.replaceChildren(...drawn.filter(([style]) => style.name).map(([style]) => key(style)));
      this.words.textContent = words;
    }
  }

  const begin = async () => {
    const found = [...document.querySelectorAll(".explorer")];
    if (found.length === 0) return;
    await script("d3.min.js");
    await script("plot.umd.min.js");
    for (const root of found) new Explorer(root);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
