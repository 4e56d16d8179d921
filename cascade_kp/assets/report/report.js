(() => {
  const {
    data, h, s, build, known, percent, faces, r1, showTip, hideTip, hover, section,
    select, chart, canvas, table, numbers, column, numeric, ticks, plain, tile, unit,
  } = page;
  const MISSED = -1; // as in the lists of errors; null is an excluded face
  const EVERYTHING = "everything";
  const DASHES = { coarse: "7 4", oracle: "2 3", points: "10 3 2 3", boxes: "10 3 2 3" };
  const at = `@${data.threshold}`;
  const stageName = Object.fromEntries(data.stages.map((one) => [one.id, one.name]));
  const groupName = Object.fromEntries(data.groups.map((one) => [one.id, one.name]));

  const range = (ends, digits = 2) => (known(ends[0]) ? `${percent(ends[0], digits)}–${percent(ends[1], digits)}` : "");

  function legend(stages) {
    const line = (id) =>
      s(
        "svg",
        { width: 26, height: 10, class: `k-${id}`, "aria-hidden": true },
        s("line", { x1: 0, x2: 26, y1: 5, y2: 5, class: "stroke curve", "stroke-dasharray": DASHES[id] }),
      );
    return h("ul", { class: "legend" }, stages.map((id) => h("li", null, line(id), stageName[id] || id)));
  }

  const swatched = (id) =>
    h("span", { class: "stage" }, h("span", { class: `swatch k-${id}`, "aria-hidden": true }), stageName[id] || id);

  // -------------------------------------------------------------------------------------------- head

  const headline = data.headline;
  const interval = (ends) => (known(ends[0]) ? `95 %: ${range(ends)}` : "no interval");
  document.getElementById("headline").append(
    tile("NME", unit(percent(headline.nme)), interval(headline.nme_ci95), "mean of the per-face errors, faces that were found"),
    tile(`AUC${at}`, unit(percent(headline[`auc${at}`])), interval(headline[`auc${at}_ci95`]), "area under the curve below, up to the threshold"),
    tile(`FR${at}`, unit(percent(headline[`fr${at}`])), interval(headline[`fr${at}_ci95`]), "share of faces with a larger error, or missed"),
    tile("faces", String(headline.n), `${headline.missed} missed, ${headline.excluded} excluded`),
  );

  {
    const node = section("about", "What was measured");
    node.append(
      h("dl", { class: "facts" }, data.head.map((row) => [h("dt", null, row.label), h("dd", { title: row.more || null }, row.text)])),
      h("p", { class: "soft" }, data.protocol),
    );
    for (const [what, names] of [["missed", data.missed], ["excluded", data.excluded]]) {
      if (!names.length) continue;
      node.append(
        h("details", { id: `${what}-faces` }, h("summary", null, `${faces(names.length)} ${what}`), h("ul", null, names.map((name) => h("li", null, name)))),
      );
    }
    node.append(
      h(
        "p",
        { class: "note", id: "pictures-note" },
        data.pictures
          ? "Pictures of faces are embedded in this page. If they are research data, their licence forbids passing it on: keep the page to yourself."
          : "No picture is embedded in this page: it holds points, names of faces and numbers. Research data must not be shared, so check the names before you pass it on.",
      ),
    );
  }

  // -------------------------------------------------------------------------------------------- CED

  {
    const node = section(
      "ced",
      "Cumulative errors",
      "The share of faces whose error is at most that of the horizontal axis; a missed face never counts as reached. Point at the chart, or focus it and use the arrow keys.",
    );
    const limits = [0.5, 1.25, 2.5, 6.25].map((factor) => factor * data.threshold);
    const state = { group: data.points, subset: EVERYTHING, limit: limits[1] };
    const stages = data.stages.map((one) => one.id);
    const STEP = data.threshold / 160; // of the reading: 0.05 % at 0.08

    function curveOf(stage) {
      const all = data.errors[stage][state.group];
      const rows = state.subset === EVERYTHING ? all : data.members[state.subset].map((i) => all[i]);
      const scored = rows.filter(known);
      const found = scored.filter((error) => error !== MISSED).sort((a, b) => a - b);
      return { stage, found, count: scored.length };
    }
    function reached(curve, x) {
      let [low, high] = [0, curve.found.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (curve.found[middle] <= x) low = middle + 1;
        else high = middle;
      }
      return low;
    }

    function draw(width) {
      const height = Math.round(Math.min(420, Math.max(250, width * 0.5)));
      const [left, right, top, bottom] = [44, width - 14, 14, height - 44];
      const x = (value) => left + ((right - left) * value) / state.limit;
      const y = (share) => bottom - (bottom - top) * share;
      const curves = stages.map(curveOf);
      const marks = [];
      for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
        marks.push(
          s("line", { x1: left, x2: right, y1: y(share), y2: y(share), class: "grid" }),
          s("text", { x: left - 7, y: y(share) + 4, "text-anchor": "end" }, String(Math.round(100 * share))),
        );
      }
      for (const value of ticks(0, state.limit, width < 500 ? 5 : 8)) {
        marks.push(
          s("line", { x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5, class: "axis" }),
          s("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, plain(100 * value)),
        );
      }
      marks.push(
        s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
        s("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, `error, % of the norm (${groupName[state.group]})`),
        s("text", { x: 0, y: 0, transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "% of faces"),
      );
      if (data.threshold < state.limit) {
        marks.push(s("line", { x1: x(data.threshold), x2: x(data.threshold), y1: top, y2: bottom, class: "limit" }));
      }
      for (const curve of curves) {
        let path = `M${r1(x(0))} ${r1(y(0))}`;
        curve.found.forEach((error, i) => {
          if (error <= state.limit) path += `H${r1(x(error))}V${r1(y((i + 1) / curve.count))}`;
        });
        if (curve.count) path += `H${right}`;
        marks.push(
          s("path", { d: path, class: `curve stroke k-${curve.stage}`, "data-stage": curve.stage, "stroke-dasharray": DASHES[curve.stage] }),
        );
      }

      const cursor = s("g", { visibility: "hidden" });
      const hit = s("rect", {
        x: left, y: top, width: right - left, height: bottom - top, class: "hit", tabindex: 0, role: "slider",
        "aria-label": "error at which to read the curves", "aria-valuemin": 0, "aria-valuemax": plain(100 * state.limit),
      });
      let step = Math.round(data.threshold / STEP);
      function read(at, clientX, clientY) {
        step = Math.max(0, Math.min(Math.floor(state.limit / STEP + 1e-9), at));
        const error = Number((step * STEP).toPrecision(12)); // 0.0435, not 0.043500000000000004
        const lines = [`error ≤ ${percent(error)} %`];
        const parts = [s("line", { x1: x(error), x2: x(error), y1: top, y2: bottom, class: "cursor" })];
        for (const curve of curves) {
          const n = reached(curve, error);
          const share = curve.count ? n / curve.count : null;
          lines.push(`${stageName[curve.stage]}: ${unit(percent(share, 1))} (${n} of ${curve.count})`);
          if (known(share)) parts.push(s("circle", { cx: x(error), cy: y(share), r: 4, class: `fill k-${curve.stage}` }));
        }
        cursor.replaceChildren(...parts);
        cursor.setAttribute("visibility", "visible");
        hit.setAttribute("aria-valuenow", plain(100 * error));
        hit.setAttribute("aria-valuetext", lines.join(", "));
        hit.dataset.x = error;
        const box = hit.getBoundingClientRect();
        showTip(lines, known(clientX) ? clientX : box.left + ((x(error) - left) * box.width) / (right - left), known(clientY) ? clientY : box.top + 8);
      }
      const leave = () => {
        hideTip();
        cursor.setAttribute("visibility", "hidden");
      };
      const point = (event) => {
        const box = hit.getBoundingClientRect();
        read(Math.round((((event.clientX - box.left) / box.width) * state.limit) / STEP), event.clientX, event.clientY);
      };
      hit.addEventListener("pointermove", point);
      hit.addEventListener("pointerdown", point);
      hit.addEventListener("pointerleave", leave);
      hit.addEventListener("focus", () => read(step));
      hit.addEventListener("blur", leave);
      hit.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e6, End: 1e6 }[event.key];
        if (move === undefined) return;
        event.preventDefault();
        read(step + move);
      });
      hit.setAttribute("aria-valuenow", plain(100 * data.threshold));
      // A group and no picture: what is inside a picture cannot be reached, and the slider must be.
      return build(canvas(width, height, `Cumulative error curves of ${stages.map((id) => stageName[id]).join(", ")}; the table below has their summary`, marks, hit, cursor), { role: "group" }, []);
    }

    const picture = chart(draw, "ced-chart");
    const rows = h("div");
    const note = h("figcaption");
    function refresh() {
      picture.redraw();
      const cells = data.cells[state.subset];
      const columns = [
        column("Stage", (row) => stageName[row], swatched),
        numeric("NME %", (row) => cells[row][state.group].nme, (row) => percent(cells[row][state.group].nme)),
        numeric(`AUC${at} %`, (row) => cells[row][state.group][`auc${at}`], (row) => percent(cells[row][state.group][`auc${at}`])),
        numeric(`FR${at} %`, (row) => cells[row][state.group][`fr${at}`], (row) => percent(cells[row][state.group][`fr${at}`])),
      ];
      rows.replaceChildren(table(columns, stages, { id: "ced-table", label: "Summary of the curves" }));
      const cell = cells[stages[0]][state.group];
      note.textContent = `${groupName[state.group]}, ${state.subset}: ${faces(cell.n)}, ${cell.missed} missed, ${cell.excluded} excluded. The dotted vertical line is the threshold, ${plain(100 * data.threshold)}\u00a0%.`;
    }
    node.append(
      h(
        "div",
        { class: "controls" },
        select("Points", data.groups.map((one) => [one.id, one.name]), state.group, (value) => { state.group = value; refresh(); }, "ced-points"),
        select("Subset", data.subsets.map((one) => [one.id, `${one.id} (${one.n})`]), state.subset, (value) => { state.subset = value; refresh(); }, "ced-subset"),
        select("Errors up to", limits.map((value) => [String(value), `${plain(100 * value)} %`]), String(state.limit), (value) => { state.limit = Number(value); refresh(); }, "ced-limit"),
      ),
      legend(stages),
      h("figure", null, picture, note),
      rows,
    );
    refresh();
  }

  // -------------------------------------------------------------------------------------------- table

  {
    const node = section("table", "By subset, stage and region", "Small figures are 95 % intervals. Click a heading, or focus it and press Enter, to sort.");
    const rows = [];
    for (const { id: subset } of data.subsets) {
      for (const { id: stage } of data.stages) {
        for (const { id: group } of data.groups) rows.push({ subset, stage, group, ...data.cells[subset][stage][group] });
      }
    }
    const score = (label, key, title) =>
      numeric(label, (row) => row[key], (row) => [percent(row[key]), h("small", null, range(row[`${key}_ci95`]))], title);
    const columns = [
      column("Subset", (row) => row.subset),
      column("Stage", (row) => stageName[row.stage], (row) => swatched(row.stage)),
      column("Points", (row) => groupName[row.group]),
      score("NME %", "nme", "mean error of the faces that were found"),
      score(`AUC${at} %`, `auc${at}`, "area under the cumulative curve up to the threshold"),
      score(`FR${at} %`, `fr${at}`, "share of faces above the threshold, missed ones among them"),
      numeric("n", (row) => row.n),
      numeric("missed", (row) => row.missed),
      numeric("excluded", (row) => row.excluded),
    ];
    const made = table(columns, rows, { id: "results", tall: true, label: "Results by subset, stage and points", rowData: (row) => ({ "data-nme": row.nme }) });
    const state = { subset: "", stage: "", group: "" };
    const update = (key) => (value) => {
      state[key] = value;
      made.filter((row) => Object.entries(state).every(([name, wanted]) => !wanted || row[name] === wanted));
    };
    node.append(
      h(
        "div",
        { class: "controls" },
        select("Subset", [["", "all"], ...data.subsets.map((one) => [one.id, one.id])], "", update("subset"), "table-subset"),
        select("Stage", [["", "all"], ...data.stages.map((one) => [one.id, one.name])], "", update("stage"), "table-stage"),
        select("Points", [["", "all"], ...data.groups.map((one) => [one.id, one.name])], "", update("group"), "table-points"),
      ),
      made,
    );
  }

  // -------------------------------------------------------------------------------------------- remaining error

  {
    const node = section(
      "remaining",
      "Where is the remaining error?",
      "Each group of points under each stage. What oracle crops gain over regions, better placed crops could gain; what is left after that lies in the specialists and in the labels.",
    );
    const stages = data.stages.map((one) => one.id);
    const cells = data.cells[EVERYTHING];
    const groups = data.groups.map((one) => one.id);

    function draw(width) {
      const thick = 13;
      const block = stages.length * (thick + 2) + 14;
      const left = Math.min(width * 0.36, 18 + 6.6 * Math.max(...groups.map((id) => groupName[id].length)));
      const [right, top] = [width - 46, 4];
      const height = top + groups.length * block + 34;
      const bottom = height - 34;
      const high = Math.max(...groups.flatMap((group) => stages.map((stage) => cells[stage][group].nme || 0))) || 0.01;
      const x = (value) => left + ((right - left) * value) / high;
      const marks = [];
      for (const value of ticks(0, high, width < 500 ? 3 : 6)) {
        marks.push(
          s("line", { x1: x(value), x2: x(value), y1: top, y2: bottom, class: "grid" }),
          s("text", { x: x(value), y: bottom + 15, "text-anchor": "middle" }, plain(100 * value)),
        );
      }
      marks.push(s("text", { x: (left + right) / 2, y: height - 3, "text-anchor": "middle" }, "NME, % of the norm"));
      groups.forEach((group, i) => {
        const start = top + i * block + 6;
        const name = groupName[group];
        const fits = Math.floor((left - 10) / 6.4);
        marks.push(
          s("text", { x: left - 8, y: start + (block - 14) / 2 + 4, "text-anchor": "end", class: "strong" }, name.length > fits ? `${name.slice(0, fits - 1)}…` : name),
        );
        stages.forEach((stage, j) => {
          const cell = cells[stage][group];
          const y = start + j * (thick + 2);
          if (!known(cell.nme)) {
            marks.push(s("text", { x: left + 5, y: y + thick - 2.5 }, "–"));
            return;
          }
          const bar = s("rect", { x: left, y, width: Math.max(0.5, x(cell.nme) - left), height: thick, class: `fill bar k-${stage}` });
          marks.push(
            hover(bar, [`${name}: ${stageName[stage]}`, `NME ${percent(cell.nme)} %, 95 %: ${range(cell.nme_ci95)}`, faces(cell.n - cell.missed - cell.excluded)]),
            s("text", { x: x(cell.nme) + 5, y: y + thick - 2.5 }, percent(cell.nme)),
          );
        });
      });
      marks.push(s("line", { x1: left, x2: left, y1: top, y2: bottom, class: "axis" }));
      return canvas(width, height, "NME of every group of points by stage; the table below has the values", marks);
    }

    const list = h("ul", { class: "legend" }, stages.map((id) => h("li", null, swatched(id))));
    const bars = chart(draw, "bars");
    const gain = (pair) => {
      const cellsOf = data.gains[pair];
      return [(row) => cellsOf[row].gain, (row) => [percent(cellsOf[row].gain), h("small", null, known(cellsOf[row].ci95[0]) ? `${percent(cellsOf[row].ci95[0])} to ${percent(cellsOf[row].ci95[1])}` : "")]];
    };
    const columns = [
      column("Points", (row) => groupName[row]),
      ...stages.map((stage) => numeric(`${stageName[stage]} %`, (row) => cells[stage][row].nme, (row) => percent(cells[stage][row].nme))),
    ];
    if (data.gains["coarse-regions"]) columns.push(numeric("gain of regions", ...gain("coarse-regions"), "NME of stage one minus that of regions, in points of a percent; small: 95 % interval"));
    if (data.gains["regions-oracle"]) columns.push(numeric("still in the crops", ...gain("regions-oracle"), "NME of regions minus that of oracle crops, in points of a percent; small: 95 % interval"));
    const caption = stages.length > 1
      ? `Gains are differences of the NME in points of a percent, over faces that both found, with 95 % intervals of ${data.resamples.toLocaleString("en")} resamples of the faces. Points that no specialist covers keep stage one's answer and gain nothing.`
      : "This evaluation has one stage only, so there is nothing to compare it with.";

    const drawn = groups.some((group) => stages.some((stage) => known(cells[stage][group].nme)));
    node.append(
      stages.length > 1 ? list : "",
      drawn ? h("figure", null, bars, h("figcaption", null, caption)) : h("p", { class: "soft" }, "No face was found and could be scored."),
      table(columns, groups, { id: "gains", label: "NME and gains by group of points" }),
    );
    if (drawn) bars.redraw();
  }

  // -------------------------------------------------------------------------------------------- keypoints

  {
    const points = data.keypoints;
    const node = section("keypoints", "Error of every keypoint", "On the mean shape of the labels.");
    const stages = Object.keys(points.errors);
    const shape = points.shape;
    const placed = shape.map((point, i) => i).filter((i) => shape[i]);
    const state = { stage: data.stage, by: 1 };
    const rows = points.names.map((name, i) => i);
    const columns = [
      numeric("#", (i) => i, null, "position in the scheme, from 0"),
      column("Keypoint", (i) => points.names[i], (i) => points.names[i].split(/(?<=_)/).flatMap((word) => [word, h("wbr")])),
      column("Region", (i) => points.regions[i].replaceAll("_", " ")),
      ...stages.map((stage) => numeric(stageName[stage], (i) => points.errors[stage][i], (i) => percent(points.errors[stage][i]), "mean error, % of the norm")),
    ];
    const listed = table(columns, rows, { id: "keypoints-table", tall: true, caption: "Mean error, % of the norm", label: "Mean error of every keypoint" });

    function draw(width) {
      const side = Math.min(width, 480);
      const xs = placed.map((i) => shape[i][0]);
      const ys = placed.map((i) => shape[i][1]);
      const [x0, y0] = [Math.min(...xs), Math.min(...ys)];
      const span = Math.max(Math.max(...xs) - x0, Math.max(...ys) - y0, 1e-6);
      const pad = 30;
      const scale = (side - 2 * pad) / span;
      const height = Math.round((Math.max(...ys) - y0) * scale + 2 * pad);
      const offset = (side - (Math.max(...xs) - x0) * scale) / 2;
      const place = (i) => [r1((shape[i][0] - x0) * scale + offset), r1((shape[i][1] - y0) * scale + pad)];
      const marks = points.edges
        .filter(([i, j]) => shape[i] && shape[j])
        .map(([i, j]) => s("path", { d: `M${place(i).join(" ")}L${place(j).join(" ")}`, class: "edge" }));
      const hits = [];
      for (const i of placed) {
        const error = points.errors[state.stage][i];
        if (!known(error)) continue;
        const [cx, cy] = place(i);
        const radius = error * points.unit * scale * state.by;
        marks.push(
          s("circle", { cx, cy, r: r1(radius), class: `disc k-${state.stage}` }),
          s("circle", { cx, cy, r: 1.5, class: `fill k-${state.stage}` }),
        );
        const lines = [points.names[i], ...stages.map((stage) => `${stageName[stage]}: ${unit(percent(points.errors[stage][i]))}`)];
        hits.push(hover(s("circle", { cx, cy, r: Math.max(5, Math.min(radius, 9)), class: "disc-hit", "data-point": i }), lines));
      }
      return canvas(side, height, `Mean face with a circle at every keypoint, as large as its mean error for ${stageName[state.stage]}; the table has the values`, marks, hits);
    }

    if (placed.length && known(points.unit)) {
      const face = chart(draw, "face");
      const change = (key, number) => (value) => { state[key] = number ? Number(value) : value; face.redraw(); };
      node.append(
        h(
          "div",
          { class: "controls" },
          select("Stage", stages.map((id) => [id, stageName[id]]), state.stage, change("stage"), "face-stage"),
          select("Radius", [["1", "the mean error, to scale"], ["2", "twice the mean error"], ["4", "four times the mean error"]], "1", change("by", true), "face-scale"),
        ),
        h("div", { class: "two narrow-wide" }, h("figure", null, face, h("figcaption", null, "A circle's radius is the point's mean error on the scale of the face. Point at one for its values.")), listed),
      );
      face.redraw();
    } else {
      node.append(h("p", { class: "soft" }, "The labels do not tell a mean shape to draw on."), listed);
    }
  }

  // -------------------------------------------------------------------------------------------- bins

  // Bands of equal width, one a bin; `names` label bands, `edges` the lines between them. `value` picks a stage's mean.
  function bands({ bins, names, edges, labels, stages, axis, what, title }) {
    return (width) => {
      const height = Math.round(Math.min(330, Math.max(240, width * 0.6)));
      const [left, right, top, bottom] = [40, width - 12, 24, height - 46];
      const values = bins.flatMap((bin) => stages.map((stage) => bin.stages[stage])).filter((cell) => known(cell.nme));
      // A bin of one or two faces has an interval that says nothing; it must not flatten all the others.
      const means = Math.max(...values.map((cell) => cell.nme), 1e-4);
      const high = Math.min(Math.max(means, ...values.map((cell) => (known(cell.ci95[1]) ? cell.ci95[1] : 0))), 1.8 * means);
      const wide = (right - left) / bins.length;
      const y = (value) => bottom - ((bottom - top) * Math.min(value, high)) / high;
      const middle = (i) => left + (i + 0.5) * wide;
      const marks = [];
      for (const value of ticks(0, high, 5)) {
        marks.push(
          s("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
          s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, plain(100 * value)),
        );
      }
      if (edges) {
        edges.forEach((edge, i) => {
          const x = left + i * wide;
          marks.push(
            s("line", { x1: x, x2: x, y1: bottom, y2: bottom + 5, class: "axis" }),
            s("text", { x: Math.min(x, width - 12), y: bottom + 18, "text-anchor": "middle" }, edge),
          );
        });
      } else {
        names.forEach((name, i) => marks.push(s("text", { x: middle(i), y: bottom + 18, "text-anchor": "middle" }, name)));
      }
      marks.push(
        s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
        s("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, axis),
        s("text", { x: 0, y: 0, transform: `translate(10 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "NME %"),
      );
      const gap = Math.min(9, wide / (stages.length + 2));
      stages.forEach((stage, j) => {
        const shift = (j - (stages.length - 1) / 2) * gap;
        let path = "";
        let pen = "M";
        const dots = [];
        bins.forEach((bin, i) => {
          const cell = bin.stages[stage];
          if (!known(cell.nme)) {
            pen = "M";
            return;
          }
          const x = r1(middle(i) + shift);
          path += `${pen}${x} ${r1(y(cell.nme))}`;
          pen = "L";
          if (known(cell.ci95[0])) dots.push(s("line", { x1: x, x2: x, y1: r1(y(cell.ci95[0])), y2: r1(y(cell.ci95[1])), class: "error-bar stroke" }));
          dots.push(s("circle", { cx: x, cy: r1(y(cell.nme)), r: 3.2, class: "fill" }));
        });
        marks.push(s("g", { class: `k-${stage}`, "data-stage": stage }, s("path", { d: path || "M0 0", class: "curve stroke", "stroke-dasharray": DASHES[stage], "stroke-opacity": 0.55 }), dots));
      });
      const hits = bins.map((bin, i) => {
        if (known(bin.n)) marks.push(s("text", { x: middle(i), y: 14, "text-anchor": "middle" }, i ? String(bin.n) : `n ${bin.n}`));
        const lines = [labels[i], ...stages.map((stage) => {
          const cell = bin.stages[stage];
          return `${stageName[stage] || stage}: ${unit(percent(cell.nme))}${known(cell.ci95[0]) ? ` (${range(cell.ci95)})` : ""}`;
        })];
        lines.push(...(bin.more || []));
        return hover(s("rect", { x: left + i * wide, y: top, width: wide, height: bottom - top, class: "band" }), lines);
      });
      return canvas(width, height, `${title}: ${what}; the table below has the values`, hits, marks.map((mark) => build(mark, { "pointer-events": "none" }, [])));
    };
  }

  function binned(node, options) {
    const { id, title, caption, bins, labels, stages } = options;
    if (!bins.some((bin) => stages.some((stage) => known(bin.stages[stage].nme)))) {
      node.append(h("div", null, h("h3", null, title), h("p", { class: "soft" }, "Not shown: no face was found and could be scored.")));
      return;
    }
    const picture = chart(bands(options), id);
    const columns = [
      column(options.head, (i) => i, (i) => labels[i], { number: false }),
      ...(known(bins[0].n) ? [numeric("n", (i) => bins[i].n), numeric("missed", (i) => bins[i].missed)] : []),
      ...stages.map((stage) => numeric(`${stageName[stage] || stage} %`, (i) => bins[i].stages[stage].nme, (i) => [percent(bins[i].stages[stage].nme), h("small", null, range(bins[i].stages[stage].ci95))])),
      ...(options.rates ? stages.map((stage) => numeric(`FR${at} of ${stageName[stage]} %`, (i) => bins[i].stages[stage].fr, (i) => percent(bins[i].stages[stage].fr))) : []),
    ];
    node.append(
      h("div", null, h("h3", null, title), h("figure", null, picture, h("figcaption", null, caption)), numbers(table(columns, bins.map((_, i) => i), { label: title }))),
    );
    picture.redraw();
  }

  {
    const node = section(
      "against",
      "Error against pose, size and box",
      `Mean error of ${groupName[data.points]} in bins of faces, with 95 % intervals. Figures above a chart are numbers of faces.`,
    );
    const stages = data.stages.map((one) => one.id);
    const grid = h("div", { class: "two" });
    node.append(legend(stages), grid);
    const absent = (title, reason) => grid.append(h("div", null, h("h3", null, title), h("p", { class: "soft" }, `Not shown: ${reason}.`)));
    const missed = (bin) => ({ ...bin, more: [`${faces(bin.n)}, ${bin.missed} missed`] });

    if (data.yaw.reason) absent("Yaw", data.yaw.reason);
    else {
      const edges = data.yaw.edges.map((edge) => String(edge).replace("-", "−"));
      const left = data.yaw.unknown ? ` ${faces(data.yaw.unknown)} without these labels are left out.` : "";
      binned(grid, {
        id: "yaw-chart", title: "Yaw", head: "Yaw, degrees", stages, axis: "yaw, degrees (+: to the subject's left)", what: "NME by yaw",
        bins: data.yaw.bins.map(missed), edges: edges.map((edge) => `${edge}°`), labels: data.yaw.bins.map((_, i) => `${edges[i]}° to ${edges[i + 1]}°`),
        caption: `A rough estimate from the labels: with outer eye corners at ±a and the tip of the nose d in front of them, the nose's offset from the corners' middle along the line of the eyes, over half the distance of the eyes, is (d/a) tan(yaw); d/a = ${data.yaw.depth}, as in common generic face models.${left}`,
      });
    }
    if (data.size.reason) absent("Face size", data.size.reason);
    else {
      const edges = data.size.edges.map((edge) => String(Math.round(edge)));
      binned(grid, {
        id: "size-chart", title: "Face size", head: "Size, px", stages, axis: "longer side of the face box, px", what: "NME by face size",
        bins: data.size.bins.map(missed), edges, labels: data.size.bins.map((_, i) => `${edges[i]} to ${edges[i + 1]} px`),
        caption: "The longer side of the tight box of the labels, in bins between quantiles; faces of one size share a bin.",
      });
    }
    if (data.perturbation) {
      const moved = data.perturbation;
      const own = Object.keys(moved.stages);
      const bin = (i) => ({
        stages: Object.fromEntries(own.map((stage) => {
          const cell = moved.stages[stage][i];
          return [stage, { nme: cell.nme, ci95: cell.nme_ci95, fr: cell[`fr@${moved.threshold}`] }];
        })),
      });
      const where = { shift: [], scale: [] };
      moved.steps.forEach((step, i) => where[step.kind].push([step.amount, i]));
      const still = where.shift.find(([amount]) => amount === 0);
      if (still) where.scale.push([1, still[1]]);
      where.scale.sort((a, b) => a[0] - b[0]);
      const titles = { shift: ["Shifted face box", "shift, % of the box's longer side", "Shift"], scale: ["Scaled face box", "factor on the box's sides", "Factor"] };
      for (const kind of ["shift", "scale"]) {
        const names = where[kind].map(([amount]) => (kind === "shift" ? `${plain(100 * amount)} %` : `× ${plain(amount)}`));
        const bins = where[kind].map(([, i]) => bin(i));
        for (const one of bins) one.more = own.map((stage) => `FR${at} of ${stageName[stage] || stage}: ${unit(percent(one.stages[stage].fr))}`);
        binned(grid, {
          id: `${kind}-chart`, title: titles[kind][0], head: titles[kind][2], stages: own, rates: true, axis: titles[kind][1], what: "NME by change of the box", bins, names, labels: names,
          caption: `${faces(moved.n)}, spread evenly, ${moved.group}; the true box ${kind === "shift" ? "moved in a direction that is drawn for each face" : "grown or shrunk about its centre"}.${moved.left_out ? ` ${faces(moved.left_out)} left out, as a moved box misses the picture.` : ""}`,
        });
      }
    } else absent("Face box", "the evaluation was not run on moved boxes");
  }

  // -------------------------------------------------------------------------------------------- calibration

  {
    const node = section("calibration", "Is sigma what it says?");
    const found = data.calibration;
    if (!found) node.append(h("p", { class: "soft" }, "Not shown: no sigma is known for any labelled point."));
    else {
      node.append(h("p", { class: "lead" }, `The predicted radius sigma should hold ${percent(found.expected, 0)} % of the errors of such points (${stageName[found.stage] || found.stage}).`));
      // Not Object.keys: it puts names that are whole numbers first.
      const names = data.groups.map((one) => one.id).filter((id) => id in found.shares);
      const shares = (width) => {
        const row = 26;
        const left = Math.min(width * 0.36, 18 + 6.6 * Math.max(...names.map((id) => (groupName[id] || id).length)));
        const [right, top] = [width - 56, 8];
        const height = top + names.length * row + 40;
        const bottom = height - 40;
        const ends = names.flatMap((id) => [found.shares[id].held, ...found.shares[id].ci95]).filter(known);
        const low = Math.max(0, Math.floor((Math.min(found.expected, ...ends) - 0.03) * 20) / 20);
        const high = Math.min(1, Math.ceil((Math.max(found.expected, ...ends) + 0.03) * 20) / 20);
        const x = (value) => left + ((right - left) * (value - low)) / (high - low);
        const marks = ticks(low, high, width < 500 ? 4 : 6).flatMap((value) => [
          s("line", { x1: x(value), x2: x(value), y1: top, y2: bottom, class: "grid" }),
          s("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, plain(100 * value)),
        ]);
        marks.push(
          s("line", { x1: x(found.expected), x2: x(found.expected), y1: top, y2: bottom, class: "limit" }),
          s("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, "% of errors within sigma"),
        );
        names.forEach((id, i) => {
          const one = found.shares[id];
          const y = top + (i + 0.5) * row;
          marks.push(s("text", { x: left - 8, y: y + 4, "text-anchor": "end", class: "strong" }, groupName[id] || id));
          if (!known(one.held)) return;
          marks.push(
            s("line", { x1: x(one.ci95[0]), x2: x(one.ci95[1]), y1: y, y2: y, class: "error-bar stroke" }),
            s("circle", { cx: x(one.held), cy: y, r: 4.5, class: "fill" }),
            s("text", { x: right + 8, y: y + 4 }, `${percent(one.held, 1)} %`),
            hover(s("rect", { x: left, y: y - row / 2, width: right - left, height: row, class: "band" }), [groupName[id] || id, `${percent(one.held, 1)} % within sigma, 95 %: ${range(one.ci95, 1)}`, `${one.n} points`]),
          );
        });
        return build(canvas(width, height, "Share of errors within sigma by group of points; the table below has the values", marks), { class: `k-${found.stage}` }, []);
      };
      const steps = found.steps.filter((step) => step.predicted > 0 && step.observed > 0);
      const reliability = (width) => {
        const side = Math.min(width, 430);
        const [left, right, top, bottom] = [48, side - 14, 12, side - 48];
        const all = steps.flatMap((step) => [step.predicted, step.observed]);
        const [low, high] = [Math.log(Math.min(...all) / 1.25), Math.log(Math.max(...all) * 1.25)];
        const along = (value) => (Math.log(value) - low) / (high - low);
        const x = (value) => left + (right - left) * along(value);
        const y = (value) => bottom - (bottom - top) * along(value);
        const marks = [];
        const decades = [1e-4, 1e-3, 1e-2, 1e-1, 1, 10].flatMap((ten) => [ten, 2 * ten, 5 * ten]);
        for (const value of decades.filter((one) => Math.log(one) >= low && Math.log(one) <= high)) {
          marks.push(
            s("line", { x1: x(value), x2: x(value), y1: top, y2: bottom, class: "grid" }),
            s("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
            s("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, plain(100 * value)),
            s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, plain(100 * value)),
          );
        }
        marks.push(
          s("line", { x1: left, x2: right, y1: bottom, y2: top, class: "limit" }),
          s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
          s("line", { x1: left, x2: left, y1: top, y2: bottom, class: "axis" }),
          s("text", { x: (left + right) / 2, y: side - 10, "text-anchor": "middle" }, "predicted sigma, % of the norm"),
          s("text", { x: 0, y: 0, transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "observed 68 % radius, % of the norm"),
          s("path", { d: steps.map((step, i) => `${i ? "L" : "M"}${r1(x(step.predicted))} ${r1(y(step.observed))}`).join(""), class: "curve stroke", "stroke-opacity": 0.55 }),
        );
        steps.forEach((step, i) => {
          marks.push(
            s("circle", { cx: x(step.predicted), cy: y(step.observed), r: 4.5, class: "fill" }),
            hover(s("circle", { cx: x(step.predicted), cy: y(step.observed), r: 12, class: "disc-hit" }), [`tenth ${i + 1} of ${steps.length}`, `predicted ${percent(step.predicted)} %`, `observed ${percent(step.observed)} %`, `${step.n} points`]),
          );
        });
        return build(canvas(side, side, "Observed 68 % radius against predicted sigma by tenths of the points; the table below has the values", marks), { class: `k-${found.stage}` }, []);
      };
      const grid = h("div", { class: "two" });
      node.append(grid);
      const one = chart(shares, "shares-chart");
      const shareColumns = [
        column("Points", (id) => groupName[id] || id),
        numeric("within sigma %", (id) => found.shares[id].held, (id) => [percent(found.shares[id].held, 1), h("small", null, range(found.shares[id].ci95, 1))]),
        numeric("n points", (id) => found.shares[id].n),
      ];
      grid.append(
        h("div", null, h("h3", null, "Errors within sigma"), h("figure", null, one, h("figcaption", null, "The dotted line is what is expected; 95 % intervals from resampling faces. To the right of it sigma is too large, to the left too small.")), numbers(table(shareColumns, names, { label: "Share of errors within sigma" }))),
      );
      one.redraw();
      if (steps.length) {
        const two = chart(reliability, "reliability-chart");
        const stepColumns = [
          numeric("tenth", (step) => found.steps.indexOf(step) + 1),
          numeric("predicted %", (step) => step.predicted, (step) => percent(step.predicted)),
          numeric("observed %", (step) => step.observed, (step) => percent(step.observed)),
          numeric("n points", (step) => step.n),
        ];
        grid.append(
          h("div", null, h("h3", null, "Predicted against observed radius"), h("figure", null, two, h("figcaption", null, "Tenths of all points by predicted sigma: its median against the radius that holds 68 % of their errors. On the diagonal sigma is right; above it, too small.")), numbers(table(stepColumns, found.steps, { label: "Predicted and observed radius" }))),
        );
        two.redraw();
      }
    }
  }

  // -------------------------------------------------------------------------------------------- faces

  {
    const node = section("faces", "Worst and best faces", `By the error of ${groupName[data.points]}, ${stageName[data.stage]}.`);
    const { missed, missed_all: all, worst, best } = data.faces;
    const edges = data.keypoints.edges;
    const dots = (points) => points.map((point) => (point ? `M${point[0]} ${point[1]}h0` : "")).join("");
    const lines = (points) => edges.map(([i, j]) => (points[i] && points[j] ? `M${points[i].join(" ")}L${points[j].join(" ")}` : "")).join("");
    const line = (kind, label) => h("li", null, s("svg", { width: 26, height: 10, "aria-hidden": true }, s("g", null, s("path", { d: "M2 5h22", class: `lines ${kind}` }), s("path", { d: "M13 5h0", class: `dots ${kind}` }))), label);

    function card(face) {
      const off = face.truth.map((point, i) => (point && face.found[i] ? `M${point.join(" ")}L${face.found[i].join(" ")}` : "")).join("");
      const view = 240; // the frame of the points
      const error = face.error === MISSED ? "missed" : unit(percent(face.error));
      const drawing = s(
        "svg",
        { viewBox: `0 0 ${view} ${view}`, role: "img", "aria-label": `True and predicted points of ${face.name}, ${error}`, class: face.picture ? "over" : null },
        face.picture ? s("image", { href: face.picture.url, x: face.picture.box[0], y: face.picture.box[1], width: face.picture.box[2], height: face.picture.box[3], preserveAspectRatio: "none" }) : null,
        s("path", { d: off || "M0 0", class: "off" }),
        s("path", { d: lines(face.truth) || "M0 0", class: "lines true" }),
        s("path", { d: dots(face.truth) || "M0 0", class: "dots true" }),
        s("path", { d: lines(face.found) || "M0 0", class: "lines found" }),
        s("path", { d: dots(face.found) || "M0 0", class: "dots found" }),
      );
      const parts = data.groups.map((one) => [one.id, face.regions[one.id]]).filter(([, value]) => known(value) && value !== MISSED).map(([id, value]) => [h("dt", null, groupName[id] || id), h("dd", null, percent(value, 1))]);
      const about = [known(face.yaw) ? `yaw about ${Math.round(face.yaw)}°`.replace("-", "−") : null, known(face.size) ? `${Math.round(face.size)} px` : null].filter(known);
      return h(
        "figure",
        { class: "card" },
        drawing,
        h(
          "figcaption",
          null,
          h("div", { class: face.error === MISSED ? "value missed" : "value" }, error),
          h("div", { class: "name" }, face.name),
          about.length ? h("div", null, about.join(", ")) : null,
          parts.length ? h("dl", { class: "parts", title: "error by region, %" }, parts) : null,
        ),
      );
    }

    node.append(h("ul", { class: "legend card-legend" }, line("true", "label"), line("found", "prediction")));
    const groups = [
      ["missed-cards", all > missed.length ? `Missed: the first ${missed.length} of ${all}` : "Missed", missed],
      ["worst-cards", "Worst", worst],
      ["best-cards", "Best", best],
    ];
    for (const [id, name, list] of groups) {
      if (list.length) node.append(h("h3", null, name), h("div", { class: "cards", id }, list.map(card)));
    }
    if (!worst.length && !missed.length) node.append(h("p", { class: "soft" }, "No face could be scored."));
  }

  document.documentElement.dataset.ready = "true";
})();
