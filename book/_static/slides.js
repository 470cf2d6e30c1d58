// Turn the slides of a chapter: arrows, space and page keys, the two buttons; #n opens slide n.
const deck = document.querySelector("main.deck");
const sheets = [...deck.children];
const counter = document.querySelector("nav output");
let shown = 0;

function show(n) {
  shown = Math.max(0, Math.min(sheets.length - 1, n));
  deck.scrollTo({ top: sheets[shown].offsetTop - deck.offsetTop });
}

function count() {
  const middle = deck.scrollTop + deck.clientHeight / 2;
  const n = sheets.findLastIndex((s) => s.offsetTop - deck.offsetTop <= middle);
  shown = Math.max(0, n);
  counter.textContent = `${shown + 1} of ${sheets.length}`;
  history.replaceState(null, "", `#${shown + 1}`);
}

const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 };
addEventListener("keydown", (event) => {
  if (event.target.closest("button, a, summary, input") && event.key === " ") return;
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key in steps) show(shown + steps[event.key]);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(sheets.length - 1);
  else if (event.key === "f") document.documentElement.requestFullscreen();
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => show(shown + Number(button.dataset.step)));
}
deck.addEventListener("scroll", count, { passive: true });
show(Number(location.hash.slice(1)) - 1 || 0);
count();
