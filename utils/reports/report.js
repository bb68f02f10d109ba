"use strict";

// The table of matches and the dialog with a pair side by side. Prompts, captions and names are untrusted text:
// they enter the page by textContent and attributes of images alone.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const { threshold, descriptor, rows, pictures, calibrated, counterfactual } = data;
  const duplicatedWords = counterfactual ? "would be duplicated" : "duplicated";
  const byId = (id) => document.getElementById(id);
  const isEmpty = (value) => value === null || value === undefined || value === "";
  const isAligned = rows.some((row) => !isEmpty(row.aligned));
  const ranked = isAligned ? "aligned" : "score"; // what sorts at first, and what is filtered
  const deciding = calibrated?.of === "aligned" ? "aligned" : "score"; // what the threshold is compared with
  const isOver = (row) => row.copy ?? (!isEmpty(threshold) && row.score > threshold);
  const text = (value) => (isEmpty(value) ? "–" : String(value));
  const decimal = (value) => (isEmpty(value) ? "–" : value.toFixed(3));
  const percent = (value) => (isEmpty(value) ? "–" : `${(100 * value).toFixed(0)} %`);
  const yesNo = (value) => (isEmpty(value) ? "–" : value ? "yes" : "no");

  function element(tag, className, content = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = content;
    return made;
  }

  function setPicture(image, name) {
    image.src = `data:image/jpeg;base64,${pictures[name]}`;
    return image;
  }

  // The training image that is shown: the best aligned one, else the descriptor's best
  function training(row) {
    const own = isEmpty(row.aligned_match);
    return {
      name: own ? row.match : row.aligned_match,
      picture: own ? row.match_picture : row.aligned_picture,
      caption: own ? row.caption : row.aligned_caption,
      duplicated: own ? row.duplicated : row.aligned_duplicated,
    };
  }

  for (const row of rows) row.shown_duplicated = training(row).duplicated;

  // Columns: key of the value that sorts it, and its cell ---------------------------------------------------------

  function pairCell(row) {
    const button = element("button", "open");
    button.type = "button";
    button.setAttribute("aria-label", `open ${row.query} beside ${training(row).name}`);
    for (const name of [row.query_picture, training(row).picture]) {
      const image = element("img", "");
      image.alt = "";
      image.decoding = "async";
      button.append(setPicture(image, name));
    }
    const cell = element("td", "");
    cell.append(button);
    return cell;
  }

  function score(row, key) {
    const isMarked = key === deciding && isOver(row);
    const made = element("span", isMarked ? "over" : "", decimal(row[key]));
    if (isMarked) made.title = "above the threshold";
    return made;
  }

  function scoreCell(row, key) {
    const cell = element("td", "number");
    cell.append(score(row, key));
    return cell;
  }

  // The second look found nothing to align in a row without a transformation
  const done = (row) => (isEmpty(row.transformation) ? "shares only flat areas" : row.transformation);

  function doneCell(row) {
    const cell = element("td", "done");
    cell.append(element("div", isEmpty(row.transformation) ? "faint" : "", done(row)));
    if (row.part) cell.append(element("span", "part", "part copied"));
    return cell;
  }

  const percentCell = (row, key) => element("td", "number", percent(row[key]));
  const group = (row) => (isEmpty(row.group) ? null : `one of ${row.group} near-duplicates`);

  function wordsCell(row) {
    const cell = element("td", "words");
    cell.append(element("p", "", text(row.prompt)));
    return cell;
  }

  function namesCell(row) {
    const cell = element("td", "names");
    cell.append(element("div", "", row.query), element("div", "faint", training(row).name));
    if (group(row)) cell.append(element("div", "group", group(row)));
    return cell;
  }

  const numberCell = (row, key) => element("td", "number", decimal(row[key]));
  const flagCell = (row, key) => element("td", "", yesNo(row[key]));

  const COLUMNS = [
    { title: "aligned", key: "aligned", cell: scoreCell, right: true },
    { title: "what was done", key: "transformation", cell: doneCell, words: true },
    { title: "copied area", key: "copied_area", cell: percentCell, right: true },
    { title: "score", key: "score", cell: scoreCell, right: true },
    { title: "prompt", key: "prompt", cell: wordsCell, words: true },
    { title: "image and match", key: "query", cell: namesCell, words: true },
    { title: duplicatedWords, key: "shown_duplicated", cell: flagCell },
    { title: "source score", key: "source_score", cell: numberCell, right: true },
    { title: "CLIP score", key: "clipscore", cell: numberCell, right: true },
  ].filter((column) => rows.some((row) => !isEmpty(row[column.key])));

  // Sorting and filtering -----------------------------------------------------------------------------------------

  const collator = new Intl.Collator("en", { numeric: true });
  const elements = new Map(rows.map((row) => [row, tableRow(row)]));
  let order = { column: COLUMNS[0], direction: -1 };
  let shown = rows;

  function tableRow(row) {
    const made = element("tr", "");
    made.append(pairCell(row), ...COLUMNS.map((column) => column.cell(row, column.key)));
    made.addEventListener("click", () => {
      if (window.getSelection().isCollapsed) openPair(row); // else text was marked, to be copied
    });
    return made;
  }

  function compare(one, other) {
    const [a, b] = [one[order.column.key], other[order.column.key]];
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b); // the empty ones last, either way
    return order.direction * (order.column.words ? collator.compare(a, b) : a - b);
  }

  const KINDS = {
    all: () => true,
    copy: (row) => isOver(row),
    part: (row) => row.part === true,
    neither: (row) => !isOver(row) && row.part !== true,
  };

  function isWithin(row) {
    const [least, most] = [byId("min-score").valueAsNumber, byId("max-score").valueAsNumber];
    if (isEmpty(row[ranked])) return Number.isNaN(least) && Number.isNaN(most);
    const value = Number(decimal(row[ranked])); // as it is read in the table
    return !(value < least || value > most); // true for NaN, an empty field
  }

  function passes(row) {
    if (!isWithin(row) || !KINDS[byId("kind").value](row)) return false;
    const wanted = byId("contains").value.trim().toLowerCase();
    const texts = [row.prompt, row.query, training(row).name];
    return texts.some((value) => !isEmpty(value) && value.toLowerCase().includes(wanted));
  }

  function update() {
    rows.sort(compare);
    shown = rows.filter(passes);
    byId("rows").replaceChildren(...shown.map((row) => elements.get(row)));
    byId("count").textContent = `shown ${shown.length} of ${rows.length}`;
    for (const [column, header] of headers) {
      if (column !== order.column) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", order.direction > 0 ? "ascending" : "descending");
    }
  }

  function sortBy(column) {
    const first = column.words ? 1 : -1; // names from A, numbers from the largest
    order = { column, direction: column === order.column ? -order.direction : first };
    update();
  }

  function header(column) {
    const made = element("th", column.right ? "number" : "");
    made.scope = "col";
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => sortBy(column));
    made.append(button);
    return made;
  }

  const headers = new Map(COLUMNS.map((column) => [column, header(column)]));

  // A pair side by side -------------------------------------------------------------------------------------------

  const dialog = byId("pair");
  let position = 0;
  let opener = null;

  // The threshold that decides, in words
  function decides() {
    if (!calibrated) return isEmpty(threshold) ? null : String(threshold);
    const [value, low, high] = [calibrated.threshold, calibrated.threshold_lo, calibrated.threshold_hi].map(decimal);
    return `${calibrated.of} above ${value} (${low} to ${high})`;
  }

  function facts(row) {
    const { duplicated } = training(row);
    return [
      ["aligned", isEmpty(row.aligned) ? null : score(row, "aligned")],
      ["what was done", isAligned ? done(row) : null],
      ["copied area", isEmpty(row.copied_area) ? null : percent(row.copied_area)],
      ["a part", row.part ? element("span", "part", "part copied") : null],
      ["training image", group(row)],
      ["score", score(row, "score")],
      ["threshold of a copy", decides()],
      [`training image ${duplicatedWords}`, isEmpty(duplicated) ? null : yesNo(duplicated)],
      ["prompt's own training image", row.source_image],
      ["its score", isEmpty(row.source_score) ? null : decimal(row.source_score)],
      ["CLIP score", isEmpty(row.clipscore) ? null : decimal(row.clipscore)],
      ["seed", isEmpty(row.seed) ? null : String(row.seed)],
    ].filter(([, value]) => !isEmpty(value));
  }

  function fact([name, value]) {
    const made = element("div", "");
    const shownValue = element("dd", "");
    shownValue.append(value); // a string is appended as text
    made.append(element("dt", "", name), shownValue);
    return made;
  }

  function showPair(at) {
    if (at < 0 || at >= shown.length) return;
    position = at;
    const row = shown[at];
    byId("position").textContent = `Pair ${at + 1} of ${shown.length}`;
    byId("previous").setAttribute("aria-disabled", at === 0);
    byId("next").setAttribute("aria-disabled", at === shown.length - 1);
    const { name, caption } = training(row);
    byId("query-name").textContent = row.query;
    byId("match-name").textContent = name;
    byId("query-text").textContent = row.prompt ?? "";
    byId("match-text").textContent = caption ?? "";
    byId("facts").replaceChildren(...facts(row).map(fact));
    byId("match-title").textContent = `${isEmpty(row.aligned_match) ? "nearest" : "best aligned"} training image`;
    byId("match-image").classList.toggle("copied", isOver(row) && (deciding === "aligned" || !hasOther(row)));
    showImages(row);
    showOther(row);
  }

  // Both images, as they are or with the map of what they have in common
  function showImages(row) {
    const { name, picture } = training(row);
    byId("agreement").disabled = isEmpty(row.agreement_picture);
    const isMap = byId("agreement").checked && !byId("agreement").disabled;
    const outlined = isEmpty(row.box_query) ? "" : ", the shared part is outlined";
    const words = isMap ? `${outlined}, in grey fog where both differ` : outlined;
    const query = setPicture(byId("query-image"), isMap ? row.query_agreement_picture : row.query_picture);
    query.alt = `generated image ${row.query}${words}`;
    const match = setPicture(byId("match-image"), isMap ? row.agreement_picture : picture);
    match.alt = `training image ${name}${words}`;
  }

  const hasOther = (row) => !isEmpty(row.aligned_match) && row.aligned_match !== row.match;

  // The descriptor's own best match, where it is another one
  function showOther(row) {
    const isShown = hasOther(row);
    byId("other").hidden = !isShown;
    byId("other").parentElement.classList.toggle("three", isShown);
    if (!isShown) return;
    const image = setPicture(byId("other-image"), row.match_picture);
    image.alt = `training image ${row.match}`;
    image.classList.toggle("copied", isOver(row) && deciding === "score");
    byId("other-name").textContent = row.match;
    byId("other-text").textContent = `${descriptor ?? "score"} ${decimal(row.score)}`;
  }

  // Outline a box on a picture that has loaded: the drawing has the picture's size in pixels and is fitted into the
  // same rectangle in the same way, so that it scales with it. A dot marks the corner that is the training picture's
  // top left.
  function outline(image, drawing, box) {
    drawing.replaceChildren();
    if (isEmpty(box)) return;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const corners = box.map(([x, y]) => [x * width, y * height].map((v) => v.toFixed(2)).join(","));
    const paths = { line: `M${corners.join("L")}Z`, corner: `M${corners[0]}h0` };
    for (const kind of ["line", "corner"]) {
      for (const layer of ["halo", "ink"]) {
        const path = document.createElementNS(drawing.namespaceURI, "path");
        path.setAttribute("class", `${kind} ${layer}`);
        path.setAttribute("d", paths[kind]);
        drawing.append(path);
      }
    }
  }

  function openPair(row) {
    opener = elements.get(row).querySelector("button");
    showPair(shown.indexOf(row));
    dialog.showModal();
  }

  const isMapPossible = () => dialog.open && !byId("agreement").disabled && isAligned;

  function pressed(event) {
    if (!dialog.open || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) showPair(position + step);
    if (event.key.toLowerCase() === "m" && isMapPossible()) byId("agreement").click();
  }

  if (rows.length) {
    const pictured = element("th", "");
    pictured.append(element("span", "", "pictures"));
    byId("columns").append(pictured, ...headers.values());
    for (const id of ["contains", "min-score", "max-score"]) byId(id).addEventListener("input", update);
    byId("previous").addEventListener("click", () => showPair(position - 1));
    byId("next").addEventListener("click", () => showPair(position + 1));
    byId("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => opener.focus());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // on the backdrop
    document.addEventListener("keydown", pressed);
    byId("agreement").addEventListener("change", () => showImages(shown[position]));
    byId("kind").addEventListener("change", update);
    for (const side of ["query", "match", "other"]) {
      byId(`${side}-image`).addEventListener("load", ({ target }) => {
        target.classList.toggle("small", target.naturalWidth < 256);
        if (side !== "other") outline(target, byId(`${side}-box`), shown[position][`box_${side}`]);
      });
    }
    for (const name of document.querySelectorAll(".ranked")) name.textContent = ranked;
    byId("kinds").hidden = !rows.some((row) => !isEmpty(row.copy) || row.part);
    byId("map").hidden = !isAligned;
    update();
    byId("table").hidden = false;
  }
}
