// The table of prompts: sorting, filtering, and moving through its rows.

const CHUNK = 200; // rows that are laid out at once; more follow when the reader scrolls to the end of them

// `select(index)` is called when a row is chosen, `enter()` when the reader wants to go on to what is selected;
// `columns()` are the numbers of the tune that is shown.
function makeTable({ select, enter, columns }) {
  const body = element("rows").tBodies[0];
  const box = document.querySelector(".scroller");
  const rows = Array.from(body.rows);
  const indexOf = new Map(rows.map((row, index) => [row, index]));
  const texts = DATA.prompts.map((prompt) => prompt.text.toLowerCase());
  const headings = Array.from(document.querySelectorAll("#rows th"));
  let sorting = { column: "index", descending: false };
  let order = rows.map((_, index) => index); // all prompts, sorted
  let found = order; // those of them that the filter lets through
  let laidOut = 0; // how many of those are in the document
  let selected = -1;
  let entry = -1; // the row that Tab reaches: the selected one, or the first where that is filtered out

  // --- rows in the document ---

  function extend(count) {
    const more = found.slice(laidOut, Math.min(found.length, count)).map((index) => rows[index]);
    for (const row of more) row.tabIndex = -1;
    body.append(...more);
    laidOut += more.length;
    setEntry();
  }

  function layOut(count = CHUNK) {
    body.replaceChildren();
    laidOut = 0;
    extend(count);
  }

  function setEntry() {
    if (entry >= 0) rows[entry].tabIndex = -1;
    entry = found.includes(selected) ? selected : (found[0] ?? -1);
    if (entry >= 0) rows[entry].tabIndex = 0;
  }

  // Scrolls the table alone: the page stays where the reader has it.
  function intoView(row) {
    const top = row.offsetTop - element("rows").tHead.offsetHeight;
    const bottom = row.offsetTop + row.offsetHeight - box.clientHeight;
    box.scrollTop = Math.max(bottom, Math.min(top, box.scrollTop));
  }

  function mark(index) {
    rows[selected]?.removeAttribute("aria-selected");
    selected = index;
    rows[index].setAttribute("aria-selected", "true");
    const place = found.indexOf(index);
    if (place >= laidOut) extend(place + CHUNK);
    else setEntry();
    if (place >= 0) intoView(rows[index]);
  }

  // --- sorting ---

  function keysOf(column) {
    if (column === "index") return rows.map((_, index) => index);
    return columns()[column] ?? rows.map((row) => row.cells[1].textContent);
  }

  // Missing values come last in either direction; equal ones in the order of the input.
  function sort() {
    const { column, descending } = sorting;
    const keys = keysOf(column);
    const sign = descending ? -1 : 1;
    const compare = column === "text" ? new Intl.Collator("en", { numeric: true }).compare : (a, b) => a - b;
    order = rows.map((_, index) => index).sort((a, b) => {
      if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;
      return sign * compare(keys[a], keys[b]) || a - b;
    });
    filter();
  }

  function sortByHeading(heading) {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sorting = { column: heading.dataset.column, descending };
    sort();
  }

  // --- filtering ---

  function filter() {
    const needle = element("needle").value.toLowerCase();
    const least = element("least").valueAsNumber; // NaN where nothing, or no number, is written
    const most = element("most").valueAsNumber;
    const inRange = (tuco) => (Number.isNaN(least) || tuco >= least) && (Number.isNaN(most) || tuco <= most);
    found = order.filter((index) => texts[index].includes(needle) && inRange(columns().tuco[index] ?? NaN));
    element("count").textContent = `${found.length} of ${rows.length} shown`;
    element("none").hidden = found.length > 0;
    box.scrollTop = 0;
    layOut();
  }

  // Shows the prompts of a range of TuCo only.
  function filterTo(least, most) {
    element("least").value = least;
    element("most").value = most;
    filter();
  }

  // Writes the numbers of another tune into the rows; what is selected stays so, as does the order that was asked for.
  function renumber() {
    for (const [name, values] of Object.entries(columns())) {
      if (name === "tokens") continue; // as many, whatever the tune
      rows.forEach((row, index) => (row.querySelector(`td.${name}`).textContent = fixed(values[index] ?? NaN)));
    }
    sort();
    if (selected >= 0) mark(selected);
  }

  // --- moving ---

  // The row so many places further down; from a row that is filtered out, the first.
  function neighbour(steps) {
    const place = found.indexOf(selected);
    return found[place < 0 ? 0 : Math.min(found.length - 1, Math.max(0, place + steps))];
  }

  function move(steps, focus) {
    const index = neighbour(steps);
    if (index === undefined) return;
    select(index);
    if (focus) rows[index].focus({ preventScroll: true });
  }

  const STEPS = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

  function onKey(event) {
    const row = event.target.closest("tr");
    if (event.key in STEPS) move(STEPS[event.key], true);
    else if (event.key === "Enter" && event.target === row) choose(row);
    else return;
    event.preventDefault();
  }

  function choose(row) {
    select(indexOf.get(row));
    enter();
  }

  function onClick(event) {
    const row = event.target.closest("tr");
    if (!row || event.target.closest("a")) return; // a link goes by the address
    select(indexOf.get(row));
    row.focus({ preventScroll: true });
  }

  function onScroll() {
    if (box.scrollTop + 2 * box.clientHeight > box.scrollHeight) extend(laidOut + CHUNK);
  }

  element("rows").setAttribute("role", "grid");
  for (const link of body.querySelectorAll("a")) link.tabIndex = -1; // Enter on the row does the same
  for (const heading of headings) heading.firstChild.addEventListener("click", () => sortByHeading(heading));
  body.addEventListener("keydown", onKey);
  body.addEventListener("click", onClick);
  box.addEventListener("scroll", onScroll);
  element("filters").addEventListener("input", filter);
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("filters").addEventListener("reset", () => setTimeout(filter)); // the fields are empty after the event
  filter();
  return { mark, move, renumber, filterTo, layOutAll: () => extend(Infinity), layOut };
}
