"use strict";
// What every page of ours is built with; the page's own script follows in the same element.
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  // -------------------------------------------------------------------------------------------- elements

  function build(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      node.setAttribute(key, value === true ? "" : String(value));
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
  }
  // Text goes in as text nodes only: a name can never become markup.
  const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) =>
    build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  const known = (value) => value !== null && value !== undefined;
  const percent = (value, digits = 2) => (known(value) ? (100 * value).toFixed(digits) : "–");
  const faces = (n) => `${n} face${n === 1 ? "" : "s"}`;
  const r1 = (value) => Math.round(value * 10) / 10;

  // -------------------------------------------------------------------------------------------- tooltip

  const tip = document.getElementById("tip");
  function showTip(lines, x, y) {
    tip.replaceChildren(...lines.map((line) => h("div", null, line)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    let left = x + 14;
    if (left + box.width > room - 4) left = x - 14 - box.width;
    tip.style.left = `${Math.max(4, Math.min(left, room - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, window.innerHeight - box.height - 4))}px`;
  }
  function hideTip() {
    tip.hidden = true;
  }
  function hover(node, lines) {
    const show = (event) => showTip(lines, event.clientX, event.clientY);
    node.addEventListener("pointerenter", show);
    node.addEventListener("pointermove", show);
    node.addEventListener("pointerleave", hideTip);
    return node;
  }

  // -------------------------------------------------------------------------------------------- pieces

  function section(id, name, lead) {
    const node = h("section", { id, "aria-labelledby": `${id}-name` }, h("h2", { id: `${id}-name` }, name));
    if (lead) node.append(h("p", { class: "lead" }, lead));
    document.getElementById("main").append(node);
    document.getElementById("sections").append(h("a", { href: `#${id}` }, name));
    return node;
  }

  function select(label, options, chosen, change, id) {
    const node = h(
      "select",
      { id },
      options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
    );
    node.addEventListener("change", () => change(node.value));
    return h("label", null, label, node);
  }

  // A chart is drawn to the width that it has, so that its text keeps its size on a telephone.
  function chart(draw, id) {
    const holder = h("div", { class: "chart", id });
    let last = 0;
    const redraw = () => {
      last = Math.floor(holder.clientWidth) || last || 600;
      holder.replaceChildren(draw(Math.max(260, last)));
    };
    const watch = new ResizeObserver(() => {
      const width = Math.floor(holder.clientWidth);
      if (width && width !== last) requestAnimationFrame(redraw);
    });
    watch.observe(holder);
    holder.redraw = redraw;
    return holder;
  }
  const canvas = (width, height, label, ...children) =>
    s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, children);

  // A table whose rows sort by any column; what is not known stays last.
  function table(columns, rows, options = {}) {
    const body = h("tbody");
    const cells = (row) =>
      h(
        "tr",
        options.rowData ? options.rowData(row) : null,
        columns.map((column) => h("td", { class: column.number ? "number" : null }, column.show(row))),
      );
    let shown = rows;
    let sorted = null;
    const fill = () => {
      const order = shown.slice();
      if (sorted) {
        const { column, sign } = sorted;
        order.sort((a, b) => {
          const [x, y] = [column.value(a), column.value(b)];
          if (!known(x) || !known(y)) return Number(!known(x)) - Number(!known(y));
          return sign * (column.number ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
        });
      }
      body.replaceChildren(...order.map(cells));
    };
    const heads = columns.map((column) => {
      const button = h("button", { type: "button", title: column.title }, column.label);
      const head = h("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" }, button);
      button.addEventListener("click", () => {
        const sign = sorted && sorted.column === column ? -sorted.sign : 1;
        sorted = { column, sign };
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        fill();
      });
      return head;
    });
    fill();
    const node = h(
      "table",
      { id: options.id },
      options.caption ? h("caption", null, options.caption) : null,
      h("thead", null, h("tr", null, heads)),
      body,
    );
    const holder = h(
      "div",
      { class: options.tall ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": options.label },
      node,
    );
    holder.filter = (test) => {
      shown = rows.filter(test);
      fill();
    };
    return holder;
  }
  const numbers = (...nodes) => h("details", null, h("summary", null, "Numbers"), nodes);
  const column = (label, value, show, extra) => ({ label, value, show: show || ((row) => String(value(row))), ...extra });
  const numeric = (label, value, show, title) =>
    column(label, value, show || ((row) => (known(value(row)) ? String(value(row)) : "–")), { number: true, title });
  // Round steps for an axis of about so many.
  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) found.push(i * step);
    return found;
  }
  const plain = (value) => String(Number(value.toPrecision(6)));

  // -------------------------------------------------------------------------------------------- figures

  const tile = (name, value, below, title) =>
    h(
      "div",
      { class: "tile", title },
      h("div", { class: "name" }, name),
      h("div", { class: "value" }, value),
      h("div", { class: "range" }, below),
    );
  const unit = (text) => (text === "–" ? text : `${text} %`);

  document.getElementById("title").textContent = data.title;
  window.addEventListener("scroll", hideTip, { passive: true });
  return {
    data, h, s, build, known, percent, faces, r1, showTip, hideTip, hover, section,
    select, chart, canvas, table, numbers, column, numeric, ticks, plain, tile, unit,
  };
})();
