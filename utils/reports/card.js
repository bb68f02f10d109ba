"use strict";

// Sorts and filters the table of a card, shows a picture beside its copy, copies commands. All texts are in the page
// already; where they move, they move as text or as copies of elements.
{
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("js");

  // The table of worst offenders ------------------------------------------------------------------------------------

  const table = byId("offenders");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const headers = table ? [...table.tHead.rows[0].cells] : [];
  const collator = new Intl.Collator("en", { numeric: true });
  const COPIES = headers.findIndex((header) => header.textContent === "copies");
  let order = { at: COPIES, direction: -1 };

  const isNumber = (at) => headers[at].classList.contains("number");
  const cellText = (row, at) => row.cells[at].textContent.trim();

  function cellNumber(row, at) {
    const text = cellText(row, at).replaceAll(",", "");
    return text === "–" ? null : Number(text);
  }

  function compare(one, other) {
    const { at, direction } = order;
    if (!isNumber(at)) return direction * collator.compare(cellText(one, at), cellText(other, at));
    const [a, b] = [cellNumber(one, at), cellNumber(other, at)];
    if (a === null || b === null) return (a === null) - (b === null); // the empty ones last, either way
    return direction * (a - b);
  }

  function passes(row) {
    if (cellNumber(row, COPIES) < byId("least").valueAsNumber) return false; // false for NaN, an empty field
    return cellText(row, 1).toLowerCase().includes(byId("contains").value.trim().toLowerCase());
  }

  function update() {
    rows.sort(compare);
    table.tBodies[0].replaceChildren(...rows);
    for (const row of rows) row.hidden = !passes(row);
    byId("count").textContent = `shown ${shownRows().length} of ${rows.length}`;
    headers.forEach((header, at) => {
      if (at !== order.at) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", order.direction > 0 ? "ascending" : "descending");
    });
  }

  function shownRows() {
    return rows.filter((row) => !row.hidden);
  }

  function sortBy(at) {
    const first = isNumber(at) ? -1 : 1; // numbers from the largest, names from A
    order = { at, direction: order.at === at ? -order.direction : first };
    update();
  }

  function makeSortable(header, at) {
    if (header.classList.contains("plain")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sortBy(at));
    header.replaceChildren(button);
  }

  // A picture beside its copy ---------------------------------------------------------------------------------------

  const dialog = byId("pair");
  let position = 0;
  let opener = null;

  const opens = (row) => row.querySelector(".open");
  const copiesOf = (row) => [...row.querySelectorAll(".copies .pic")];
  const shownPairs = () => shownRows().flatMap((row) => copiesOf(row).map((_, index) => ({ row, index })));

  function enlarged(picture) {
    const made = picture.cloneNode(true);
    const image = made.querySelector("img");
    const mark = () => image.classList.toggle("small", image.naturalWidth < 256); // its pixels stay squares
    image.addEventListener("load", mark);
    mark();
    return made;
  }

  function ownPicture(row, pair) {
    const made = enlarged(row.querySelector(".open > .pic"));
    made.querySelector("svg").replaceWith(pair.querySelector("svg").cloneNode(true));
    return made;
  }

  function showPair(at) {
    const pairs = shownPairs();
    if (at < 0 || at >= pairs.length) return;
    position = at;
    const { row, index } = pairs[at];
    const pair = row.querySelectorAll(".pair")[index];
    const part = (name) => pair.querySelector(name);
    byId("position").textContent = `Pair ${at + 1} of ${pairs.length}`;
    byId("previous").setAttribute("aria-disabled", at === 0);
    byId("next").setAttribute("aria-disabled", at === pairs.length - 1);
    byId("own-picture").replaceChildren(ownPicture(row, pair));
    byId("copy-picture").replaceChildren(enlarged(copiesOf(row)[index]));
    byId("own-name").textContent = row.querySelector(".name").textContent;
    byId("own-text").textContent = row.querySelector(".caption").textContent;
    byId("copy-name").textContent = part(".image-name").textContent;
    byId("copy-text").textContent = part(".prompt").textContent;
    byId("facts").replaceChildren(part("dl").cloneNode(true));
    const agreement = part(".agreement .pic");
    byId("agreement").hidden = !agreement;
    byId("agreement-picture").replaceChildren(...(agreement ? [enlarged(agreement)] : []));
  }

  function openPair(row, index) {
    const at = shownPairs().findIndex((pair) => pair.row === row && pair.index === index);
    if (at < 0) return;
    opener = opens(row);
    showPair(at);
    dialog.showModal();
  }

  function openAt(event) {
    const row = event.target.closest("tr");
    if (!row || !window.getSelection().isCollapsed) return; // text was marked, to be copied
    openPair(row, Math.max(0, copiesOf(row).indexOf(event.target.closest(".copies .pic"))));
  }

  if (table) {
    headers.forEach(makeSortable);
    document.querySelector(".filters").hidden = false;
    for (const id of ["contains", "least"]) byId(id).addEventListener("input", update);
    table.tBodies[0].addEventListener("click", openAt);
    byId("previous").addEventListener("click", () => showPair(position - 1));
    byId("next").addEventListener("click", () => showPair(position + 1));
    byId("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => opener.focus());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // on the backdrop
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && dialog.open && !event.altKey && !event.ctrlKey && !event.metaKey) showPair(position + step);
    });
    update();
  }

  // Commands --------------------------------------------------------------------------------------------------------

  function mark(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      mark(code); // the browser refuses: the reader copies what is marked
      said = "Marked";
    }
    byId("said").textContent = said === "Copied" ? "The command was copied." : "The command is marked, copy it.";
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }

  // Paper shows how the card was made.
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("#how-it-was-made details")) folded.open = true;
  });
}
