(() => {
  const {
    data, h, s, known, percent, faces, r1, hover, section, chart, canvas, table, numbers, column, numeric, ticks, plain, tile, unit,
    showTip, hideTip,
  } = page;
  const splits = data.data.splits.map((one) => one.name);
  const names = data.scheme.keypoints;
  const words = (name) => name.replaceAll("_", " ");
  const count = (n) => n.toLocaleString("en");
  const some = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
  const swatch = (i) => h("span", { class: `swatch s-${i % 7}`, "aria-hidden": true });
  const splitLegend = () => h("ul", { class: "legend" }, splits.map((name, i) => h("li", null, swatch(i), name)));

  // -------------------------------------------------------------------------------------------- head

  const twice = data.duplicates;
  document.getElementById("headline").append(
    tile("faces", count(data.data.faces), `in ${some(data.data.pictures, "picture")}`),
    tile("complete", unit(percent(data.missing.complete / data.data.faces, 1)), `${count(data.missing.incomplete)} with missing labels`),
    tile("leaks", count(twice.between), splits.length > 1 ? "pairs between two splits" : "one split only: none can be", "pairs of pictures that show the same, in two splits"),
    tile("there twice", count(twice.within), "pairs within a split", "pairs of pictures that show the same, in one split"),
    tile("exchanged labels", count(data.exchanged), "left and right, most likely"),
    tile("broken files", count(data.data.broken.length), data.outside.faces ? `${faces(data.outside.faces)} outside the picture` : "no label outside"),
  );

  {
    const node = section("about", "What was looked at");
    const columns = [
      column("Split", (row) => row.name, (row) => h("span", null, swatch(splits.indexOf(row.name)), row.name)),
      numeric("faces", (row) => row.faces, (row) => count(row.faces)),
      numeric("pictures", (row) => row.pictures, (row) => count(row.pictures)),
      numeric("complete", (row) => data.missing.by_split[splits.indexOf(row.name)].complete, (row) => count(data.missing.by_split[splits.indexOf(row.name)].complete)),
      numeric("broken", (row) => row.broken, (row) => count(row.broken)),
    ];
    node.append(
      h("dl", { class: "facts" }, data.head.map((row) => [h("dt", null, row.label), h("dd", null, row.text)])),
      table(columns, data.data.splits, { id: "splits", label: "Splits" }),
      h("p", { class: "soft" }, data.protocol.text),
    );
    if (data.data.broken.length) {
      node.append(h("details", { id: "broken", open: data.data.broken.length < 6 }, h("summary", null, `${some(data.data.broken.length, "file")} that cannot be used`), h("ul", { class: "plain" }, data.data.broken.map((name) => h("li", null, name)))));
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

  // -------------------------------------------------------------------------------------------- a drawn face

  const VIEW = 240; // the frame of the points
  const dots = (points, of) => of.map((i) => (points[i] ? `M${points[i][0]} ${points[i][1]}h0` : "")).join("");
  const lines = (points, test) =>
    data.edges.filter(([i, j]) => test(i, j) && points[i] && points[j]).map(([i, j]) => `M${points[i].join(" ")}L${points[j].join(" ")}`).join("");
  const groups = [...new Set(data.colours)];
  const everyone = names.map((_, i) => i);

  function drawing(face) {
    const marks = groups.flatMap((group) => {
      const own = everyone.filter((i) => data.colours[i] === group);
      const kind = group < 0 ? "r-none" : `r-${group % 7}`;
      return [
        s("path", { d: lines(face.labels, (i, j) => data.colours[i] === group && data.colours[j] === group) || "M0 0", class: `lines ${kind}` }),
        s("path", { d: dots(face.labels, own) || "M0 0", class: `dots ${kind}` }),
      ];
    });
    const ring = face.meant.length && face.meant.length < names.length / 2 ? face.meant.filter((i) => face.labels[i]) : [];
    return s(
      "svg",
      { viewBox: `0 0 ${VIEW} ${VIEW}`, role: "img", "aria-label": `Labels of ${face.name}`, class: face.picture ? "over" : null },
      face.picture ? s("image", { href: face.picture.url, x: face.picture.box[0], y: face.picture.box[1], width: face.picture.box[2], height: face.picture.box[3], preserveAspectRatio: "none" }) : null,
      face.found ? s("path", { d: everyone.map((i) => (face.labels[i] && face.found[i] ? `M${face.labels[i].join(" ")}L${face.found[i].join(" ")}` : "")).join("") || "M0 0", class: "off" }) : null,
      marks,
      ring.map((i) => s("circle", { cx: face.labels[i][0], cy: face.labels[i][1], r: 6, class: "ring" })),
    );
  }

  const regionLegend = () =>
    h(
      "ul",
      { class: "legend" },
      Object.keys(data.scheme.regions).map((name, i) => h("li", null, s("svg", { width: 12, height: 10, "aria-hidden": true }, s("path", { d: "M6 5h0", class: `dots key r-${i % 7}` })), words(name))),
    );

  // -------------------------------------------------------------------------------------------- suspects

  {
    const by = data.protocol.ranked_by;
    const node = section(
      "suspects",
      "Labels to look at first",
      by === "model"
        ? `Ranked by how far labels are from what ${data.protocol.model.name} says, in robust deviations. Thin lines lead to its answers; rings mark the points that are meant. High scores are mistakes, or faces that are hard.`
        : "Ranked by how unlikely a face's points make each other, in robust deviations. Rings mark the points that are meant. High scores are mistakes, or faces unlike all others.",
    );
    if (!data.suspects.length) node.append(h("p", { class: "soft" }, "No face could be judged."));
    else {
      node.append(
        regionLegend(),
        h("div", { class: "cards", id: "suspect-cards" }, data.suspects.map((face) =>
          h("figure", { class: "card" }, drawing(face), h("figcaption", null,
            h("div", { class: face.exchanged ? "value missed" : "value" }, face.score.toFixed(1)),
            h("div", { class: "what" }, face.what),
            h("div", { class: "name" }, face.name),
            known(face.error) ? h("div", null, `error ${unit(percent(face.error, 1))} of the box, by shape ${known(face.shape_score) ? face.shape_score.toFixed(1) : "–"}`) : null,
          )),
        )),
      );
      if (data.more_suspects > 0) node.append(h("p", { class: "soft" }, `The JSON file lists ${count(data.more_suspects)} more.`));
    }
  }

  // -------------------------------------------------------------------------------------------- twice

  {
    const node = section("twice", "There twice", "Pictures that show the same, also if one was cropped a little, scaled, compressed again or mirrored; leaks between splits first.");
    if (!twice.pairs.length) node.append(h("p", { class: "soft" }, "None."));
    else {
      if (twice.leaks.length) {
        node.append(
          table(
            [
              column("Split", (row) => row.splits[0]),
              column("and", (row) => row.splits[1]),
              numeric("pairs", (row) => row.pairs, (row) => count(row.pairs)),
              numeric("pictures of the first", (row) => row.pictures[0], (row) => count(row.pictures[0])),
              numeric("of the second", (row) => row.pictures[1], (row) => count(row.pictures[1])),
            ],
            twice.leaks,
            { id: "leaks", label: "Leaks by pairs of splits" },
          ),
        );
      }
      if (data.pictures) {
        node.append(
          h("div", { class: "cards wide", id: "pair-cards" }, data.twice.map((pair, k) => {
            const one = twice.pairs[k];
            return h("figure", { class: "card" }, h("div", { class: "pair" }, pair.pictures.map((picture, i) => h("img", { src: picture.url, width: picture.width, height: picture.height, alt: i ? one.second : one.first }))), h("figcaption", null,
              h("div", { class: one.between ? "value missed" : "value" }, one.between ? "leak" : "twice"),
              h("div", null, `alike ${one.alike.toFixed(3)}${one.mirrored ? ", mirrored" : ""}`),
              h("div", { class: "name" }, one.first),
              h("div", { class: "name" }, one.second),
            ));
          })),
        );
      }
      const columns = [
        column("First", (row) => row.first),
        column("Second", (row) => row.second),
        column("", (row) => (row.between ? "leak" : ""), (row) => (row.between ? h("strong", { class: "bad" }, "leak") : "")),
        numeric("alike", (row) => row.alike, (row) => row.alike.toFixed(3)),
        column("mirrored", (row) => (row.mirrored ? "mirrored" : "")),
      ];
      node.append(
        h("details", { id: "all-pairs", open: !data.pictures }, h("summary", null, `${count(twice.pairs.length)} of ${some(twice.between + twice.within, "pair")}`), table(columns, twice.pairs, { id: "pairs", tall: twice.pairs.length > 12, label: "Pairs of pictures" })),
      );
    }
  }

  // -------------------------------------------------------------------------------------------- missing

  {
    const node = section("missing", "Missing labels", "Which points are missing together, and how often.");
    const { patterns } = data.missing;
    if (!patterns.length) node.append(h("p", { class: "soft" }, "None: every face has all its points."));
    else {
      const all = [...patterns];
      if (data.missing.complete) all.unshift({ faces: data.missing.complete, points: [], text: "nothing" });
      const columns = [
        numeric("faces", (row) => row.faces, (row) => count(row.faces)),
        numeric("%", (row) => row.faces / data.data.faces, (row) => percent(row.faces / data.data.faces, 1)),
        numeric("points", (row) => row.points.length),
        column("Missing together", (row) => row.text),
      ];
      node.append(table(columns, all, { id: "patterns", tall: all.length > 12, label: "Patterns of missing labels" }));
      if (data.missing.other_patterns) node.append(h("p", { class: "soft" }, `${some(data.missing.other_patterns, "further pattern")}, of ${faces(data.missing.other_faces)}.`));
    }
    if (data.outside.faces) {
      const columns = [
        column("Face", (row) => row.name),
        numeric("px", (row) => row.px, null, "of the point that is farthest outside"),
        column("Points", (row) => row.points.map((i) => words(names[i])).join(", ")),
      ];
      node.append(h("h3", null, "Points outside their picture"), table(columns, data.outside.worst, { id: "outside", tall: data.outside.worst.length > 12, label: "Points outside their picture" }));
    }
  }

  // -------------------------------------------------------------------------------------------- sizes

  {
    const node = section("sizes", "Sizes and poses", "Shares of the faces of each split; what lies beyond the axis is in its last bin.");
    if (splits.length > 1) node.append(splitLegend());
    const grid = h("div", { class: "two" });
    node.append(grid);
    for (const bins of data.bins) {
      const draw = (width) => {
        const height = 210;
        const [left, right, top, bottom] = [44, width - 12, 10, height - 44];
        const [low, high] = [bins.edges[0], bins.edges[bins.edges.length - 1]];
        const most = Math.max(...bins.shares.flat(), 1e-6);
        const x = (value) => left + ((right - left) * (value - low)) / (high - low);
        const y = (share) => bottom - ((bottom - top) * share) / most;
        const marks = [];
        for (const value of ticks(0, most, 4)) {
          marks.push(
            s("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
            s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, plain(100 * value)),
          );
        }
        for (const value of ticks(low, high, 6)) {
          marks.push(
            s("line", { x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5, class: "axis" }),
            s("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, plain(value).replace("-", "−")),
          );
        }
        marks.push(
          s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
          s("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, bins.unit),
          s("text", { x: 0, y: 0, transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "% of faces"),
        );
        bins.shares.forEach((shares, i) => {
          let path = `M${r1(left)} ${r1(bottom)}`;
          shares.forEach((share, k) => {
            path += `V${r1(y(share))}H${r1(x(bins.edges[k + 1]))}`;
          });
          marks.push(s("path", { d: `${path}V${r1(bottom)}`, class: `curve stroke s-${i % 7}` }));
        });
        return canvas(width, height, `${bins.title}: histogram by split; the table below has quantiles`, marks);
      };
      const drawn = chart(draw, `${bins.id}-chart`);
      grid.append(h("div", null, h("h3", null, bins.title), h("figure", null, drawn, bins.unknown ? h("figcaption", null, `Not known of ${faces(bins.unknown)}.`) : null)));
      drawn.redraw();
    }
    const labels = { picture_width: "picture width, px", picture_height: "picture height, px", face_side: "face size, px", face_share: "face in its picture", roll: "roll, °", yaw: "yaw, °" };
    const rows = data.sizes.splits.flatMap((split) => Object.keys(labels).filter((what) => split[what]).map((what) => ({ split: split.name, what, ends: split[what] })));
    const heads = ["least", "5 %", "median", "95 %", "most"];
    node.append(
      numbers(
        table(
          [column("Measure", (row) => labels[row.what]), column("Split", (row) => row.split), ...heads.map((head, i) => numeric(head, (row) => row.ends[i], (row) => plain(Number(row.ends[i].toFixed(row.what === "face_share" ? 2 : 0))).replace("-", "−")))],
          rows,
          { id: "quantiles", label: "Quantiles of sizes and poses" },
        ),
      ),
    );
  }

  // -------------------------------------------------------------------------------------------- mean face

  {
    const node = section("mean", "Mean face and spread", "All faces moved, turned and scaled onto their mean; lengths in % of the mean face's longer side. An ellipse reaches two standard deviations.");
    const points = data.keypoints;
    const placed = everyone.filter((i) => known(points[i].mean[0]));
    const at = (value) => (known(value) ? (100 * value).toFixed(1) : "–");
    const columns = [
      numeric("#", (i) => i, null, "position in the scheme, from 0"),
      column("Keypoint", (i) => points[i].name, (i) => points[i].name.split(/(?<=_)/).flatMap((word) => [word, h("wbr")])),
      numeric("missing", (i) => points[i].missing, (i) => count(points[i].missing)),
      numeric("outside", (i) => points[i].outside, (i) => count(points[i].outside)),
      numeric("sd x", (i) => points[i].sd[0], (i) => at(points[i].sd[0]), "standard deviation across the face, % of its side"),
      numeric("sd y", (i) => points[i].sd[1], (i) => at(points[i].sd[1]), "standard deviation along the face, % of its side"),
      numeric("95 %", (i) => points[i].distance.p95, (i) => at(points[i].distance.p95), "distance from the mean that 95 % keep, % of the face's side"),
      numeric("farthest", (i) => points[i].distance.max, (i) => at(points[i].distance.max), "largest distance from the mean, % of the face's side"),
    ];
    const listed = table(columns, everyone, { id: "keypoints-table", tall: names.length > 15, caption: "Lengths in % of the mean face's longer side", label: "Spread of every keypoint" });
    if (!placed.length) node.append(h("p", { class: "soft" }, "The labels do not tell a mean face."), listed);
    else {
      const draw = (width) => {
        const side = Math.min(width, 480);
        const xs = placed.map((i) => points[i].mean[0]);
        const ys = placed.map((i) => points[i].mean[1]);
        const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
        const scale = side / (Math.max(x1 - x0, y1 - y0, 1e-6) * 1.5);
        const height = Math.round(Math.min(side, (y1 - y0) * scale + 0.5 * scale));
        const place = ([x, y]) => [r1((x - (x0 + x1) / 2) * scale + side / 2), r1((y - (y0 + y1) / 2) * scale + height / 2)];
        const marks = [];
        for (const group of groups) {
          const kind = group < 0 ? "c-none" : `c-${group % 7}`;
          const own = placed.filter((i) => data.colours[i] === group);
          marks.push(s("path", { d: data.cloud.flatMap((face) => own.filter((i) => face[i]).map((i) => `M${place(face[i]).join(" ")}h0`)).join("") || "M0 0", class: `cloud ${kind}` }));
        }
        for (const [i, j] of data.edges) {
          if (placed.includes(i) && placed.includes(j)) marks.push(s("path", { d: `M${place(points[i].mean).join(" ")}L${place(points[j].mean).join(" ")}`, class: "edge" }));
        }
        const hits = [];
        for (const i of placed) {
          const [cx, cy] = place(points[i].mean);
          const ellipse = data.ellipses[i];
          const kind = data.colours[i] < 0 ? "c-none" : `c-${data.colours[i] % 7}`;
          if (known(ellipse.long)) marks.push(s("ellipse", { rx: r1(2 * ellipse.long * scale), ry: r1(2 * ellipse.short * scale), transform: `translate(${cx} ${cy}) rotate(${ellipse.turn})`, class: `ellipse ${kind}` }));
          marks.push(s("circle", { cx, cy, r: 1.6, class: "fill" }));
          hits.push(hover(s("circle", { cx, cy, r: 6, class: "disc-hit", "data-point": i }), [`${i} ${words(names[i])}`, `sd ${at(points[i].sd[0])} across, ${at(points[i].sd[1])} along`, `labelled in ${faces(points[i].labelled)}`]));
        }
        return canvas(side, height, "Mean face with the spread of every keypoint; the table has the values", marks, hits);
      };
      const face = chart(draw, "face");
      node.append(h("div", { class: "two narrow-wide" }, h("figure", null, face, h("figcaption", null, `Dots are ${faces(data.cloud.length)} drawn at random.`)), listed));
      face.redraw();
    }
  }

  // -------------------------------------------------------------------------------------------- correlation

  {
    const node = section("correlation", "What moves together", "Correlation of the places of two points on the face, once its own place, size and turn are taken out. Blue moves together, orange against each other.");
    const size = names.length;
    const value = data.correlation;
    const draw = (width) => {
      const cell = Math.max(3, Math.min(28, Math.floor(Math.min(width, 620) / size)));
      const side = cell * size;
      const ratio = Math.min(3, window.devicePixelRatio || 1);
      const node = h("canvas", { width: Math.round(side * ratio), height: Math.round(side * ratio), class: "matrix", role: "img", "aria-label": "Correlation of every two points; the strongest are listed beside it" });
      node.style.width = `${side}px`;
      node.style.height = `${side}px`;
      const brush = node.getContext("2d");
      brush.scale(ratio, ratio);
      value.forEach((row, i) => row.forEach((one, j) => {
        const strength = known(one) ? Math.min(1, Math.abs(one)) : 0;
        brush.fillStyle = known(one) ? `rgba(${one < 0 ? "230, 120, 0" : "0, 103, 177"}, ${strength})` : "rgba(128, 128, 128, 0.25)";
        brush.fillRect(j * cell, i * cell, cell, cell);
      }));
      node.addEventListener("pointermove", (event) => {
        const box = node.getBoundingClientRect();
        const [j, i] = [Math.floor(((event.clientX - box.left) / box.width) * size), Math.floor(((event.clientY - box.top) / box.height) * size)];
        if (!value[i] || value[i][j] === undefined) return;
        showTip([`${words(names[i])} and ${words(names[j])}`, known(value[i][j]) ? value[i][j].toFixed(2).replace("-", "−") : "not known"], event.clientX, event.clientY);
      });
      node.addEventListener("pointerleave", hideTip);
      return node;
    };
    const holder = chart(draw, "matrix");
    const neighbours = new Set(data.edges.flatMap(([i, j]) => [`${i} ${j}`, `${j} ${i}`]));
    const pairs = everyone.flatMap((i) => everyone.filter((j) => j > i && known(value[i][j]) && !neighbours.has(`${i} ${j}`)).map((j) => ({ i, j, value: value[i][j] })));
    pairs.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const columns = [
      column("Point", (row) => words(names[row.i])),
      column("and", (row) => words(names[row.j])),
      numeric("correlation", (row) => row.value, (row) => row.value.toFixed(2).replace("-", "−")),
    ];
    node.append(
      h("div", { class: "two" },
        h("figure", null, holder, h("figcaption", null, `Rows and columns in the order of the scheme, from ${words(names[0])} to ${words(names[size - 1])}.`)),
        table(columns, pairs.slice(0, 200), { id: "correlations", tall: true, caption: "The strongest, of points that no line joins", label: "Strongest correlations" })),
    );
    holder.redraw();
  }

  // -------------------------------------------------------------------------------------------- sheet

  {
    const node = section("sheet", "Faces drawn at random", `${faces(data.sheet.length)} of all splits, with their labels.`);
    node.append(
      regionLegend(),
      h("div", { class: "cards small", id: "sheet-cards" }, data.sheet.map((face) => h("figure", { class: "card" }, drawing(face), h("figcaption", null, h("div", { class: "name" }, face.name), known(face.size) ? h("div", null, `${Math.round(face.size)} px`) : null)))),
    );
  }

  document.documentElement.dataset.ready = "true";
})();
