"use strict";

// The table of matches and the dialog with a pair side by side. Prompts, captions and names are untrusted text:
// they enter the page by textContent and attributes of images alone.
{
  const { threshold, rows, pictures } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const isEmpty = (value) => value === null || value === undefined || value === "";
  const isOver = (row) => !isEmpty(threshold) && row.score > threshold;
  const text = (value) => (isEmpty(value) ? "–" : String(value));
  const decimal = (value) => (isEmpty(value) ? "–" : value.toFixed(3));
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

  // Columns: key of the value that sorts it, and its cell ---------------------------------------------------------

  function pairCell(row) {
    const button = element("button", "open");
    button.type = "button";
    button.setAttribute("aria-label", `open ${row.query} beside ${row.match}`);
    for (const name of [row.query_picture, row.match_picture]) {
      const image = element("img", "");
      image.alt = "";
      image.decoding = "async";
      button.append(setPicture(image, name));
    }
    const cell = element("td", "");
    cell.append(button);
    return cell;
  }

  function scoreCell(row) {
    const cell = element("td", "number");
    const score = element("span", isOver(row) ? "over" : "", decimal(row.score));
    if (isOver(row)) score.title = "above the threshold";
    cell.append(score);
    return cell;
  }

  function wordsCell(row) {
    const cell = element("td", "words");
    cell.append(element("p", "", text(row.prompt)));
    return cell;
  }

  function namesCell(row) {
    const cell = element("td", "names");
    cell.append(element("div", "", row.query), element("div", "faint", row.match));
    return cell;
  }

  const numberCell = (row, key) => element("td", "number", decimal(row[key]));
  const flagCell = (row, key) => element("td", "", yesNo(row[key]));

  const COLUMNS = [
    { title: "score", key: "score", cell: scoreCell, right: true },
    { title: "prompt", key: "prompt", cell: wordsCell, words: true },
    { title: "image and match", key: "query", cell: namesCell, words: true },
    { title: "duplicated", key: "duplicated", cell: flagCell },
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

  function passes(row) {
    const [least, most] = [byId("min-score").valueAsNumber, byId("max-score").valueAsNumber];
    const score = Number(decimal(row.score)); // as it is read in the table
    if (score < least || score > most) return false; // false for NaN, an empty field
    const wanted = byId("contains").value.trim().toLowerCase();
    return [row.prompt, row.query, row.match].some((value) => !isEmpty(value) && value.toLowerCase().includes(wanted));
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

  function facts(row) {
    return [
      ["score", element("span", isOver(row) ? "over" : "", decimal(row.score))],
      ["threshold of a copy", isEmpty(threshold) ? null : String(threshold)],
      ["training image duplicated", isEmpty(row.duplicated) ? null : yesNo(row.duplicated)],
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
    setPicture(byId("query-image"), row.query_picture).alt = `generated image ${row.query}`;
    setPicture(byId("match-image"), row.match_picture).alt = `training image ${row.match}`;
    byId("match-image").classList.toggle("copied", isOver(row));
    byId("query-name").textContent = row.query;
    byId("match-name").textContent = row.match;
    byId("query-text").textContent = row.prompt ?? "";
    byId("match-text").textContent = row.caption ?? "";
    byId("facts").replaceChildren(...facts(row).map(fact));
  }

  function openPair(row) {
    opener = elements.get(row).querySelector("button");
    showPair(shown.indexOf(row));
    dialog.showModal();
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
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && dialog.open && !event.altKey && !event.ctrlKey && !event.metaKey) showPair(position + step);
    });
    for (const id of ["query-image", "match-image"]) {
      byId(id).addEventListener("load", ({ target }) => target.classList.toggle("small", target.naturalWidth < 256));
    }
    update();
    byId("table").hidden = false;
  }
}
