// The contact sheet: which photos are shown and in what order, marks to keep or reject, and a command for the rejected.
const photos = JSON.parse(document.getElementById("photos").textContent);
const find = (id) => document.getElementById(id);
const controls = find("controls"), cards = find("cards"), more = find("more");
const AT_ONCE = 120; // cards that are made at a time: a browser stays quick with thousands of photos

// Marks belong to a result, so another result of the same name has none. Not every browser keeps them for files.
const place = "conservator:" + location.pathname;
let marks = {};
try { marks = JSON.parse(localStorage.getItem(place)) || {}; } catch { /* none are kept */ }
const keepMarks = () => { try { localStorage.setItem(place, JSON.stringify(marks)); } catch { /* likewise */ } };

function make(tag, options = {}, ...children) {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
}

function fill(name, all, values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  controls[name].replaceChildren(
    make("option", {value: "", textContent: all}),
    ...[...counts].sort((a, b) => b[1] - a[1]).map(([value, count]) =>
      make("option", {value, textContent: `${value} (${count.toLocaleString("en")})`})));
}
fill("status", "any", photos.map((photo) => photo.status));
fill("seen", "any", photos.flatMap((photo) => photo.seen));
fill("left", "any", photos.flatMap((photo) => photo.left));
const SOMETHING = "something"; // whatever it is for
fill("suggested", "any", photos.flatMap((photo) => photo.offers ? [SOMETHING, ...photo.suggested] : []));
controls.mark.replaceChildren(...["any", "keep", "reject", "none"].map((value) =>
  make("option", {value: value === "any" ? "" : value, textContent: value})));

function card(photo) {
  const item = make("li", {className: "card"});
  const frame = make(photo.page || photo.url ? "a" : "div", {className: "frame"});
  if (photo.page || photo.url) frame.href = photo.page || photo.url;
  if (photo.thumbnail) {
    const picture = make("img", {src: photo.thumbnail, alt: photo.name, loading: "lazy", decoding: "async"});
    const half = make("span", {className: "half"}, picture);
    half.style.setProperty("--ratio", photo.ratio);
    frame.append(half);
  } else {
    frame.classList.add("none");
    frame.textContent = photo.page || photo.url ? "no picture; open it" : "no result";
  }
  const told = make("div", {className: "told"}, make("h2", {textContent: photo.name, dir: "auto"}));
  const status = make("span", {className: "status " + photo.status, textContent: photo.status});
  told.append(make("p", {}, status, photo.gain === null ? "" : `, estimated gain ${photo.gain > 0 ? "+" : ""}${photo.gain}\u00a0dB`));
  if (photo.told) told.append(make("p", {textContent: photo.told}));
  if (photo.left.length) told.append(make("p", {className: "left", textContent: "Still seen: " + photo.left.join(", ")}));
  if (photo.offers) told.append(make("p", {className: "offers", textContent: "Suggested: " + photo.offers}));
  const row = make("div", {className: "marks"});
  if (photo.shell) {
    for (const mark of ["keep", "reject"]) {
      const button = make("button", {type: "button", className: mark, textContent: mark});
      button.setAttribute("aria-label", `${mark} ${photo.name}`);
      button.addEventListener("click", () => {
        if (marks[photo.id] === mark) delete marks[photo.id]; else marks[photo.id] = mark;
        keepMarks();
        paint();
        showCommand();
      });
      row.append(button);
    }
  }
  const links = make("span");
  for (const [href, word] of [[photo.page, "page"], [photo.url, "result"], [photo.record, "record"]]) {
    if (href) links.append(" ", make("a", {href, textContent: word, ariaLabel: `${word} of ${photo.name}`}));
  }
  row.append(links);
  const paint = () => {
    const mark = marks[photo.id];
    item.classList.toggle("kept", mark === "keep");
    item.classList.toggle("rejected", mark === "reject");
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.className === mark));
    }
  };
  paint();
  item.append(frame, told, row);
  return item;
}

let chosen = [], made = 0;
const orders = {
  worst: (list) => list, // they come in this order
  gain: (list) => list.toSorted((a, b) => (b.gain ?? -Infinity) - (a.gain ?? -Infinity)),
  name: (list) => list.toSorted((a, b) => a.name.localeCompare(b.name, "en", {numeric: true})),
};

function choose() {
  const {words, status, seen, left, suggested, mark, order} = controls;
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  chosen = orders[order.value](photos.filter((photo) =>
    (!status.value || photo.status === status.value) &&
    (!seen.value || photo.seen.includes(seen.value)) &&
    (!left.value || photo.left.includes(left.value)) &&
    (!suggested.value || (photo.offers && (suggested.value === SOMETHING || photo.suggested.includes(suggested.value)))) &&
    (!mark.value || (marks[photo.id] || "none") === mark.value) &&
    wanted.every((word) => `${photo.name} ${photo.told} ${photo.offers}`.toLowerCase().includes(word))));
  made = 0;
  cards.replaceChildren();
  find("shown").textContent = `${chosen.length.toLocaleString("en")} of ${photos.length.toLocaleString("en")} photos`;
  showMore();
}

function showMore() {
  cards.append(...chosen.slice(made, made + AT_ONCE).map(card));
  made = Math.min(made + AT_ONCE, chosen.length);
  more.hidden = made === chosen.length;
}

function commandFor(photo) {
  const {shell, source} = photo;
  if (find("fate").value === "names") return photo.plain;
  if (!source) return `echo 'left alone, for there is no original besides the result:' ${photo.plain}`;
  const papers = `${shell.stem}.conservator.json ${shell.stem}.conservator.html`;
  const result = shell.stem + shell.suffix;
  if (find("fate").value === "remove") return `test -e ${source} && rm -f -- ${result} ${papers}`;
  const original = shell.stem + shell.original;
  return `cp -p -- ${source} ${original} && rm -f -- ${original === result ? "" : result + " "}${papers}`;
}

function showCommand() {
  const rejected = photos.filter((photo) => marks[photo.id] === "reject");
  find("rejected").hidden = !rejected.length;
  find("command").textContent = rejected.map(commandFor).join("\n");
  find("count").textContent = rejected.length.toLocaleString("en");
  find("copied").textContent = "";
}

// With a card in focus: the arrows go from card to card, k keeps, r rejects.
cards.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const here = event.target.closest(".card");
  const button = {k: "keep", r: "reject"}[event.key], way = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (button) here.querySelector("." + button)?.click();
  if (!way) return;
  event.preventDefault();
  const links = [...cards.querySelectorAll("a.frame")];
  links[links.indexOf(here.querySelector("a.frame")) + way]?.focus();
});
controls.addEventListener("input", choose);
controls.addEventListener("submit", (event) => event.preventDefault());
find("before").addEventListener("click", (event) => {
  const before = document.body.classList.toggle("before");
  event.currentTarget.setAttribute("aria-pressed", String(before));
});
more.addEventListener("click", showMore);
new IntersectionObserver((seen) => seen[0].isIntersecting && !more.hidden && showMore(), {rootMargin: "600px"}).observe(more);
find("fate").addEventListener("input", showCommand);
find("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(find("command").textContent);
    find("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(find("command"));
    find("copied").textContent = "selected: copy it with Ctrl+C";
  }
});
choose();
showCommand();
