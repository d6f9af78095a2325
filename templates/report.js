// The curves of a report (run_page.py): one chart for each metric, over all phases and runs, with values under the
// cursor, zoom, log scale and smoothing. It draws with uPlot, which stands before it.
(function () {
"use strict";

const section = document.querySelector(".data[data-key=curves]").closest("section");
const charts = section.querySelector(".charts");
const HEIGHT = 230, PRINTED_WIDTH = 330, LEAST_ZOOM = 2;  // pixels: two charts beside each other on paper; updates
let content = read(section), plots = [], view = null;  // view: the updates shown, null: all
const options = {smoothing: 0, log: false};

function read(from) {
  return JSON.parse(from.querySelector(".data[data-key=curves]").textContent);
}

function make(name, properties, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node && key !== "list") node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

// --- Colors, those of the page ---

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function faint(hex) {
  return hex + "55";
}

function colorOf(series) {
  if (content.runs.length === 1) return color(series.heldOut ? "--series-2" : "--series-1");
  return color(`--run-${series.run % 8 + 1}`);
}

// --- Numbers ---

function format(value, chart) {
  if (value === null || value === undefined) return "–";
  if (chart.percent) return (100 * value).toFixed(1) + "%";
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function place(x) {
  // Which update of which phase x is: phases follow each other on the axis.
  const parts = content.parts;
  let index = 0;
  while (index + 1 < parts.length && x > parts[index + 1].offset) index += 1;
  const step = Math.round(x - (parts.length ? parts[index].offset : 0));
  return (parts.length > 1 ? `${parts[index].title}, ` : "") + `${content.unit} ${step}`;
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

// --- Smoothing: an exponential moving average, without the bias of its start ---

function smooth(ys, weight) {
  let sum = 0, total = 0;
  return ys.map(y => {
    sum = weight * sum + (1 - weight) * y;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// --- One chart ---

class Chart {
  constructor(chart) {
    this.chart = chart;
    this.hidden = new Set();
    this.legend = make("ul", {className: "legend"});
    this.where = make("span", {className: "where"});
    this.box = make("div", {className: "plot", tabIndex: 0});
    this.box.setAttribute("role", "group");
    this.box.setAttribute("aria-label", `${chart.title}. Left and right arrow keys read values, + and - zoom, 0 shows all.`);
    this.said = make("p", {className: "hidden"});
    this.said.setAttribute("role", "status");
    this.note = make("p", {className: "note"});
    this.figure = make("figure", {className: "chart"},
                       make("h3", {}, chart.title, this.where), this.box, this.legend, this.note, this.said);
    this.box.addEventListener("keydown", event => this.key(event));
    charts.append(this.figure);
    this.fill();
    this.draw();
  }

  // The lines that uPlot draws: each series, and over it the smoothed one.
  fill() {
    const shown = this.chart.series.filter((_, index) => !this.hidden.has(index));
    const log = this.isLog();
    const tables = [], lines = [];
    for (const series of shown) {
      const positive = ys => ys.map(y => log && y <= 0 ? null : y);
      const smoothed = options.smoothing && !series.heldOut;
      tables.push([series.x, positive(series.y)]);
      lines.push({series, faint: smoothed});
      if (smoothed) {
        tables.push([series.x, positive(smooth(series.y, options.smoothing))]);
        lines.push({series, faint: false});
      }
    }
    this.lines = lines;
    this.data = tables.length ? uPlot.join(tables) : [[0], []];
  }

  isLog() {
    return options.log && this.chart.series.some(series => series.y.some(y => y > 0));
  }

  references(low, high) {
    return (this.chart.references || []).filter(line => line.value >= low && line.value <= high);
  }

  limits(low, high) {
    if (low === null || low === undefined) return this.isLog() ? [0.1, 1] : [0, 1];
    for (const {series} of this.lines) {
      if (series.low) [low, high] = [Math.min(low, ...series.low), Math.max(high, ...series.high)];
    }
    if (this.isLog()) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
    for (const line of this.references(Math.min(0, low), high + 0.35 * Math.abs(high))) {
      high = Math.max(high, line.value);
      low = Math.min(low, line.value);
    }
    const margin = Math.max(0.06 * (high - low), 0.02 * Math.max(Math.abs(low), Math.abs(high)), 1e-12);
    return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const text = color("--text"), line = color("--line"), muted = color("--muted"), font = "12px system-ui, sans-serif";
    const lines = this.lines, chart = this.chart, self = this;
    const axis = {stroke: muted, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}, font};
    this.plot = new uPlot({
      width: this.width(), height: HEIGHT, padding: [10, 8, 0, 0],
      legend: {show: false},
      scales: {
        x: {time: false, range: () => view || self.all()},
        y: {distr: this.isLog() ? 3 : 1, range: (_, low, high) => self.limits(low, high)},
      },
      axes: [
        {...axis, size: 32, values: (_, ticks) => ticks.map(tick => short(tick))},
        {...axis, size: 56, values: (_, ticks) => ticks.map(tick => tick === null ? "" : tickText(tick, chart))},
      ],
      cursor: {
        sync: {key: "curves", setSeries: false},
        drag: {x: true, y: false, setScale: false},
        points: {size: 7},
        bind: {dblclick: () => () => { show(null); return null; }},
      },
      hooks: {
        setSelect: [plot => self.select(plot)],
        setCursor: [plot => self.read(plot)],
        drawClear: [plot => self.background(plot, text, muted, font)],
        draw: [plot => self.spreads(plot)],
      },
      series: [{}, ...lines.map(({series, faint: isFaint}) => {
        const stroke = isFaint ? faint(colorOf(series)) : colorOf(series);
        const few = series.x.length < 40;
        return {stroke, width: isFaint ? 1 : series.heldOut ? 2 : 1.5, spanGaps: true,
                dash: series.heldOut ? [6, 4] : undefined,
                points: {show: (series.heldOut || few) && !isFaint && series.x.length < 200, size: 5, fill: stroke,
                         stroke}};
      })],
    }, this.data, this.box);
    this.plot.root.querySelectorAll("canvas").forEach(canvas => canvas.setAttribute("aria-hidden", "true"));
    this.explain();
  }

  width() {
    const printing = document.documentElement.classList.contains("printing");  // the page has not its paper's size yet
    return printing ? PRINTED_WIDTH : Math.max(220, Math.floor(this.box.clientWidth));
  }

  all() {
    return [0, Math.max(1, content.last * 1.01)];
  }

  background(plot, text, muted, font) {
    const context = plot.ctx, {left, top, width, height} = plot.bbox, ratio = devicePixelRatio;
    const line = (x1, y1, x2, y2, dash) => {
      context.setLineDash(dash.map(length => length * ratio));
      context.beginPath();
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
      context.stroke();
    };
    context.save();
    context.font = font.replace("12px", `${11 * ratio}px`);
    context.lineWidth = ratio;
    context.fillStyle = context.strokeStyle = muted;
    const ends = plot.scales.x;
    content.parts.slice(1).forEach(part => {
      if (part.offset <= ends.min || part.offset >= ends.max) return;
      const x = plot.valToPos(part.offset, "x", true);
      line(x, top, x, top + height, [2, 4]);
      const before = x + 4 * ratio + context.measureText(part.title).width > left + width;
      context.textAlign = before ? "right" : "left";
      context.fillText(part.title, x + (before ? -4 : 4) * ratio, top + 11 * ratio);
    });
    context.textAlign = "left";
    for (const reference of this.references(plot.scales.y.min, plot.scales.y.max)) {
      const y = plot.valToPos(reference.value, "y", true);
      line(left, y, left + width, y, [8, 3, 2, 3]);
      context.fillText(reference.label, left + 4 * ratio, y - 3 * ratio);
    }
    context.restore();
  }

  // Bars from the lowest to the highest value, of lines that have them.
  spreads(plot) {
    const context = plot.ctx, ratio = devicePixelRatio;
    context.save();
    context.beginPath();
    context.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    context.clip();
    for (const {series} of this.lines) {
      if (!series.low) continue;
      context.strokeStyle = colorOf(series);
      context.lineWidth = 1.5 * ratio;
      series.x.forEach((at, index) => {
        const x = plot.valToPos(at, "x", true), cap = 4 * ratio;
        const [top, bottom] = [series.high[index], series.low[index]].map(value => plot.valToPos(value, "y", true));
        context.beginPath();
        context.moveTo(x, top);
        context.lineTo(x, bottom);
        for (const y of [top, bottom]) {
          context.moveTo(x - cap, y);
          context.lineTo(x + cap, y);
        }
        context.stroke();
      });
    }
    context.restore();
  }

  // --- Zoom ---

  select(plot) {
    const {left, width} = plot.select;
    if (width < 4) return;
    const ends = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({left: 0, width: 0, top: 0, height: 0}, false);
    show(ends);
  }

  key(event) {
    const keys = {ArrowLeft: () => this.move(-1), ArrowRight: () => this.move(1), "+": () => zoom(0.5),
                  "=": () => zoom(0.5), "-": () => zoom(2), "0": () => show(null)};
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  move(by) {
    const xs = this.data[0], {min, max} = this.plot.scales.x;
    let index = this.plot.cursor.idx;
    index = index === null || index === undefined ? (by > 0 ? xs.findIndex(x => x >= min) : xs.length - 1) : index + by;
    index = Math.min(xs.length - 1, Math.max(0, index));
    while (index > 0 && xs[index] > max) index -= 1;
    while (index < xs.length - 1 && xs[index] < min) index += 1;
    this.plot.setCursor({left: this.plot.valToPos(xs[index], "x"), top: HEIGHT / 2});
    this.said.textContent = `${place(xs[index])}: ` + this.chart.series.map((series, number) =>
      `${series.label} ${format(this.valueAt(number, xs[index]), this.chart)}`).join(", ");
  }

  // --- Legend ---

  valueAt(number, x) {
    const series = this.chart.series[number];
    const index = series.x.length ? nearest(series.x, x) : -1;
    return index < 0 ? null : series.y[index];
  }

  read(plot) {
    const left = plot.cursor.left;
    const over = left !== null && left !== undefined && left >= 0;
    const x = over ? plot.posToVal(left, "x") : null;
    this.where.textContent = over ? ` at ${place(Math.max(0, x))}` : "";
    this.values.forEach((node, number) => {
      const series = this.chart.series[number];
      node.textContent = format(over ? this.valueAt(number, x) : series.y[series.y.length - 1], this.chart);
    });
  }

  explain() {
    this.values = [];
    const entries = this.chart.series.map((series, number) => {
      const value = make("b", {}, "");
      this.values.push(value);
      const marker = make("i", {});
      marker.style.borderTop = `3px ${series.heldOut ? "dashed" : "solid"} ${colorOf(series)}`;
      const button = make("button", {type: "button", title: "show or hide"}, marker, `${series.label} `, value);
      button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
      button.addEventListener("click", () => {
        if (this.hidden.has(number)) this.hidden.delete(number); else this.hidden.add(number);
        this.fill();
        this.draw();
        this.legend.querySelectorAll("button")[number].focus();
      });
      return make("li", {}, button);
    });
    this.legend.replaceChildren(...entries);
    this.note.textContent = (this.chart.references || []).length ? `${content.references}: ` + this.chart.references.map(
      reference => `${reference.label} ${format(reference.value, this.chart)}`).join(", ") + "." : "";
    this.read(this.plot);
  }
}

function short(tick) {
  const units = [[1e6, "M"], [1e3, "k"]];
  for (const [size, unit] of units) if (tick >= 10 * size || (tick >= size && tick % (size / 10) === 0)) return tick / size + unit;
  return Number.isInteger(tick) ? String(tick) : "";
}

function tickText(tick, chart) {
  if (chart.percent) return Number((100 * tick).toFixed(4)) + "%";
  const size = Math.abs(tick);
  if (size >= 1e4 || (size && size < 1e-3)) return tick.toExponential().replace("e+", "e");
  return String(Number(tick.toPrecision(6)));
}

// --- All charts together ---

function show(ends) {
  const [low, high] = [0, Math.max(1, content.last * 1.01)];
  if (ends) {
    let [from, to] = [Math.max(low, ends[0]), Math.min(high, ends[1])];
    if (to - from < LEAST_ZOOM) {
      const middle = (from + to) / 2;
      [from, to] = [Math.max(low, middle - LEAST_ZOOM / 2), Math.min(high, middle + LEAST_ZOOM / 2)];
    }
    ends = to - from >= high - low ? null : [from, to];
  }
  view = ends;
  // Set data anew: only so the axis of values follows the updates that are shown.
  for (const chart of plots) chart.plot.setData(chart.data, true);
  all.disabled = !view;
  charts.dataset.view = view ? view.map(Math.round).join(" ") : "";
}

function zoom(factor) {
  const [low, high] = view || [0, Math.max(1, content.last * 1.01)];
  const left = plots.map(chart => chart.plot.cursor.left).find(value => value !== null && value >= 0);
  const middle = left === undefined || !plots.length ? (low + high) / 2 : plots[0].plot.posToVal(left, "x");
  const at = Math.min(high, Math.max(low, middle));
  show([at - (at - low) * factor, at + (high - at) * factor]);
}

function redraw() {
  for (const chart of plots) { chart.fill(); chart.draw(); }
}

function build() {
  const hidden = new Map(plots.map(chart => [chart.chart.key, chart.hidden]));
  for (const chart of plots) chart.plot.destroy();
  charts.replaceChildren();
  plots = [];
  let group = null;
  for (const chart of content.charts) {
    if (chart.group !== group) {
      group = chart.group;
      charts.append(make("h3", {className: "group"}, group));
    }
    plots.push(new Chart(chart));
  }
  for (const chart of plots) {
    if (hidden.has(chart.chart.key) && hidden.get(chart.chart.key).size) {
      chart.hidden = hidden.get(chart.chart.key);
      chart.fill();
      chart.draw();
    }
  }
}

// --- Controls ---

const output = make("output", {}, "off");
const slider = make("input", {type: "range", min: "0", max: "0.99", step: "0.01", value: "0", id: "smoothing"});
slider.addEventListener("input", () => {
  options.smoothing = Number(slider.value);
  output.textContent = options.smoothing ? options.smoothing.toFixed(2) : "off";
  redraw();
});
const logarithmic = make("input", {type: "checkbox", id: "log"});
logarithmic.addEventListener("change", () => { options.log = logarithmic.checked; redraw(); });
const all = make("button", {type: "button", disabled: true, id: "all"}, "Show all");
all.addEventListener("click", () => show(null));
const closer = make("button", {type: "button"}, "Zoom in");
closer.addEventListener("click", () => zoom(0.5));
const farther = make("button", {type: "button"}, "Zoom out");
farther.addEventListener("click", () => zoom(2));
charts.before(make("div", {className: "controls"},
  make("label", {htmlFor: "smoothing"}, "Smoothing ", slider, output), make("label", {}, logarithmic, " Log scale"),
  closer, farther, all));

section.refresh = fresh => {
  const wholly = view === null, before = content;
  content = read(fresh);
  fresh.querySelectorAll("[data-live]").forEach(node => {
    const old = section.querySelector(`[data-live="${node.dataset.live}"]`);
    if (old) old.replaceChildren(...node.childNodes);
  });
  const keys = of => JSON.stringify(of.charts.map(chart => [chart.key, chart.series.map(series => series.label)]));
  if (keys(before) !== keys(content)) {
    build();
  } else {
    plots.forEach((chart, number) => {
      chart.chart = content.charts[number];
      chart.fill();
      chart.plot.setData(chart.data, true);
      chart.read(chart.plot);
    });
  }
  if (wholly) view = null;
};

let width = 0;
new ResizeObserver(() => {
  if (charts.clientWidth === width) return;
  width = charts.clientWidth;
  for (const chart of plots) chart.plot.setSize({width: chart.width(), height: HEIGHT});
}).observe(charts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    document.documentElement.classList.toggle("printing", printing);
    redraw();
  });
}
build();
}());
