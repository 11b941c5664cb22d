// Runs once in the contact sheet: buttons keep, reject or compare; with a card in focus, so do the keys K, R and C.
const act = (control) => trigger("input", {action: control.dataset.action, place: Number(control.dataset.place)});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button);
});
element.addEventListener("keydown", (event) => {
  const action = {k: "keep", r: "reject", c: "look"}[event.key];
  const button = action && event.target.closest(".card")?.querySelector(`[data-action=${action}]`);
  if (button) act(button);
});
